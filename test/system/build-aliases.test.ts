/** What a build is found by, where its repository goes on, goes back, and calls one commit by several names. */
import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { git, writeTree } from "../support/build-lab.ts";
import { machinesUnavailable, startMachine, type TestMachine } from "../support/sshd.ts";
import { createWorkspace, hostOf, type Workspace } from "../support/workspace.ts";

const REMOTE = "/srv/git/project";

describe.skipIf(machinesUnavailable() !== undefined)("builds of a repository", () => {
  let machine: TestMachine;
  let ws: Workspace;
  let repository: string;

  const pipeline = (builds: Readonly<Record<string, string | undefined>>): void => {
    const one = (ref: string | undefined) => ({
      source: { git: `file://${REMOTE}`, ...(ref !== undefined && { ref }) },
      run: "echo built >>/srv/build/log; cp text out",
      outputs: { out: "out" },
    });
    ws.write("pipeline.yaml", {
      labctl: 1,
      name: "aliases",
      builds: Object.fromEntries(Object.entries(builds).map(([name, ref]) => [name, one(ref)])),
    });
  };
  const run = async (...args: string[]): Promise<string> => {
    const result = await ws.run(args);
    expect(result.code, result.output.slice(-3000)).toBe(0);
    return result.stdout;
  };
  const build = async (): Promise<void> => {
    await run("build");
    // Nothing is left to be done, for the state and for the store.
    await run("plan", "-f", "pipeline.yaml", "--detailed-exitcode");
  };
  const out = async (...filters: string[]): Promise<string> => run("artifact", "get", "out", ...filters, "-o", "-");
  const built = async (): Promise<number> =>
    (await machine.exec("cat /srv/build/log")).stdout.trim().split("\n").length;
  /** The server alone has it: its machine does not see our files. */
  const publish = async (): Promise<void> => {
    await machine.exec(`rm -rf ${REMOTE}`);
    execFileSync("cp", ["-r", repository, machine.root(REMOTE)]);
    await machine.exec(`chown -R lab ${REMOTE}`);
  };
  const commit = async (text: string): Promise<void> => {
    writeFileSync(join(repository, "text"), text);
    git(repository, "commit", "-q", "-am", text);
    await publish();
  };

  beforeAll(async () => {
    machine = await startMachine({ name: "builder" });
    await machine.exec("mkdir -p /srv/build /srv/git && chown lab /srv/build");
    ws = createWorkspace();
    repository = ws.path("repository");
    writeTree(repository, { text: "one" });
    git(repository, "init", "-q", "-b", "main");
    git(repository, "add", ".");
    git(repository, "commit", "-q", "-m", "one");
    git(repository, "tag", "v1.0");
    await publish();
    ws.write("lab.yaml", {
      labctl: 1,
      name: "aliases",
      hosts: { builder: hostOf(machine, { build_server: { workdir: "/srv/build", min_free_disk: "1MB" } }) },
    });
    await ws.apply();
  }, 120_000);
  afterAll(async () => {
    ws?.remove();
    await machine?.stop();
  });

  test("each branch, tag and name that leads to a build finds it, and nothing is built again", {
    timeout: 120_000,
  }, async () => {
    pipeline({ a: undefined });
    await build();
    expect(await out("--branch", "main")).toBe("one");
    pipeline({ a: "v1.0" });
    await run("plan", "-f", "pipeline.yaml");
    expect((await ws.run(["artifact", "get", "out", "--branch", "v1.0", "-o", "-"])).code).toBe(8);
    await build();
    expect(await out("--branch", "v1.0")).toBe("one");
    pipeline({ a: "v1.0", b: "main" });
    await build();
    expect(await out("--name", "b", "--branch", "main")).toBe("one");
    expect(await out("--name", "a", "--branch", "refs/heads/main")).toBe("one");
    expect(await built()).toBe(1);
  });

  test("a branch that went back means the older build", { timeout: 120_000 }, async () => {
    pipeline({ a: "main", b: "v1.0" });
    await build();
    await commit("two");
    await build();
    expect(await out("--branch", "main", "--name", "a", "--latest")).toBe("two");
    git(repository, "reset", "-q", "--hard", "HEAD~1");
    await publish();
    await build();
    expect(await out("--branch", "main", "--latest")).toBe("one");
    expect(await out("--branch", "main", "--name", "a")).toBe("one");
    expect(await built()).toBe(2);
  });

  test("builds alike that run at once are found by both names", { timeout: 120_000 }, async () => {
    await commit("three");
    pipeline({ a: "main", b: "main" });
    await build();
    for (const name of ["a", "b"]) expect(await out("--branch", "main", "--name", name)).toBe("three");
  });
});
