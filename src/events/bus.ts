import type { EventBody, LabEvent } from "../model/index.ts";
import type { EventBus, Listener } from "./port.ts";

export interface EventBusOptions {
  readonly run: string;
  /** Replaces secrets in text; called for every string of every event. */
  readonly redact: (text: string) => string;
  readonly now: () => Date;
  /** Told what a listener threw; absent: it is dropped. Never called twice for one listener. */
  readonly onListenerError?: (error: unknown) => void;
}

/** The stream of one run. Events are numbered from 1 without gaps, and redacted before any listener sees them. */
export function createEventBus(options: EventBusOptions): EventBus {
  const listeners = new Map<number, Listener>();
  const reported = new Set<number>();
  const queue: LabEvent[] = [];
  let nextListener = 1;
  let seq = 0;
  let draining = false;

  function deliver(event: LabEvent): void {
    for (const [id, listener] of listeners) {
      try {
        listener(event);
      } catch (error) {
        if (reported.has(id)) continue;
        reported.add(id);
        options.onListenerError?.(error);
      }
    }
  }

  return {
    run: options.run,
    emit(body: EventBody): void {
      seq += 1;
      const head = { run: options.run, seq, at: options.now().toISOString() };
      queue.push({ ...head, ...redactDeep(body, options.redact) });
      // A listener that emits must not make the others see the second event before the first.
      if (draining) return;
      draining = true;
      try {
        for (let event = queue.shift(); event !== undefined; event = queue.shift()) deliver(event);
      } finally {
        draining = false;
      }
    },
    on(listener: Listener): () => void {
      const id = nextListener;
      nextListener += 1;
      listeners.set(id, listener);
      return () => {
        listeners.delete(id);
      };
    },
  };
}

/** Plain data with every string redacted, keys included; parts without a secret are shared with the original. */
export function redactDeep<T>(data: T, redact: (text: string) => string): T {
  return deep(data, redact) as T;
}

function deep(data: unknown, redact: (text: string) => string): unknown {
  if (typeof data === "string") return redact(data);
  if (data === null || typeof data !== "object") return data;
  if (Array.isArray(data)) {
    let changed = false;
    const items = data.map((item: unknown) => {
      const next = deep(item, redact);
      changed ||= next !== item;
      return next;
    });
    return changed ? items : data;
  }
  let changed = false;
  const entries = Object.entries(data).map(([key, item]): [string, unknown] => {
    const next = deep(item, redact);
    const name = redact(key);
    changed ||= next !== item || name !== key;
    return [name, next];
  });
  return changed ? Object.fromEntries(entries) : data;
}
