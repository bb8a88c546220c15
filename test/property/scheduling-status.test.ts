import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Hold, Lease, Row } from "../../src/model/index.ts";
import {
  type Candidate,
  decommission,
  decommissionError,
  type Health,
  type HealthRules,
  observe,
  type Poll,
  select,
  shownStatus,
  standingOf,
  type StatusChange,
  unknownHealth,
  workloadsOn,
} from "../../src/scheduling/index.ts";
import { makeRow } from "../unit/state-helpers.ts";

const look = fc.record({
  is: fc.constantFrom("ok", "unreachable", "unreachable", "service_failed"),
  after: fc.integer({ min: 1, max: 20 }),
});
const rules: fc.Arbitrary<HealthRules> = fc.record({
  offline_after: fc.integer({ min: 1, max: 60 }),
  missed: fc.integer({ min: 1, max: 6 }),
  retries: fc.integer({ min: 0, max: 3 }),
});

/** What a machine's status is after all these looks, told from the whole history each time. */
function statusOf(history: readonly Poll[], { offline_after, missed, retries }: HealthRules): Health["status"] {
  const last = history.at(-1);
  if (last === undefined) return "unknown";
  if (last.is === "ok") return "online";
  const answers = history.filter((one) => one.is !== "unreachable");
  if (last.is === "unreachable") {
    const answer = history.findLastIndex((one) => one.is !== "unreachable");
    const silent = history.slice(answer + 1);
    const since = history[answer]?.at ?? silent[0]?.at ?? last.at;
    if (silent.length >= missed || last.at - since >= offline_after) return "offline";
    return statusOf(history.slice(0, -1), { offline_after, missed, retries });
  }
  const failures = answers.slice(answers.findLastIndex((one) => one.is === "ok") + 1).length;
  if (failures > retries) return "degraded";
  const before = statusOf(history.slice(0, -1), { offline_after, missed, retries });
  return before === "offline" ? "unknown" : before;
}

const machine = (more: Partial<Candidate>): Candidate => ({
  address: "host.a",
  name: "a",
  status: "online",
  arch: "x86_64",
  total: { slots: 4 },
  reserved: {},
  ...more,
});
const ask = (candidate: Candidate) => select({ what: "build.x", requires: {} }, [candidate], 0);

describe("machines over time", () => {
  test("Unreachable Host Status Transition", () => {
    fc.assert(
      fc.property(fc.array(look, { maxLength: 20 }), rules, (looks, known) => {
        let at = 1000;
        let health = unknownHealth(at);
        const history: Poll[] = [];
        const changes: StatusChange[] = [];
        for (const { is, after } of looks) {
          at += after;
          const poll: Poll = is === "ok" ? { is, at } : { is, at, why: "no route" };
          history.push(poll);
          const before = health;
          const next = observe("host.a", before, poll, known);
          health = next.health;
          expect(health.status).toBe(statusOf(history, known));
          // Each change is told once, when it happens; the first good look is no news.
          const changed = health.status !== before.status;
          const news = changed && !(before.status === "unknown" && health.status === "online");
          expect(next.change !== undefined).toBe(news);
          expect(health.since).toBe(changed ? at : before.since);
          if (next.change !== undefined) {
            expect(next.change).toMatchObject({ address: "host.a", from: before.status, to: health.status, at });
            changes.push(next.change);
          }
          // Only what is online takes anything; an answer brings it back at once.
          expect(ask(machine({ status: shownStatus(health, false) })).verdict).toBe(
            health.status === "online" ? "chosen" : "busy",
          );
          expect(ask(machine({ status: shownStatus(health, true) })).verdict).toBe("busy");
        }
        for (const change of changes) {
          expect(change.severity === "critical").toBe(change.to === "offline");
          if (change.to !== "online") expect(change.why).toBe("no route");
        }
      }),
      { numRuns: 500 },
    );
  });

  const lease = fc.record({
    resource: fc.constantFrom("host.a", "host.a/gpu", "host.ab", "host.b", "lab"),
    holder: fc.constantFrom("lab x", "pipeline/p y"),
    reason: fc.constant("test"),
    until: fc.constantFrom("2026-01-01T01:00:00.000Z", "9999-12-31T23:59:59.999Z"),
    epoch: fc.integer({ min: 1, max: 9 }),
  }) satisfies fc.Arbitrary<Lease>;
  const row: fc.Arbitrary<Row> = fc
    .record({
      kind: fc.constantFrom("vm", "environment", "stack", "file", "build", "network"),
      host: fc.constantFrom("a", "host.a", "b", "host.b", undefined),
      seen: fc.boolean(),
      n: fc.nat(3),
      inside: fc.boolean(),
    })
    .map(({ kind, host, seen, n, inside }) =>
      makeRow(inside ? `host.a/${kind}.n${n}` : `${kind}.n${n}`, {
        kind,
        ...(inside && { parent: "host.a" }),
        desired: !seen && host !== undefined ? { host } : {},
        observed: seen && host !== undefined ? { host } : null,
      }),
    );

  test("Decommission Requires No Active Workloads", () => {
    fc.assert(
      fc.property(
        fc.array(lease, { maxLength: 4 }),
        fc.array(row, { maxLength: 4 }),
        fc.boolean(),
        (leases, rows, force) => {
          const now = Date.UTC(2026, 0, 1);
          const leased = leases.filter((one) => one.resource === "host.a" || one.resource.startsWith("host.a/"));
          const placed = rows.filter(({ address, kind, desired, observed }) => {
            const { host } = { ...(desired as object), ...(observed as object) } as { host?: string };
            const runs = kind === "vm" || kind === "environment" || kind === "stack";
            return runs && !address.startsWith("host.a/") && (host === "a" || host === "host.a");
          });
          const active = workloadsOn("host.a", leases, rows, now);
          expect(active.map((one) => one.what)).toEqual([
            ...leased.map((one) => one.holder),
            ...placed.map((one) => one.address),
          ]);
          const idle = leased.length + placed.length === 0;
          expect(decommission(active, force).allowed).toBe(idle || force);
          // Whoever is refused is told of each.
          const error = decommissionError("host.a", active);
          expect(error).toMatchObject({ code: "E_ACTIVE_WORKLOADS", exitCode: 8 });
          for (const { what } of active) expect(error.message).toContain(what);
          // Once it is out, nothing goes there, and it says so; nobody waits for it to come back.
          const hold: Hold = { kind: "decommissioned", who: "anna", why: "sold", since: "2026-01-01T00:00:00.000Z" };
          const gone = ask(machine(standingOf({ desired: {}, hold }, now)));
          expect(gone.verdict).toBe("never");
          expect(gone.rejected[0]?.unmet[0]?.text).toBe("decommissioned by anna on 2026-01-01: sold");
        },
      ),
      { numRuns: 300 },
    );
  });
});
