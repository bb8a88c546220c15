import { LabError } from "../diagnostics/index.ts";
import { type Address, formatDuration, type HolderProcess, type Lease, type Waiter } from "../model/index.ts";
import { amountText } from "./amounts.ts";
import { type LeaseTableOptions, TableFile } from "./store.ts";
import {
  type Conflict,
  conflictOf,
  findSame,
  grant,
  isLive,
  liveLeases,
  liveOn,
  liveQueue,
  type Moment,
  type Part,
  replaceLease,
  withWaiter,
} from "./table.ts";

export interface LeaseRequest {
  readonly resource: Address;
  /** Who holds it: the same text again is the same holder. */
  readonly holder: string;
  readonly reason: string;
  /** Milliseconds from now; `Infinity`: until it is released. */
  readonly ttl: number;
}

/** Capacity of several resources, all or nothing: of a host, and of what the lab may use in all. */
export interface ReserveRequest extends Omit<LeaseRequest, "resource"> {
  readonly parts: readonly Part[];
  /** It ends with this process, however much of `ttl` is left; prolong it while the work goes on. */
  readonly tied?: boolean;
  /** Milliseconds that the work is expected to take: for how long others wait. */
  readonly estimate?: number;
}

/**
 * Reservations, in one table for all scopes. Each change is a short transaction under the table's own lock: read,
 * decide, replace. A lease that has lapsed may be taken; its epoch then grows, and whatever the former holder still
 * does with the old epoch can be told from the new holder's. Lapsing goes by the wall clock of whoever asks, and for
 * leases that are tied to a process, by whether that is seen to live.
 *
 * A lease without amounts is of the whole resource: nobody else has any of it. With amounts many hold it, as long as the
 * sum fits what there is. One holder has at most one lease of a resource.
 */
export interface LeaseTable {
  /**
   * Takes all of a resource, or prolongs the lease that this holder has (same epoch, never shortened). Rejects with
   * E_LEASE_HELD, which says by whom, why and until when.
   */
  acquire(request: LeaseRequest, signal?: AbortSignal): Promise<Lease>;
  /**
   * Takes amounts, in the order of the parts; where this holder has some of a part already, that lease goes on with the
   * new amounts. Rejects with E_LEASE_HELD where somebody has all of one, E_BUSY where one is full, E_NEVER_FITS where more is
   * asked for than there is: nothing was taken then.
   */
  reserve(request: ReserveRequest, signal?: AbortSignal): Promise<readonly Lease[]>;
  /**
   * Sets the lease to end `ttl` milliseconds from now, lapsed or not, as long as nobody else took it (E_LEASE_HELD) and
   * it was not released (E_STATE_NOT_FOUND).
   */
  renew(lease: Lease, ttl: number, signal?: AbortSignal): Promise<Lease>;
  /** Gives it back; false where it is no longer this lease, which is then left alone. */
  release(lease: Lease, signal?: AbortSignal): Promise<boolean>;
  /** Gives back all that a holder has, and its place in the queue; what that was. */
  releaseAll(holder: string, signal?: AbortSignal): Promise<readonly Lease[]>;
  /** The leases that have not lapsed, by resource and holder. Takes no lock and writes nothing. */
  list(): Promise<readonly Lease[]>;
  /** Those who wait, in the order of their turn. Takes no lock and writes nothing. */
  waiting(): Promise<readonly Waiter[]>;
}

export function createLeaseTable(options: LeaseTableOptions): LeaseTable {
  return new FileLeases(new TableFile(options));
}

export class FileLeases implements LeaseTable {
  readonly #file: TableFile;

  constructor(file: TableFile) {
    this.#file = file;
  }

  async acquire(request: LeaseRequest, signal?: AbortSignal): Promise<Lease> {
    const { resource, ...rest } = request;
    const [lease] = await this.reserve({ ...rest, parts: [{ resource }] }, signal);
    if (lease === undefined) throw new LabError("E_INTERNAL", "a lease was neither given nor refused");
    return lease;
  }

  reserve(request: ReserveRequest, signal?: AbortSignal): Promise<readonly Lease[]> {
    const { holder, parts } = request;
    return this.#file.transact(holder, signal, (table, now) => {
      for (const part of parts) {
        const conflict = conflictOf(table, part, holder, now);
        if (conflict !== undefined) throw conflictError(part, conflict, now);
      }
      const given = grant(table, parts, termsOf(request, this.#file.self, now), now);
      return { result: given.leases, table: given.table };
    });
  }

  renew(lease: Lease, ttl: number, signal?: AbortSignal): Promise<Lease> {
    return this.#file.transact(lease.holder, signal, (table, now) => {
      const current = findSame(table, lease);
      if (current === undefined) {
        const [other] = liveOn(table, lease.resource, now).filter((one) => one.amounts === undefined);
        throw other === undefined ? gone(lease) : held(other, now);
      }
      const renewed: Lease = { ...current, until: timeAfter(now, ttl) };
      return { result: renewed, table: replaceLease(table, current, renewed) };
    });
  }

  release(lease: Lease, signal?: AbortSignal): Promise<boolean> {
    return this.#file.transact(lease.holder, signal, (table) => {
      const current = findSame(table, lease);
      return current === undefined
        ? { result: false }
        : { result: true, table: replaceLease(table, current, undefined) };
    });
  }

  async releaseAll(holder: string, signal?: AbortSignal): Promise<readonly Lease[]> {
    // Most of what is deleted never had any: then nothing is locked, and nothing written.
    const { leases, queue } = await this.#file.read();
    if (!queue.has(holder) && ![...leases.values()].flat().some((lease) => lease.holder === holder)) return [];
    return await this.#file.transact(holder, signal, (table, now) => {
      const own = [...table.leases.values()].flat().filter((lease) => lease.holder === holder);
      if (own.length === 0 && !table.queue.has(holder)) return { result: own };
      const freed = own.reduce((rest, lease) => replaceLease(rest, lease, undefined), table);
      const live = own.filter((lease) => isLive(lease, now));
      return { result: live, table: withWaiter(freed, holder, undefined, now) };
    });
  }

  async list(): Promise<readonly Lease[]> {
    return liveLeases(await this.#file.read(), this.#file.now());
  }

  async waiting(): Promise<readonly Waiter[]> {
    return liveQueue(await this.#file.read(), this.#file.now());
  }
}

/** The last moment that four digits of a year can say: what `Infinity` becomes. */
const LAST = Date.UTC(9999, 11, 31, 23, 59, 59, 999);

/** True where only a release ends the lease. */
export function isEndless(lease: Pick<Lease, "until">): boolean {
  return Date.parse(lease.until) >= LAST;
}

export function timeAfter(now: Moment, ttl: number): string {
  return new Date(Math.min(LAST, now.at + ttl)).toISOString();
}

export function termsOf(
  request: Pick<ReserveRequest, "holder" | "reason" | "ttl" | "tied" | "estimate">,
  self: HolderProcess,
  now: Moment,
): Parameters<typeof grant>[2] {
  const { holder, reason, ttl, tied, estimate } = request;
  return {
    holder,
    reason,
    until: timeAfter(now, ttl),
    ...(tied === true && { process: self }),
    ...(estimate !== undefined && { expected_end: timeAfter(now, estimate) }),
  };
}

/** Until when, for people: a lease that is tied to a process has no time of its own. */
export function endText(lease: Lease, at: number): string {
  if (lease.process !== undefined) return `as long as process ${lease.process.pid} on ${lease.process.host} runs`;
  if (isEndless(lease)) return "until it is released";
  const left = formatDuration(Math.max(1000, Math.ceil((Date.parse(lease.until) - at) / 1000) * 1000));
  return `until ${lease.until} (${left} left)`;
}

function held(lease: Lease, now: Moment): LabError {
  return new LabError(
    "E_LEASE_HELD",
    `${lease.resource} is leased by ${lease.holder} ${endText(lease, now.at)}: ${lease.reason}`,
    { address: lease.resource, retryable: true, hint: "wait until then, or ask the holder to release it" },
  );
}

/** What is in the way of a part, as a sentence without its end. */
export function conflictText(conflict: Conflict, at: number): string {
  if (conflict.is === "held") {
    const { by } = conflict;
    return `${by.holder} has ${by.amounts === undefined ? "all of it" : "some of it"} ${endText(by, at)}: ${by.reason}`;
  }
  const { key, asked, taken, capacity } = conflict;
  return conflict.permanent
    ? `it has ${amountText(key, capacity)}, and ${amountText(key, asked)} are asked for`
    : `${amountText(key, taken)} of ${amountText(key, capacity)} are reserved, ${amountText(key, asked)} more are asked for`;
}

function conflictError(part: Part, conflict: Conflict, now: Moment): LabError {
  if (conflict.is === "held") return held(conflict.by, now);
  const permanent = conflict.permanent;
  return new LabError(permanent ? "E_NEVER_FITS" : "E_BUSY", `${part.resource}: ${conflictText(conflict, now.at)}`, {
    address: part.resource,
    retryable: !permanent,
    hint: permanent ? "ask for less" : "`labctl leases` shows who has it; release some of it, or wait",
  });
}

function gone(lease: Lease): LabError {
  return new LabError("E_STATE_NOT_FOUND", `the lease of ${lease.resource} (epoch ${lease.epoch}) is no longer there`, {
    address: lease.resource,
    hint: "it lapsed or was released, and maybe taken by others since; acquire it again",
  });
}
