import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { mkdirSync, mkdtempSync, readdirSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type BuildRecord, createArtifactStore, type StoreNotice } from "../../src/artifacts/index.ts";
import { build, failure, MEMORY } from "../unit/artifact-helpers.ts";

const ROOT = join(import.meta.dirname, "../..");
/** Below the checkout, where the packages that compiled modules import are found. */
const SCRATCH = join(ROOT, ".scratch");
let modules: string;
let base: string;
const children = new Set<ChildProcess>();

beforeAll(() => {
  mkdirSync(SCRATCH, { recursive: true });
  modules = mkdtempSync(join(SCRATCH, "artifacts-"));
  base = mkdtempSync(join(MEMORY, "labctl-artifact-"));
  const config = {
    extends: "../../tsconfig.json",
    compilerOptions: { noCheck: true, outDir: ".", rootDir: "../..", incremental: false, tsBuildInfoFile: null },
    files: ["../../src/artifacts/index.ts"],
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
  readonly ended: Promise<void>;
}

function start(root: string, what: string, seed: number): Child {
  const script = join(import.meta.dirname, "artifact-child.mjs");
  const child = spawn(process.execPath, [script, modules, root, what, String(seed)], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  children.add(child);
  child.stdin.on("error", () => undefined);
  const lines: string[] = [];
  let rest = "";
  child.stdout.on("data", (data: Buffer) => {
    const parts = (rest + data.toString()).split("\n");
    rest = parts.pop() ?? "";
    lines.push(...parts);
  });
  const ended = new Promise<void>((resolve) => {
    child.once("close", () => {
      children.delete(child);
      resolve();
    });
  });
  return { process: child, lines, ended };
}

const words = (lines: readonly string[], word: string): string[] =>
  lines.filter((line) => line.startsWith(`${word} `)).map((line) => line.slice(word.length + 1));

describe("a store that several processes use", () => {
  test("writers killed at any moment leave nothing corrupt, and what they said is there", async () => {
    const root = join(base, "killed");
    const store = createArtifactStore({ root });
    const builds = new Set<string>();
    const blobs = new Set<string>();
    let killedWhileWriting = 0;
    for (let round = 0; round < 12; round++) {
      const writers = [start(root, "write", round * 2), start(root, "write", round * 2 + 1)];
      await expect.poll(() => writers.every(({ lines }) => lines.length > 0), { timeout: 20_000 }).toBe(true);
      await sleep(Math.random() * 250);
      for (const { process } of writers) process.kill("SIGKILL");
      await Promise.all(writers.map(({ ended }) => ended));
      for (const { lines } of writers) {
        for (const id of words(lines, "build")) builds.add(id);
        for (const sha256 of words(lines, "blob")) blobs.add(sha256);
      }
      killedWhileWriting += readdirSync(join(root, "tmp")).length;
      const report = await store.check();
      expect(report.findings).toEqual([]);
      expect(report.records).toEqual([]);
      const there = new Map((await store.builds()).map((record) => [record.id, record]));
      for (const id of builds) expect(there.get(id)?.status).toBe("completed");
      for (const sha256 of blobs) expect(await store.info(sha256)).toBeDefined();
      // Every record that is there, said or not, names only what is whole.
      for (const record of there.values()) {
        for (const { sha256 } of Object.values(record.artifacts)) expect(await store.info(sha256)).toBeDefined();
      }
    }
    expect(killedWhileWriting).toBeGreaterThan(0);
    // What they left goes after its grace.
    const past = Date.now() / 1000 - 7200;
    for (const name of readdirSync(join(root, "tmp"))) utimesSync(join(root, "tmp", name), past, past);
    expect((await store.gc()).temporary).toBeGreaterThan(0);
    expect(readdirSync(join(root, "tmp"))).toEqual([]);
    expect((await store.check()).findings).toEqual([]);
  });

  test("the same content from all at once is one blob", async () => {
    const root = join(base, "same");
    const writers = Array.from({ length: 6 }, (_, i) => start(root, "same", i));
    await expect.poll(() => writers.every(({ lines }) => lines.length > 0), { timeout: 30_000 }).toBe(true);
    for (const { process } of writers) process.stdin?.write("go\n");
    await Promise.all(writers.map(({ ended }) => ended));
    const [first, ...others] = writers.map(({ lines }) => words(lines, "blob"));
    expect(first).toHaveLength(1);
    for (const other of others) expect(other).toEqual(first);
    const store = createArtifactStore({ root });
    expect(await store.check()).toMatchObject({ checked: 1, findings: [] });
    expect(readdirSync(join(root, "tmp"))).toEqual([]);
  });
});

/** As root only: a file system of its own, small. */
const root = process.getuid?.() === 0;

describe.skipIf(!root)("a full store", () => {
  const place = (): string => join(base, "small");
  beforeAll(() => {
    mkdirSync(place());
    execFileSync("mount", ["-t", "tmpfs", "-o", "size=12m,mode=0700", "small", place()]);
  });
  afterAll(() => {
    execFileSync("umount", ["-l", place()]);
  });

  const MB = 1 << 20;
  const old = (n: number): string => new Date(Date.now() - n * 24 * 3600_000).toISOString();

  test("is cleaned by retention, says so, and goes on; else it fails by name and keeps what it has", async () => {
    const notices: StoreNotice[] = [];
    const pinned = new Set<string>();
    const store = createArtifactStore({
      root: join(place(), "store"),
      retention: { days: 10, keep_latest: 1 },
      pins: async () => pinned,
      onNotice: (notice) => notices.push(notice),
    });
    const made: BuildRecord[] = [];
    for (const days of [40, 30, 20]) {
      const { sha256, size } = await store.put({ content: randomBytes(3 * MB) });
      const rootfs = { type: "rootfs", sha256, size, mode: "0644", file: "rootfs" };
      made.push(build({ name: "k", finished_at: old(days), artifacts: { rootfs } }));
      await store.saveBuild(made.at(-1) as BuildRecord);
    }
    const digests = made.map((record) => record.artifacts["rootfs"]?.sha256 ?? "");
    const aged = (): void => {
      for (const sha256 of digests) {
        const path = join(store.root, "blobs/sha256", sha256.slice(0, 2), sha256);
        try {
          utimesSync(path, Date.now() / 1000 - 7200, Date.now() / 1000 - 7200);
        } catch (error) {
          expect((error as NodeJS.ErrnoException).code).toBe("ENOENT");
        }
      }
    };
    aged();
    // 9 MB are there; of 12. The stream cannot be read twice: it goes on in the middle of the write.
    pinned.add(digests[0] ?? "");
    const bytes = randomBytes(5 * MB);
    const stored = await store.put({
      stream: (async function* () {
        for (let at = 0; at < bytes.length; at += 100_000) yield bytes.subarray(at, at + 100_000);
      })(),
    });
    expect((await store.content(stored.sha256)).equals(bytes)).toBe(true);
    expect(notices).toMatchObject([{ is: "full" }, { is: "cleaned", builds: 1, blobs: 1 }]);
    expect(new Set((await store.builds()).map(({ id }) => id))).toEqual(new Set([made[0]?.id, made[2]?.id]));
    aged();

    // What is left is pinned, or the latest, or was just put.
    notices.length = 0;
    const error = await failure(store.put({ content: randomBytes(6 * MB) }));
    expect([error.code, error.exitCode, error.retryable]).toEqual(["E_ARTIFACT_STORE_FULL", 6, true]);
    expect(error.hint).toContain("retention");
    expect(notices).toMatchObject([{ is: "full" }, { is: "cleaned", builds: 0, blobs: 0 }]);
    expect(readdirSync(join(store.root, "tmp"))).toEqual([]);
    expect((await store.check()).findings).toEqual([]);
    expect((await store.content(stored.sha256)).equals(bytes)).toBe(true);
    const small = await store.put({ content: randomBytes(100_000) });
    expect(small.size).toBe(100_000);
    // A target of a copy that is full is not the store that is full.
    const copy = await failure(store.copyTo(stored.sha256, join(place(), "copy")));
    expect(copy.code).toBe("E_DISK_FULL");
    expect(readdirSync(place())).toEqual(["store"]);
    expect(createHash("sha256").update(bytes).digest("hex")).toBe(stored.sha256);
  });
});
