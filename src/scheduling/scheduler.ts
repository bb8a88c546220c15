import { setTimeout as sleep } from "node:timers/promises";
import { LabError } from "../diagnostics/index.ts";
import { type Address, type Amounts, formatDuration, type Lease, type Waiter } from "../model/index.ts";
import { decide, type Decision, type Demand } from "./allocate.ts";
import { Allocation } from "./allocation.ts";
import { AMOUNTS } from "./amounts.ts";
import { FileLeases, type LeaseTable, termsOf, timeAfter } from "./leases.ts";
import { type Claimant, type LabRules, priorityOf } from "./policy.ts";
import type { Candidate, Unmet } from "./requirements.ts";
import { explainRejected, type Selection, selectionError, type SelectionRequest } from "./select.ts";
import { type LeaseTableOptions, TableFile } from "./store.ts";
import {
  findSame,
  grant,
  isLive,
  liveLeases,
  liveQueue,
  type Moment,
  replaceLease,
  type Table,
  withWaiter,
} from "./table.ts";
import { expectedWait } from "./wait.ts";

export interface SchedulerOptions extends LeaseTableOptions {
  /** Whose allocations these are, the same in each run: `kernel-lab/pipeline/kernel-ci`. */
  readonly owner: string;
  /** The run, for people. */
  readonly run: string;
  readonly rules: LabRules;
  /** Milliseconds for which a lease or a place in the queue is good without being prolonged. Default: a minute. */
  readonly ttl?: number;
  /** Milliseconds between two looks at the table while waiting. Default: half a second. */
  readonly poll?: number;
  /** Milliseconds after which candidates are looked at again while waiting. Default: ten seconds. */
  readonly refresh?: number;
  /** Prolonging failed (a full disk): it is tried again. */
  readonly onProblem?: (error: unknown) => void;
}

export interface AllocationRequest extends SelectionRequest, Claimant {
  /** What it takes of the machine. Default: what it requires of cpus, memory and disk, and one slot. */
  readonly amounts?: Amounts;
  /** What it takes of the lab's `limits:` (`slots`: environments). Default: nothing. */
  readonly counts?: Amounts;
  /** The highest goes first. Default: 0. */
  readonly priority?: number;
  /** Milliseconds that the work is expected to take: only for how long others wait. */
  readonly estimate?: number;
}

export interface AllocateOptions {
  /** Looks at the machines: called once at first, and now and then while waiting. */
  readonly candidates: () => Promise<readonly Candidate[]>;
  /** Only these, where a plan approved some. */
  readonly approved?: readonly Address[];
  /** Tried before in this run, without success: not again. Give back what is held there first. */
  readonly failed?: ReadonlySet<Address>;
  /** False: refuse with E_BUSY at once. */
  readonly wait: boolean;
  /** What is worth waiting for: where every machine has something else against it, E_BUSY at once. Default: anything. */
  readonly waitFor?: (reason: Unmet) => boolean;
  readonly signal?: AbortSignal;
  /** When waiting begins, and when what is said changes. */
  readonly onWaiting?: (waiting: Waiting) => void;
}

/** What somebody who waits can be told. */
export interface Waiting {
  /** How many go first. */
  readonly ahead: number;
  /** Milliseconds; absent: nobody can know. */
  readonly expected_wait?: number;
  readonly selection: Selection;
}

/** The same for people, in one line. */
export function waitingText({ ahead, expected_wait, selection }: Waiting): string {
  const before = ahead === 0 ? "" : ` behind ${ahead} ${ahead === 1 ? "other" : "others"}`;
  const wait = expected_wait === undefined ? "" : `, for about ${formatDuration(expected_wait)}`;
  return `queued${before}${wait}: ${explainRejected(selection.rejected).replaceAll("\n", "; ")}`;
}

/** Gives machines of the lab to those who ask, fairly, and keeps what was given for as long as this process lives. */
export interface Scheduler {
  /**
   * Leases a machine that meets the request, with its share of the lab's limits and its group's. The same request again, in
   * this run or after one that was killed, goes on with what it has. Rejects with E_NEVER_FITS, E_BUSY (only where it may
   * not wait), E_CANCELLED.
   */
  allocate(request: AllocationRequest, options: AllocateOptions): Promise<Allocation>;
  /** Gives back all that `what` has, whichever run took it: for what is deleted. */
  release(what: string): Promise<readonly Lease[]>;
  /** What would be decided now. Takes nothing and writes nothing: for plans. */
  preview(request: AllocationRequest, candidates: readonly Candidate[]): Promise<Selection>;
  /** All leases of the lab, whoever has them. */
  leases(): Promise<readonly Lease[]>;
  /** All who wait, in the order of their turn. */
  waiting(): Promise<readonly Waiter[]>;
  /** Gives back what still is tied to this process. */
  close(): Promise<void>;
}

const TTL = 60_000;
const POLL = 500;
const REFRESH = 10_000;

export function createScheduler(options: SchedulerOptions): Scheduler {
  return new FileScheduler(options);
}

interface Attempt {
  readonly decision: Decision;
  /** Absent: nothing was given. */
  readonly leases: readonly Lease[] | undefined;
  /** As it is afterwards. */
  readonly table: Table;
  readonly at: Moment;
}

class FileScheduler implements Scheduler {
  readonly #file: TableFile;
  readonly #table: LeaseTable;
  readonly #options: SchedulerOptions;
  readonly #ttl: number;
  readonly #held = new Set<Allocation>();
  readonly #queued = new Set<string>();
  #heartbeat: NodeJS.Timeout | undefined;

  constructor(options: SchedulerOptions) {
    this.#file = new TableFile(options);
    this.#table = new FileLeases(this.#file);
    this.#options = options;
    this.#ttl = options.ttl ?? TTL;
  }

  async allocate(request: AllocationRequest, options: AllocateOptions): Promise<Allocation> {
    const demand = { ...this.#demand(request), ...(options.failed && { failed: options.failed }) };
    const since = new Date(this.#file.now().at).toISOString();
    const { approved } = options;
    const look = async (): Promise<readonly Candidate[]> =>
      (await options.candidates()).filter(({ address }) => approved === undefined || approved.includes(address));
    let candidates = await look();
    let looked = performance.now();
    let told = "";
    try {
      for (;;) {
        const { decision, leases, table, at } = await this.#attempt(demand, since, candidates, request, options);
        if (leases !== undefined) return this.#keep(demand, decision.selection, leases);
        const waiting = this.#waiting(request, decision, candidates, table, at);
        if (!mayWait(decision.selection, options)) throw refusal(request, waiting);
        const text = gistOf(waiting);
        if (text !== told) options.onWaiting?.(waiting);
        told = text;
        const until = looked + (this.#options.refresh ?? REFRESH);
        await this.#untilChange(table, until, options.signal);
        if (performance.now() >= until) {
          candidates = await look();
          looked = performance.now();
        }
      }
    } catch (error) {
      if (this.#queued.has(demand.holder)) await this.#leave(demand.holder);
      throw error;
    }
  }

  /** One transaction: decides on the table as it is, and takes what was decided, or a place in the queue. */
  async #attempt(
    demand: Demand,
    since: string,
    candidates: readonly Candidate[],
    request: AllocationRequest,
    options: AllocateOptions,
  ): Promise<Attempt> {
    const { holder, priority, amounts } = demand;
    const outcome = await this.#file.transact<Attempt>(holder, options.signal, (table, now) => {
      const found = table.queue.get(holder);
      // The place of a run that died is not inherited: it would be older than those who waited all along.
      const place = found !== undefined && isLive(found, now) ? found : undefined;
      const mine = { ...demand, since: place !== undefined && place.since < since ? place.since : since };
      const decision = decide(mine, candidates, table, now, this.#options.rules);
      const terms = {
        holder,
        reason: this.#reason(request.what),
        ttl: this.#ttl,
        tied: true,
        ...(request.estimate !== undefined && { estimate: request.estimate }),
      };
      if (decision.selection.verdict === "chosen") {
        const wanted = new Set(decision.parts.map((part) => part.resource));
        // What it had elsewhere is given back with the same stroke.
        const rest = [...table.leases.values()]
          .flat()
          .filter((lease) => lease.holder === holder && !wanted.has(lease.resource))
          .reduce((left, lease) => replaceLease(left, lease, undefined), table);
        const given = grant(rest, decision.parts, termsOf(terms, this.#file.self, now), now);
        const next = withWaiter(given.table, holder, undefined, now);
        return { result: { decision, leases: given.leases, table: next, at: now }, table: next };
      }
      if (!mayWait(decision.selection, options)) {
        return { result: { decision, leases: undefined, table, at: now } };
      }
      const waiter: Waiter = {
        holder,
        reason: terms.reason,
        priority,
        since: mine.since,
        until: timeAfter(now, this.#ttl),
        process: this.#file.self,
        wants: decision.wants,
        amounts,
        ...(request.estimate !== undefined && { estimate: request.estimate }),
      };
      const next = withWaiter(table, holder, waiter, now);
      const same = place !== undefined && sameWaiter(place, waiter);
      return { result: { decision, leases: undefined, table: next, at: now }, ...(!same && { table: next }) };
    });
    if (outcome.leases === undefined && mayWait(outcome.decision.selection, options)) {
      this.#queued.add(holder);
      this.#beat();
    }
    return outcome;
  }

  #keep(demand: Demand, selection: Selection, leases: readonly Lease[]): Allocation {
    this.#queued.delete(demand.holder);
    const [home] = leases;
    if (home === undefined) throw new LabError("E_INTERNAL", "a machine was chosen and not leased");
    const allocation: Allocation = new Allocation(this.#file, selection, leases, () => this.#held.delete(allocation));
    this.#held.add(allocation);
    this.#beat();
    return allocation;
  }

  #waiting(
    request: AllocationRequest,
    decision: Decision,
    candidates: readonly Candidate[],
    table: Table,
    at: Moment,
  ): Waiting {
    const me = {
      wants: decision.wants,
      amounts: amountsOf(request),
      ...(request.estimate !== undefined && { estimate: request.estimate }),
    };
    const { expected_wait: _first, ...selection } = decision.selection;
    const wait =
      selection.verdict === "busy"
        ? expectedWait(me, decision.ahead, candidates, table, at, this.#options.rules)
        : undefined;
    const known = wait === undefined ? {} : { expected_wait: wait };
    return { ahead: decision.ahead.length, ...known, selection: { ...selection, ...known } };
  }

  /** Until the table is another one, or it is time to look at the machines again. Reading takes no lock. */
  async #untilChange(table: Table, until: number, signal: AbortSignal | undefined): Promise<void> {
    const before = signature(table, this.#file.now());
    while (performance.now() < until) {
      await sleep(this.#options.poll ?? POLL, undefined, { ...(signal && { signal }) }).catch(() => undefined);
      if (signal?.aborted === true) throw new LabError("E_CANCELLED", "cancelled while waiting for a machine");
      if (signature(await this.#file.read(), this.#file.now()) !== before) return;
    }
  }

  async #leave(holder: string): Promise<void> {
    this.#queued.delete(holder);
    await this.#file
      .transact(holder, undefined, (table, now) => {
        // Another process may have taken the same demand up.
        const own = table.queue.get(holder)?.process;
        if (own?.pid !== this.#file.self.pid || own.started !== this.#file.self.started) return { result: undefined };
        return { result: undefined, table: withWaiter(table, holder, undefined, now) };
      })
      // Why it leaves says more than that its place lapses a little later.
      .catch((error: unknown) => this.#options.onProblem?.(error));
  }

  async release(what: string): Promise<readonly Lease[]> {
    const holder = this.#holder(what);
    for (const allocation of this.#held) if (allocation.holder === holder) allocation.forget();
    return this.#table.releaseAll(holder);
  }

  async preview(request: AllocationRequest, candidates: readonly Candidate[]): Promise<Selection> {
    const [table, now] = [await this.#file.read(), this.#file.now()];
    const demand = { ...this.#demand(request), since: new Date(now.at).toISOString() };
    const decision = decide(demand, candidates, table, now, this.#options.rules);
    return this.#waiting(request, decision, candidates, table, now).selection;
  }

  leases(): Promise<readonly Lease[]> {
    return this.#table.list();
  }

  waiting(): Promise<readonly Waiter[]> {
    return this.#table.waiting();
  }

  async close(): Promise<void> {
    clearInterval(this.#heartbeat);
    this.#heartbeat = undefined;
    for (const holder of this.#queued) await this.#leave(holder);
    for (const allocation of this.#held) await allocation.end();
  }

  #holder(what: string): string {
    return `${this.#options.owner} ${what}`;
  }

  #reason(what: string): string {
    return `${what} in run ${this.#options.run}`;
  }

  #demand(request: AllocationRequest): Demand {
    const { rules } = this.#options;
    return {
      ...request,
      holder: this.#holder(request.what),
      amounts: amountsOf(request),
      priority: priorityOf(request.priority ?? 0, request.requires, request, rules),
    };
  }

  #beat(): void {
    this.#heartbeat ??= setInterval(() => void this.#prolong(), Math.max(10, this.#ttl / 3)).unref();
  }

  /** Prolongs all that this process holds and waits for, in one transaction. */
  async #prolong(): Promise<void> {
    const held = [...this.#held];
    if (held.length === 0 && this.#queued.size === 0) return;
    try {
      const lost = await this.#file.transact(this.#options.owner, undefined, (table, now) => {
        const until = timeAfter(now, this.#ttl);
        const gone: Allocation[] = [];
        let next = table;
        for (const allocation of held) {
          for (const lease of allocation.tied) {
            const current = findSame(next, lease);
            if (current === undefined) gone.push(allocation);
            // One that was just made to outlive this process keeps its own end.
            else if (current.process !== undefined) next = replaceLease(next, current, { ...current, until });
          }
        }
        for (const holder of this.#queued) {
          const place = next.queue.get(holder);
          if (place !== undefined) next = withWaiter(next, holder, { ...place, until }, now);
        }
        return { result: gone, ...(next !== table && { table: next }) };
      });
      for (const allocation of lost) allocation.lose();
    } catch (error) {
      this.#options.onProblem?.(error);
    }
  }
}

/** Equal where people would be told the same, but for measured amounts, which are never quite still. */
function gistOf({ ahead, selection }: Waiting): string {
  const measured = new Set<string>(AMOUNTS);
  const reasons = selection.rejected.map((one) => [
    one.address,
    ...one.unmet.map(({ what, text }) => (measured.has(what) ? what : text)),
  ]);
  return JSON.stringify([ahead, reasons]);
}

/** True where some machine would do, but for what is worth waiting for. */
function mayWait({ verdict, rejected }: Selection, { wait, waitFor = () => true }: AllocateOptions): boolean {
  return wait && verdict === "busy" && rejected.some((one) => !one.permanent && one.unmet.every(waitFor));
}

function amountsOf({ amounts, requires }: AllocationRequest): Amounts {
  if (amounts !== undefined) return amounts;
  const { cpus, memory, disk } = requires;
  return {
    ...(cpus !== undefined && { cpus }),
    ...(memory !== undefined && { memory }),
    ...(disk !== undefined && { disk }),
    slots: 1,
  };
}

function sameWaiter(a: Waiter, b: Waiter): boolean {
  return (
    a.priority === b.priority &&
    a.since === b.since &&
    a.process.pid === b.process.pid &&
    a.process.started === b.process.started &&
    JSON.stringify([a.wants, a.amounts, a.estimate]) === JSON.stringify([b.wants, b.amounts, b.estimate])
  );
}

/** Who holds what and who waits, without when it lapses: changes when waiting may be over. */
function signature(table: Table, now: Moment): string {
  const leases = liveLeases(table, now).map(({ resource, holder, epoch, amounts, placed }) => [
    resource,
    holder,
    epoch,
    amounts,
    placed,
  ]);
  return JSON.stringify([leases, liveQueue(table, now).map((one) => [one.holder, one.wants])]);
}

function refusal(request: AllocationRequest, waiting: Waiting): LabError {
  return selectionError(request, waiting.selection);
}
