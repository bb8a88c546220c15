/**
 * Who gets a build server, and when: pipelines of one lab that are applied at the same time, against a real sshd machine with
 * room for one build. What ran in which order is what the server itself wrote down.
 */
import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { LabEvent, Lease, Waiter } from "../../src/model/index.ts";
import type { CliProcess } from "../support/cli.ts";
import { machinesUnavailable, startMachine, type TestMachine } from "../support/sshd.ts";
import { createWorkspace, hostOf, type Workspace } from "../support/workspace.ts";

const ORDER = "/srv/order/log";
/** Builds whose name is behind it go on when it is gone. */
const HELD = "/srv/order/held";
const SERVER = "host.builder";

describe.skipIf(machinesUnavailable() !== undefined)("builds that wait for a server", () => {
  let machine: TestMachine;
  let ws: Workspace;

  /** A pipeline of one build, which writes its name on the server as it begins, and then takes its time. */
  const pipeline = (name: string, seconds: number, more: object = {}): void => {
    ws.write(`${name}.yaml`, {
      labctl: 1,
      name,
      builds: {
        one: {
          source: { path: "./src" },
          run: `echo ${name} >>${ORDER}; sleep ${seconds}; while [ -e ${HELD}-${name} ]; do sleep 0.1; done; echo ${name} >out`,
          outputs: { out: { path: "out", type: "text" } },
          ...more,
        },
      },
    });
  };
  const start = (name: string, ...more: string[]): CliProcess =>
    ws.spawn(["apply", "-f", `${name}.yaml`, "--auto-approve", "--json", ...more], { timeout: 100_000 });
  const building = (event: LabEvent): boolean => event.type === "action.progress" && event.text === "build";
  const queued = (event: LabEvent): boolean =>
    event.type === "action.progress" && event.text?.startsWith("queued") === true;
  const order = (): string[] => readFileSync(machine.root(ORDER), "utf8").trim().split("\n");
  const leases = async (): Promise<{ leases: Lease[]; waiting: Waiter[] }> =>
    JSON.parse((await ws.run(["leases", "--json"])).stdout) as { leases: Lease[]; waiting: Waiter[] };
  const ended = async (child: CliProcess): Promise<void> => {
    const result = await child.done;
    expect(result.code, result.output.slice(-3000)).toBe(0);
  };

  beforeAll(async () => {
    machine = await startMachine({ name: "builder" });
    await machine.exec("mkdir -p /srv/order /srv/build && chown lab /srv/order /srv/build");
    ws = createWorkspace();
    ws.write("src/readme", "nothing to compile\n");
    ws.write("lab.yaml", {
      labctl: 1,
      name: "queue",
      hosts: {
        builder: hostOf(machine, { build_server: { workdir: "/srv/build", min_free_disk: "1MB", max_builds: 1 } }),
      },
    });
    await ws.apply();
  }, 120_000);
  afterAll(async () => {
    ws?.remove();
    await machine?.stop();
  });

  test("the higher priority goes first, then the older; who may not wait is told who has it", {
    timeout: 120_000,
  }, async () => {
    await machine.exec(`touch ${HELD}-slow`);
    pipeline("slow", 0);
    pipeline("low", 1);
    pipeline("high", 1, { priority: 10 });
    const slow = start("slow");
    await slow.event(building);
    const low = start("low");
    expect(await low.event(queued)).toMatchObject({
      text: expect.stringContaining("its only place for a build is taken"),
    });
    const high = start("high");
    await high.event(queued);

    const table = await leases();
    expect(table.leases).toMatchObject([
      { resource: SERVER, holder: "queue/pipeline/slow build.one", amounts: { builds: 1 } },
    ]);
    expect(table.waiting.map((one) => one.holder)).toEqual([
      "queue/pipeline/high build.one",
      "queue/pipeline/low build.one",
    ]);
    pipeline("hasty", 1);
    const hasty = await ws.run(["apply", "-f", "hasty.yaml", "--auto-approve", "--no-wait"]);
    expect(hasty.code, hasty.output).toBe(8);
    expect(hasty.output).toContain("E_BUSY");
    expect(hasty.output).toContain(
      "host.builder: its only place for a build is taken; queue/pipeline/high build.one waits for it",
    );

    await machine.exec(`rm ${HELD}-slow`);
    await Promise.all([slow, low, high].map(ended));
    expect(order()).toEqual(["slow", "high", "low"]);
    expect(await leases()).toEqual({ leases: [], waiting: [] });
  });

  test("a machine that somebody reserved is left alone, and waited for", { timeout: 120_000 }, async () => {
    expect((await ws.run(["reserve", "builder", "--reason", "by hand"])).code).toBe(0);
    pipeline("later", 0);
    const refused = await ws.run(["apply", "-f", "later.yaml", "--auto-approve", "--no-wait"]);
    expect(refused.code, refused.output).toBe(8);
    expect(refused.output).toContain("by hand");
    const later = start("later");
    expect(await later.event(queued)).toMatchObject({ text: expect.stringContaining("by hand") });
    expect((await ws.run(["release", "builder"])).code).toBe(0);
    await ended(later);
    expect(order().at(-1)).toBe("later");
  });

  test("killed while it builds: the build keeps its place, and who runs it again goes on with it", {
    timeout: 120_000,
  }, async () => {
    pipeline("killed", 10);
    pipeline("next", 0);
    const killed = start("killed");
    await killed.event(building);
    killed.kill("SIGKILL");
    await killed.done;
    const next = start("next");
    await next.event(queued);
    const again = start("killed");
    await ended(again);
    expect(again.events.some((one) => one.type === "log.line" && one.message.startsWith("attached to the build"))).toBe(
      true,
    );
    await ended(next);
    expect(order().slice(-2)).toEqual(["killed", "next"]);
    expect(await leases()).toEqual({ leases: [], waiting: [] });
  });

  test("a server that is away is not waited for", { timeout: 120_000 }, async () => {
    const held = await ws.run(["host", "maintenance", "builder", "on", "--reason", "new disk"]);
    expect(held.code, held.output).toBe(0);
    pipeline("away", 0);
    const refused = await ws.run(["apply", "-f", "away.yaml", "--auto-approve"]);
    expect(refused.code, refused.output).toBe(8);
    expect(refused.output).toContain("it is in maintenance: new disk");
  });
});
