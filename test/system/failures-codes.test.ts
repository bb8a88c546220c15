/** Each exit code once, from the program itself, with what failed, where, and what to do about it. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { machinesUnavailable, startMachine, type TestMachine } from "../support/sshd.ts";
import type { CliResult } from "../support/cli.ts";
import { createWorkspace, hostOf, type Workspace } from "../support/workspace.ts";

const unavailable = machinesUnavailable();
if (unavailable !== undefined) console.log(`failures-codes: skipped: ${unavailable}`);

describe.skipIf(unavailable !== undefined)("exit codes", () => {
  let machine: TestMachine;
  let lab: Workspace;

  beforeAll(async () => {
    machine = await startMachine({ name: "m", setup: "mkdir -p /srv/lab" });
    lab = createWorkspace();
  });
  afterAll(async () => {
    await machine?.stop();
    lab?.remove();
  });

  const write = (more: object = {}, ssh: object = {}): void => {
    const host = hostOf(machine) as { ssh: object };
    lab.write("lab.yaml", {
      labctl: 1,
      name: "codes",
      defaults: { timeouts: { connect: "1s" }, retry: { attempts: 1, delay: "50ms" } },
      hosts: { m: { ...host, ssh: { ...host.ssh, ...ssh }, files: { "/srv/lab/x": { content: "x\n" } }, ...more } },
    });
  };
  const expectUseful = (result: CliResult, code: number, what: RegExp, where: RegExp): void => {
    expect(result.code, result.output).toBe(code);
    expect(result.output).toMatch(what);
    expect(result.output).toMatch(where);
    expect(result.output).toMatch(/hint: \S+ \S+|Next: \S+/);
    expect(result.output).not.toMatch(/^\s+at .*:\d+:\d+\)?$/m);
  };
  const apply = (...args: string[]): Promise<CliResult> => lab.run(["apply", "--auto-approve", ...args]);

  test("2: changes are pending; 0: none are", async () => {
    write();
    expect((await lab.run(["plan", "--detailed-exitcode"])).code).toBe(2);
    expect((await lab.run(["plan"])).code).toBe(0);
    expect((await apply()).code).toBe(0);
    expect((await lab.run(["plan", "--detailed-exitcode"])).code).toBe(0);
  });

  test("3: an invalid spec, wrong arguments, nobody to answer", async () => {
    write({ files: { "/srv/lab/x": { contents: "x\n" } } });
    expectUseful(await apply(), 3, /E_SPEC_UNKNOWN_KEY/, /lab\.yaml:\d+:\d+/);
    write();
    expectUseful(await lab.run(["plan", "--no-such-flag"]), 3, /E_USAGE/, /--no-such-flag/);
    write({ files: { "/srv/lab/x": { source: "./missing" } } });
    expectUseful(await apply(), 3, /E_SOURCE_FILE/, /lab\.yaml:\d+:\d+/);
    write({ files: {} });
    expectUseful(await lab.run(["apply"]), 3, /E_NOT_INTERACTIVE/, /apply/);
    write();
  });

  test("4: locked by another run, who is named; damaged", async () => {
    write({ commands: { wait: { run: "echo begun; sleep 5; touch /srv/lab/w", creates: "/srv/lab/w" } } });
    const first = lab.spawn(["apply", "--auto-approve", "--json"]);
    await first.event((event) => event.type === "log.line" && event.message.includes("begun"));
    expectUseful(await apply(), 4, /E_STATE_LOCKED/, /labctl apply/);
    // Reading goes on beside it.
    expect((await lab.run(["state", "list"])).code).toBe(0);
    expect((await first.done).code).toBe(0);
    const state = [...lab.files()].find(([name]) => name === ".labctl/lab.json");
    lab.write(".labctl/lab.json", "{ torn", 0o600);
    expectUseful(await lab.run(["plan"]), 4, /E_STATE_DAMAGED/, /lab\.json/);
    lab.write(".labctl/lab.json", Buffer.from(state?.[1] ?? "", "latin1").toString("utf8"), 0o600);
    expect((await lab.run(["plan", "--detailed-exitcode"])).code).toBe(0);
  });

  test("5: cannot connect or log in, and nothing was begun", async () => {
    write({ files: { "/srv/lab/x": { content: "y\n" } } }, { port: 2 });
    expectUseful(await apply(), 5, /E_CONNECT/, /host\.m/);
    expectUseful(await lab.run(["plan"]), 5, /E_CONNECT.*\n *hint:/, /host\.m/);
    write({ files: { "/srv/lab/x": { content: "y\n" } } }, { user: "nobody-here" });
    expectUseful(await apply(), 5, /E_AUTH/, /nobody-here/);
    write();
  });

  test("6: begun, and some of it failed", async () => {
    write({ commands: { broken: { run: "echo why >&2; exit 3", creates: "/srv/lab/never", retry: { attempts: 0 } } } });
    const result = await apply();
    expectUseful(result, 6, /E_COMMAND_FAILED/, /host\.m\/command\.broken/);
    expect(result.output).toContain("why");
    write();
  });

  test("8: forbidden by its lifecycle", async () => {
    write({ files: { "/srv/lab/x": { content: "x\n", lifecycle: { prevent_destroy: true } } } });
    expect((await apply()).code).toBe(0);
    expectUseful(await lab.run(["destroy", "--auto-approve"]), 8, /E_PREVENT_DESTROY|prevent_destroy/, /\/srv\/lab\/x/);
    expect((await machine.exec("test -e /srv/lab/x")).code).toBe(0);
    write();
    expect((await apply()).code).toBe(0);
  });

  test("130: cancelled by Ctrl-C, and finished by running again", async () => {
    write({
      commands: {
        slow: {
          run: "echo begun; sleep 30; touch /srv/lab/slow",
          creates: "/srv/lab/slow",
          unless: "test -e /srv/lab/fast",
        },
        late: { run: "touch /srv/lab/late", creates: "/srv/lab/late", depends_on: ["command.slow"] },
      },
    });
    const process = lab.spawn(["apply", "--auto-approve", "--json"]);
    await process.event((event) => event.type === "log.line" && event.message.includes("begun"));
    process.kill("SIGINT");
    const { code } = await process.done;
    expect(code).toBe(130);
    // The machine is told to end it, and does so in its own time.
    await expect.poll(async () => (await machine.exec("pgrep -x sleep")).stdout, { timeout: 10_000 }).toBe("");
    expect((await machine.exec("test -e /srv/lab/late")).code).toBe(1);
    await machine.exec("touch /srv/lab/fast");
    expect((await apply()).code).toBe(0);
    expect((await machine.exec("test -e /srv/lab/late")).code).toBe(0);
  });

  test("detailed status reporting, error message display, completion summary, log accessibility", async () => {
    write({
      commands: {
        fails: { run: "echo 'what went wrong' >&2; exit 3", creates: "/srv/lab/never", retry: { attempts: 0 } },
        after: { run: "true", creates: "/srv/lab/after", depends_on: ["command.fails"] },
        works: { run: "echo done it; touch /srv/lab/done", creates: "/srv/lab/done" },
      },
    });
    const run = await lab.apply([], 6);
    const at = (type: string, address: string): number =>
      run.events.findIndex((event) => event.type === type && "address" in event && event.address === address);
    const ended = run.events.flatMap((event) => (event.type === "action.finished" ? [event] : []));
    for (const { address, result, duration_ms } of ended.filter((one) => ["ok", "failed"].includes(one.result))) {
      expect(at("action.started", address), address).toBeGreaterThanOrEqual(0);
      expect(at("action.finished", address), address).toBeGreaterThan(at("action.started", address));
      expect(duration_ms, `${address} ${result}`).toBeGreaterThanOrEqual(0);
    }
    // Each action ends once, and the summary counts them.
    expect(new Set(ended.map(({ address }) => address)).size).toBe(ended.length);
    const counts: Record<string, number> = {};
    for (const { result } of ended) counts[result] = (counts[result] ?? 0) + 1;
    expect(run.summary.results).toMatchObject(counts);
    expect(run.summary).toMatchObject({ result: "failed", exit_code: 6, duration_ms: expect.any(Number) });
    expect(run.summary.problems).toHaveLength(1);
    for (const { hint, address } of run.summary.problems) {
      expect(address).toBe("host.m/command.fails");
      expect(hint).toMatch(/\w+ \w+/);
    }
    // What was said can be read afterwards: of the run, of a resource, of what never ran.
    const id = run.events[0]?.run ?? "";
    expect((await lab.run(["logs", id])).stdout).toMatch(/what went wrong[^]*done it|done it[^]*what went wrong/);
    const own = (await lab.run(["logs", "host.m/command.fails"])).stdout;
    expect(own).toContain("what went wrong");
    expect(own).not.toContain("done it");
    const shown = (await lab.run(["show", id])).stdout;
    expect(shown).toMatch(/host\.m\/command\.fails: failed after [^\n]*\n[^]*\[E_COMMAND_FAILED\]/);
    expect(shown).toContain("host.m/command.after: skipped because of host.m/command.fails");
    expect((await lab.run(["history"])).stdout).toContain(id);
    write();
  });

  test("host maintenance holds and releases", async () => {
    const held = await lab.run(["host", "maintenance", "m", "on", "--reason", "new disk"]);
    const list = await lab.run(["host", "list"]);
    expect(held.code, held.output).toBe(0);
    expect(list.stdout).toContain("new disk");
    const released = await lab.run(["host", "maintenance", "m", "off"]);
    expect(released.code, released.output).toBe(0);
    expect((await lab.run(["host", "list"])).stdout).not.toContain("new disk");
  });
});
