import { createHash, randomBytes } from "node:crypto";
import { join } from "node:path";
import type { Address } from "../model/index.ts";

/** Runs that are kept; the oldest beyond them are removed when a new one starts. */
export const RUNS_KEPT = 200;

export const RUN_ID = /^\d{8}T\d{6}Z-[0-9a-f]{6}$/;

/**
 * An id that sorts by time: `20261123T010203Z-1f2e3d`. The first half of what follows the second is the millisecond, so that of
 * two runs of one second the later is known; the rest is random.
 */
export function newRunId(now: Date, random: () => string = () => randomBytes(2).toString("hex")): string {
  const ms = now.getUTCMilliseconds().toString(16).padStart(3, "0");
  return `${now.toISOString().slice(0, 19).replaceAll(/[-:]/g, "")}Z-${ms}${random().slice(-3)}`;
}

export interface RunFiles {
  readonly dir: string;
  readonly record: string;
  readonly events: string;
  readonly plan: string;
  readonly logs: string;
}

export function runsDir(stateDir: string): string {
  return join(stateDir, "runs");
}

export function runFiles(stateDir: string, id: string): RunFiles {
  const dir = join(runsDir(stateDir), id);
  return {
    dir,
    record: join(dir, "run.json"),
    events: join(dir, "events.ndjson"),
    plan: join(dir, "plan.json"),
    logs: join(dir, "logs"),
  };
}

/**
 * A file name for an address: readable where it can be, never with a separator, and at most 200 bytes long, so that any
 * file system takes it. Two addresses never share one.
 */
export function logFileName(address: Address): string {
  const wellFormed = address.replaceAll(/\p{Cs}/gu, "?");
  const encoded = encodeURIComponent(wellFormed).replaceAll("%2F", "+").replaceAll("*", "%2A");
  if (encoded.length <= 160 && wellFormed === address) return `${encoded}.log`;
  const digest = createHash("sha256").update(address, "utf16le").digest("hex").slice(0, 24);
  return `${encoded.slice(0, 120)}~${digest}.log`;
}
