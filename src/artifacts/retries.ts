import { setTimeout as sleep } from "node:timers/promises";
import { LabError } from "../diagnostics/index.ts";
import type { HostTransferOptions } from "./ports.ts";

const RETRY = { attempts: 3, delay: 1000, max_delay: 30_000 };

/** Runs `work` again where the connection broke. `given` makes the error of the last attempt. */
export async function withRetries<T>(
  options: Pick<HostTransferOptions, "retry" | "onRetry" | "signal">,
  work: () => Promise<T>,
  given: (error: LabError, attempts: number) => LabError,
): Promise<T> {
  const retry = options.retry ?? RETRY;
  let { delay } = retry;
  for (let attempt = 1; ; attempt++) {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof LabError) || !isBroken(error)) throw error;
      if (attempt > retry.attempts || options.signal?.aborted) throw given(error, attempt);
      options.onRetry?.(error.message, attempt, delay);
      await sleep(delay, undefined, options.signal ? { signal: options.signal } : {}).catch(() => {
        throw new LabError("E_CANCELLED", "cancelled");
      });
      delay = Math.min(delay * 2, retry.max_delay);
    }
  }
}

function isBroken(error: LabError): boolean {
  return error.code === "E_DISCONNECTED" || (error.code === "E_CONNECT" && error.retryable);
}
