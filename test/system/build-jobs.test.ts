import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { capacityScript, parseCapacity } from "../../providers/build/capacity.ts";
import { cleanServer } from "../../providers/build/clean.ts";
import { cancelJob, findJob, readJobLog } from "../../providers/build/jobs.ts";
import type { BuildRequest } from "../../providers/build/build-types.ts";
import { scanDirectory } from "../../providers/build/source-directory.ts";
import type { Machine } from "../../src/index.ts";
import { createMachinePool, type ResettablePool } from "../../src/transport/index.ts";
import { PROJECT, requestOf, runWork, watch, WORKDIR, writeTree } from "../support/build-lab.ts";
import { startMachine, type TestMachine } from "../support/sshd.ts";

let host: TestMachine;
let pool: ResettablePool;
let machine: Machine;
let folder: string;
const children = new Set<ChildProcess>();

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "labctl-jobs-"));
  host = await startMachine({
    name: "builder",
    tmpfs: { "/srv/small": "6m" },
    setup: `mkdir -p ${WORKDIR}; chown lab ${WORKDIR}`,
  });
  pool = createMachinePool({ env: host.env });
  machine = pool.machine(host.connection());
});
afterAll(async () => {
  for (const child of children) child.kill("SIGKILL");
  await pool.close();
  await host.stop();
  rmSync(folder, { recursive: true, force: true });
});

const request = async (
  build: string,
  run: string,
  more: Partial<BuildRequest> & {
    readonly workdir?: string;
    readonly version?: string;
    readonly files?: Readonly<Record<string, string>>;
  } = {},
): Promise<BuildRequest> => {
  const { version = "1", files = PROJECT, ...rest } = more;
  const root = join(folder, build);
  writeTree(root, files);
  return requestOf(build, version, {
    source: { type: "directory", scan: await scanDirectory(root) },
    work: runWork(run),
    ...rest,
  });
};
/** Processes on the machine that sleep for so many seconds: what a test's build leaves to be found. */
const sleepers = async (seconds: number): Promise<number> =>
  Number((await host.exec(`ps -eo args | grep -c '^sleep ${seconds}$'; true`)).stdout.trim());
const until = async (what: () => Promise<boolean> | boolean, ms = 15_000): Promise<void> => {
  const end = performance.now() + ms;
  while (!(await what())) {
    if (performance.now() > end) throw new Error(`it did not come about: ${what.toString()}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
};
const supervised = async (): Promise<number> =>
  Number((await host.exec("ps -eo args | grep -c '[j]obs/.*/supervisor'; true")).stdout.trim());
/** A build that hides: a daemon in a session of its own, whose parent has ended. */
const HIDING = (seconds: number): string =>
  `echo begun; (setsid sh -c 'sleep ${seconds} & sleep ${seconds}' &); sleep ${seconds}; echo after`;

describe("failures", () => {
  test("a compile error is told by file and line, and not by make's last words", async () => {
    const { outcome, log } = await watch(
      machine,
      await request("bad", "make", {
        files: { ...PROJECT, "part.c": "int main(void) { return undeclared_thing; }\n" },
      }),
    );
    expect(outcome).toMatchObject({ is: "failed", error: { code: "E_BUILD_FAILED", address: "host.builder" } });
    if (outcome.is !== "failed") return;
    expect(outcome.errors[0]).toMatchObject({ tool: "compiler", file: "part.c", line: 1 });
    expect(outcome.error.message).toContain("part.c:1:");
    expect(outcome.error.message).toContain("undeclared_thing");
    expect(outcome.error.message).not.toContain("Error 1");
    expect((await readJobLog(machine, WORKDIR, (await request("bad", "make")).digest)).toString()).toBe(log);
    // It was corrected: only what failed is compiled.
    const again = await watch(machine, await request("bad", "make", { version: "2" }));
    expect(again.outcome).toMatchObject({ is: "completed" });
    expect(again.log).not.toContain("compiling main.c");
  });

  test("a missing tool is told with the package that brings it", async () => {
    const { outcome } = await watch(
      machine,
      await request("tool", "flexx=1; /bin/sh -c 'PATH=/nowhere flex --version'"),
    );
    expect(outcome).toMatchObject({
      is: "failed",
      error: { code: "E_BUILD_TOOL" },
      missing: [{ name: "flex", package: "flex" }],
    });
  });

  test("an output that is not there is told with those that come near", async () => {
    const given = await request("output", "make");
    const { outcome } = await watch(machine, { ...given, work: runWork("make", { binary: "helo" }) });
    expect(outcome).toMatchObject({ is: "failed", error: { code: "E_BUILD_OUTPUT" } });
    if (outcome.is === "failed") expect(outcome.error.hint).toContain("hello");
  });

  test("the environment reaches the build's commands and nothing else", async () => {
    const { outcome, log } = await watch(
      machine,
      await request(
        "env",
        `echo "[$GREETING]" "$job" "$LC_ALL" "$SOURCE_DATE_EPOCH"; command -v gcc >/dev/null || echo no gcc`,
        {
          env: { GREETING: "it's\n$HOME", PATH: "/nowhere:/bin", job: "mine", tree: "/x", LC_ALL: "C.UTF-8" },
        },
      ),
    );
    expect(outcome).toMatchObject({ is: "completed" });
    expect(log).toContain("[it's\n$HOME] mine C.UTF-8 946684800");
    expect((await host.exec(`grep -rl --exclude=log "it's.$" ${WORKDIR}/jobs; true`)).stdout).toBe("");
  });
});

test("ccache is used where it is installed and not refused, from a place that builds share", async () => {
  const there = (await host.exec("command -v ccache")).code === 0;
  const log = async (version: string, ccache: boolean) =>
    (await watch(machine, await request("ccache", 'echo "$CC" "$CCACHE_DIR"', { version, ccache }))).log;
  expect(await log("1", true)).toBe(there ? `ccache /usr/bin/gcc ${WORKDIR}/ccache\n` : "/usr/bin/gcc \n");
  expect(await log("2", false)).toBe("/usr/bin/gcc \n");
});

describe("ends", () => {
  test("cancelling kills all that the build started, wherever it hides", async () => {
    const abort = new AbortController();
    const given = await request("cancel", HIDING(4711));
    const { outcome, log } = await watch(machine, given, {
      signal: abort.signal,
      onLog: () => void until(async () => (await sleepers(4711)) === 3).then(() => abort.abort()),
    });
    expect(outcome).toMatchObject({ is: "cancelled", error: { code: "E_CANCELLED" } });
    expect(log).toBe("begun\n");
    expect(await sleepers(4711)).toBe(0);
    expect(await supervised()).toBe(0);
    expect(await findJob(machine, WORKDIR, given.digest)).toMatchObject({
      state: "finished",
      result: { end: "cancelled" },
    });
  });

  test("a build that takes too long is ended on the server, and what it said is kept", async () => {
    const given = await request("slow", HIDING(4712), { timeout: 2000 });
    const { outcome } = await watch(machine, given);
    expect(outcome).toMatchObject({ is: "failed", error: { code: "E_BUILD_TIMEOUT", retryable: false } });
    expect(await sleepers(4712)).toBe(0);
    expect((await readJobLog(machine, WORKDIR, given.digest)).toString()).toMatch(/^begun\n/);
  });

  test("what a build leaves in the background goes when it ends", async () => {
    const { outcome } = await watch(machine, await request("daemon", "setsid sleep 4713 & echo ok"));
    expect(outcome).toMatchObject({ is: "completed" });
    expect(await sleepers(4713)).toBe(0);
  });

  test("a killed supervisor is found out, and what it left is ended by the next start", async () => {
    const given = await request("orphan", "if [ ! -e once ]; then touch once; sleep 4714; fi; echo done");
    const first = watch(machine, given);
    await until(async () => (await sleepers(4714)) === 1);
    await host.exec(`kill -9 $(cut -d ' ' -f 1 ${given.paths.job}/pid)`);
    expect((await first).outcome).toMatchObject({ is: "failed", error: { code: "E_BUILD_LOST", retryable: true } });
    expect(await findJob(machine, WORKDIR, given.digest)).toMatchObject({ state: "lost" });
    expect((await watch(machine, given)).outcome).toMatchObject({ is: "completed" });
    expect(await sleepers(4714)).toBe(0);
  });
});

describe("links", () => {
  /** A labctl of its own that builds the request. */
  const other = (given: BuildRequest, run: string): { readonly child: ChildProcess; readonly said: () => string } => {
    const file = join(folder, `child-${children.size}.json`);
    const { source: _source, ...rest } = given;
    writeFileSync(
      file,
      JSON.stringify({
        connection: host.connection(),
        env: host.env,
        request: rest,
        root: given.source.type === "directory" ? given.source.scan.root : "",
        run,
      }),
    );
    const child = spawn(process.execPath, [join(import.meta.dirname, "build-child.mjs"), file], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    children.add(child);
    let said = "";
    child.stdout?.on("data", (chunk: Buffer) => {
      said += chunk.toString();
    });
    return { child, said: () => said };
  };

  test("a labctl that is killed leaves nothing: when the lease is over the server ends its build", async () => {
    const run = HIDING(4717);
    const given = await request("killed", run, { lease: 3000 });
    const { child } = other(given, run);
    await until(async () => (await sleepers(4717)) === 3);
    child.kill("SIGKILL");
    await until(async () => (await sleepers(4717)) === 0, 20_000);
    await until(async () => (await supervised()) === 0);
    expect(await findJob(machine, WORKDIR, given.digest)).toMatchObject({
      state: "finished",
      result: { end: "lease" },
    });
    expect((await readJobLog(machine, WORKDIR, given.digest)).toString()).toMatch(/^begun\n/);
  });

  test("a later labctl finds the build of one that was killed, and goes on with it", async () => {
    const run = "echo first; sleep 4; echo last; echo x >>ran";
    const given = await request("taken", run, { lease: 15_000 });
    const { child, said } = other(given, run);
    await until(() => said().includes("first"));
    child.kill("SIGKILL");
    expect(await findJob(machine, WORKDIR, given.digest)).toMatchObject({ state: "running", holder: "a test" });
    const { outcome, log } = await watch(machine, given);
    expect(outcome).toMatchObject({ is: "completed", how: "attached" });
    expect(log).toBe("first\nlast\n");
    expect(readFileSync(host.root(`${given.paths.tree}/ran`), "utf8")).toBe("x\n");
  });

  test("a cut connection costs nothing: the log goes on at the byte where it stopped", async () => {
    const given = await request("cut", "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do echo line $i; sleep 0.4; done");
    let cut = 0;
    const { outcome, log, notes } = await watch(machine, given, {
      onLog: (chunk) => {
        if (/line (3|7)\n/.test(chunk.toString()) && cut < 2) {
          cut++;
          void host.cut();
        }
      },
    });
    expect(outcome).toMatchObject({ is: "completed" });
    expect(cut).toBe(2);
    expect(notes.some((note) => note.includes("the build goes on there"))).toBe(true);
    expect(log).toBe(Array.from({ length: 12 }, (_, i) => `line ${i + 1}\n`).join(""));
  });

  test("two that want the same build share one; each sees the whole log", async () => {
    const given = await request("shared", "for i in 1 2 3 4; do echo line $i; sleep 0.5; done; echo x >>ran");
    const first = watch(machine, given);
    await until(async () => (await findJob(machine, WORKDIR, given.digest))?.state === "running");
    const second = await watch(machine, given);
    expect(second.outcome).toMatchObject({ is: "completed", how: "attached" });
    expect(second.log).toBe((await first).log);
    expect(readFileSync(host.root(`${given.paths.tree}/ran`), "utf8")).toBe("x\n");
  });

  test("builds of one tree take turns, and the one that waits can be cancelled", async () => {
    const one = await request("turns", "sleep 2; echo one", { version: "1" });
    const two = await request("turns", "echo two", { version: "2" });
    expect(one.paths.tree).toBe(two.paths.tree);
    const first = watch(machine, one);
    await until(async () => (await findJob(machine, WORKDIR, one.digest))?.phase === "build");
    const second = watch(machine, two);
    await until(async () => (await findJob(machine, WORKDIR, two.digest))?.phase === "waiting");
    const status = parseCapacity((await machine.probe(capacityScript(WORKDIR), { root: false })).stdout.toString());
    expect(status?.active.length).toBe(2);
    expect((await second).outcome).toMatchObject({ is: "completed" });
    expect((await first).outcome).toMatchObject({ is: "completed" });
    const long = watch(machine, { ...one, again: true, work: runWork("sleep 4715") });
    await until(async () => (await sleepers(4715)) === 1);
    const waiting = watch(machine, { ...two, again: true });
    await until(async () => (await findJob(machine, WORKDIR, two.digest))?.phase === "waiting");
    expect(await cancelJob(machine, WORKDIR, two.digest)).toBe(true);
    expect((await waiting).outcome).toMatchObject({ is: "cancelled" });
    expect(await cancelJob(machine, WORKDIR, one.digest)).toBe(true);
    expect((await long).outcome).toMatchObject({ is: "cancelled" });
    expect(await sleepers(4715)).toBe(0);
  });
});

describe("a full disk", () => {
  test("old objects go, and the build goes on", async () => {
    const workdir = "/srv/small/b1";
    await host.exec(`mkdir -p ${workdir}; chown lab ${workdir}`);
    const old = await watch(machine, await request("old", "head -c 3500000 /dev/zero >big", { workdir }));
    expect(old.outcome).toMatchObject({ is: "completed" });
    const { outcome, notes } = await watch(
      machine,
      await request("new", "head -c 3500000 /dev/zero >big", { workdir, makeRoom: 4_000_000 }),
    );
    if (outcome.is !== "completed") throw outcome.error;
    expect(notes.join("\n")).toMatch(/removed trees\/\w+/);
    await host.exec(`rm -rf ${workdir}`);
  });

  test("where nothing can go, it fails by name", async () => {
    const workdir = "/srv/small/b2";
    await host.exec(`mkdir -p ${workdir}; chown lab ${workdir}`);
    const given = await request("huge", "cat /dev/zero >big", { workdir, makeRoom: 3_000_000 });
    const { outcome } = await watch(machine, given);
    expect(outcome).toMatchObject({ is: "failed", error: { code: "E_BUILD_DISK", address: "host.builder" } });
    await host.exec(`rm -rf ${workdir}`);
  });

  test("a source that does not fit fails by name too, before anything is built", async () => {
    const workdir = "/srv/small/b3";
    await host.exec(`mkdir -p ${workdir}; chown lab ${workdir}`);
    const given = await request("fat", "true", {
      workdir,
      makeRoom: 3_000_000,
      files: {
        "big.bin": Array.from({ length: 400_000 }, (_, i) => `${i * 7919} ${(i * 104_729) % 65_537}`).join("\n"),
      },
    });
    await expect(watch(machine, given)).rejects.toMatchObject({ code: "E_BUILD_DISK" });
    await host.exec(`rm -rf ${workdir}`);
  });
});

test("cleaning leaves what is in use", async () => {
  const busy = await request("busy", "sleep 4716");
  const running = watch(machine, busy);
  await until(async () => (await sleepers(4716)) === 1);
  const cleaned = await cleanServer(machine, WORKDIR, 1e15);
  expect(cleaned.removed.length).toBeGreaterThan(3);
  expect(cleaned.removed.some(({ path }) => busy.paths.tree.endsWith(path))).toBe(false);
  expect(existsSync(host.root(busy.paths.tree))).toBe(true);
  await cancelJob(machine, WORKDIR, busy.digest);
  await running;
});
