import { Readable } from "node:stream";
import { LabError, type Machine } from "../../src/index.ts";
import { followScript } from "./job-script.ts";
import { runScript } from "./text.ts";

export interface FollowOptions {
  readonly job: string;
  /** Milliseconds between signs of life; well below the lease. */
  readonly heartbeat: number;
  /** Milliseconds for which a machine that cannot be reached is tried again. */
  readonly patience: number;
  readonly signal?: AbortSignal;
  readonly onLog: (chunk: Buffer) => void;
  readonly onPhase: (phase: string) => void;
  /** The link broke and is made anew; the build goes on meanwhile. */
  readonly onLost?: (error: Error) => void;
}

/** The longest that a timer can take. */
const FOREVER_MS = 2 ** 31 - 1;
const RETRY_MS = 1000;

/**
 * Follows a job to its end, keeping its lease. A link that breaks is made anew, and the log goes on at the byte where it stopped.
 * Rejects with E_CANCELLED, and with what the machine rejects with once patience is over.
 */
export async function followJob(machine: Machine, options: FollowOptions): Promise<void> {
  let offset = 0;
  let contact = performance.now();
  for (;;) {
    let ended = false;
    let connected = false;
    let line = "";
    const beat = heartbeat(options.heartbeat);
    let failure: Error | undefined;
    try {
      await runScript(machine, followScript(options.job, offset), {
        stdin: beat.stream,
        timeout: FOREVER_MS,
        keep: 4096,
        ...(options.signal && { signal: options.signal }),
        onStdout: (chunk) => {
          connected = true;
          offset += chunk.length;
          options.onLog(chunk);
        },
        onStderr: (chunk) => {
          connected = true;
          const lines = (line + chunk.toString("utf8")).split("\n");
          line = lines.pop() ?? "";
          for (const one of lines) {
            if (one === "end") ended = true;
            else if (one.startsWith("phase ")) options.onPhase(one.slice("phase ".length));
          }
        },
      });
    } catch (error) {
      if (!(error instanceof LabError) || !RECONNECT.has(error.code)) throw error;
      failure = error;
    } finally {
      beat.stop();
    }
    if (ended) return;
    // A build that says nothing for an hour is no link that was lost an hour ago.
    if (connected) contact = performance.now();
    const error =
      failure ??
      new LabError("E_DISCONNECTED", "what followed a build there was ended", {
        address: machine.address,
        retryable: true,
      });
    if (performance.now() - contact > options.patience) throw error;
    options.onLost?.(error);
    await pause(RETRY_MS, options.signal);
  }
}

const RECONNECT: ReadonlySet<string> = new Set(["E_DISCONNECTED", "E_CONNECT"]);

/** A line now and then for as long as it is wanted. */
function heartbeat(interval: number): { readonly stream: Readable; stop(): void } {
  const stream = new Readable({ read: () => undefined });
  stream.push("\n");
  const timer = setInterval(() => {
    if (!stream.destroyed) stream.push("\n");
  }, interval);
  return {
    stream,
    stop: () => {
      clearInterval(timer);
      stream.destroy();
    },
  };
}

function pause(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = (): void => {
      clearTimeout(timer);
      reject(new LabError("E_CANCELLED", "cancelled"));
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, ms);
    if (signal?.aborted === true) stop();
    else signal?.addEventListener("abort", stop, { once: true });
  });
}
