import type { Cancellation } from "../engine/port.ts";

export interface Signals {
  readonly cancellation: Cancellation;
  /** Told of each Ctrl-C: 1 starts nothing new, 2 aborts all calls. */
  onCancel(listener: (level: 1 | 2) => void): void;
  cancel(): void;
  dispose(): void;
}

/** First signal soft, second hard, third ends the process at once. */
export function createSignals(exit: (code: number) => void): Signals {
  const soft = new AbortController();
  const hard = new AbortController();
  const listeners: ((level: 1 | 2) => void)[] = [];
  const cancel = (): void => {
    if (hard.signal.aborted) {
      exit(130);
      return;
    }
    const level = soft.signal.aborted ? 2 : 1;
    for (const listener of listeners) listener(level);
    (level === 1 ? soft : hard).abort();
  };
  const names = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
  for (const name of names) process.on(name, cancel);
  return {
    cancellation: { soft: soft.signal, hard: hard.signal },
    onCancel: (listener) => void listeners.push(listener),
    cancel,
    dispose: () => {
      for (const name of names) process.removeListener(name, cancel);
    },
  };
}
