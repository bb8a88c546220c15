import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statfsSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createFileStore } from "../../src/state/index.ts";
import { lockRequest, makeRow } from "../unit/state-helpers.ts";

const ROOT = resolve(import.meta.dirname, "../..");
const SCRATCH = join(ROOT, ".scratch");
let modules: string;
let base: string;
let count = 0;
const children = new Set<ChildProcess>();

beforeAll(() => {
  mkdirSync(SCRATCH, { recursive: true });
  modules = mkdtempSync(join(SCRATCH, "state-"));
  base = mkdtempSync(join(tmpdir(), "labctl-state-"));
  // Children run plain Node.js, whichever version: what they load is compiled for them alone.
  const config = {
    extends: "../../tsconfig.json",
    compilerOptions: { noCheck: true, outDir: ".", rootDir: "../..", incremental: false, tsBuildInfoFile: null },
    files: ["../../src/state/index.ts", "../../src/scheduling/index.ts"],
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

const newDir = (): string => join(base, `s${++count}`);

interface Child {
  readonly process: ChildProcess;
  readonly lines: string[];
  readonly ended: Promise<number | null>;
  until(pattern: RegExp): Promise<string>;
}

function start(dir: string, what: string, times = 1): Child {
  const script = join(import.meta.dirname, "state-child.mjs");
  const child = spawn(process.execPath, [script, modules, dir, what, String(times)], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  children.add(child);
  const lines: string[] = [];
  let rest = "";
  const wake: (() => void)[] = [];
  child.stdout.on("data", (data: Buffer) => {
    const parts = (rest + data.toString()).split("\n");
    rest = parts.pop() ?? "";
    lines.push(...parts);
    for (const go of wake.splice(0)) go();
  });
  const ended = new Promise<number | null>((done) => {
    child.on("close", (code) => {
      children.delete(child);
      done(code);
      for (const go of wake.splice(0)) go();
    });
  });
  const until = async (pattern: RegExp): Promise<string> => {
    for (const deadline = performance.now() + 30_000; performance.now() < deadline; ) {
      const found = lines.find((line) => pattern.test(line));
      if (found !== undefined) return found;
      await Promise.race([new Promise<void>((go) => wake.push(go)), new Promise((go) => setTimeout(go, 1000))]);
    }
    throw new Error(`no line matches ${pattern}; there were: ${lines.slice(-5).join("; ")}`);
  };
  return { process: child, lines, ended, until };
}

function acknowledged(child: Child): number {
  return Number(child.lines.findLast((line) => line.startsWith("acked "))?.slice(6) ?? 0);
}

const pause = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms));

describe("locking between processes", () => {
  test("processes that contend lose no update", async () => {
    const dir = newDir();
    const workers = [1, 2, 3, 4].map(() => start(dir, "count", 15));
    expect(await Promise.all(workers.map((worker) => worker.ended))).toEqual([0, 0, 0, 0]);
    const view = await createFileStore({ dir }).read("lab");
    expect(view.rows.get("host.counter")?.observed).toEqual({ n: 60 });
    expect(readdirSync(dir).filter((name) => !/^lab\.(json|lock\.\d+)$/.test(name))).toEqual([]);
  });

  test("a killed holder's lock is taken over, and what it was told is done is there", async () => {
    const dir = newDir();
    const store = createFileStore({ dir });
    let left = 0;
    for (let round = 0; round < 25; round++) {
      const child = start(dir, "write");
      const token = (await child.until(/^token/)).slice(6);
      await child.until(/^acked/);
      await pause(Math.random() * 40);
      child.process.kill("SIGKILL");
      await child.ended;
      const acked = acknowledged(child);
      left += readdirSync(dir).some((name) => name.includes("journal")) ? 1 : 0;
      const session = await store.open("lab", lockRequest());
      expect(session.takenOver?.pid).toBe(child.process.pid);
      const found = session.rows.get(`host.${token}-last`)?.observed as { n: number };
      expect(found.n).toBeGreaterThanOrEqual(acked);
      expect(found.n).toBeLessThanOrEqual(acked + 1);
      await session.close();
    }
    expect(left).toBe(25);
  });

  test("fencing: a holder that was stopped and robbed of its lock changes nothing when it goes on", async () => {
    const dir = newDir();
    const store = createFileStore({ dir });
    for (let round = 0; round < 12; round++) {
      const child = start(dir, "write");
      await child.until(/^acked/);
      await pause(Math.random() * 30);
      child.process.kill("SIGSTOP");
      await expect(store.open("lab", lockRequest())).rejects.toMatchObject({ code: "E_STATE_LOCKED" });
      expect((await store.unlock("lab"))?.pid).toBe(child.process.pid);
      const session = await store.open("lab", lockRequest());
      const before = JSON.stringify([...session.rows]);
      const acked = acknowledged(child);
      child.process.kill("SIGCONT");
      expect(await child.until(/^stopped/)).toBe("stopped E_STATE_LOCK_LOST");
      expect(await child.until(/^closed/)).toBe("closed E_STATE_LOCK_LOST");
      await child.ended;
      // One acknowledgement may have been on its way out when the process was stopped; no write after it counts.
      expect(acknowledged(child) - acked).toBeLessThanOrEqual(1);
      const token = child.lines[0]?.slice(6) ?? "";
      const last = session.rows.get(`host.${token}-last`)?.observed as { n: number };
      expect(last.n).toBeGreaterThanOrEqual(acknowledged(child));
      await session.put(makeRow("host.mine", { observed: { round } }));
      await session.close();
      const after = new Map((await store.read("lab")).rows);
      expect(after.get("host.mine")?.observed).toEqual({ round });
      after.delete("host.mine");
      const previous = new Map(JSON.parse(before) as [string, unknown][]);
      previous.delete("host.mine");
      expect(Object.fromEntries(after)).toEqual(Object.fromEntries(previous));
    }
  });

  test("a lease goes to one of several processes", async () => {
    const dir = newDir();
    const workers = [1, 2, 3].map(() => start(dir, "lease", 12));
    expect(await Promise.all(workers.map((worker) => worker.ended))).toEqual([0, 0, 0]);
    const lines = workers.flatMap((worker) => worker.lines);
    const got = lines.filter((line) => line.startsWith("got"));
    expect(got.sort()).toEqual(Array.from({ length: 12 }, (_, i) => `got board.b${i} 1`).sort());
    expect(lines.filter((line) => line.endsWith("E_LEASE_HELD"))).toHaveLength(24);
  });
});

// Mounting needs root; without it these two are skipped.
describe.skipIf(process.getuid?.() !== 0)("file systems", () => {
  const mounted: string[] = [];
  function mountSmall(size: string): string {
    const dir = mkdtempSync(join(tmpdir(), "labctl-small-"));
    const done = spawnSync("mount", ["-t", "tmpfs", "-o", `size=${size}`, "labctl-test", dir], { encoding: "utf8" });
    expect(done.status, done.stderr).toBe(0);
    mounted.push(dir);
    return dir;
  }
  afterAll(() => {
    for (const dir of mounted) {
      spawnSync("umount", [dir]);
      rmSync(dir, { recursive: true, force: true });
    }
  });
  function fill(dir: string): void {
    const { bavail, bsize } = statfsSync(dir);
    writeFileSync(join(dir, "filler"), Buffer.alloc(bavail * bsize, 1));
    expect(statfsSync(dir).bavail).toBe(0);
  }

  test("a full disk: appends are refused, nothing is lost, and it goes on when there is space", async () => {
    const small = mountSmall("512k");
    const store = createFileStore({ dir: join(small, "state") });
    const session = await store.open("lab", lockRequest());
    const text = "y".repeat(1000);
    await session.begin({ op: "1", run: "r", action: "create", row: makeRow("host.a") });
    fill(small);
    let written = 0;
    let refused: unknown;
    // What is left of the journal's last block may still take a few.
    for (; written < 100 && refused === undefined; written++) {
      await session.put(makeRow(`host.w${written}`, { desired: text })).catch((error: unknown) => {
        refused = error;
      });
    }
    written -= 1;
    expect(refused).toMatchObject({ code: "E_DISK_FULL", retryable: true });
    await expect(
      session.end({ op: "1", result: "ok", row: makeRow("host.a", { desired: text.repeat(9) }) }),
    ).rejects.toMatchObject({
      code: "E_DISK_FULL",
    });
    expect(session.rows.size).toBe(written + 1);
    expect((await store.read("lab")).rows.size).toBe(written + 1);
    unlinkSync(join(small, "filler"));
    await session.end({ op: "1", result: "ok", row: makeRow("host.a") });
    await session.put(makeRow("host.more"));
    // And now there is no space for the snapshot.
    fill(small);
    await expect(session.close()).rejects.toMatchObject({ code: "E_DISK_FULL" });
    const view = await store.read("lab");
    expect(view.rows.size).toBe(written + 2);
    expect(view.rows.get("host.a")?.status).toBe("ok");
    await expect(store.open("lab", lockRequest())).rejects.toMatchObject({ code: "E_DISK_FULL" });
    unlinkSync(join(small, "filler"));
    const next = await store.open("lab", lockRequest());
    expect(next.rows.size).toBe(written + 2);
    await next.close();
    expect(readFileSync(join(small, "state/lab.json"), "utf8")).toContain("host.more");
  });

  test("a read-only file system: reading works, and writing says why it does not", async () => {
    const small = mountSmall("512k");
    const store = createFileStore({ dir: join(small, "state") });
    const session = await store.open("lab", lockRequest());
    await session.put(makeRow("host.a"));
    await session.close();
    expect(spawnSync("mount", ["-o", "remount,ro", small]).status).toBe(0);
    expect((await store.read("lab")).rows.size).toBe(1);
    const denied = { code: "E_STATE_WRITE", message: expect.stringMatching(/the file system is read-only/) };
    await expect(store.open("lab", lockRequest())).rejects.toMatchObject(denied);
    await expect(createFileStore({ dir: join(small, "new") }).open("lab", lockRequest())).rejects.toMatchObject(denied);
  });
});
