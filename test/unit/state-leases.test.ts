import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { createLeaseTable, type LeaseTable } from "../../src/scheduling/index.ts";

let dir: string;
let time: number;
let table: LeaseTable;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "labctl-lease-"));
  time = Date.UTC(2026, 0, 1);
  table = createLeaseTable({ dir, now: () => new Date(time) });
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const ask = (holder: string, resource = "board.rpi4-1", ttl = 60_000) => ({ resource, holder, reason: "test", ttl });

test("a lease is one holder's until it is released, and says so", async () => {
  const lease = await table.acquire(ask("anna"));
  expect(lease).toMatchObject({ epoch: 1, until: "2026-01-01T00:01:00.000Z" });
  await expect(table.acquire(ask("ben"))).rejects.toMatchObject({
    code: "E_LEASE_HELD",
    message: expect.stringMatching(/board\.rpi4-1 is leased by anna until 2026-01-01T00:01:00.000Z .*: test/),
  });
  expect(await table.list()).toEqual([lease]);
  expect(await table.release(lease)).toBe(true);
  expect(await table.release(lease)).toBe(false);
  expect(await table.list()).toEqual([]);
  expect((await table.acquire(ask("ben"))).epoch).toBe(2);
});

test("a lapsed lease may be taken; its former holder can then neither renew nor release it", async () => {
  const lease = await table.acquire(ask("anna"));
  time += 60_001;
  expect(await table.list()).toEqual([]);
  expect(Date.parse((await table.renew(lease, 60_000)).until)).toBe(time + 60_000);
  time += 60_001;
  const taken = await table.acquire(ask("ben"));
  expect(taken.epoch).toBe(2);
  await expect(table.renew(lease, 60_000)).rejects.toMatchObject({ code: "E_LEASE_HELD" });
  expect(await table.release(lease)).toBe(false);
  expect(await table.list()).toEqual([taken]);
  await table.release(taken);
  await expect(table.renew(taken, 60_000)).rejects.toMatchObject({ code: "E_STATE_NOT_FOUND" });
});

test("asking again prolongs a lease and never shortens it", async () => {
  const lease = await table.acquire(ask("anna"));
  expect(await table.acquire(ask("anna", "board.rpi4-1", 1000))).toEqual(lease);
  const longer = await table.acquire(ask("anna", "board.rpi4-1", 120_000));
  expect(longer).toMatchObject({ epoch: 1, until: "2026-01-01T00:02:00.000Z" });
});

test("the same holder after its lease lapsed gets a new epoch", async () => {
  await table.acquire(ask("anna"));
  time += 60_001;
  expect((await table.acquire(ask("anna"))).epoch).toBe(2);
});

test("names of any sort are only names", async () => {
  for (const resource of ["__proto__", "constructor", 'host["a\\nb"]']) {
    expect((await table.acquire(ask("__proto__", resource))).epoch).toBe(1);
    await expect(table.acquire(ask("ben", resource))).rejects.toMatchObject({ code: "E_LEASE_HELD" });
  }
  expect(await table.list()).toHaveLength(3);
});

test("listing writes nothing", async () => {
  const none = createLeaseTable({ dir: join(dir, "none") });
  expect(await none.list()).toEqual([]);
  expect(readdirSync(dir)).toEqual([]);
});

test("a damaged table is refused and kept", async () => {
  for (const [text, code] of [
    ["{", "E_STATE_DAMAGED"],
    ["[]", "E_STATE_DAMAGED"],
    ['{"format_version":1,"leases":{"a":{}},"epochs":{}}', "E_STATE_DAMAGED"],
    ['{"format_version":7,"leases":{},"epochs":{}}', "E_STATE_VERSION"],
  ] as const) {
    writeFileSync(join(dir, "leases.json"), text);
    await expect(table.acquire(ask("anna"))).rejects.toMatchObject({ code });
    await expect(table.list()).rejects.toMatchObject({ code });
  }
});
