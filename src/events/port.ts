import type { EventBody, LabEvent } from "../model/index.ts";

export type Listener = (event: LabEvent) => void;

/** One run's stream of events. Everything that it carries was redacted on the way in. */
export interface EventBus {
  emit(event: EventBody): void;
  on(listener: Listener): () => void;
}
