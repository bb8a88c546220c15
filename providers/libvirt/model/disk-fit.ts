import { formatSize, LabError } from "../../../src/index.ts";

/** A disk that is to be made in a pool. */
export interface WantedDisk {
  readonly address: string;
  /** Bytes that a machine sees. */
  readonly size: number;
  /** Bytes that it takes at once: what is uploaded. The rest is taken as machines write. */
  readonly content: number;
  /** Bytes that it takes on the host already; 0: it is not there yet. */
  readonly there: number;
}

export interface PoolSpace {
  readonly name: string;
  /** Bytes that are free. */
  readonly available: number;
}

/**
 * E_DISK_FIT where a pool has no room: for what is uploaded at once, or for all that the disks may grow to, which a lab that lends more
 * than it has (`overcommit`) does not mind. One error for each disk from the first on that does not fit.
 */
export function diskFitErrors(pool: PoolSpace, disks: readonly WantedDisk[], overcommit = false): LabError[] {
  const errors: LabError[] = [];
  let left = pool.available;
  for (const { address, size, content, there } of disks) {
    const needed = Math.max(0, (overcommit ? content : Math.max(size, content)) - there);
    if (needed <= left) {
      left -= needed;
      continue;
    }
    errors.push(
      new LabError(
        "E_DISK_FIT",
        `the pool ${pool.name} has ${formatSize(left)} left for it, and it may take ${formatSize(needed)}`,
        { address, hint: "free some space on the host, make disks smaller, or use a pool elsewhere" },
      ),
    );
  }
  return errors;
}
