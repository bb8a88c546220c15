import type { EventBus } from "../events/port.ts";
import type { ReferenceSources } from "../plan/index.ts";
import type { Address, Plain, Resource, Row, Seal, SecretSource, Value } from "../model/index.ts";
import type { Kind, KindContext } from "../provider/index.ts";
import type { StateChanges, StateContent } from "../state/port.ts";

/** All that the executor reaches the world through. */
export interface ExecutorPorts {
  readonly session: StateContent & StateChanges;
  readonly kinds: ReadonlyMap<string, Kind>;
  readonly bus: EventBus;
  /** The context of handlers that act for this address; waits in it end with `signal`. */
  context(address: Address, signal: AbortSignal): KindContext;
  /** A secret's value; from the plan's own sources, or from a row's where the spec has it no more. */
  secret(name: string, sources: Readonly<Record<string, SecretSource>>): Promise<Value | undefined>;
  /** The resource of the spec, where the spec that the plan was made from is at hand. */
  resource(address: Address): Resource | undefined;
  /** Told of each row that was written, so that machines are reached as it says from then on. */
  settled(address: Address, row: Row | undefined): void;
  readonly seal: Seal;
  readonly run: string;
  readonly newId: () => string;
  /** Wall clock, for records. */
  readonly now: () => Date;
  /** Milliseconds that only grow, for durations. */
  readonly monotonic: () => number;
  readonly defaults: {
    /** For failures that may pass by themselves: a dropped link, a busy lock. */
    readonly retry: { readonly attempts: number; readonly delay: number; readonly max_delay: number };
    /** Milliseconds that one reading may take. */
    readonly readTimeout: number;
  };
}

/** Values that references find while a plan is carried out. */
export type Sources = ReferenceSources;

export type PlainMap = Record<string, Plain>;
