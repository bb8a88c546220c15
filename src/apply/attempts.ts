import pRetry, { AbortError } from "p-retry";
import { LabError, toLabError } from "../diagnostics/index.ts";
import { formatDuration, type RetryPolicy } from "../model/index.ts";

export interface AttemptOptions {
  readonly retry: RetryPolicy;
  /** The number of the first attempt made here; 1, unless one was made before. */
  readonly first: number;
  readonly signal: AbortSignal;
  /** Milliseconds for each attempt; absent: no bound of its own. */
  readonly timeout: number | undefined;
  readonly mayRetry: (error: unknown) => boolean;
  /** Told before each pause, in milliseconds. */
  readonly onRetry: (attempt: number, delay: number, error: unknown) => void;
}

/**
 * Runs something until it succeeds, with exponential backoff; `attempts` counts those after the first. An attempt under way
 * is always waited for, also when it is cancelled: what it has begun on a machine it must be able to end. Only a pause is
 * cut short.
 */
export async function withAttempts<T>(
  run: (attempt: number, bounded: AbortSignal) => Promise<T>,
  options: AttemptOptions,
): Promise<T> {
  const { retry, first, signal, timeout, mayRetry, onRetry } = options;
  const pause = new AbortController();
  let running = false;
  const onAbort = (): void => {
    if (!running) pause.abort(new LabError("E_CANCELLED", "cancelled"));
  };
  signal.addEventListener("abort", onAbort);
  try {
    return await pRetry(
      async (count) => {
        running = true;
        const bounded = withTimeout(signal, timeout);
        try {
          return await run(first + count - 1, bounded);
        } catch (error) {
          const timely = timelyError(error, bounded, signal, timeout);
          // p-retry takes TypeErrors for defects; whatever a handler throws is wrapped so that the policy alone decides.
          const failure = timely instanceof Error ? timely : new Error(String(timely));
          throw signal.aborted || !mayRetry(failure) ? new AbortError(failure) : toLabError(failure);
        } finally {
          running = false;
        }
      },
      {
        retries: Math.max(0, retry.attempts - (first - 1)),
        minTimeout: retry.delay,
        maxTimeout: retry.max_delay,
        factor: 2,
        onFailedAttempt: (error) => {
          if (error.retriesLeft === 0) return;
          const delay = Math.min(retry.max_delay, retry.delay * 2 ** (error.attemptNumber - 1));
          onRetry(first + error.attemptNumber - 1, delay, error);
        },
        signal: pause.signal,
      },
    );
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}

export function withTimeout(signal: AbortSignal, timeout: number | undefined): AbortSignal {
  return timeout === undefined ? signal : AbortSignal.any([signal, AbortSignal.timeout(timeout)]);
}

/** A handler that was stopped by the resource's own timeout failed for that reason and no other. */
export function timelyError(
  error: unknown,
  bounded: AbortSignal,
  outer: AbortSignal,
  timeout: number | undefined,
): unknown {
  if (!bounded.aborted || outer.aborted || timeout === undefined || timeout === 0) return error;
  return new LabError("E_TIMEOUT", `not done after ${formatDuration(timeout)}`, {
    cause: error,
    retryable: true,
    hint: "raise the resource's `timeout:`, or see its log for where it stands still",
  });
}

/** Resolves after `ms` milliseconds, or at once where the signal says so. */
export function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", done, { once: true });
  });
}
