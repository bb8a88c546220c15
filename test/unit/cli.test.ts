import { readdir, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { DiagnosticsError, LabError } from "../../src/diagnostics/index.ts";
import { listRuns, readEvents, stateOf } from "../../src/events/index.ts";
import { action, plan } from "../golden/streams.ts";
import { cli, done, fakeSignals, ScriptedLab } from "./cli-harness.ts";

let lab: ScriptedLab;
beforeEach(() => {
  lab = new ScriptedLab();
});
afterEach(async () => {
  await lab.remove();
});

const changes = plan([action({ address: 'host.a/file["/x"]', action: "create" })]);
const blocked = plan([
  action({ address: "host.a", action: "blocked", reason: { code: "unreachable", text: "connect ECONNREFUSED" } }),
]);

describe("plan", () => {
  test("writes nothing, anywhere", async () => {
    lab.onPlan = () => changes;
    const before = await readdir(lab.root);
    const result = await cli(lab, ["plan"]);
    expect(result).toMatchObject({ code: 0 });
    expect(result.out).toContain("Plan: 1 to create.");
    expect(await readdir(lab.root)).toEqual(before);
    expect(lab.calls.closed).toBe(1);
  });

  test("exits 2 with changes pending under --detailed-exitcode alone, 5 where something is unreachable", async () => {
    lab.onPlan = () => changes;
    expect((await cli(lab, ["plan", "--detailed-exitcode"])).code).toBe(2);
    expect((await cli(lab, ["plan"])).code).toBe(0);
    lab.onPlan = () => plan([]);
    expect((await cli(lab, ["plan", "--detailed-exitcode"])).code).toBe(0);
    lab.onPlan = () => blocked;
    expect((await cli(lab, ["plan", "--detailed-exitcode"])).code).toBe(5);
  });

  test("hands the planning flags on, wherever they stand on the line", async () => {
    await cli(lab, [
      "--parallelism",
      "3",
      "plan",
      "labs/x",
      "--target",
      'host.a/file["plain"]',
      "--exclude",
      "host.b",
      "--no-refresh",
      "--batch",
      "2",
      "-f",
      "other.yaml",
      "--experimental",
    ]);
    expect(lab.calls.plan[0]).toMatchObject({
      mode: "normal",
      targets: ["host.a/file.plain"],
      excludes: ["host.b"],
      refresh: false,
      batch: 2,
      parallelism: 3,
      experimental: true,
    });
    expect(lab.calls.selections).toEqual([["labs/x", "other.yaml"]]);
    await cli(lab, ["plan", "--destroy"]);
    await cli(lab, ["plan", "--refresh-only"]);
    expect(lab.calls.plan.slice(1).map((one) => one.mode)).toEqual(["destroy", "refresh-only"]);
  });

  test("--json is the plan and nothing else on stdout", async () => {
    lab.onPlan = () => changes;
    const { out } = await cli(lab, ["plan", "--json"]);
    expect(JSON.parse(out)).toEqual(changes);
  });

  test("--out saves it for its owner alone, and apply takes it by its content without asking", async () => {
    lab.onPlan = () => changes;
    await cli(lab, ["plan", "--out", "change.yaml"]);
    expect(lab.calls.plan[0]?.durableSeal).toBe(true);
    const path = join(lab.root, "change.yaml");
    expect((await stat(path)).mode & 0o777).toBe(0o600);
    expect(JSON.parse(await readFile(path, "utf8"))).toEqual(changes);
    const { code } = await cli(lab, ["apply", "change.yaml"]);
    expect(code).toBe(0);
    expect(lab.calls.plan).toHaveLength(1);
    expect(lab.calls.apply).toHaveLength(1);
    expect(lab.calls.selections.at(-1)).toEqual(["/lab"]);
  });

  test("a saved plan that is cut off is refused", async () => {
    await writeFile(join(lab.root, "cut.plan"), JSON.stringify(changes, null, 2).slice(0, 300));
    const { code, err } = await cli(lab, ["apply", "cut.plan"]);
    expect(code).toBe(3);
    expect(err).toContain("E_PLAN_FILE");
    expect(lab.calls.apply).toHaveLength(0);
  });
});

describe("apply", () => {
  test("without a terminal and without --auto-approve it refuses before it does anything", async () => {
    const { code, err } = await cli(lab, ["apply"]);
    expect(code).toBe(3);
    expect(err).toContain("E_NOT_INTERACTIVE");
    expect(lab.calls.selections).toEqual([]);
  });

  test.each([
    ["yes\n", 0, 1],
    ["y\n", 130, 0],
    ["no\n", 130, 0],
    ["", 130, 0],
  ])("asks on a terminal: %j", async (answer, code, applied) => {
    lab.onPlan = () => changes;
    const result = await cli(lab, ["apply"], { tty: true, stdin: answer });
    expect(result.code).toBe(code);
    expect(lab.calls.apply).toHaveLength(applied);
    expect(result.out).toContain("Do this in");
  });

  test("Ctrl-C at the question changes nothing", async () => {
    lab.onPlan = () => changes;
    const signals = fakeSignals();
    setTimeout(() => signals.cancel(), 50);
    const { code } = await cli(lab, ["apply"], { tty: true, signals });
    expect(code).toBe(130);
    expect(lab.calls.apply).toHaveLength(0);
  });

  test("has nothing to ask about where nothing is to be done", async () => {
    const { code, out } = await cli(lab, ["apply"], { tty: true });
    expect(code).toBe(0);
    expect(out).toContain("No changes.");
    expect(lab.calls.apply).toHaveLength(0);
  });

  test("exits as its summary says, and says what failed, why and what to do", async () => {
    lab.onPlan = () => changes;
    lab.onApply = () =>
      done({
        result: "failed",
        exit_code: 6,
        results: { failed: 1 },
        problems: [{ code: "E_TIMEOUT", message: "it took too long", address: "host.a", hint: "raise the timeout" }],
        manual_steps: ["rm /tmp/x"],
      });
    const { code, out } = await cli(lab, ["apply", "--auto-approve", "--on-failure", "cleanup"]);
    expect(code).toBe(6);
    expect(lab.calls.apply[0]).toMatchObject({ onFailure: "cleanup", parallelism: 10, lockTimeout: 0 });
    for (const text of [
      "it took too long [E_TIMEOUT]",
      "raise the timeout",
      "rm /tmp/x",
      "labctl logs 2",
      "Apply failed",
    ]) {
      expect(out).toContain(text);
    }
  });

  test("records the run, with its plan, and a failure before the apply too", async () => {
    lab.onPlan = () => changes;
    await cli(lab, ["apply", "--auto-approve"]);
    lab.onPlan = () => {
      throw new LabError("E_SECRET_UNAVAILABLE", "no such secret");
    };
    expect((await cli(lab, ["apply", "--auto-approve"])).code).toBe(3);
    const runs = (await listRuns(lab.statePath)).sort((a, b) => (a.started_at < b.started_at ? -1 : 1));
    expect(runs.map((run) => [run.command, stateOf(run), run.summary?.exit_code])).toEqual([
      ["apply", "ok", 0],
      ["apply", "failed", 3],
    ]);
    const types: string[] = [];
    for await (const event of readEvents(lab.statePath, runs[0]?.id ?? "")) types.push(event.type);
    expect(types).toEqual(["run.started", "plan.made", "run.finished"]);
  });

  test("--json streams events, and the error of a lab that cannot be loaded among them", async () => {
    lab.onPlan = () => changes;
    const good = await cli(lab, ["apply", "--auto-approve", "--json", "--json-into", "events.ndjson"]);
    const types = good.out
      .trimEnd()
      .split("\n")
      .map((line) => (JSON.parse(line) as { type: string }).type);
    expect(types).toEqual(["run.started", "plan.made", "run.finished"]);
    expect(await readFile(join(lab.root, "events.ndjson"), "utf8")).toBe(good.out);
    lab.onOpen = () => {
      throw new LabError("E_SPEC_EMPTY", "empty");
    };
    const bad = await cli(lab, ["apply", "--auto-approve", "--json"]);
    expect(bad.code).toBe(3);
    expect(bad.err).toBe("");
    expect(bad.out).toContain('"code":"E_SPEC_EMPTY"');
    expect(
      bad.out
        .trimEnd()
        .split("\n")
        .map((line) => (JSON.parse(line) as { type: string }).type),
    ).toEqual(["error.raised", "run.finished"]);
  });

  test("a secret is in no output and no record", async () => {
    const secret = "c4n4ry-S3cret";
    lab.secrets = [secret];
    lab.onPlan = () => plan([action({ address: "host.a", action: "create", reason: { code: "new", text: secret } })]);
    lab.onApply = (_plan, _options, bus) => {
      bus.emit({
        type: "log.line",
        level: "info",
        component: "x",
        address: "host.a",
        message: `got ${secret}`,
        stream: "stdout",
      });
      throw new LabError("E_COMMAND_FAILED", `it printed ${secret}`, { hint: `not ${secret}` });
    };
    const result = await cli(lab, [
      "apply",
      "--auto-approve",
      "-vv",
      "--json-into",
      "e.ndjson",
      "--var",
      `x=${secret}`,
    ]);
    const files = await readdir(lab.root, { recursive: true, withFileTypes: true });
    const texts = await Promise.all(
      files.filter((one) => one.isFile()).map((one) => readFile(join(one.parentPath, one.name), "utf8")),
    );
    expect(texts.length).toBeGreaterThan(3);
    for (const text of [...texts, result.err]) expect(text).not.toContain(secret);
    expect(result.err).toContain("it printed (sensitive)");
  });

  test("under CI it warns where the state goes with the checkout", async () => {
    lab.onPlan = () => changes;
    const { out } = await cli(lab, ["apply", "--auto-approve"], { env: { CI: "true" } });
    expect(out).toContain("goes with the checkout");
  });

  test("destroy, refresh and import plan accordingly", async () => {
    lab.onPlan = () => changes;
    await cli(lab, ["destroy", "--auto-approve", "--force"]);
    await cli(lab, ["refresh"]);
    await cli(lab, ["import", "network.test", "default", "--auto-approve"]);
    expect(lab.calls.plan.map((one) => one.mode)).toEqual(["destroy", "refresh-only", "normal"]);
    expect(lab.calls.apply.map((one) => one.force)).toEqual([true, false, false]);
    expect(lab.calls.plan[2]).toMatchObject({
      targets: ["network.test"],
      imports: [{ address: "network.test", id: "default" }],
    });
  });
});

describe("bad usage exits 3, with a hint, and says nothing on stdout", () => {
  test.each([
    [["plann"], "Did you mean plan?"],
    [["plan", "--targt", "x"], "Did you mean --target?"],
    [["plan", "--target", "not an address"], "addresses look like"],
    [["plan", "--parallelism", "0"], "whole number"],
    [["plan", "--lock-timeout", "soon"], "for example 30s"],
    [["plan", "--var", "novalue"], "NAME=VALUE"],
    [["plan", "--destroy", "--refresh-only"], "exclude each other"],
    [["plan", "a", "b"], "too many arguments"],
    [["apply", "--on-failure", "panic"], "abort"],
    [["import", "network.test"], "missing required argument"],
    [["completion", "tcsh"], "bash"],
    [["state", "nosuch"], "unknown command"],
  ])("%j", async (argv, text) => {
    const { code, out, err } = await cli(lab, argv);
    expect(code).toBe(3);
    expect(out).toBe("");
    expect(err).toContain(text);
    expect(err).not.toMatch(/\n\s+at /);
  });

  test("as JSON, where that was asked for", async () => {
    const { code, out, err } = await cli(lab, ["plann", "--json"]);
    expect(code).toBe(3);
    expect(err).toBe("");
    expect(JSON.parse(out)).toMatchObject({ error: { code: "E_USAGE" } });
  });
});

describe("errors", () => {
  const at = { file: "lab.yaml", line: 3, column: 5 };
  const bad = (): never => {
    throw new DiagnosticsError([
      {
        severity: "error",
        code: "E_SPEC_UNKNOWN_KEY",
        message: "unknown key",
        hint: "did you mean hosts?",
        at,
        frame: "> 3 | hots:\n    |     ^",
      },
      { severity: "error", code: "E_SPEC_TYPE", message: "wrong type", at: { ...at, line: 9 } },
    ]);
  };

  test("of a spec are all shown, with place, frame, hint and code", async () => {
    lab.onOpen = bad;
    const { code, err } = await cli(lab, ["validate"]);
    expect(code).toBe(3);
    for (const text of [
      "lab.yaml:3:5",
      "lab.yaml:9:5",
      "[E_SPEC_TYPE]",
      "did you mean hosts?",
      "> 3 | hots:",
      "2 errors.",
    ]) {
      expect(err).toContain(text);
    }
    const json = await cli(lab, ["validate", "--json"]);
    expect(JSON.parse(json.out)).toMatchObject({ valid: false, diagnostics: [{ code: "E_SPEC_UNKNOWN_KEY", at }, {}] });
  });

  test("have a stack only where they are defects, and only under -vv", async () => {
    lab.onPlan = () => {
      throw new TypeError("x is not a function");
    };
    const quiet = await cli(lab, ["plan"]);
    expect(quiet.code).toBe(1);
    expect(quiet.err).not.toMatch(/\n\s+at /);
    expect((await cli(lab, ["plan", "-vv"])).err).toMatch(/\n\s+at /);
    lab.onPlan = () => {
      throw new LabError("E_CYCLE", "a circle");
    };
    expect((await cli(lab, ["plan", "-vv"])).err).not.toMatch(/\n\s+at /);
  });
});

describe("colour", () => {
  const escape = "\u001b[";
  test.each([
    [{ tty: true, env: { TERM: "xterm" } }, [], true],
    [{ tty: false }, [], false],
    [{ tty: true, env: { TERM: "xterm", NO_COLOR: "1" } }, [], false],
    [{ tty: true, env: { TERM: "xterm" } }, ["--no-color"], false],
    [{ tty: true }, [], false],
    [{ tty: false, env: { FORCE_COLOR: "1" } }, [], true],
    [{ tty: false, env: { FORCE_COLOR: "1", NO_COLOR: "1" } }, [], false],
  ])("%j %j: %s", async (options, flags, colored) => {
    lab.onPlan = () => changes;
    const { out } = await cli(lab, ["plan", "-v", ...flags], options);
    expect(out.includes(escape)).toBe(colored);
  });
});

test("cancellation is told to the run and reaches the engine", async () => {
  lab.onPlan = () => changes;
  const signals = fakeSignals();
  lab.onApply = async (_plan, options) => {
    signals.cancel();
    signals.cancel();
    expect(options.cancellation.soft.aborted).toBe(true);
    expect(options.cancellation.hard.aborted).toBe(true);
    return done({ result: "cancelled", exit_code: 130 });
  };
  const { code, out } = await cli(lab, ["apply", "--auto-approve"], { signals });
  expect(code).toBe(130);
  expect(out).toContain("Cancelling: nothing new is started.");
  expect(out).toContain("Aborting");
});

test("every command has help with examples", async () => {
  const { out } = await cli(lab, ["--help"]);
  const names = [...out.slice(out.indexOf("Commands:")).matchAll(/^ {2}([a-z]+)/gm)].map((match) => match[1] ?? "");
  expect(names).toEqual(
    expect.arrayContaining(
      "init validate fmt schema plan apply destroy refresh import graph output show state status logs events history why retry cancel rollback build vm ssh exec host completion".split(
        " ",
      ),
    ),
  );
  for (const name of names.filter((one) => !["state", "host", "help"].includes(one))) {
    const help = await cli(lab, [name, "--help"]);
    expect(help.code).toBe(0);
    expect(help.out).toContain("Examples:");
    expect(help.out).toContain("--json");
  }
});

test("with --json help, version and half a command are JSON too", async () => {
  const json = async (...args: string[]): Promise<{ code: number; out: Record<string, unknown> }> => {
    const { code, out } = await cli(lab, [...args, "--json"]);
    return { code, out: JSON.parse(out) as Record<string, unknown> };
  };
  expect(await json("--version")).toEqual({ code: 0, out: { version: expect.stringMatching(/^\d+\.\d+/) } });
  for (const args of [["--help"], ["help", "apply"], ["apply", "--help"]]) {
    expect(await json(...args), args.join(" ")).toEqual({ code: 0, out: { help: expect.stringContaining("Usage:") } });
  }
  for (const args of [[], ["state"], ["hots"]]) {
    expect(await json(...args), args.join(" ")).toMatchObject({ code: 3, out: { error: { code: "E_USAGE" } } });
  }
});
