import { LabError } from "../diagnostics/index.ts";
import type { Address, Amounts, HolderProcess, Lease, Waiter } from "../model/index.ts";
import type { Liveness } from "../state/index.ts";
import { AMOUNTS, sumOf } from "./amounts.ts";

/** All leases and all who wait. Values: changes make new ones. */
export interface Table {
  /** By resource. A Map in memory, so that no name is special. What has lapsed stays until somebody else takes it. */
  readonly leases: ReadonlyMap<Address, readonly Lease[]>;
  /** The last epoch given for each resource; kept when the lease is given back. */
  readonly epochs: ReadonlyMap<Address, number>;
  /** By holder. */
  readonly queue: ReadonlyMap<string, Waiter>;
}

export const EMPTY: Table = { leases: new Map(), epochs: new Map(), queue: new Map() };

/** When it is, and who lives. */
export interface Moment {
  /** Milliseconds since the epoch. */
  readonly at: number;
  readonly liveness: (process: HolderProcess) => Liveness;
}

/** Pure, but for whether processes live. */
export function isLive(one: Pick<Lease, "until" | "process">, now: Moment): boolean {
  const seen = one.process === undefined ? "unknown" : now.liveness(one.process);
  return seen === "unknown" ? Date.parse(one.until) > now.at : seen === "alive";
}

/** The leases of a resource that count. */
export function liveOn(table: Table, resource: Address, now: Moment): readonly Lease[] {
  return (table.leases.get(resource) ?? []).filter((lease) => isLive(lease, now));
}

/** By resource, then by holder. */
export function liveLeases(table: Table, now: Moment): readonly Lease[] {
  return [...table.leases.values()]
    .flat()
    .filter((lease) => isLive(lease, now))
    .sort((a, b) => compare(a.resource, b.resource) || compare(a.holder, b.holder));
}

/** Those who still wait, in the order of their turn. */
export function liveQueue(table: Table, now: Moment): readonly Waiter[] {
  return [...table.queue.values()].filter((waiter) => isLive(waiter, now)).sort(compareTurns);
}

/** The highest priority, then the oldest; names decide between equals, so that all agree. */
export function compareTurns(
  a: Pick<Waiter, "priority" | "since" | "holder">,
  b: Pick<Waiter, "priority" | "since" | "holder">,
): number {
  return b.priority - a.priority || compare(a.since, b.since) || compare(a.holder, b.holder);
}

/** What is asked of one resource. */
export interface Part {
  readonly resource: Address;
  /** Absent: all of it. */
  readonly amounts?: Amounts;
  /** What there is. What it does not name has no limit. */
  readonly capacity?: Amounts;
}

/** Why a part cannot be had. `permanent`: it is more than there is. */
export type Conflict =
  | { readonly is: "held"; readonly by: Lease }
  | {
      readonly is: "full";
      readonly key: keyof Amounts;
      readonly asked: number;
      readonly taken: number;
      readonly capacity: number;
      readonly permanent: boolean;
    };

/** Undefined: the part fits beside what others have. What this holder has there already is replaced, so it does not count. */
export function conflictOf(table: Table, part: Part, holder: string, now: Moment): Conflict | undefined {
  const others = liveOn(table, part.resource, now).filter((lease) => lease.holder !== holder);
  const blocking = part.amounts === undefined ? others[0] : others.find((lease) => lease.amounts === undefined);
  if (blocking !== undefined) return { is: "held", by: blocking };
  const taken = sumOf(others);
  for (const key of AMOUNTS) {
    const [asked, capacity] = [part.amounts?.[key] ?? 0, part.capacity?.[key]];
    if (capacity === undefined || asked <= 0 || taken[key] + asked <= capacity) continue;
    return { is: "full", key, asked, taken: taken[key], capacity, permanent: asked > capacity };
  }
  return undefined;
}

/** Everything of a lease but what the table gives. */
export type Terms = Pick<Lease, "holder" | "reason" | "process" | "expected_end"> & { readonly until: string };

/**
 * Gives the parts to the holder, who must have been found to have them: see conflictOf. Where it has one already, that one
 * goes on, with the same epoch, and never ends earlier. What has lapsed on the resource is gone then: who held it has to
 * ask again.
 */
export function grant(
  table: Table,
  parts: readonly Part[],
  terms: Terms,
  now: Moment,
): { readonly table: Table; readonly leases: readonly Lease[] } {
  const leases = new Map(table.leases);
  const epochs = new Map(table.epochs);
  const given = parts.map(({ resource, amounts }): Lease => {
    const live = (leases.get(resource) ?? []).filter((lease) => isLive(lease, now));
    const own = live.find((lease) => lease.holder === terms.holder);
    const epoch = own?.epoch ?? (epochs.get(resource) ?? 0) + 1;
    const { until, process, ...rest } = terms;
    // What was held beyond the life of a process is not tied to one again: what it is for is still there.
    const tie = own === undefined || own.process !== undefined ? process : undefined;
    const lease: Lease = {
      resource,
      ...rest,
      until: own !== undefined && Date.parse(own.until) > Date.parse(until) ? own.until : until,
      epoch,
      ...(amounts !== undefined && { amounts }),
      ...(tie !== undefined && { process: tie }),
      ...(own?.placed === true && { placed: true }),
    };
    leases.set(resource, [...live.filter((one) => one !== own), lease]);
    epochs.set(resource, epoch);
    return lease;
  });
  return { table: { ...table, leases, epochs }, leases: given };
}

/** The lease of the table that this one is, lapsed or not. */
export function findSame(table: Table, lease: Pick<Lease, "resource" | "holder" | "epoch">): Lease | undefined {
  return table.leases.get(lease.resource)?.find((one) => one.holder === lease.holder && one.epoch === lease.epoch);
}

/** The same table with another lease in the place of this one, or none. */
export function replaceLease(table: Table, old: Lease, next: Lease | undefined): Table {
  const rest = (table.leases.get(old.resource) ?? []).filter((one) => one !== old);
  const leases = new Map(table.leases);
  const left = next === undefined ? rest : [...rest, next];
  if (left.length === 0) leases.delete(old.resource);
  else leases.set(old.resource, left);
  return { ...table, leases };
}

export function withWaiter(table: Table, holder: string, waiter: Waiter | undefined, now: Moment): Table {
  // Those who died waiting are forgotten with each change.
  const queue = new Map([...table.queue].filter(([, one]) => isLive(one, now)));
  if (waiter === undefined) queue.delete(holder);
  else queue.set(holder, waiter);
  return { ...table, queue };
}

const FORMAT = 2;

export function formatTable(table: Table): string {
  const leases = sorted(new Map([...table.leases].map(([name, all]) => [name, [...all].sort(byHolder)])));
  const data = { format_version: FORMAT, leases, queue: sorted(table.queue), epochs: sorted(table.epochs) };
  return `${JSON.stringify(data, null, 2)}\n`;
}

/** Reads format 2, and 1: there each resource had one lease, and nobody waited. */
export function parseTable(text: string, path: string): Table {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw damaged(path, error instanceof Error ? error.message : String(error));
  }
  if (!isObject(value)) throw damaged(path, "it is not a JSON object");
  const { format_version, leases, epochs } = value;
  if (typeof format_version === "number" && format_version > FORMAT) {
    throw new LabError("E_STATE_VERSION", `${path} has format ${format_version}, and this labctl knows ${FORMAT}`, {
      hint: "use the labctl version that wrote it, or a later one",
    });
  }
  const queue = format_version === 1 ? {} : value["queue"];
  const known = format_version === 1 || format_version === FORMAT;
  if (!known || !isObject(leases) || !isObject(epochs) || !isObject(queue))
    throw damaged(path, "its parts are missing");
  const out = new Map<Address, readonly Lease[]>();
  for (const [resource, item] of Object.entries(leases)) {
    const all: unknown = format_version === 1 ? [item] : item;
    if (!Array.isArray(all) || !all.every((lease): lease is Lease => isLease(resource, lease)))
      throw damaged(path, `the lease of ${JSON.stringify(resource)} cannot be read`);
    out.set(resource, all);
  }
  const numbers = new Map<Address, number>();
  for (const [resource, epoch] of Object.entries(epochs)) {
    if (typeof epoch !== "number") throw damaged(path, `the epoch of ${JSON.stringify(resource)} is not a number`);
    numbers.set(resource, epoch);
  }
  const waiting = new Map<string, Waiter>();
  for (const [holder, waiter] of Object.entries(queue)) {
    if (!isWaiter(holder, waiter)) throw damaged(path, `the place of ${JSON.stringify(holder)} cannot be read`);
    waiting.set(holder, waiter);
  }
  return { leases: out, epochs: numbers, queue: waiting };
}

function byHolder(a: Lease, b: Lease): number {
  return compare(a.holder, b.holder);
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

function sorted<T>(map: ReadonlyMap<string, T>): Record<string, T> {
  return Object.fromEntries([...map].sort(([a], [b]) => compare(a, b)));
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return value !== null && typeof value === "object" && !Array.isArray(value);
}

function isLease(resource: string, value: unknown): value is Lease {
  if (!isObject(value)) return false;
  const { holder, reason, epoch, amounts, process } = value;
  if (typeof holder !== "string" || typeof reason !== "string" || typeof epoch !== "number") return false;
  if (amounts !== undefined && !isAmounts(amounts)) return false;
  return value["resource"] === resource && isTime(value["until"]) && (process === undefined || isProcess(process));
}

function isWaiter(holder: string, value: unknown): value is Waiter {
  if (!isObject(value) || value["holder"] !== holder || typeof value["reason"] !== "string") return false;
  const { priority, wants, process, amounts } = value;
  if (!Array.isArray(wants) || !wants.every((one) => typeof one === "string")) return false;
  const times = isTime(value["since"]) && isTime(value["until"]);
  return typeof priority === "number" && times && isAmounts(amounts) && isProcess(process);
}

function isAmounts(value: unknown): value is Amounts {
  return isObject(value) && AMOUNTS.every((key) => value[key] === undefined || typeof value[key] === "number");
}

function isProcess(value: unknown): value is HolderProcess {
  return isObject(value) && typeof value["pid"] === "number" && typeof value["host"] === "string";
}

function isTime(value: unknown): value is string {
  return typeof value === "string" && !Number.isNaN(Date.parse(value));
}

function damaged(path: string, why: string): LabError {
  return new LabError("E_STATE_DAMAGED", `${path} is damaged: ${why}`, {
    hint: "nothing was changed; once no machine or board of the lab is in use, move the file away to begin without leases",
  });
}
