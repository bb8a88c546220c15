import type { Address, Amounts, Lease, Waiter } from "../model/index.ts";
import { AMOUNTS, sumOf } from "./amounts.ts";
import { conflictText, isEndless } from "./leases.ts";
import { type Claimant, extraParts, extraText, forbidden, type LabRules } from "./policy.ts";
import { type Candidate, type Unmet, unmet } from "./requirements.ts";
import { select, type Selection, type SelectionRequest } from "./select.ts";
import { conflictOf, liveOn, liveQueue, type Moment, type Part, type Table } from "./table.ts";

/** What somebody wants to put on one machine of several. */
export interface Demand extends SelectionRequest, Claimant {
  /** The same text again is the same demand: it goes on with what it has. */
  readonly holder: string;
  /** What it takes of the machine. */
  readonly amounts: Amounts;
  /** What it takes of the lab's `limits:`. Absent: nothing. */
  readonly counts?: Amounts;
  readonly priority: number;
  /** Tried before, without success. */
  readonly failed?: ReadonlySet<Address>;
}

const FAILED: Unmet = { what: "failed", text: "it was tried in this run, and failed", permanent: true };

/** What is to be done about a demand, as things stand. */
export interface Decision {
  readonly selection: Selection;
  /** What to take, where the verdict is `chosen`: of the machine first. */
  readonly parts: readonly Part[];
  /** Where it is `busy`: what it waits for, and who goes first. */
  readonly wants: readonly Address[];
  readonly ahead: readonly Waiter[];
}

/**
 * A machine as it is with what others have leased of it. What is placed is counted by whoever looked at the machine; what is
 * still to come is not, and is added to what was seen. Pure.
 */
export function withLeases(one: Candidate, others: readonly Lease[]): Candidate {
  if (others.length === 0) return one;
  const all = sumOf(others);
  const coming = sumOf(others.filter((lease) => lease.placed !== true));
  const reserved: { -readonly [K in keyof Amounts]: Amounts[K] } = {};
  const used: { -readonly [K in keyof Amounts]: Amounts[K] } = {};
  for (const key of AMOUNTS) {
    const [seen, measured] = [one.reserved[key] ?? 0, one.used?.[key]];
    if (one.reserved[key] !== undefined || all[key] > 0) reserved[key] = Math.max(all[key], seen + coming[key]);
    if (measured !== undefined) used[key] = measured + coming[key];
  }
  const ends = others.flatMap((lease) => endOf(lease) ?? []);
  if (one.next_free !== undefined) ends.push(one.next_free);
  return {
    ...one,
    reserved,
    ...(one.used !== undefined && { used }),
    ...(ends.length > 0 && { next_free: Math.min(...ends) }),
  };
}

/** When a lease is expected to end, milliseconds since the epoch; undefined: nobody can know. Pure. */
export function endOf(lease: Lease): number | undefined {
  if (lease.expected_end !== undefined) return Date.parse(lease.expected_end);
  return lease.process !== undefined || isEndless(lease) ? undefined : Date.parse(lease.until);
}

/**
 * Chooses a machine, with all that is leased and all who wait taken into account. Nobody is overtaken: what somebody with
 * an earlier turn waits for is left alone, even where it would do for this demand and not yet for that. Pure.
 */
export function decide(
  demand: Demand & { readonly since: string },
  candidates: readonly Candidate[],
  table: Table,
  now: Moment,
  rules: LabRules,
): Decision {
  const { holder } = demand;
  const others = (resource: Address): readonly Lease[] =>
    liveOn(table, resource, now).filter((lease) => lease.holder !== holder);
  const queue = liveQueue(table, now).filter((waiter) => waiter.holder !== holder);
  const earlier = queue.filter((waiter) => isBefore(waiter, demand));
  const queued = (resource: Address): Unmet[] =>
    earlier
      .filter((waiter) => waiter.wants.includes(resource))
      .slice(0, 1)
      .map((first) => ({ what: "queue", text: `${first.holder} waits for it since ${first.since}`, permanent: false }));
  const machines = candidates.map((one) => withLeases(one, others(one.address)));

  /** What is in the way on the machine itself, beyond what the machine says. */
  const own = (one: Candidate): readonly Unmet[] => {
    const whole = others(one.address).find((lease) => lease.amounts === undefined);
    return [
      ...(whole === undefined
        ? []
        : [{ what: "lease", text: conflictText({ is: "held", by: whole }, now.at), permanent: false }]),
      ...queued(one.address),
    ];
  };
  /** What is in the way elsewhere: in the lab, in the group. By resource, for the queue. */
  const elsewhere = (one: Candidate): readonly (Unmet & { readonly resource: Address })[] =>
    extraParts(one, demand.counts, rules).flatMap((part) => {
      const conflict = conflictOf(table, part, holder, now);
      const full =
        conflict === undefined
          ? []
          : [{ what: part.resource, text: extraText(part, conflict), permanent: isPermanent(conflict) }];
      return [...full, ...queued(part.resource)].map((reason) => ({ ...reason, resource: part.resource }));
    });

  const selection = select(demand, machines, now.at, (one) => [
    ...(demand.failed?.has(one.address) === true ? [FAILED] : []),
    ...forbidden(one, demand, rules),
    ...own(one),
    ...elsewhere(one),
  ]);
  if (selection.verdict !== "busy") {
    const chosen = pick(selection, liveHome(table, demand, selection, now));
    const machine = candidates.find((one) => one.address === chosen);
    const parts =
      machine === undefined
        ? []
        : [{ resource: machine.address, amounts: demand.amounts }, ...extraParts(machine, demand.counts, rules)];
    return { selection: chosen === undefined ? selection : first(selection, chosen), parts, wants: [], ahead: [] };
  }
  const possible = machines.filter((one) =>
    selection.rejected.some((rejected) => rejected.address === one.address && !rejected.permanent),
  );
  // Where a machine would do at once, it is only the lab or a group that is waited for.
  const ready = possible.filter((one) => unmet(demand.requires, one).length === 0 && own(one).length === 0);
  const wants = ready.length > 0 ? ready.flatMap((one) => elsewhere(one).map((reason) => reason.resource)) : [];
  if (ready.length === 0) {
    for (const one of possible) wants.push(one.address, ...elsewhere(one).map((reason) => reason.resource));
  }
  const unique = [...new Set(wants)].sort();
  const ahead = earlier.filter((waiter) => waiter.wants.some((resource) => unique.includes(resource)));
  return { selection, parts: [], wants: unique, ahead };
}

function isBefore(
  waiter: Waiter,
  demand: { readonly priority: number; readonly since: string; holder: string },
): boolean {
  if (waiter.priority !== demand.priority) return waiter.priority > demand.priority;
  return waiter.since !== demand.since ? waiter.since < demand.since : waiter.holder < demand.holder;
}

function isPermanent(conflict: NonNullable<ReturnType<typeof conflictOf>>): boolean {
  return conflict.is === "full" && conflict.permanent;
}

/** The machine that this demand has already: a run that was cut off and goes on stays where it was. */
function liveHome(table: Table, demand: Demand, selection: Selection, now: Moment): Address | undefined {
  return selection.ranking.find((one) =>
    liveOn(table, one.address, now).some((lease) => lease.holder === demand.holder),
  )?.address;
}

function pick(selection: Selection, home: Address | undefined): Address | undefined {
  return home ?? selection.ranking[0]?.address;
}

/** The same selection with this machine first. */
function first(selection: Selection, address: Address): Selection {
  const { ranking } = selection;
  if (ranking[0]?.address === address) return selection;
  const at = ranking.findIndex((one) => one.address === address);
  const home = ranking[at];
  if (home === undefined) return selection;
  const moved = { ...home, why: `${home.why}, it has this machine already` };
  return { ...selection, ranking: [moved, ...ranking.slice(0, at), ...ranking.slice(at + 1)] };
}
