import { LabError, toLabError, toProblem } from "../diagnostics/index.ts";
import type { Place } from "../graph/index.ts";
import {
  type ActionType,
  type Address,
  type Plain,
  type PlannedAction,
  type PropertyChange,
  type Row,
  sameEncoded,
} from "../model/index.ts";
import { diffOf, maskChanges, priorOf } from "../plan/index.ts";
import type { Kind, Outcome, ReconcileItem } from "../provider/index.ts";
import { sleep, timelyError, withAttempts, withTimeout } from "./attempts.ts";
import { OperationContexts } from "./context.ts";
import { assertInsideEnvelope } from "./envelope.ts";
import type { ExecutorPorts, PlainMap } from "./ports.ts";
import { encodeObservedOf, itemOf, reconcileItemOf, rowOf, type Target } from "./target.ts";

/** What an operation is for, beyond its target. */
export interface Intent {
  readonly action: ActionType;
  /** Checked against what is there just before; absent: the executor's own rollback and cleanup. */
  readonly planned?: PlannedAction;
}

type Reread = { readonly observed: PlainMap | undefined };

/** The journal could not be written: nothing more may be begun. */
export class JournalError extends Error {
  constructor(cause: unknown) {
    super("the journal cannot be written", { cause });
    this.name = "JournalError";
  }
}

/** Carries out single operations: begin record, handler, proof, end record. */
export class Operations {
  readonly #ports: ExecutorPorts;
  readonly #contexts: OperationContexts;
  /** How many operations were begun: tells "nothing was begun" (exit 5) from "some of it failed" (exit 6). */
  begun = 0;

  /** `reversible`: see OperationContext. */
  constructor(ports: ExecutorPorts, reversible = false) {
    this.#ports = ports;
    this.#contexts = new OperationContexts(ports, reversible, (write) => this.#journal(write));
  }

  /** The operations of this address have `place`, and give it away while they wait for a machine. */
  placed(address: Address, place: Place): void {
    this.#contexts.placed(address, place);
  }

  /** Reads targets of one kind and parent again, in one go. Unreachable ones are errors. */
  async reread(
    targets: readonly Target[],
    signal: AbortSignal,
  ): Promise<Map<string, Reread | { readonly error: unknown }>> {
    const [first] = targets;
    const out = new Map<string, Reread | { readonly error: unknown }>();
    if (first === undefined) return out;
    const bounded = AbortSignal.any([signal, AbortSignal.timeout(this.#ports.defaults.readTimeout)]);
    try {
      const readings = await first.kind.readMany(this.#ports.context(first.address, bounded), targets.map(itemOf));
      for (const target of targets) {
        const reading = readings.get(target.address);
        if (reading === undefined)
          out.set(target.address, {
            error: new LabError("E_PROVIDER_INVALID", `${target.kind.kind} did not read ${target.address}`),
          });
        else if (reading.is === "unreachable") out.set(target.address, { error: reading.why });
        else out.set(target.address, { observed: reading.is === "present" ? reading.value : undefined });
      }
    } catch (error) {
      for (const target of targets) out.set(target.address, { error });
    }
    return out;
  }

  /** What differs between the target and what is there; undefined: it is absent. */
  difference(target: Target, observed: PlainMap | undefined): PropertyChange[] | undefined {
    if (observed === undefined) return undefined;
    const diffs = diffOf(
      target.kind,
      {
        desired: target.view.plain,
        observed,
        prior: target.prior && priorOf(target.prior),
        sensitive: target.view.sensitive,
        unknown: target.view.unknown,
      },
      target.options.lifecycle?.ignore_changes,
    );
    return maskChanges(target.kind, diffs, target.taints, this.#ports.seal);
  }

  /** Brings targets of one kind and parent to what is wanted. Never rejects for one target; rejects with JournalError. */
  async converge(
    targets: readonly { readonly target: Target; readonly intent: Intent }[],
    signal: AbortSignal,
  ): Promise<Map<string, { readonly row: Row } | { readonly error: unknown }>> {
    const out = new Map<string, { readonly row: Row } | { readonly error: unknown }>();
    const readings = await this.reread(
      targets.map(({ target }) => target),
      signal,
    );
    const work: { target: Target; intent: Intent; observed: PlainMap | undefined }[] = [];
    for (const { target, intent } of targets) {
      try {
        const reading = readings.get(target.address) ?? { error: new Error("not read") };
        if ("error" in reading) throw reading.error;
        const changes = this.difference(target, reading.observed);
        if (intent.planned !== undefined) assertInsideEnvelope(intent.planned, changes);
        if (changes?.length === 0 && intent.action !== "replace") {
          // What is taken back was the spec's before: nobody is told anew.
          const record =
            intent.planned === undefined
              ? this.#record(target, reading.observed)
              : this.adopt(target, reading.observed, signal);
          out.set(target.address, { row: await record });
        } else {
          work.push({ target, intent, observed: reading.observed });
        }
      } catch (error) {
        if (error instanceof JournalError) throw error;
        out.set(target.address, { error });
      }
    }
    const [first] = work;
    if (work.length > 1 && first !== undefined && batches(first.target.kind))
      await this.#convergeMany(work, signal, out);
    else await Promise.all(work.map((one) => this.#convergeOne(one, signal, out)));
    return out;
  }

  async #convergeOne(
    work: { target: Target; intent: Intent; observed: PlainMap | undefined },
    signal: AbortSignal,
    out: Map<string, { readonly row: Row } | { readonly error: unknown }>,
    firstAttempt = 1,
  ): Promise<void> {
    const { target, intent } = work;
    const op = await this.#begin(target, intent.action, work.observed);
    try {
      const row = await this.#attempts(target, firstAttempt, signal, async (attempt, bounded) => {
        const ctx = this.#contexts.make(target, intent.planned === undefined, op.id, attempt, bounded);
        let observed = work.observed;
        if (attempt > 1) {
          const reading = (await this.reread([target], bounded)).get(target.address) ?? {
            error: new Error("not read"),
          };
          if ("error" in reading) throw reading.error;
          observed = reading.observed;
        }
        if (
          intent.action === "replace" &&
          observed !== undefined &&
          target.prior?.checkpoint?.step !== "replace.deleted"
        ) {
          await target.kind.delete(ctx, reconcileItemOf(target, observed));
          await ctx.checkpoint("replace.deleted");
          observed = undefined;
        }
        const after = await target.kind.reconcile(ctx, reconcileItemOf(target, observed));
        return this.#proved(target, op.original, after);
      });
      await this.#end({ op: op.id, result: "ok", row });
      this.#ports.settled(target.address, row);
      out.set(target.address, { row });
    } catch (error) {
      if (error instanceof JournalError) throw error;
      await this.#end({ op: op.id, result: "failed" });
      out.set(target.address, { error });
    }
  }

  /** One call for all; those that fail in a way that may pass are tried again one by one. */
  async #convergeMany(
    work: readonly { target: Target; intent: Intent; observed: PlainMap | undefined }[],
    signal: AbortSignal,
    out: Map<string, { readonly row: Row } | { readonly error: unknown }>,
  ): Promise<void> {
    const [first] = work;
    if (first?.target.kind.reconcileMany === undefined) return;
    const ops = new Map(
      await Promise.all(
        work.map(
          async (one) => [one.target.address, await this.#begin(one.target, one.intent.action, one.observed)] as const,
        ),
      ),
    );
    const timeout = Math.max(...work.map((one) => one.target.options.timeout ?? 0));
    const bounded = withTimeout(signal, timeout === 0 ? undefined : timeout);
    let outcomes: ReadonlyMap<string, Outcome<PlainMap>>;
    try {
      const ctx = this.#contexts.make(
        first.target,
        first.intent.planned === undefined,
        ops.get(first.target.address)?.id ?? "",
        1,
        bounded,
      );
      const items: ReconcileItem<PlainMap, PlainMap>[] = work.map((one) => reconcileItemOf(one.target, one.observed));
      outcomes = await first.target.kind.reconcileMany(ctx, items);
    } catch (error) {
      const failure: Outcome<PlainMap> = { error: error instanceof Error ? error : new Error(String(error)) };
      outcomes = new Map(work.map((one) => [one.target.address, failure]));
    }
    await Promise.all(
      work.map(async (one) => {
        const { address } = one.target;
        const op = ops.get(address);
        const outcome = outcomes.get(address) ?? {
          error: new LabError("E_PROVIDER_INVALID", `no outcome for ${address}`),
        };
        let error: unknown;
        try {
          if ("error" in outcome) throw outcome.error;
          const row = this.#proved(one.target, op?.original ?? null, outcome.ok);
          await this.#end({ op: op?.id ?? "", result: "ok", row });
          this.#ports.settled(address, row);
          out.set(address, { row });
          return;
        } catch (caught) {
          if (caught instanceof JournalError) throw caught;
          error = caught;
        }
        await this.#end({ op: op?.id ?? "", result: "failed" });
        const { retry, mayRetry } = this.#retryPolicy(one.target);
        if (signal.aborted || retry.attempts === 0 || !mayRetry(error)) {
          out.set(address, { error: timelyError(error, bounded, signal, timeout) });
          return;
        }
        this.#announceRetry(one.target, 1, retry.delay, error);
        await sleep(retry.delay, signal);
        const again = (await this.reread([one.target], signal)).get(address) ?? { error: new Error("not read") };
        await this.#convergeOne(
          { ...one, observed: "observed" in again ? again.observed : one.observed },
          signal,
          out,
          2,
        );
      }),
    );
  }

  /** Deletes; the row is gone afterwards. Rejects with what went wrong. */
  async remove(target: Target, intent: Intent, signal: AbortSignal): Promise<void> {
    const reading = (await this.reread([target], signal)).get(target.address) ?? { error: new Error("not read") };
    if ("error" in reading) throw reading.error;
    if (reading.observed !== undefined && intent.planned?.before !== undefined && intent.planned.envelope.exact) {
      this.#assertStill(intent.planned, target, reading.observed);
    }
    const op = await this.#begin(target, "delete", reading.observed);
    try {
      await this.#attempts(target, 1, signal, async (attempt, bounded) => {
        const ctx = this.#contexts.make(target, intent.planned === undefined, op.id, attempt, bounded);
        await target.kind.delete(ctx, reconcileItemOf(target, reading.observed));
      });
      await this.#end({ op: op.id, result: "ok", row: null });
      this.#ports.settled(target.address, undefined);
    } catch (error) {
      if (error instanceof JournalError) throw error;
      await this.#end({ op: op.id, result: "failed" });
      throw error;
    }
  }

  #assertStill(planned: PlannedAction, target: Target, observed: PlainMap): void {
    const [then, now] = [planned.before, encodeObservedOf(target, observed, this.#ports)].map(
      (value) => (value ?? {}) as Record<string, Plain>,
    );
    for (const [key, property] of Object.entries(target.kind.attributes.properties)) {
      if (property["x-labctl"]?.volatile === true) continue;
      if (sameEncoded(then?.[key], now?.[key])) continue;
      throw new LabError(
        "E_OUTSIDE_ENVELOPE",
        `${target.address} is not as it was when the plan was made: ${key} changed since`,
        {
          address: target.address,
          hint: "plan again, look at the difference, and apply that",
        },
      );
    }
  }

  /** Records what is there without touching it: adopt, and converging what turns out to be as wanted. */
  async adopt(target: Target, observed: PlainMap | undefined, signal: AbortSignal): Promise<Row> {
    await target.kind.adopted?.(this.#ports.context(target.address, signal), reconcileItemOf(target, observed));
    return this.#record(target, observed);
  }

  async #record(target: Target, observed: PlainMap | undefined): Promise<Row> {
    const row = rowOf(target, this.#ports, {
      status: "ok",
      observed: encodeObservedOf(target, observed, this.#ports),
      original: target.prior === undefined ? encodeObservedOf(target, observed, this.#ports) : target.prior.original,
    });
    await this.#journal(this.#ports.session.put(row));
    this.#ports.settled(target.address, row);
    return row;
  }

  async #begin(
    target: Target,
    action: ActionType,
    observed: PlainMap | undefined,
  ): Promise<{ readonly id: string; readonly original: Plain }> {
    const seen = encodeObservedOf(target, observed, this.#ports);
    const original = target.prior === undefined ? seen : target.prior.original;
    const begun = rowOf(target, this.#ports, {
      status: "interrupted",
      observed: target.prior?.observed ?? seen,
      original,
    });
    // What was wanted before stays on record until the end: it may have to be taken back, as may what is attempted now.
    const earlier = (target.prior?.attempted ?? []).filter((one) => !sameEncoded(one, begun.desired));
    const row = { ...begun, desired: target.prior?.desired ?? begun.desired, attempted: [...earlier, begun.desired] };
    const id = this.#ports.newId();
    await this.#journal(this.#ports.session.assertHeld());
    await this.#journal(this.#ports.session.begin({ op: id, run: this.#ports.run, action, row }));
    this.begun += 1;
    return { id, original };
  }

  async #end(record: Parameters<ExecutorPorts["session"]["end"]>[0]): Promise<void> {
    this.#contexts.ended(record.op);
    await this.#journal(this.#ports.session.end(record));
  }

  async #journal(write: Promise<void>): Promise<void> {
    try {
      await write;
    } catch (error) {
      throw new JournalError(error);
    }
  }

  /** The row after success, once what is there was found to be what was asked for. */
  #proved(target: Target, original: Plain, after: PlainMap): Row {
    const left = this.difference(target, after) ?? [];
    if (left.length > 0) {
      throw new LabError(
        "E_MISMATCH",
        `${target.address}: after the change, ${left.map((change) => change.path).join(", ")} is still not as asked for`,
        {
          address: target.address,
          hint: "something on the machine changes it back or refuses it; `labctl plan` shows the difference",
        },
      );
    }
    return rowOf(target, this.#ports, {
      status: "ok",
      observed: encodeObservedOf(target, after, this.#ports),
      original,
    });
  }

  #retryPolicy(target: Target): {
    retry: { attempts: number; delay: number; max_delay: number };
    mayRetry: (error: unknown) => boolean;
  } {
    const own = target.options.retry;
    const never = new Set([
      "E_AUTH",
      "E_HOST_KEY_UNKNOWN",
      "E_HOST_KEY_CHANGED",
      "E_OUTSIDE_ENVELOPE",
      "E_CANCELLED",
      "E_INTERNAL",
      "E_PLAN_STALE",
    ]);
    return {
      retry: own ?? this.#ports.defaults.retry,
      mayRetry: (error) => {
        const lab = toLabError(error);
        return !never.has(lab.code) && (own !== undefined || lab.retryable);
      },
    };
  }

  async #attempts<T>(
    target: Target,
    first: number,
    signal: AbortSignal,
    run: (attempt: number, bounded: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const { retry, mayRetry } = this.#retryPolicy(target);
    return withAttempts(run, {
      retry,
      first,
      signal,
      timeout: target.options.timeout,
      mayRetry: (error) => !(error instanceof JournalError) && mayRetry(error),
      onRetry: (attempt, delay, error) => this.#announceRetry(target, attempt, delay, error),
    });
  }

  #announceRetry(target: Target, attempt: number, delay_ms: number, error: unknown): void {
    this.#ports.bus.emit({
      type: "action.retrying",
      address: target.address,
      attempt,
      delay_ms,
      problem: toProblem(error),
    });
  }
}

/** True where one call may serve several resources of this kind. */
export function batches(kind: Kind): boolean {
  return kind.reconcileMany !== undefined;
}
