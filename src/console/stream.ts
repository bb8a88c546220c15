import type { ConsoleEvent, ConsoleOptions } from "./types.ts";
import { ConsoleWatcher } from "./watch.ts";

/** A console that is being watched: bytes go in, the clock is its own. */
export interface WatchedConsole {
  readonly watcher: ConsoleWatcher;
  write(chunk: Uint8Array): void;
  /** Completes what is open and stops the clock. Again does nothing. */
  close(): void;
}

const TICK = 100;

/** A {@link ConsoleWatcher} on a monotonic clock, told of passing time ten times a second; silence counts from now on. */
export function watchConsole(options: ConsoleOptions, emit: (event: ConsoleEvent) => void): WatchedConsole {
  const watcher = new ConsoleWatcher(options, emit);
  const started = performance.now();
  const now = (): number => Math.round(performance.now() - started);
  watcher.tick(0);
  const timer = setInterval(() => watcher.tick(now()), TICK);
  // Whoever waits for the machine waits for its process or connection, not for this clock.
  timer.unref();
  let closed = false;
  return {
    watcher,
    write: (chunk) => {
      if (!closed) watcher.push(chunk, now());
    },
    close: () => {
      if (closed) return;
      closed = true;
      clearInterval(timer);
      watcher.end(now());
    },
  };
}
