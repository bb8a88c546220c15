import { mkdir, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { listRuns } from "../../src/events/index.ts";
import type { Resource, Row } from "../../src/model/index.ts";
import type { Kind } from "../../src/provider/index.ts";
import type { ExecOptions, Machine } from "../../src/transport/index.ts";
import type { ShellText } from "../../src/transport/index.ts";
import { action, plan } from "../golden/streams.ts";
import { cli, ScriptedLab } from "./cli-harness.ts";

let lab: ScriptedLab;
beforeEach(async () => {
  lab = new ScriptedLab();
  lab.resources = [resource("host.a"), resource('host.a/file["/x"]', "host.a"), resource("host.b")];
  lab.kinds = new Map([["host", { kind: "host", machine: () => undefined } as unknown as Kind]]);
});
afterEach(async () => {
  await lab.remove();
});

function resource(address: string, parent?: string): Resource {
  return {
    address,
    kind: parent === undefined ? "host" : "file",
    scope: "lab",
    ...(parent !== undefined && { parent }),
    desired: { labels: { site: "berlin" } },
    depends: [],
    options: {},
    at: { file: "lab.yaml", line: 1, column: 1 },
    places: {},
  };
}

function row(address: string, more: Partial<Row> = {}): Row {
  return {
    address,
    kind: "file",
    version: 1,
    instance_id: "i",
    desired: {},
    observed: { arch: "arm64", memory: 2 ** 31 },
    original: null,
    depends: [],
    options: {},
    secrets: {},
    status: "ok",
    updated_at: "2026-01-01T00:00:00.000Z",
    updated_by: "r",
    ...more,
  };
}

async function applied(...rows: Row[]): Promise<void> {
  const session = await lab.store.open("lab", { holder: "t", purpose: "t", timeout: 0 });
  for (const one of rows) await session.put(one);
  await session.setOutputs({ address: "10.0.0.1", list: [1, 2], secret: { $sensitive: { from: null } } });
  await session.close();
}

async function addresses(): Promise<string[]> {
  return [...(await lab.store.read("lab")).rows.keys()].sort();
}

describe("state", () => {
  beforeEach(() =>
    applied(
      row("host.a"),
      row('host.a/file["/x"]', { status: "interrupted", parent: "host.a" }),
      row("host.b", { depends: ["host.a"] }),
    ),
  );

  test("list and show", async () => {
    const list = await cli(lab, ["state", "list", "host.a"]);
    expect(list.out).toContain("interrupted");
    expect(list.out).not.toContain("host.b");
    expect((await cli(lab, ["state", "show", "host.a"])).out).toContain("arm64");
    const unknown = await cli(lab, ["state", "show", "host.x"]);
    expect(unknown).toMatchObject({ code: 3 });
    expect(unknown.err).toContain("E_ADDRESS_UNKNOWN");
  });

  test("rm takes what is contained along and records who did it", async () => {
    const result = await cli(lab, ["state", "rm", "host.a", "--json"]);
    expect(JSON.parse(result.out)).toEqual({ removed: ['host.a/file["/x"]', "host.a"] });
    expect(await addresses()).toEqual(["host.b"]);
    expect((await listRuns(lab.statePath))[0]).toMatchObject({
      command: "state rm",
      argv: ["state", "rm", "host.a", "--json"],
    });
  });

  test("mv renames what is contained too, and never over something else", async () => {
    expect((await cli(lab, ["state", "mv", "host.a", "host.b"])).code).toBe(3);
    expect((await cli(lab, ["state", "mv", "host.a", "host.c"])).code).toBe(0);
    expect(await addresses()).toEqual(["host.b", "host.c", 'host.c/file["/x"]']);
    const { rows } = await lab.store.read("lab");
    expect(rows.get('host.c/file["/x"]')?.parent).toBe("host.c");
    expect(rows.get("host.b")?.depends).toEqual(["host.c"]);
  });

  test("pull and push round trip; a state that is older is refused", async () => {
    const pulled = await cli(lab, ["state", "pull"]);
    await writeFile(join(lab.root, "backup.json"), pulled.out);
    await cli(lab, ["state", "rm", "host.b"]);
    const refused = await cli(lab, ["state", "push", "backup.json"]);
    expect(refused.code).toBe(4);
    expect((await cli(lab, ["state", "push", "backup.json", "--force"])).code).toBe(0);
    expect(await addresses()).toContain("host.b");
  });

  test("unlock asks, and needs a lock to take away", async () => {
    expect((await cli(lab, ["state", "unlock"])).out).toContain("not locked");
    const session = await lab.store.open("lab", { holder: "eve@desk", purpose: "a long apply", timeout: 0 });
    expect((await cli(lab, ["status"])).out).toContain("eve@desk");
    expect((await cli(lab, ["state", "rm", "host.a"])).code).toBe(4);
    expect(await cli(lab, ["state", "unlock"])).toMatchObject({ code: 3 });
    expect((await cli(lab, ["state", "unlock"], { tty: true, stdin: "no\n" })).code).toBe(130);
    const taken = await cli(lab, ["state", "unlock"], { tty: true, stdin: "yes\n" });
    expect(taken.out).toContain("eve@desk");
    await expect(session.put(row("host.late"))).rejects.toMatchObject({ code: "E_STATE_LOCK_LOST" });
    await session.close().catch(() => undefined);
  });

  test("repair says what is wrong, exits 4, and mends with --write", async () => {
    expect((await cli(lab, ["state", "repair"])).out).toContain("sound");
    await writeFile(join(lab.statePath, "lab.json"), "{ this is not JSON");
    const look = await cli(lab, ["state", "repair"]);
    expect(look.code).toBe(4);
    expect(look.out).toContain("--write");
    expect((await cli(lab, ["state", "list"])).code).toBe(4);
    expect((await cli(lab, ["state", "repair", "--write"])).code).toBe(0);
    expect((await cli(lab, ["state", "list"])).code).toBe(0);
  });
});

test("output: all, one, raw for scripts, never a secret", async () => {
  await applied();
  expect((await cli(lab, ["output", "--raw", "address"])).out).toBe("10.0.0.1\n");
  expect((await cli(lab, ["output"])).out).toBe('address = "10.0.0.1"\nlist = [1, 2]\nsecret = (sensitive)\n');
  expect(JSON.parse((await cli(lab, ["output", "list", "--json"])).out)).toEqual([1, 2]);
  expect((await cli(lab, ["output", "--raw", "list"])).code).toBe(3);
  expect((await cli(lab, ["output", "nope"])).err).toContain("there are: address");
});

describe("host", () => {
  test("list shows what the state knows and who is in maintenance", async () => {
    await applied(row("host.a", { kind: "host" }));
    const on = await cli(lab, ["host", "maintenance", "a", "on", "--reason", "new disk", "--until", "4h"]);
    expect(on.code).toBe(0);
    const { out } = await cli(lab, ["host", "list"]);
    expect(out).toMatch(/host\.a +arm64 +2\.0 GiB +site=berlin +ok +new disk/);
    expect(out).toMatch(/host\.b +site=berlin +not applied/);
    expect((await cli(lab, ["status"])).out).toContain("new disk");
    await cli(lab, ["host", "maintenance", "host.a", "off"]);
    expect((await cli(lab, ["host", "list"])).out).not.toContain("new disk");
  });

  test.each([
    [["host", "maintenance", "a", "on"], "--reason"],
    [["host", "maintenance", "a", "maybe"], "on or off"],
    [["host", "maintenance", "a", "on", "--reason", "x", "--until", "2001-01-01"], "time to come"],
    [["host", "show", "nope"], "there are: host.a"],
  ])("%j is refused", async (argv, text) => {
    const { code, err } = await cli(lab, argv);
    expect(code).toBe(3);
    expect(err).toContain(text);
  });

  test("exec hands every word on as it is, streams both outputs, and exits with the remote code", async () => {
    const calls: { command: ShellText; options: ExecOptions | undefined }[] = [];
    lab.machine = () =>
      ({
        exec: async (command: ShellText, options?: ExecOptions) => {
          calls.push({ command, options });
          options?.onStdout?.(Buffer.from("to stdout\n"));
          options?.onStderr?.(Buffer.from("to stderr\n"));
          return {
            code: 42,
            signal: undefined,
            stdout: Buffer.alloc(0),
            stderr: Buffer.alloc(0),
            truncated: false,
            duration_ms: 1,
          };
        },
      }) as unknown as Machine;
    const { code, out, err } = await cli(lab, [
      "host",
      "exec",
      "a",
      "--",
      "printf",
      "%s",
      "$(id)",
      "it's",
      "-v",
      "--json",
    ]);
    expect(code).toBe(42);
    expect(out).toBe("to stdout\n");
    expect(err).toBe("to stderr\n");
    expect(calls[0]?.command.text).toBe(String.raw`printf %s '$(id)' 'it'\''s' '-v' '--json'`);
    expect(calls[0]?.options?.root).toBe(false);
    expect((await listRuns(lab.statePath))[0]).toMatchObject({ command: "host exec", summary: { exit_code: 42 } });
  });

  test("facts are read now, and a host that does not answer is exit 5", async () => {
    lab.onPlan = () =>
      plan([
        action({ address: "host.a", action: "noop", before: { arch: "riscv64" } }),
        action({ address: "host.b", action: "blocked", reason: { code: "unreachable", text: "no route" } }),
      ]);
    const { code, out, err } = await cli(lab, ["host", "facts"]);
    expect(code).toBe(5);
    expect(out).toContain("riscv64");
    expect(err).toContain("no route");
    expect(lab.calls.plan[0]).toMatchObject({ targets: ["host.a", "host.b"], excludes: ['host.a/file["/x"]'] });
  });
});

describe("runs", () => {
  beforeEach(async () => {
    lab.onPlan = () => plan([action({ address: 'host.a/file["/x"]', action: "create" })]);
    lab.onApply = (_plan, _options, bus) => {
      bus.emit({ type: "action.started", address: 'host.a/file["/x"]', action: "create", attempt: 1 });
      bus.emit({
        type: "log.line",
        level: "info",
        component: "file",
        address: 'host.a/file["/x"]',
        message: "said this",
        stream: "stdout",
      });
      bus.emit({ type: "log.line", level: "info", component: "host", address: "host.b", message: "said that" });
      return {
        command: "apply",
        result: "ok",
        exit_code: 0,
        duration_ms: 1,
        results: { ok: 1 },
        problems: [],
        manual_steps: [],
      };
    };
    await cli(lab, ["apply", "--auto-approve"]);
  });

  test("history, events and logs read them back", async () => {
    expect((await cli(lab, ["history"])).out).toMatch(/apply +ok .*1 done/);
    const typo = await cli(lab, ["history", "nope"]);
    expect(typo.code).toBe(3);
    expect(typo.err).toContain("nope is not there");
    expect((await cli(lab, ["events", "--type", "action"])).out).toContain("action.started");
    const logs = await cli(lab, ["logs"]);
    expect(logs.out).toContain("said this");
    expect(logs.out).toContain("said that");
  });

  test("show tells what a run planned and what came of it", async () => {
    const id = (await listRuns(lab.statePath))[0]?.id ?? "";
    for (const what of ["last", id, id.slice(0, 12)]) {
      const { out, code } = await cli(lab, ["show", what]);
      expect(code).toBe(0);
      expect(out).toContain(`${id} apply: ok`);
      expect(out).toContain("labctl apply --auto-approve");
      expect(out).toContain("Plan: 1 to create");
      expect(out).toMatch(/What came of it:\n {2}host\.a\/file\["\/x"\]: /);
    }
    const { run, plan: planned, resources } = JSON.parse((await cli(lab, ["show", "last", "--json"])).out);
    expect(run).toMatchObject({ id, state: "ok" });
    expect(planned.actions).toHaveLength(1);
    expect(resources['host.a/file["/x"]'].attempts).toBe(1);
    expect(await cli(lab, ["show", "20010101T000000Z-000000"])).toMatchObject({ code: 3 });
  });

  test("logs of one resource, and of what contains it", async () => {
    for (const address of ["host.a", 'host.a/file["/x"]']) {
      const { out } = await cli(lab, ["logs", address]);
      expect(out).toContain("said this");
      expect(out).not.toContain("said that");
    }
    expect((await cli(lab, ["logs", "host.never"])).code).toBe(4);
    expect((await cli(lab, ["logs", "20010101T000000Z-000000"])).code).toBe(4);
  });

  test("--follow ends with the run", async () => {
    expect((await cli(lab, ["logs", "last", "--follow"])).out).toContain("said this");
  });
});

describe("writing specs", () => {
  test("fmt changes the file alone, keeps its mode, and --check changes nothing", async () => {
    const path = join(lab.root, "lab.yaml");
    await writeFile(path, "a: 1\n\n\n", { mode: 0o640 });
    expect((await cli(lab, ["fmt", "--check", "--diff"])).code).toBe(3);
    expect(await readFile(path, "utf8")).toBe("a: 1\n\n\n");
    expect((await cli(lab, ["fmt"])).out).toBe("lab.yaml\n");
    expect(await readFile(path, "utf8")).toBe("a: 1\n");
    expect((await stat(path)).mode & 0o777).toBe(0o640);
    expect(await cli(lab, ["fmt", "--check"])).toMatchObject({ code: 0, out: "" });
    expect((await cli(lab, ["fmt", "-"], { stdin: "b: 2\n\n" })).out).toBe("b: 2\n");
    expect((await readdir(lab.root)).filter((name) => name.endsWith(".tmp"))).toEqual([]);
    expect((await cli(lab, ["fmt", "nope.yaml"])).err).toContain("E_SPEC_NOT_FOUND");
  });

  test("init writes, and never over a spec that is there", async () => {
    await mkdir(join(lab.root, "My Lab!"));
    expect((await cli(lab, ["init", "My Lab!"])).code).toBe(0);
    expect(await readFile(join(lab.root, "My Lab!", "lab.yaml"), "utf8")).toContain("name: my-lab");
    expect((await cli(lab, ["init", "My Lab!"])).code).toBe(3);
    expect((await cli(lab, ["init", "x", "--name", "Not OK"])).code).toBe(3);
  });

  test("init takes no folder that is somebody's", async () => {
    const name = `t${process.pid}`;
    const taken = `/tmp/labctl-${name}`;
    await mkdir(taken);
    try {
      await cli(lab, ["init", "x", "--name", name]);
    } finally {
      await rm(taken, { recursive: true });
    }
    expect(await readFile(join(lab.root, "x", "lab.yaml"), "utf8")).toContain(`# ${taken}-2\n`);
  });

  test("schema names what there is when asked for something else", async () => {
    expect((await cli(lab, ["schema", "hots"])).err).toContain("did you mean host?");
  });

  test("graph in each format", async () => {
    for (const format of ["text", "dot", "mermaid"]) {
      const { code, out } = await cli(lab, ["graph", "--format", format]);
      expect(code).toBe(0);
      expect(out).toContain("host.a");
    }
    expect(JSON.parse((await cli(lab, ["graph", "--json"])).out)).toMatchObject({ edges: [{ sort: "contains" }] });
  });
});
