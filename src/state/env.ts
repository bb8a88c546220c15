import { performance } from "node:perf_hooks";
import { type Fs, nodeFs } from "./fs.ts";
import { type ProcessTable, systemProcesses } from "./identity.ts";

/** What the store takes from the world. Durations in milliseconds, sizes in bytes. */
export interface Env {
  readonly fs: Fs;
  /** Wall clock: only for what people read. It may jump. */
  readonly now: () => Date;
  /** Never jumps: what leases and waits are measured with. */
  readonly monotonic: () => number;
  readonly processes: ProcessTable;
  /** A holder on another machine that was not seen to renew its lease for this long is dead. */
  readonly leaseTtl: number;
  /** A journal longer than this, and longer than the snapshot, is folded. */
  readonly foldBytes: number;
  /** The labctl version that a snapshot says it was written by. */
  readonly version: string;
}

export type EnvOptions = Partial<Env>;

export function makeEnv(options: EnvOptions): Env {
  return {
    fs: options.fs ?? nodeFs,
    now: options.now ?? (() => new Date()),
    monotonic: options.monotonic ?? (() => performance.now()),
    processes: options.processes ?? systemProcesses(),
    leaseTtl: options.leaseTtl ?? 30_000,
    foldBytes: options.foldBytes ?? 8 * 1024 * 1024,
    version: options.version ?? "unknown",
  };
}
