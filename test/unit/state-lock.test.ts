import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { LockInfo } from "../../src/model/index.ts";
import { createFileStore, type EnvOptions, type StateSession, type StateStore } from "../../src/state/index.ts";
import { systemProcesses } from "../../src/state/identity.ts";
import { onlyProcess } from "../property/state-model.ts";
import { lockRequest, makeRow } from "./state-helpers.ts";

let dir: string;
const kept: StateSession[] = [];
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "labctl-lock-"));
});
afterEach(async () => {
  for (const session of kept.splice(0)) await session.close().catch(() => undefined);
  rmSync(dir, { recursive: true, force: true });
});

const storeOf = (options: EnvOptions = {}): StateStore => createFileStore({ dir, ...options });
async function hold(options: EnvOptions = {}): Promise<StateSession> {
  const session = await storeOf(options).open("lab", lockRequest({ holder: "first", purpose: "apply" }));
  kept.push(session);
  return session;
}

describe("a live holder", () => {
  test("is named to whoever is refused, with what to do", async () => {
    const session = await hold();
    await expect(storeOf().open("lab", lockRequest())).rejects.toMatchObject({
      code: "E_STATE_LOCKED",
      message: expect.stringMatching(new RegExp(`first \\(pid ${process.pid} on .*since ${session.lock.since}.*apply`)),
      hint: expect.stringMatching(/--lock-timeout.*labctl state unlock/),
    });
    expect((await storeOf().holder("lab"))?.holder).toBe("first");
  });

  test("is waited for, and whoever waits is told once", async () => {
    const session = await hold();
    const told: LockInfo[] = [];
    const waiting = storeOf().open("lab", lockRequest({ timeout: 20_000, onWaiting: (holder) => told.push(holder) }));
    await new Promise((resolve) => setTimeout(resolve, 200));
    await session.close();
    const next = await waiting;
    expect(told.map((holder) => holder.holder)).toEqual(["first"]);
    expect(next.lock.token).toBe(session.lock.token + 1);
    expect(next.takenOver).toBeUndefined();
    await next.close();
  });

  test("waiting ends with the timeout, or when it is cancelled", async () => {
    await hold();
    const begin = performance.now();
    await expect(storeOf().open("lab", lockRequest({ timeout: 300 }))).rejects.toMatchObject({
      code: "E_STATE_LOCKED",
    });
    expect(performance.now() - begin).toBeGreaterThan(290);
    const abort = new AbortController();
    const waiting = storeOf().open("lab", lockRequest({ timeout: 60_000, signal: abort.signal }));
    setTimeout(() => abort.abort(), 50);
    await expect(waiting).rejects.toMatchObject({ code: "E_CANCELLED" });
    const aborted = lockRequest({ signal: AbortSignal.abort() });
    await expect(storeOf().open("lab", aborted)).rejects.toMatchObject({ code: "E_CANCELLED" });
  });

  test("does not keep others from other scopes", async () => {
    await hold();
    const other = await storeOf().open("pipeline/ci", lockRequest());
    await other.close();
  });
});

describe("fencing", () => {
  test("after an unlock the old holder writes nothing more", async () => {
    const session = await hold();
    await session.put(makeRow("host.before"));
    expect((await storeOf().unlock("lab"))?.holder).toBe("first");
    expect(await storeOf().holder("lab")).toBeUndefined();
    await expect(session.put(makeRow("host.after"))).rejects.toMatchObject({ code: "E_STATE_LOCK_LOST" });
    await expect(session.assertHeld()).rejects.toMatchObject({ code: "E_STATE_LOCK_LOST" });
    const next = await storeOf().open("lab", lockRequest());
    await expect(session.close()).rejects.toMatchObject({ code: "E_STATE_LOCK_LOST" });
    expect([...next.rows.keys()]).toEqual(["host.before"]);
    await next.put(makeRow("host.next"));
    await next.close();
    expect([...(await storeOf().read("lab")).rows.keys()].sort()).toEqual(["host.before", "host.next"]);
  });

  test("a folder that was removed and made anew is not the old holder's", async () => {
    const session = await hold();
    rmSync(dir, { recursive: true });
    await expect(session.put(makeRow("host.a"))).rejects.toMatchObject({ code: "E_STATE_LOCK_LOST" });
    const next = await storeOf().open("lab", lockRequest());
    expect(next.lock.token).toBe(session.lock.token);
    await expect(session.put(makeRow("host.a"))).rejects.toMatchObject({ code: "E_STATE_LOCK_LOST" });
    await next.put(makeRow("host.b"));
    await next.close();
  });

  test("tokens only grow, and old lock files do not pile up", async () => {
    for (let token = 1; token <= 20; token++) {
      const session = await storeOf().open("lab", lockRequest());
      expect(session.lock.token).toBe(token);
      await session.close();
    }
    expect(readdirSync(dir)).toEqual(["lab.lock.20"]);
    expect(JSON.parse(readFileSync(join(dir, "lab.lock.20"), "utf8"))).toMatchObject({ released: true });
  });
});

describe("one holder at a time", () => {
  test("among many that contend, also over a dead holder's lock", async () => {
    const dead = await hold({ processes: onlyProcess(1) });
    const takeovers: (LockInfo | undefined)[] = [];
    let inside = 0;
    await Promise.all(
      Array.from({ length: 12 }, async (_, i) => {
        const session = await storeOf({
          processes: { self: { pid: 100 + i, host: "h" }, liveness: (who) => (who.pid === 1 ? "dead" : "alive") },
        }).open("lab", lockRequest({ timeout: 25_000 }));
        expect(++inside).toBe(1);
        takeovers.push(session.takenOver);
        await session.put(makeRow(`host.h${i}`));
        inside -= 1;
        await session.close();
      }),
    );
    expect(takeovers.filter((info) => info !== undefined).map((info) => info.pid)).toEqual([1]);
    expect((await storeOf().read("lab")).rows.size).toBe(12);
    await expect(dead.put(makeRow("host.x"))).rejects.toMatchObject({ code: "E_STATE_LOCK_LOST" });
  });
});

describe("a holder on another machine", () => {
  const elsewhere = { self: { pid: 1, host: "elsewhere" }, liveness: () => "unknown" as const };
  const here = { self: { pid: 2, host: "here" }, liveness: () => "unknown" as const };

  test("is dead only when its lease was watched for a whole period and not renewed", async () => {
    await hold({ processes: elsewhere, leaseTtl: 3_600_000 });
    const begin = performance.now();
    const next = await storeOf({ processes: here, leaseTtl: 400 }).open("lab", lockRequest({ timeout: 20_000 }));
    expect(performance.now() - begin).toBeGreaterThan(400);
    expect(next.takenOver?.host).toBe("elsewhere");
    await next.close();
  });

  test("is alive while it renews, however long that takes", async () => {
    await hold({ processes: elsewhere, leaseTtl: 400 });
    const waiting = storeOf({ processes: here, leaseTtl: 400 }).open("lab", lockRequest({ timeout: 1600 }));
    await expect(waiting).rejects.toMatchObject({ code: "E_STATE_LOCKED" });
  });

  test("is not declared dead because a clock jumped, here or there", async () => {
    const jumpy = (hours: number) => {
      let calls = 0;
      return () => new Date(Date.UTC(2026, 0, 1) + (calls++ % 2) * hours * 3_600_000 + calls);
    };
    const session = await hold({ processes: elsewhere, leaseTtl: 400, now: jumpy(-1000) });
    const waiting = storeOf({ processes: here, leaseTtl: 400, now: jumpy(1000) }).open(
      "lab",
      lockRequest({ timeout: 1600 }),
    );
    await expect(waiting).rejects.toMatchObject({ code: "E_STATE_LOCKED" });
    await session.put(makeRow("host.a"));
    await session.close();
    expect((await storeOf().read("lab")).rows.size).toBe(1);
  });
});

describe("who is alive", () => {
  const table = systemProcesses();
  const { self } = table;
  const liveness = (holder: LockInfo): string => table.liveness(holder);
  const lock = (fields: Partial<LockInfo>): LockInfo => ({
    token: 1,
    holder: "x",
    purpose: "x",
    since: "",
    lease_until: 0,
    ...self,
    ...fields,
  });

  test("is told by pid and start time on this boot, and by the lease elsewhere", () => {
    expect(liveness(lock({}))).toBe("alive");
    expect(liveness(lock({ started: "1" }))).toBe("dead");
    expect(liveness(lock({ pid: 2 ** 30 }))).toBe("dead");
    expect(liveness(lock({ host: "elsewhere" }))).toBe("unknown");
    expect(liveness(lock({ pid_namespace: "pid:[1]" }))).toBe("unknown");
    expect(liveness(lock({ boot_id: "old", machine_id: "another" }))).toBe("unknown");
    const rebooted = liveness(lock({ boot_id: "old" }));
    expect(rebooted).toBe(self.machine_id === undefined ? "unknown" : "dead");
  });
});
