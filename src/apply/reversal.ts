import { toProblem } from "../diagnostics/index.ts";
import type { Address, PlannedAction, Problem, Row } from "../model/index.ts";
import { JournalError, type Operations } from "./operation.ts";
import type { ExecutorPorts } from "./ports.ts";
import { manualStep, type Target, type TargetMaker } from "./target.ts";

/** One action that this run began, in the order in which they ended. */
export interface Done {
  readonly action: PlannedAction;
  readonly target: Target;
  /** The row before this run. */
  readonly prior: Row | undefined;
  /** The row after it; absent where it failed or was deleted. */
  readonly row: Row | undefined;
}

export interface ReversalOutcome {
  readonly reversed: readonly Address[];
  readonly problems: readonly Problem[];
  readonly manual: readonly string[];
}

/**
 * Undoes what this run did, last first. `cleanup` removes what the run made and leaves what it changed; `rollback` also
 * brings what it changed or deleted back to what the state said before.
 */
export class Reversal {
  readonly #ports: ExecutorPorts;
  readonly #operations: Operations;
  readonly #targets: TargetMaker;
  readonly #signal: AbortSignal;

  constructor(ports: ExecutorPorts, operations: Operations, targets: TargetMaker, signal: AbortSignal) {
    this.#ports = ports;
    this.#operations = operations;
    this.#targets = targets;
    this.#signal = signal;
  }

  async run(how: "rollback" | "cleanup", done: readonly Done[]): Promise<ReversalOutcome> {
    const reversed: Address[] = [];
    const problems: Problem[] = [];
    const manual: string[] = [];
    this.#ports.bus.emit({ type: "phase.started", phase: how });
    const started = this.#ports.monotonic();
    for (const one of done.toReversed()) {
      if (this.#signal.aborted) break;
      if (how === "cleanup" && one.prior !== undefined) continue;
      const { address } = one.action;
      const begun = this.#ports.monotonic();
      const action = one.prior === undefined ? "delete" : "update";
      this.#ports.bus.emit({ type: "action.started", address, action, attempt: 1 });
      try {
        if (await this.#undo(one)) reversed.push(address);
        this.#ports.bus.emit({
          type: "action.finished",
          address,
          action,
          result: "rolled_back",
          duration_ms: Math.round(this.#ports.monotonic() - begun),
        });
      } catch (error) {
        if (error instanceof JournalError) throw error;
        const problem = toProblem(error);
        problems.push({ ...problem, address });
        manual.push(manualStep(one.target, error));
        this.#ports.bus.emit({
          type: "action.finished",
          address,
          action,
          result: "failed",
          duration_ms: Math.round(this.#ports.monotonic() - begun),
          problem,
        });
      }
    }
    this.#ports.bus.emit({
      type: "phase.finished",
      phase: how,
      duration_ms: Math.round(this.#ports.monotonic() - started),
    });
    return { reversed, problems, manual };
  }

  /** False where there was nothing to undo. */
  async #undo(done: Done): Promise<boolean> {
    const { session } = this.#ports;
    const now = session.rows.get(done.action.address);
    if (done.prior === undefined) {
      if (now === undefined) return false;
      await this.#operations.remove(await this.#targets.ofRow(now), { action: "delete" }, this.#signal);
      return true;
    }
    const target = await this.#targets.ofRow(done.prior, now ?? done.prior);
    const outcome = (await this.#operations.converge([{ target, intent: { action: "update" } }], this.#signal)).get(
      target.address,
    );
    if (outcome === undefined || "error" in outcome) throw outcome?.error ?? new Error("no outcome");
    return true;
  }
}
