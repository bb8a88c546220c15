import type { Redactor } from "../diagnostics/index.ts";
import type { EventBody, LabEvent } from "../model/index.ts";

export type Listener = (event: LabEvent) => void;

/** One run's stream of events. Everything that it carries was redacted on the way in. */
export interface EventBus {
  /** Secret values are registered here before they are used; everything that the bus carries is free of them. */
  readonly redactor: Redactor;
  emit(event: EventBody): void;
  on(listener: Listener): () => void;
}
