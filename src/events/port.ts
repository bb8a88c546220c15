import type { EventBody, LabEvent } from "../model/index.ts";

export type Listener = (event: LabEvent) => void;

/** One run's stream of events. Everything that it carries was redacted on the way in. */
export interface EventBus {
  /** The run's id. */
  readonly run: string;
  emit(event: EventBody): void;
  /** Listeners are called in the order of the events; what one of them throws reaches neither the others nor emit(). */
  on(listener: Listener): () => void;
}
