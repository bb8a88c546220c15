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

/** Copies only what changes: an event may hold a plan of thousands of resources, and seldom a secret. */
function deep(data: unknown, redact: (text: string) => string): unknown {
  if (typeof data === "string") return redact(data);
  if (data === null || typeof data !== "object") return data;
  if (Array.isArray(data)) {
    let items: unknown[] | undefined;
    for (let i = 0; i < data.length; i++) {
      const item: unknown = data[i];
      const next = deep(item, redact);
      if (next !== item) (items ??= [...(data as unknown[])])[i] = next;
    }
    return items ?? data;
  }
  const map = data as Readonly<Record<string, unknown>>;
  const keys = Object.keys(map);
  let entries: [string, unknown][] | undefined;
  for (const [i, key] of keys.entries()) {
    const item = map[key];
    const next = deep(item, redact);
    const name = redact(key);
    if (entries === undefined && next === item && name === key) continue;
    entries ??= keys.slice(0, i).map((before) => [before, map[before]]);
    entries.push([name, next]);
  }
  return entries === undefined ? data : Object.fromEntries(entries);
}
