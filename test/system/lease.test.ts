import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createLeaseTable } from "../../src/scheduling/index.ts";

const ROOT = resolve(import.meta.dirname, "../..");
const SCRATCH = join(ROOT, ".scratch");
const SLOTS = 3;
const MEMORY = 10;
let modules: string;
let base: string;
const children = new Set<ChildProcess>();

beforeAll(() => {
  mkdirSync(SCRATCH, { recursive: true });
  modules = mkdtempSync(join(SCRATCH, "lease-"));
  base = mkdtempSync(join(tmpdir(), "labctl-lease-"));
  // Children run plain Node.js, whichever version: what they load is compiled for them alone.
  const config = {
    extends: "../../tsconfig.json",
    compilerOptions: { noCheck: true, outDir: ".", rootDir: "../..", incremental: false, tsBuildInfoFile: null },
    files: ["../../src/scheduling/index.ts"],
    include: [],
  };
  writeFileSync(join(modules, "tsconfig.json"), JSON.stringify(config));
  const compiler = join(ROOT, "node_modules/typescript/bin/tsc");
  const built = spawnSync(process.execPath, [compiler, "-p", join(modules, "tsconfig.json")], { encoding: "utf8" });
  expect(built.status, built.stdout + built.stderr).toBe(0);
});

afterAll(() => {
  for (const child of children) child.kill("SIGKILL");
  rmSync(modules, { recursive: true, force: true });
  rmSync(base, { recursive: true, force: true });
});

interface Child {
  readonly process: ChildProcess;
  readonly lines: string[];
  readonly ended: Promise<number | null>;
}

function start(dir: string, witness: string, holder: string, rounds: number): Child {
  const script = join(import.meta.dirname, "lease-child.mjs");
  const child = spawn(process.execPath, [script, modules, dir, witness, holder, String(rounds)], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  children.add(child);
  const lines: string[] = [];
  let rest = "";
  child.stdout.on("data", (data: Buffer) => {
    const parts = (rest + data.toString()).split("\n");
    rest = parts.pop() ?? "";
    lines.push(...parts);
  });
  const ended = new Promise<number | null>((done) => {
    child.on("close", (code) => {
      children.delete(child);
      done(code);
    });
  });
  return { process: child, lines, ended };
}

/** What stood in the witness's folder, but for those who were killed in between: their files stay. */
function uses(children: readonly Child[], killed: ReadonlySet<number>): { slots: number; memory: number }[] {
  const seen = children.flatMap((child) => child.lines.filter((line) => line.startsWith("has ")));
  return seen.map((line) => {
    const marks = line
      .slice("has ".length)
      .split(" ")
      .map((mark) => mark.split(".").map(Number))
      .filter(([pid]) => !killed.has(pid ?? 0));
    return { slots: marks.length, memory: marks.reduce((sum, [, memory]) => sum + (memory ?? 0), 0) };
  });
}

const pause = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms));

function folders(name: string): { dir: string; witness: string } {
  const witness = join(base, `${name}-witness`);
  mkdirSync(witness);
  return { dir: join(base, name), witness };
}

test("processes that contend for a machine never have more of it, or of the lab, than there is", async () => {
  const { dir, witness } = folders("contend");
  const workers = Array.from({ length: 6 }, (_, i) => start(dir, witness, `p${i}`, 6));
  expect(await Promise.all(workers.map((worker) => worker.ended))).toEqual(workers.map(() => 0));
  const seen = uses(workers, new Set());
  expect(seen).toHaveLength(6 * 6);
  for (const one of seen) {
    expect(one.slots).toBeLessThanOrEqual(SLOTS);
    expect(one.memory).toBeLessThanOrEqual(MEMORY);
  }
  // They did share it: otherwise nothing was shown.
  expect(Math.max(...seen.map((one) => one.slots))).toBeGreaterThan(1);
  const table = createLeaseTable({ dir });
  expect(await table.list()).toEqual([]);
  expect(await table.waiting()).toEqual([]);
});

test("what killed processes had, and their places in the queue, are free at once", async () => {
  const { dir, witness } = folders("killed");
  const killed = new Set<number>();
  const all: Child[] = [];
  const steady = [start(dir, witness, "steady0", 8), start(dir, witness, "steady1", 8)];
  all.push(...steady);
  for (let round = 0; round < 10; round++) {
    const victim = start(dir, witness, `victim${round}`, 1000);
    all.push(victim);
    for (let i = 0; i < 500 && !victim.lines.some((line) => line.startsWith("has ")); i++) await pause(10);
    await pause(Math.random() * 60);
    victim.process.kill("SIGKILL");
    await victim.ended;
    killed.add(victim.process.pid ?? 0);
    const table = createLeaseTable({ dir });
    const left = [...(await table.list()), ...(await table.waiting())];
    expect(left.filter((one) => one.process?.pid === victim.process.pid)).toEqual([]);
    // The capacity is there for others, whatever the dead ones had.
    const part = { resource: "host.a", amounts: { slots: 0.001 }, capacity: { slots: SLOTS } };
    const request = { parts: [part], holder: "probe", reason: "test", ttl: 60_000 };
    const others = (await table.list()).filter((lease) => lease.resource === "host.a");
    if (others.length < SLOTS - 1) await table.reserve(request);
    await table.releaseAll("probe");
  }
  expect(await Promise.all(steady.map((worker) => worker.ended))).toEqual([0, 0]);
  for (const one of uses(all, killed)) {
    expect(one.slots).toBeLessThanOrEqual(SLOTS);
    expect(one.memory).toBeLessThanOrEqual(MEMORY);
  }
  const table = createLeaseTable({ dir });
  expect(await table.list()).toEqual([]);
  expect(await table.waiting()).toEqual([]);
  expect(readdirSync(dir).filter((name) => !/^leases\.(json|lock\.\d+)$/.test(name))).toEqual([]);
});
