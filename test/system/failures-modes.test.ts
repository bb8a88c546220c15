/** What `--on-failure` does on real machines, what depends on what failed, and what is chosen, renamed, forgotten, imported. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import type { LabEvent } from "../../src/model/index.ts";
import { machinesUnavailable, startMachine, type TestMachine } from "../support/sshd.ts";
import { createWorkspace, hostOf, resultsOf, type Workspace } from "../support/workspace.ts";

const unavailable = machinesUnavailable();
if (unavailable !== undefined) console.log(`failures-modes: skipped: ${unavailable}`);

/** Too large for its text to be in the state. */
const FIRST = `first version\n${"0123456789abcdef\n".repeat(8000)}`;
const SECOND = FIRST.replace("first", "second");

const file = (path: string, host = "a"): string => `host.${host}/file["${path}"]`;

describe.skipIf(unavailable !== undefined)("when something fails", () => {
  let a: TestMachine;
  let b: TestMachine;
  let lab: Workspace;

  beforeAll(async () => {
    [a, b] = await Promise.all([startMachine({ name: "a" }), startMachine({ name: "b" })]);
  });
  afterAll(() => Promise.all([a, b].map((machine) => machine?.stop())));
  beforeEach(async () => {
    lab = createWorkspace();
    const reset =
      "rm -rf /srv/lab /var/lib/labctl; mkdir -p /srv/lab; printf 'before labctl\\n' >/srv/lab/old; chmod 0640 /srv/lab/old";
    await Promise.all([a.exec(reset), b.exec(reset)]);
  });
  afterEach(() => lab.remove());

  const write = (onA: object, more: object = {}): void =>
    lab.write("lab.yaml", {
      labctl: 1,
      name: "modes",
      defaults: { retry: { attempts: 1, delay: "50ms" } },
      hosts: { a: { ...hostOf(a), ...onA } },
      ...more,
    });
  const look = async (machine = a): Promise<string> =>
    (
      await machine.exec(
        "cd /srv/lab && for f in *; do printf '%s %s ' $f $(stat -c %a $f); head -c 60 $f | tr '\\n' ' '; echo; done",
      )
    ).stdout;
  const FAILS = { broken: { run: "echo it broke >&2; exit 3", creates: "/srv/lab/never", retry: { attempts: 0 } } };

  test("rollback brings back what was changed, made and deleted, though the local files are others by now", async () => {
    lab.write("sent", FIRST);
    lab.write("small", "small\n");
    write({
      files: {
        "/srv/lab/sent": { source: "./sent", mode: "0600" },
        "/srv/lab/small": { source: "./small" },
        "/srv/lab/text": { content: "one\n" },
        "/srv/lab/gone": { content: "to be deleted\n" },
        "/srv/lab/old": { content: "labctl's\n" },
      },
    });
    await lab.apply();
    const before = await look();
    expect(before).toContain("sent 600 first version");
    expect(before).toContain("small 644 small \n");
    lab.write("sent", SECOND);
    lab.write("small", "other\n");
    const changed = {
      files: {
        "/srv/lab/sent": { source: "./sent", mode: "0644" },
        "/srv/lab/small": { source: "./small" },
        "/srv/lab/text": { content: "two\n" },
        "/srv/lab/old": { content: "labctl's, again\n" },
        "/srv/lab/new": { content: "new\n" },
      },
    };
    write({ ...changed, commands: FAILS });
    const run = await lab.apply(["--on-failure", "rollback"], 6);
    expect(run.summary.problems.map(({ code }) => code)).toEqual(["E_COMMAND_FAILED"]);
    expect(run.summary.manual_steps).toEqual([]);
    expect(await look()).toBe(before);
    expect(resultsOf(run.events)).toMatchObject({
      [file("/srv/lab/sent")]: "rolled_back",
      [file("/srv/lab/new")]: "rolled_back",
      "host.a/command.broken": "rolled_back",
    });
    // The state says what is there: the next plan is the one that was rolled back, and it can be carried out.
    write(changed);
    expect(await lab.pending()).toEqual({
      [file("/srv/lab/sent")]: "update content, mode",
      [file("/srv/lab/text")]: "update content",
      [file("/srv/lab/small")]: "update content",
      [file("/srv/lab/old")]: "update content",
      [file("/srv/lab/new")]: "create",
      [file("/srv/lab/gone")]: "delete",
    });
    await lab.apply();
    expect(await look()).toContain("sent 644 second version");
    await lab.destroy();
    expect(await look()).toBe("old 640 before labctl \n");
    expect((await a.exec("ls -A /var/lib/labctl 2>/dev/null")).stdout).toBe("");
  });

  test("cleanup removes what this run made, keeps what it changed, and says what is left to do by hand", async () => {
    write({ files: { "/srv/lab/text": { content: "one\n" } } });
    await lab.apply();
    write({
      files: { "/srv/lab/text": { content: "two\n" }, "/srv/lab/new": { content: "new\n" } },
      commands: {
        made: {
          run: "touch /srv/lab/made",
          creates: "/srv/lab/made",
          undo: "echo cannot >&2; exit 1",
          retry: { attempts: 0 },
        },
        broken: { ...FAILS.broken, depends_on: ["command.made"] },
      },
    });
    const run = await lab.apply(["--on-failure", "cleanup"], 6);
    expect(await look()).toBe("made 644 \nold 640 before labctl \ntext 644 two \n");
    expect(run.summary.manual_steps.join("\n")).toMatch(
      /host\.a\/command\.made: on the host, run: echo cannot >&2; exit 1/,
    );
    const shown = await lab.run(["apply", "--auto-approve", "--on-failure", "cleanup"]);
    expect(shown.code).toBe(6);
    expect(shown.output).toContain("it broke");
    const logs = await lab.run(["logs", "last", "host.a/command.broken"]);
    expect(logs.output).toContain("it broke");
  });

  test("abort starts nothing more, continue does all that does not depend on it", async () => {
    const hosts = (): object => ({
      hosts: {
        a: { ...hostOf(a), commands: FAILS },
        b: {
          ...hostOf(b),
          files: {
            "/srv/lab/late": { content: "late\n", depends_on: ['file["/srv/lab/first"]'] },
            "/srv/lab/first": { content: "1\n" },
          },
          commands: {
            wait: { run: "sleep 2; touch /srv/lab/waited", creates: "/srv/lab/waited" },
            last: { run: "touch /srv/lab/last", creates: "/srv/lab/last", depends_on: ["command.wait"] },
          },
        },
      },
    });
    write({}, hosts());
    const aborted = await lab.apply(["--on-failure", "abort"], 6);
    const results = resultsOf(aborted.events);
    expect(results["host.a/command.broken"]).toBe("failed");
    expect(results["host.b/command.last"]).toBe("cancelled");
    expect(await look(b)).not.toContain("last");
    const went = await lab.apply(["--on-failure", "continue"], 6);
    expect(resultsOf(went.events)).toMatchObject({ "host.b/command.last": "ok", "host.a/command.broken": "failed" });
    expect(await look(b)).toContain("last 644");
  });

  test("a chain of depends_on is skipped, and each says because of whom; optional is a warning", async () => {
    write({
      commands: {
        ...FAILS,
        second: { run: "touch /srv/lab/second", creates: "/srv/lab/second", depends_on: ["command.broken"] },
        third: { run: "touch /srv/lab/third", creates: "/srv/lab/third", depends_on: ["command.second"] },
        soft: { run: "exit 9", creates: "/srv/lab/nope", optional: true, retry: { attempts: 0 } },
        after: { run: "touch /srv/lab/after", creates: "/srv/lab/after", depends_on: ["command.soft"] },
      },
      files: { "/srv/lab/free": { content: "free\n" } },
    });
    const run = await lab.apply([], 6);
    const finished = run.events.filter(
      (event): event is Extract<LabEvent, { type: "action.finished" }> => event.type === "action.finished",
    );
    const of = (name: string): (typeof finished)[number] | undefined =>
      finished.find(({ address }) => address === `host.a/command.${name}`);
    expect([of("second")?.result, of("second")?.because]).toEqual(["skipped", "host.a/command.broken"]);
    expect(of("third")?.result).toBe("skipped");
    expect(["host.a/command.broken", "host.a/command.second"]).toContain(of("third")?.because);
    expect([of("soft")?.result, of("soft")?.optional]).toEqual(["failed", true]);
    expect(of("after")?.result).toBe("ok");
    expect(run.summary.problems.map(({ address }) => address)).toEqual(["host.a/command.broken"]);
    expect(await look()).toMatch(/^after 644 \nfree 644 free \nold/);
    const plain = await lab.run(["apply", "--auto-approve"]);
    expect(plain.output).toMatch(/command\.second.*skipped.*command\.broken/);
  });

  test("an optional failure alone is exit 0 with a warning", async () => {
    write({ commands: { soft: { run: "exit 9", creates: "/srv/lab/nope", optional: true, retry: { attempts: 0 } } } });
    const run = await lab.apply();
    expect(
      run.events.some((event) => event.type === "warning.raised" && event.problem.code === "E_COMMAND_FAILED"),
    ).toBe(true);
  });

  test("--target, --exclude, --batch, --replace, --refresh-only and --no-refresh", async () => {
    const spec = (text: string): void =>
      write(
        {},
        {
          hosts: Object.fromEntries(
            [a, b].map((machine) => [
              machine.name,
              { ...hostOf(machine), files: { "/srv/lab/x": { content: text }, "/srv/lab/y": { content: text } } },
            ]),
          ),
        },
      );
    spec("1\n");
    await lab.apply(["--target", file("/srv/lab/x", "a")]);
    expect(await look(a)).toContain("x 644 1");
    expect(await look(a)).not.toContain("y 644");
    expect(await look(b)).not.toContain("x 644");
    await lab.apply(["--exclude", "host.b"]);
    expect(await look(a)).toContain("y 644 1");
    expect(await look(b)).not.toContain("x 644");
    spec("2\n");
    const batched = await lab.apply(["--batch", "1"]);
    // One host after the other: the events of the two do not overlap.
    const hosts = batched.events.flatMap((event) =>
      (event.type === "action.started" || event.type === "action.finished") && event.address.includes("/file")
        ? [event.address.slice(5, 6)]
        : [],
    );
    expect(hosts.join("")).toMatch(/^(a+b+|b+a+)$/);
    expect(hosts).toHaveLength(8);
    const node = (await a.exec("stat -c %i /srv/lab/x")).stdout;
    const replaced = await lab.apply(["--replace", file("/srv/lab/x", "a")]);
    expect(resultsOf(replaced.events)[file("/srv/lab/x", "a")]).toBe("ok");
    expect((await a.exec("stat -c %i /srv/lab/x")).stdout).not.toBe(node);
    await a.exec("echo drifted >/srv/lab/x");
    // Trusting the state sees nothing, and reads nothing.
    expect(await lab.pending(["--no-refresh"])).toEqual({});
    await lab.apply(["--refresh-only"]);
    expect(await look(a)).toContain("x 644 drifted");
    // The state knows it now, so that even without reading it is seen to differ from what is wanted.
    expect(await lab.pending(["--no-refresh"])).toEqual({ [file("/srv/lab/x", "a")]: "update content" });
    await lab.apply();
    expect(await look(a)).toContain("x 644 2");
    const usage = await lab.run(["plan", "--target", "host.nobody"]);
    expect(usage.code, usage.output).toBe(3);
    expect(usage.output).toContain("host.nobody");
  });

  test("moved, removed and imported: nothing on the machine is touched", async () => {
    write({ files: { "/srv/lab/x": { content: "x\n" }, "/srv/lab/y": { content: "y\n" } } });
    await lab.apply();
    const stat = async (): Promise<string> => (await a.exec("stat -c '%n %i %Y' /srv/lab/*")).stdout;
    const before = await stat();
    const renamed = (more: object = {}): void =>
      lab.write("lab.yaml", {
        labctl: 1,
        name: "modes",
        hosts: { new: { ...hostOf(a), files: { "/srv/lab/x": { content: "x\n" } } } },
        moved: { "host.a": "host.new" },
        ...more,
      });
    renamed({ removed: { 'host.new/file["/srv/lab/y"]': { forget: true } } });
    const pending = await lab.pending();
    expect(Object.values(pending).filter((action) => !["adopt", "forget"].includes(action))).toEqual([]);
    await lab.apply();
    expect(await stat()).toBe(before);
    renamed();
    expect(await lab.pending()).toEqual({});
    const list = (await lab.run(["state", "list"])).stdout;
    expect(list).toContain('host.new/file["/srv/lab/x"]');
    expect(list).not.toContain("host.a");
    expect(list).not.toContain("/srv/lab/y");
    // Taken over by import: what was there is restored by destroy.
    lab.write("lab.yaml", {
      labctl: 1,
      name: "modes",
      hosts: {
        new: { ...hostOf(a), files: { "/srv/lab/x": { content: "x\n" }, "/srv/lab/old": { content: "labctl's\n" } } },
      },
    });
    const took = await lab.run(["import", 'host.new/file["/srv/lab/old"]', "/srv/lab/old", "--auto-approve"]);
    expect(took.code, took.output).toBe(0);
    expect(await look()).toContain("old 640 labctl's");
    expect(await lab.pending()).toEqual({});
    await lab.destroy();
    expect(await look()).toBe("old 640 before labctl \ny 644 y \n");
  });
});
