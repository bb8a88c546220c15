import type { Address } from "../model/index.ts";
import type { MachineStatus } from "./requirements.ts";

/** What one look at a machine gave. `service_failed`: it answers, and what it is there for does not (its libvirt). */
export type Poll =
  | { readonly is: "ok"; readonly at: number }
  | { readonly is: "unreachable"; readonly at: number; readonly why: string }
  | { readonly is: "service_failed"; readonly at: number; readonly why: string };

/** What is known of a machine from the looks at it so far. Times in milliseconds since the epoch. */
export interface Health {
  readonly status: Exclude<MachineStatus, "maintenance">;
  /** Since when it has this status. */
  readonly since: number;
  /** When it last answered at all. Absent: never. */
  readonly last_seen?: number;
  /** Looks in a row to which it did not answer, and since when that is so. */
  readonly missed: number;
  readonly missing_since?: number;
  /** Looks in a row at which its service failed. */
  readonly failed: number;
  /** What the last look said, where it was not well. */
  readonly why?: string;
}

export interface HealthRules {
  /** Milliseconds without an answer after which it is offline. */
  readonly offline_after: number;
  /** Looks in a row without an answer after which it is offline, however little time they took. */
  readonly missed: number;
  /** How often a failing service is asked again before the machine is degraded. */
  readonly retries: number;
}

export const HEALTH_RULES: HealthRules = { offline_after: 25_000, missed: 3, retries: 2 };

/** A status that changed: the data of an alert. `resolved`: it is well again. */
export interface StatusChange {
  readonly address: Address;
  readonly from: Health["status"];
  readonly to: Health["status"];
  readonly at: number;
  readonly severity: "critical" | "warning" | "resolved";
  readonly why?: string;
}

export function unknownHealth(at: number): Health {
  return { status: "unknown", since: at, missed: 0, failed: 0 };
}

/**
 * What is known after one more look, and the change where the status is another one now. One answer brings a machine back at
 * once; it goes offline only when it was silent for long enough. Looks come in the order of time. Pure.
 */
export function observe(
  address: Address,
  before: Health,
  poll: Poll,
  rules: HealthRules = HEALTH_RULES,
): { readonly health: Health; readonly change?: StatusChange } {
  const seen = counted(before, poll);
  const status = statusAfter(before.status, seen, poll, rules);
  if (status === before.status) return { health: { ...seen, status, since: before.since } };
  const why = poll.is === "ok" ? {} : { why: poll.why };
  const severity = status === "offline" ? "critical" : status === "online" ? "resolved" : "warning";
  return {
    health: { ...seen, status, since: poll.at },
    // That a machine is well the first time that it is looked at is no news.
    ...(!(before.status === "unknown" && status === "online") && {
      change: { address, from: before.status, to: status, at: poll.at, severity, ...why },
    }),
  };
}

function counted(before: Health, poll: Poll): Omit<Health, "status" | "since"> {
  switch (poll.is) {
    case "ok":
      return { last_seen: poll.at, missed: 0, failed: 0 };
    case "service_failed":
      return { last_seen: poll.at, missed: 0, failed: before.failed + 1, why: poll.why };
    case "unreachable":
      return {
        ...(before.last_seen !== undefined && { last_seen: before.last_seen }),
        missed: before.missed + 1,
        missing_since: before.missing_since ?? before.last_seen ?? poll.at,
        // Silence says nothing of the service: what was counted stands.
        failed: before.failed,
        why: poll.why,
      };
  }
}

function statusAfter(
  before: Health["status"],
  seen: Omit<Health, "status" | "since">,
  poll: Poll,
  rules: HealthRules,
): Health["status"] {
  switch (poll.is) {
    case "ok":
      return "online";
    case "service_failed":
      if (seen.failed > rules.retries) return "degraded";
      // A machine that was offline answers again; whether its service does is not known yet.
      return before === "offline" ? "unknown" : before;
    case "unreachable": {
      const silent = poll.at - (seen.missing_since ?? poll.at);
      return seen.missed >= rules.missed || silent >= rules.offline_after ? "offline" : before;
    }
  }
}

/** What others are shown: maintenance hides that a machine is well or ill, but not that it is away. Pure. */
export function shownStatus(health: Pick<Health, "status">, cordoned: boolean): MachineStatus {
  return cordoned && health.status !== "offline" ? "maintenance" : health.status;
}
