import { toProblem } from "../diagnostics/index.ts";
import type { Place } from "../graph/index.ts";
import type { Address } from "../model/index.ts";
import type { OperationContext } from "../provider/index.ts";
import type { Scheduler } from "../scheduling/index.ts";
import { LineOutput } from "./output.ts";
import type { ExecutorPorts } from "./ports.ts";
import type { Target } from "./target.ts";

/** Makes what handlers of single operations get: what they tell becomes events and records. */
export class OperationContexts {
  readonly #ports: ExecutorPorts;
  readonly #reversible: boolean;
  readonly #journal: (write: Promise<void>) => Promise<void>;
  readonly #places = new Map<Address, Place>();
  /** What is printed, by the id of the operation. */
  readonly #outputs = new Map<string, LineOutput>();

  /** `reversible`: see OperationContext. `journal` waits for a record, and tells where it cannot be written. */
  constructor(ports: ExecutorPorts, reversible: boolean, journal: (write: Promise<void>) => Promise<void>) {
    this.#ports = ports;
    this.#reversible = reversible;
    this.#journal = journal;
  }

  /** The operations of this address have `place`, and give it away while they wait for a machine. */
  placed(address: Address, place: Place): void {
    this.#places.set(address, place);
  }

  make(target: Target, back: boolean, op: string, attempt: number, signal: AbortSignal): OperationContext {
    const { bus, session } = this.#ports;
    const { address } = target;
    const output =
      this.#outputs.get(op) ??
      new LineOutput((stream, message) =>
        bus.emit({ type: "log.line", level: "info", component: target.kind.kind, address, message, stream }),
      );
    this.#outputs.set(op, output);
    const context = this.#ports.context(address, signal);
    const place = this.#places.get(address);
    return {
      ...context,
      ...(place !== undefined && { scheduler: waitingOutside(context.scheduler, place) }),
      attempt,
      direction: back ? "back" : this.#reversible ? "reversible" : "forward",
      progress: (fraction, text) =>
        bus.emit({
          type: "action.progress",
          address,
          ...(fraction !== undefined && { fraction }),
          ...(text !== undefined && { text }),
        }),
      stage: (stage, body) => this.#stage(address, stage, body),
      output: (stream, chunk) => output.push(stream, chunk),
      checkpoint: (step, data = null) => this.#journal(session.checkpoint(op, { step, data })),
    };
  }

  /** Passes on what was printed without an end of line. */
  ended(op: string): void {
    this.#outputs.get(op)?.flush();
    this.#outputs.delete(op);
  }

  async #stage<T>(address: Address, stage: string, body: () => Promise<T>): Promise<T> {
    const { bus, monotonic } = this.#ports;
    const started = monotonic();
    const done = (result: "completed" | "failed", error?: unknown): void =>
      bus.emit({
        type: "stage.finished",
        address,
        stage,
        result,
        duration_ms: Math.round(monotonic() - started),
        ...(error !== undefined && { problem: toProblem(error) }),
      });
    bus.emit({ type: "stage.started", address, stage });
    try {
      const value = await body();
      done("completed");
      return value;
    } catch (error) {
      done("failed", error);
      throw error;
    }
  }
}

/**
 * What is waited for may be given back by an operation that has not begun yet: whoever waits takes up none of the parallelism.
 */
function waitingOutside(scheduler: Scheduler, place: Place): Scheduler {
  return {
    allocate: async (request, options) => {
      let back: (() => Promise<void>) | undefined;
      try {
        return await scheduler.allocate(request, {
          ...options,
          onWaiting: (waiting) => {
            back ??= place.leave();
            options.onWaiting?.(waiting);
          },
        });
      } finally {
        await back?.();
      }
    },
    release: (what) => scheduler.release(what),
    preview: (request, candidates) => scheduler.preview(request, candidates),
    leases: () => scheduler.leases(),
    waiting: () => scheduler.waiting(),
    close: () => scheduler.close(),
  };
}
