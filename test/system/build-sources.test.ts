import { execFileSync } from "node:child_process";
import {
  appendFileSync,
  chmodSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { cancelJob, findJob, listJobs } from "../../providers/build/jobs.ts";
import { scanDirectory, sha256File } from "../../providers/build/source-directory.ts";
import { localGit, machineGit, resolveGit } from "../../providers/build/source-git.ts";
import { checkTarball } from "../../providers/build/source-tarball.ts";
import type { LabError, Machine } from "../../src/index.ts";
import { createMachinePool, type ResettablePool } from "../../src/transport/index.ts";
import { git, PROJECT, requestOf, runWork, watch, WORKDIR, writeTree } from "../support/build-lab.ts";
import { startMachine, type TestMachine } from "../support/sshd.ts";

let host: TestMachine;
let pool: ResettablePool;
let machine: Machine;
let folder: string;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "labctl-build-"));
  host = await startMachine({
    name: "builder",
    setup: `mkdir -p ${WORKDIR}; chown lab ${WORKDIR}; mkdir -p /srv/git; chmod 1777 /srv/git`,
  });
  pool = createMachinePool({ env: host.env });
  machine = pool.machine(host.connection());
});
afterAll(async () => {
  await pool.close();
  await host.stop();
  rmSync(folder, { recursive: true, force: true });
});

const failure = async (promise: Promise<unknown>): Promise<LabError> => {
  try {
    await promise;
  } catch (error) {
    return error as LabError;
  }
  throw new Error("it did not fail");
};
const compiled = (log: string): string[] =>
  [...log.matchAll(/^compiling (\S+)$/gm)].map((match) => match[1] ?? "").sort();

describe("a directory", () => {
  const work = runWork("make", { binary: "hello" });
  const build = async (version: string, root: string) =>
    await watch(
      machine,
      requestOf("dir", version, { source: { type: "directory", scan: await scanDirectory(root) }, work }),
    );

  test("is sent once; after an edit of one line one file is sent and one object compiled", async () => {
    const root = join(folder, "dir");
    writeTree(root, { ...PROJECT, "old/gone.txt": "x", "sub/a b 'q' é.txt": "odd name\n", "-dash": "y" });
    chmodSync(join(root, "-dash"), 0o755);
    symlinkSync("main.c", join(root, "link.c"));
    const first = await build("1", root);
    expect(first.outcome).toMatchObject({ is: "completed", how: "started" });
    expect(compiled(first.log)).toEqual(["main.c", "part.c"]);
    expect(first.phases[0]).toBe("source");
    if (first.outcome.is !== "completed") throw first.outcome.error;
    const [binary] = first.outcome.outputs;
    expect(binary).toMatchObject({ name: "binary", type: "binary" });
    expect(await sha256File(host.root(binary?.path ?? ""))).toBe(binary?.sha256);
    expect((await host.exec(`cp ${binary?.path ?? ""} /tmp/h; chmod +x /tmp/h; /tmp/h`)).stdout).toBe("one\n");
    const tree = requestOf("dir", "1", { source: { type: "directory", scan: await scanDirectory(root) }, work }).paths
      .tree;
    expect(readFileSync(host.root(`${tree}/sub/a b 'q' é.txt`), "utf8")).toBe("odd name\n");
    expect(statSync(host.root(`${tree}/-dash`)).mode & 0o777).toBe(0o755);
    const before = statSync(host.root(`${tree}/main.o`)).mtimeMs;

    rmSync(join(root, "old"), { recursive: true });
    writeFileSync(join(root, "part.c"), PROJECT["part.c"]?.replace("one", "two") ?? "");
    const second = await build("2", root);
    expect(compiled(second.log)).toEqual(["part.c"]);
    expect(statSync(host.root(`${tree}/main.o`)).mtimeMs).toBe(before);
    expect((await host.exec(`${tree}/hello; ls ${tree}/old ${tree}/hello`)).stdout).toBe(`two\n${tree}/hello\n`);

    // The same again: nothing runs, and nothing is sent.
    const third = await build("2", root);
    expect(third.outcome).toMatchObject({ is: "completed", how: "reused", seconds: 0 });
    expect(third.log).toBe("");
  });

  test("what a build changes in its own source is put right before the next", async () => {
    const root = join(folder, "vandal");
    writeTree(root, { "in.txt": "good\n", Makefile: "out: in.txt\n\tcp in.txt out\n\techo bad >in.txt\n" });
    const once = async (version: string) =>
      await watch(
        machine,
        requestOf("vandal", version, {
          source: { type: "directory", scan: await scanDirectory(root) },
          work: runWork("rm -f out; make", { out: "out" }),
        }),
      );
    for (const version of ["1", "2"]) {
      const { outcome } = await once(version);
      if (outcome.is !== "completed") throw outcome.error;
      expect(readFileSync(host.root(outcome.outputs[0]?.path ?? ""), "utf8")).toBe("good\n");
    }
  });

  test("git's ignored files stay at home, and a digest is of names, modes and contents only", async () => {
    const root = join(folder, "ignoring");
    writeTree(root, { "a.c": "1", ".gitignore": "*.o\n", "a.o": "object", "sub/b.c": "2" });
    git(root, "init", "-q");
    git(root, "add", "a.c");
    const scan = await scanDirectory(root);
    expect(scan.entries.map(({ path }) => path)).toEqual([".gitignore", "a.c", "sub/b.c"]);
    const copy = join(folder, "copy");
    execFileSync("cp", ["-r", root, copy]);
    expect((await scanDirectory(copy)).digest).toBe(scan.digest);
    chmodSync(join(copy, "a.c"), 0o755);
    expect((await scanDirectory(copy)).digest).not.toBe(scan.digest);
    chmodSync(join(copy, "a.c"), 0o600);
    expect((await scanDirectory(copy)).digest).toBe(scan.digest);
    renameSync(join(copy, "a.c"), join(copy, "c.c"));
    expect((await scanDirectory(copy)).digest).not.toBe(scan.digest);
  });

  test("a file that is not there is named", async () => {
    expect(await failure(scanDirectory(join(folder, "nowhere")))).toMatchObject({ code: "E_SOURCE_FILE" });
    const root = join(folder, "newline");
    writeTree(root, { "a\nb": "x" });
    expect(await failure(scanDirectory(root))).toMatchObject({ code: "E_SOURCE_FILE" });
  });
});

describe("git", () => {
  const url = "file:///srv/git/project.git";
  let first = "";
  let second = "";

  beforeAll(async () => {
    const work = join(folder, "git");
    writeTree(work, PROJECT);
    git(work, "init", "-q");
    git(work, "add", ".");
    git(work, "commit", "-q", "-m", "one");
    git(work, "tag", "-a", "v1.0", "-m", "first");
    first = git(work, "rev-parse", "HEAD");
    git(work, "checkout", "-q", "-b", "feature/two");
    writeFileSync(join(work, "part.c"), PROJECT["part.c"]?.replace("one", "two") ?? "");
    git(work, "commit", "-q", "-am", "two");
    second = git(work, "rev-parse", "HEAD");
    git(work, "clone", "-q", "--bare", work, join(folder, "bare"));
    execFileSync("cp", ["-r", join(folder, "bare"), host.root("/srv/git/project.git")]);
    await host.exec("chown -R lab /srv/git");
  });

  test("branches, tags and commits are resolved here and there; what does not resolve names what comes near", async () => {
    for (const [where, at] of [
      [machineGit(machine), url],
      [localGit(process.env), `file://${join(folder, "git")}`],
    ] as const) {
      expect(await resolveGit(where, { url: at, ref: "v1.0" })).toEqual({
        url: at,
        commit: first,
        kind: "tag",
        ref: "refs/tags/v1.0",
      });
      expect(await resolveGit(where, { url: at, ref: "feature/two" })).toMatchObject({
        commit: second,
        kind: "branch",
      });
      expect(await resolveGit(where, { url: at, ref: second })).toMatchObject({ commit: second, kind: "commit" });
      expect(await resolveGit(where, { url: at, ref: second.slice(0, 10) })).toMatchObject({
        commit: second,
        kind: "commit",
      });
      expect(await resolveGit(where, { url: at })).toMatchObject({ kind: "head" });
      const error = await failure(resolveGit(where, { url: at, ref: "feature/tow" }));
      expect(error).toMatchObject({ code: "E_SOURCE_UNRESOLVED" });
      expect(error.message).toContain("feature/two");
    }
    expect(await failure(resolveGit(machineGit(machine), { url: "file:///srv/git/none.git" }))).toMatchObject({
      code: "E_SOURCE_FETCH",
    });
  });

  test("one mirror serves several builds at once, and another commit compiles only what differs", async () => {
    const source = async (ref: string) => {
      const given = { url, ref };
      return { type: "git" as const, source: given, resolved: await resolveGit(machineGit(machine), given) };
    };
    const work = runWork("make; git log -1 --format=%s; echo epoch $SOURCE_DATE_EPOCH $KBUILD_BUILD_TIMESTAMP", {
      binary: "hello",
    });
    const builds = await Promise.all(
      ["g1", "g2", "g3"].map(
        async (name) => await watch(machine, requestOf(name, "1", { source: await source("v1.0"), work })),
      ),
    );
    for (const { outcome, log } of builds) {
      if (outcome.is !== "completed") throw outcome.error;
      expect(compiled(log)).toEqual(["main.c", "part.c"]);
    }
    expect(readdirSync(host.root(`${WORKDIR}/mirrors`)).filter((name) => name.endsWith(".git"))).toHaveLength(1);
    const date = git(join(folder, "git"), "log", "-1", "--format=%ct", first);
    expect(builds[0]?.log).toContain(`epoch ${date} `);
    const next = await watch(machine, requestOf("g1", "2", { source: await source("feature/two"), work }));
    expect(compiled(next.log)).toEqual(["part.c"]);
    expect(next.log).toContain("\ntwo\n");
  });

  test("a commit that is not there fails by name", async () => {
    const commit = "0123456789012345678901234567890123456789";
    const resolved = await resolveGit(machineGit(machine), { url, ref: commit });
    const error = await failure(
      watch(
        machine,
        requestOf("gone", "1", {
          source: { type: "git", source: { url, ref: commit }, resolved },
          work: runWork("true"),
        }),
      ),
    );
    expect(error).toMatchObject({ code: "E_SOURCE_UNRESOLVED", address: "host.builder" });
  });

  test("a password in a URL is on no command line, in no file and in no message", async () => {
    const secret = "hunter2-token";
    const given = { url: `http://user:${secret}@127.0.0.1:9/x.git`, ref: "main" };
    const error = await failure(resolveGit(machineGit(machine), given));
    expect(error).toMatchObject({ code: "E_SOURCE_FETCH" });
    expect(`${error.message} ${error.hint ?? ""}`).not.toContain(secret);
    const resolved = { url: "http://127.0.0.1:9/x.git", commit: second, kind: "commit" as const };
    const fetch = await failure(
      watch(
        machine,
        requestOf("cred", "1", { source: { type: "git", source: given, resolved }, work: runWork("true") }),
      ),
    );
    expect(fetch).toMatchObject({ code: "E_SOURCE_FETCH" });
    expect(fetch.message).not.toContain(secret);
    expect((await host.exec(`grep -rl ${secret} ${WORKDIR} /home /tmp; true`)).stdout).toBe("");
  });
});

describe("a tarball", () => {
  const pack = (name: string, files: Readonly<Record<string, string>>): string => {
    const root = join(folder, `${name}-src`);
    writeTree(join(root, "project-1.0"), files);
    const file = join(folder, `${name}.tar.xz`);
    execFileSync("tar", ["-C", root, "-cJf", file, "project-1.0"]);
    return file;
  };

  test("is sent once and unpacked; the next version compiles only what differs", async () => {
    const build = async (file: string, version: string, name = "tar") =>
      await watch(
        machine,
        requestOf(name, version, {
          source: { type: "tarball", source: { from: file, sha256: await sha256File(file) } },
          work: runWork("make", { binary: "hello" }),
        }),
      );
    const one = pack("v1", PROJECT);
    const first = await build(one, "1");
    if (first.outcome.is !== "completed") throw first.outcome.error;
    expect(compiled(first.log)).toEqual(["main.c", "part.c"]);
    const two = pack("v2", { ...PROJECT, "part.c": PROJECT["part.c"]?.replace("one", "two") ?? "" });
    const second = await build(two, "2");
    expect(compiled(second.log)).toEqual(["part.c"]);
    const other = await build(two, "1", "tar-other");
    expect(other.outcome).toMatchObject({ is: "completed" });
    expect(readdirSync(host.root(`${WORKDIR}/tarballs`)).filter((name) => /^[0-9a-f]{64}$/.test(name))).toHaveLength(2);
  });

  test("a cut or other one is refused before anything is sent", async () => {
    const file = pack("v3", PROJECT);
    const sha256 = await sha256File(file);
    writeFileSync(file, readFileSync(file).subarray(0, -20));
    expect(await failure(checkTarball({ from: file, sha256 }))).toMatchObject({ code: "E_SOURCE_TARBALL" });
    const error = await failure(
      watch(
        machine,
        requestOf("cut", "1", { source: { type: "tarball", source: { from: file, sha256 } }, work: runWork("true") }),
      ),
    );
    expect(error).toMatchObject({ code: "E_SOURCE_TARBALL" });
    expect(readdirSync(host.root(`${WORKDIR}/tarballs`)).some((name) => name.startsWith(sha256))).toBe(false);
    const short = await failure(checkTarball({ from: file, sha256: await sha256File(file) }));
    expect(short).toMatchObject({ code: "E_SOURCE_TARBALL" });
    expect(short.message).toContain("cut short");
  });

  test("one that was damaged before its digest was taken cannot be unpacked, and is said to be", async () => {
    const file = pack("v5", PROJECT);
    const whole = readFileSync(file);
    whole.fill(0x55, whole.length / 2, whole.length / 2 + 16);
    writeFileSync(file, whole);
    const cut = await watch(
      machine,
      requestOf("cut", "2", {
        source: { type: "tarball", source: { from: file, sha256: await sha256File(file) } },
        work: runWork("true"),
      }),
    );
    expect(cut.outcome).toMatchObject({ is: "failed", error: { code: "E_SOURCE_CORRUPT" } });
    if (cut.outcome.is === "failed")
      expect(cut.outcome.error.message).toMatch(/^the tarball cannot be unpacked: [^\n]+$/);
  });

  test("a URL is fetched by the server, and one with other content refused", async () => {
    const file = pack("v4", PROJECT);
    await host.exec("mkdir -p /srv/www/a");
    writeFileSync(host.root("/srv/www/a/p.tar.xz"), readFileSync(file));
    await host.exec("cd /srv/www && (setsid busybox httpd -p 127.0.0.1:8099 -h /srv/www >/dev/null 2>&1 &)");
    const from = "http://user:s3cret-word@127.0.0.1:8099/a/p.tar.xz";
    const good = await watch(
      machine,
      requestOf("url", "1", {
        source: { type: "tarball", source: { from, sha256: await sha256File(file) } },
        work: runWork("make", { binary: "hello" }),
      }),
    );
    expect(good.outcome).toMatchObject({ is: "completed" });
    appendFileSync(host.root("/srv/www/a/p.tar.xz"), "more");
    const bad = await failure(
      watch(
        machine,
        requestOf("url", "2", {
          source: { type: "tarball", source: { from, sha256: "0".repeat(64) } },
          work: runWork("true"),
        }),
      ),
    );
    expect(bad).toMatchObject({ code: "E_SOURCE_CORRUPT" });
    expect(bad.message).not.toContain("s3cret-word");
    const none = await failure(
      watch(
        machine,
        requestOf("url", "3", {
          source: { type: "tarball", source: { from: `${from}.no`, sha256: "1".repeat(64) } },
          work: runWork("true"),
        }),
      ),
    );
    expect(none).toMatchObject({ code: "E_SOURCE_FETCH" });
  });
});

test("the server tells of its builds, and there is nothing to cancel", async () => {
  const jobs = await listJobs(machine, WORKDIR);
  expect(jobs.length).toBeGreaterThan(5);
  expect(jobs.every(({ state }) => state === "finished")).toBe(true);
  const [job] = jobs;
  expect(job?.holder).toBe("a test");
  expect(await findJob(machine, WORKDIR, "f".repeat(64))).toBeUndefined();
  expect(await cancelJob(machine, WORKDIR, job?.digest ?? "")).toBe(false);
});
