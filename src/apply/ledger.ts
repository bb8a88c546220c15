import { type Code, toLabError, toProblem } from "../diagnostics/index.ts";
import type { ActionResult, Address, PlannedAction, Problem } from "../model/index.ts";
import type { ExecutorPorts } from "./ports.ts";

/** How each action of a run ended, told as it is noted. */
export class Ledger {
  readonly problems: Problem[] = [];
  readonly codes: Code[] = [];
  readonly #ports: Pick<ExecutorPorts, "bus" | "monotonic">;
  readonly #results = new Map<Address, ActionResult>();

  constructor(ports: Pick<ExecutorPorts, "bus" | "monotonic">) {
    this.#ports = ports;
  }

  get failed(): boolean {
    return this.codes.length > 0;
  }

  result(address: Address): ActionResult | undefined {
    return this.#results.get(address);
  }

  /** Without telling anybody: what is noted here did nothing, or was told already. */
  note(address: Address, result: ActionResult): void {
    this.#results.set(address, result);
  }

  /** `started`: monotonic milliseconds; 0: it took no time. */
  finish(action: PlannedAction, result: ActionResult, started: number, problem?: Problem, optional = false): void {
    this.#results.set(action.address, result);
    this.#ports.bus.emit({
      type: "action.finished",
      address: action.address,
      action: action.action,
      result,
      duration_ms: started === 0 ? 0 : Math.round(this.#ports.monotonic() - started),
      ...(problem !== undefined && { problem }),
      ...(optional && { optional }),
    });
  }

  /** Notes a failure. `cancelled`: it is none; `tolerated`: an optional resource's, so that what depends on it goes on. */
  fail(
    action: PlannedAction,
    error: unknown,
    started: number,
    result: ActionResult = "failed",
  ): "failed" | "tolerated" | "cancelled" {
    const lab = toLabError(error);
    // The transport names the machine; what failed is this resource on it.
    const problem: Problem = { ...toProblem(lab), address: action.address };
    if (lab.code === "E_CANCELLED") {
      this.finish(action, "cancelled", started, problem);
      return "cancelled";
    }
    const optional = action.options.optional === true;
    this.finish(action, result, started, problem, optional);
    if (optional) {
      this.#ports.bus.emit({ type: "warning.raised", problem });
      return "tolerated";
    }
    this.problems.push(problem);
    this.codes.push(lab.code);
    return "failed";
  }

  skip(action: PlannedAction, because: Address): void {
    const { address } = action;
    if (action.action === "noop") return this.note(address, "noop");
    const cancelled = this.#results.get(because) === "cancelled";
    const result = cancelled ? "cancelled" : action.action === "blocked" ? "blocked" : "skipped";
    this.note(address, result);
    this.#ports.bus.emit({ type: "action.finished", address, action: action.action, result, duration_ms: 0, because });
  }

  /** A failure that is no single resource's. */
  raise(error: unknown): void {
    const lab = toLabError(error);
    this.problems.push(toProblem(lab));
    this.codes.push(lab.code);
    this.#ports.bus.emit({ type: "error.raised", problem: toProblem(lab) });
  }

  count(): Partial<Record<ActionResult, number>> {
    const counts: Partial<Record<ActionResult, number>> = {};
    for (const result of this.#results.values()) counts[result] = (counts[result] ?? 0) + 1;
    return counts;
  }
}
