import type { Readable } from "node:stream";
import { LabError } from "../../src/diagnostics/index.ts";

/** Milliseconds; a guest under software emulation on a busy machine takes its time. */
const PATIENCE_MS = 40_000;

export async function until(holds: () => Promise<boolean>): Promise<void> {
  const end = performance.now() + PATIENCE_MS;
  while (!(await holds())) {
    if (performance.now() > end) throw new Error("it did not come to be in time");
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** The LabError that a promise rejects with. */
export async function failure(promise: Promise<unknown>): Promise<LabError> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof LabError) return error;
    throw error;
  }
  throw new Error("it was expected to fail, and did not");
}

/** Gathers what a console prints. */
export function reads(stream: Readable): {
  contain(text: string, times?: number): Promise<void>;
  readonly ended: Promise<void>;
} {
  let text = "";
  stream.on("data", (chunk: Buffer) => {
    text += chunk.toString("latin1");
  });
  const ended = new Promise<void>((resolve, reject) => {
    stream.once("end", resolve);
    stream.once("error", reject);
  });
  ended.catch(() => undefined);
  return {
    ended,
    contain: async (wanted, times = 1) => {
      await until(() => Promise.resolve(text.split(wanted).length > times)).catch(() => {
        throw new Error(`${JSON.stringify(wanted)} ${times} times is not in ${JSON.stringify(text)}`);
      });
    },
  };
}
