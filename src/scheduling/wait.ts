import type { Address, Amounts, Lease, Waiter } from "../model/index.ts";
import { endOf } from "./allocate.ts";
import { AMOUNTS, sumOf } from "./amounts.ts";
import { extraParts, type LabRules } from "./policy.ts";
import type { Candidate } from "./requirements.ts";
import { liveOn, type Moment, type Table } from "./table.ts";

/** Something that is in use, and until when, milliseconds since the epoch. */
interface Taken {
  readonly resource: Address;
  readonly amounts: Amounts | undefined;
  readonly end: number | undefined;
}

export type Turn = Pick<Waiter, "wants" | "amounts" | "estimate">;

/**
 * Milliseconds until this turn comes: leases end as they are expected to, and those before it take what comes free, in their
 * order, for as long as they are expected to. Undefined: it hangs on something of which nobody knows when it ends. Pure.
 */
export function expectedWait(
  me: Turn,
  ahead: readonly Turn[],
  candidates: readonly Candidate[],
  table: Table,
  now: Moment,
  rules: LabRules,
): number | undefined {
  const capacities = new Map<Address, Amounts>();
  for (const one of candidates) {
    capacities.set(one.address, roomOf(one, liveOn(table, one.address, now)));
    for (const part of extraParts(one, {}, rules)) capacities.set(part.resource, part.capacity ?? {});
  }
  const turns = [...ahead, me];
  let taken: Taken[] = [...capacities.keys()].flatMap((resource) =>
    liveOn(table, resource, now).map((lease) => ({ resource, amounts: lease.amounts, end: endOf(lease) })),
  );
  const placed = new Set<Turn>();
  // Each round is the next end; each turn adds one end at most.
  for (let at: number | undefined = now.at; at !== undefined; ) {
    const time: number = at;
    taken = taken.filter((one) => one.end === undefined || one.end > time);
    const blocked = new Set<Address>();
    for (const turn of turns) {
      if (placed.has(turn)) continue;
      const got = placeOf(turn, capacities, taken, blocked, candidates);
      if (got === undefined) {
        for (const resource of turn.wants) blocked.add(resource);
        continue;
      }
      if (turn === me) return time - now.at;
      placed.add(turn);
      const end = turn.estimate === undefined ? undefined : time + Math.max(1, turn.estimate);
      taken.push(...got.map((resource) => ({ resource, amounts: turn.amounts, end })));
    }
    const ends: number[] = taken.flatMap((one) => (one.end !== undefined && one.end > time ? [one.end] : []));
    at = ends.length === 0 ? undefined : Math.min(...ends);
  }
  return undefined;
}

/** What leases can have of a machine: what there is, without what others than labctl use. */
function roomOf(one: Candidate, leases: readonly Lease[]): Amounts {
  const own = sumOf(leases);
  const room: { -readonly [K in keyof Amounts]: Amounts[K] } = {};
  for (const key of AMOUNTS) {
    const total = one.total[key];
    if (total === undefined) continue;
    const limit = key === "memory" ? total * (one.max_utilization ?? 1) : total;
    const foreign = Math.max(one.reserved[key] ?? 0, one.used?.[key] ?? 0) - own[key];
    room[key] = limit - Math.max(0, foreign);
  }
  return room;
}

/** The resources that a turn would get: the first of the machines that it wants, and all else that it wants. */
function placeOf(
  turn: Turn,
  capacities: ReadonlyMap<Address, Amounts>,
  taken: readonly Taken[],
  blocked: ReadonlySet<Address>,
  candidates: readonly Candidate[],
): readonly Address[] | undefined {
  const fits = (resource: Address): boolean => {
    const capacity = capacities.get(resource);
    if (capacity === undefined || blocked.has(resource)) return false;
    const there = taken.filter((one) => one.resource === resource);
    if (there.some((one) => one.amounts === undefined)) return false;
    const sum = sumOf(there.map(({ amounts }) => ({ ...(amounts && { amounts }) })));
    return AMOUNTS.every((key) => {
      const most = capacity[key];
      return most === undefined || sum[key] + (turn.amounts[key] ?? 0) <= most;
    });
  };
  const usable = new Map(candidates.map((one) => [one.address, one.status === "online"]));
  const machines = turn.wants.filter((resource) => usable.has(resource));
  const rest = turn.wants.filter((resource) => !usable.has(resource));
  const machine = machines.find((resource) => usable.get(resource) === true && fits(resource));
  if (machines.length > 0 && machine === undefined) return undefined;
  if (!rest.every(fits)) return undefined;
  return [...(machine === undefined ? [] : [machine]), ...rest];
}
