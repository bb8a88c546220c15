import { hostname } from "node:os";
import { afterEach, beforeEach, expect, test } from "vitest";
import { whoAmI } from "../../src/cli/context.ts";
import { listRuns } from "../../src/events/index.ts";
import type { Lease, Resource } from "../../src/model/index.ts";
import type { Kind } from "../../src/provider/index.ts";
import { createLeaseTable, createScheduler, type LeaseTable } from "../../src/scheduling/index.ts";
import { cli, ScriptedLab } from "./cli-harness.ts";
import { makeRow } from "./state-helpers.ts";

const ME = `${whoAmI({})}@${hostname()}`;

let lab: ScriptedLab;
let table: LeaseTable;
beforeEach(() => {
  lab = new ScriptedLab();
  lab.resources = ["host.kvm-1", "host.builder-1"].map(
    (address): Resource => ({
      address,
      kind: "host",
      scope: "lab",
      desired: {},
      depends: [],
      options: {},
      at: { file: "lab.yaml", line: 7, column: 3 },
      places: {},
    }),
  );
  lab.kinds = new Map([["host", { kind: "host", machine: () => undefined } as unknown as Kind]]);
  table = createLeaseTable({ dir: lab.statePath });
});
afterEach(() => lab.remove());

async function hold(): Promise<unknown> {
  return (await lab.store.read("lab")).holds.get("host.kvm-1");
}

test("reserve keeps a machine for who asks, release gives it back, and leases shows both", async () => {
  const got = await cli(lab, ["reserve", "kvm-1", "--reason", "bisecting", "--for", "2h"]);
  expect(got).toMatchObject({ code: 0, err: "" });
  expect(got.out).toMatch(/^host\.kvm-1 is yours until \d{4}-.*\n {2}labctl release host\.kvm-1\n$/);
  expect((await cli(lab, ["leases"])).out).toMatch(/host\.kvm-1 +\S+ +all of it +\d{4}-\S+ \S+ +bisecting/);
  const other = { resource: "host.kvm-1", holder: "eve@desk", reason: "tests", ttl: 1000 };
  await expect(table.acquire(other)).rejects.toMatchObject({ code: "E_LEASE_HELD" });
  const again = JSON.parse((await cli(lab, ["reserve", "host.kvm-1", "--reason", "x", "--json"])).out) as Lease;
  expect(again).toMatchObject({ holder: ME, epoch: 1 });
  expect(Date.parse(again.until) - Date.now()).toBeGreaterThan(3.9 * 3_600_000);
  expect((await cli(lab, ["release", "kvm-1"])).out).toBe(`host.kvm-1 is free of ${ME}.\n`);
  expect((await cli(lab, ["leases", "kvm-1"])).out).toBe("Nothing is reserved of kvm-1.\n");
  await table.acquire(other);
  const refused = await cli(lab, ["reserve", "kvm-1", "--reason", "mine"]);
  expect(refused.code).toBe(8);
  expect(refused.err).toContain("host.kvm-1 is leased by eve@desk");
  expect((await listRuns(lab.statePath)).map((run) => run.command)).toContain("release");
});

test("some of a machine, as far as it is there", async () => {
  const session = await lab.store.open("lab", { holder: "t", purpose: "t", timeout: 0 });
  await session.put(makeRow("host.kvm-1", { observed: { cores: 4, memory: 8 * 2 ** 30 } }));
  await session.close();
  const got = await cli(lab, ["reserve", "kvm-1", "--reason", "x", "--cpus", "1", "--memory", "6GiB"]);
  expect(got.out).toContain("has 1 processor, 6.0 GiB of memory for you");
  await table.reserve({
    parts: [{ resource: "host.kvm-1", amounts: { cpus: 1, memory: 2 ** 30 } }],
    holder: "eve@desk",
    reason: "tests",
    ttl: 60_000,
  });
  const more = await cli(lab, ["reserve", "kvm-1", "--reason", "x", "--memory", "7.5GiB"]);
  expect(more.code).toBe(8);
  expect(more.err).toContain("E_BUSY");
  expect(more.err).toContain("1.0 GiB of memory of 8.0 GiB of memory are reserved");
  const never = await cli(lab, ["reserve", "kvm-1", "--reason", "x", "--memory", "9GiB"]);
  expect(never.code).toBe(8);
  expect(never.err).toContain("E_NEVER_FITS");
  expect(JSON.parse((await cli(lab, ["leases", "--json"])).out)).toMatchObject({
    leases: [{ holder: "eve@desk" }, { holder: ME, amounts: { cpus: 1, memory: 6 * 2 ** 30 } }].sort((a, b) =>
      a.holder < b.holder ? -1 : 1,
    ),
    waiting: [],
  });
});

test.each([
  [["reserve", "kvm-1"], 3, "--reason"],
  [["reserve", "kvm-1", "--reason", "x", "--memory", "much"], 3, "512MiB"],
  [["reserve", "kvm-1", "--reason", "x", "--for", "0s"], 3, "--for"],
  [["reserve", "nope", "--reason", "x"], 3, "there are: host.kvm-1"],
  [["release", "kvm-1"], 4, "nobody has"],
  [["decommission", "kvm-1"], 3, "--reason"],
  [["decommission", "nope", "--reason", "x"], 3, "there are: host.kvm-1"],
])("%j is refused", async (argv, code, text) => {
  const result = await cli(lab, argv);
  expect(result.code).toBe(code);
  expect(result.err).toContain(text);
  expect(await table.list()).toEqual([]);
});

test("what a run is at work with is taken away only by force, with all that it has", async () => {
  const scheduler = createScheduler({
    dir: lab.statePath,
    owner: "kernel-lab/lab",
    run: "r1",
    rules: { limits: { slots: 3 }, groups: {} },
  });
  const total = { slots: 2 };
  const one = { address: "host.kvm-1", name: "kvm-1", status: "online", arch: "x86_64", total, reserved: {} } as const;
  const request = { what: "environment.smoke", requires: {}, counts: { slots: 1 } };
  const candidates = async () => [one];
  await scheduler.allocate(request, { candidates, wait: false });
  const holder = "kernel-lab/lab environment.smoke";
  const mine = await cli(lab, ["release", "kvm-1"]);
  expect(mine.code).toBe(4);
  expect(mine.err).toContain(`it is ${holder} who has`);
  const refused = await cli(lab, ["release", "kvm-1", "--holder", holder]);
  expect(refused.code).toBe(8);
  expect(refused.err).toContain("is at work with host.kvm-1");
  expect(await table.list()).toHaveLength(2);
  expect((await cli(lab, ["release", "kvm-1", "--holder", holder, "--force"])).code).toBe(0);
  expect(await table.list()).toEqual([]);
  await scheduler.close();
});

test("decommission refuses while anything is active, and says what", async () => {
  await cli(lab, ["reserve", "kvm-1", "--reason", "bisecting"]);
  const session = await lab.store.open("pipeline/ci", { holder: "t", purpose: "t", timeout: 0 });
  await session.put(makeRow("environment.smoke", { kind: "environment", observed: { host: "host.kvm-1" } }));
  await session.close();
  const refused = await cli(lab, ["decommission", "kvm-1", "--reason", "sold"]);
  expect(refused.code).toBe(8);
  expect(refused.err).toContain("E_ACTIVE_WORKLOADS");
  expect(refused.err).toContain(`${ME}: bisecting`);
  expect(refused.err).toContain("environment.smoke: environment, ok since");
  expect(await hold()).toBeUndefined();
  const forced = await cli(lab, ["decommission", "kvm-1", "--reason", "sold", "--force"]);
  expect(forced.code).toBe(0);
  expect(forced.out).toContain("Still active there");
  expect(forced.out).toContain("lab.yaml:7");
  expect(await hold()).toMatchObject({ kind: "decommissioned", why: "sold" });
  expect(await table.list()).toHaveLength(1);
});

test("decommission marks an idle machine, and only taking it back ends that", async () => {
  const done = await cli(lab, ["decommission", "kvm-1", "--reason", "sold", "--json"]);
  expect(JSON.parse(done.out)).toEqual({ address: "host.kvm-1", active: [] });
  expect(await hold()).toMatchObject({ kind: "decommissioned" });
  expect(await table.list()).toEqual([]);
  expect((await cli(lab, ["host", "list"])).out).toContain("decommissioned: sold");
  const on = await cli(lab, ["host", "maintenance", "kvm-1", "on", "--reason", "x"]);
  expect(on.code).toBe(4);
  expect(await hold()).toMatchObject({ kind: "decommissioned" });
  expect((await cli(lab, ["host", "maintenance", "kvm-1", "off"])).code).toBe(0);
  expect(await hold()).toBeUndefined();
});
