import type { Address } from "./address.ts";
import type { ActionType } from "./plan.ts";
import type { ResourceOptions, SecretSource } from "./resource.ts";
import type { Scope } from "./scope.ts";
import type { Plain } from "./value.ts";

export const STATE_FORMAT = 1;

/**
 * What the state knows of one resource: enough to see change and drift, and to reach and delete the thing after it has
 * left the spec. All values are encoded (see encodeValue): secrets are references and keyed digests.
 */
export interface Row {
  readonly address: Address;
  readonly kind: string;
  readonly parent?: Address;
  /** Counts the times that this row was written; a saved plan that read another version is stale. */
  readonly version: number;
  /** Journaled before the first call, so that a create that was cut off is found and not made twice. */
  readonly instance_id: string;
  readonly desired: Plain;
  /** What operations that did not end well were bringing about since the last that did: some of it may be there. */
  readonly attempted?: readonly Plain[];
  readonly observed: Plain;
  /** What was there before labctl touched it; null: nothing. Deleting restores it. */
  readonly original: Plain;
  readonly depends: readonly Address[];
  readonly options: ResourceOptions;
  /** Sources of the secrets that `desired` refers to. */
  readonly secrets: Readonly<Record<string, SecretSource>>;
  /**
   * `ok`; `interrupted`: an operation began and no end was seen; `failed`: it ended with an error;
   * `tainted`: it must be replaced.
   */
  readonly status: "ok" | "interrupted" | "failed" | "tainted";
  /** The last step that an interrupted operation reported, for kinds with visible steps. */
  readonly checkpoint?: Checkpoint;
  readonly updated_at: string;
  readonly updated_by: string;
}

export interface Checkpoint {
  readonly step: string;
  readonly data: Plain;
}

export interface Snapshot {
  readonly format_version: typeof STATE_FORMAT;
  readonly labctl: string;
  readonly lineage: string;
  readonly scope: Scope;
  /** The lab's name when it was last applied: a spec of another lab finds its own state, not this one. Absent: unknown. */
  readonly lab?: string;
  /** Grows by one with every fold of a journal. */
  readonly serial: number;
  readonly rows: Readonly<Record<Address, Row>>;
  readonly outputs: Readonly<Record<string, Plain>>;
  readonly holds: Readonly<Record<Address, Hold>>;
  /** The highest version that a row which is gone had: a row made again never repeats one. Absent: 0. */
  readonly version_floor?: number;
  /** The last journal that is contained; older ones, and bytes added to them later, are ignored. Absent: none. */
  readonly folded?: { readonly token: number; readonly segment: number };
}

/** A cordon set at run time; an apply never clears it. */
export interface Hold {
  /** `decommissioned`: taken out of the lab for good. Absent: maintenance. */
  readonly kind?: "decommissioned";
  readonly who: string;
  readonly why: string;
  readonly since: string;
  readonly until?: string;
}

/** One line of the journal. An operation has no effect on rows until its end; its begin marks the row interrupted. */
export type JournalRecord =
  | {
      readonly type: "begin";
      readonly op: string;
      readonly run: string;
      readonly at: string;
      readonly action: ActionType;
      /** The row as it stands while the operation is open: instance id, original and desired are already in it. */
      readonly row: Row;
    }
  | {
      readonly type: "checkpoint";
      readonly op: string;
      readonly at: string;
      readonly address: Address;
      readonly checkpoint: Checkpoint;
    }
  | {
      readonly type: "end";
      readonly op: string;
      readonly at: string;
      readonly address: Address;
      readonly result: "ok" | "failed";
      /** The row afterwards; null where the resource is gone. Absent after a failure that leaves it as at begin. */
      readonly row?: Row | null;
    }
  | { readonly type: "put"; readonly at: string; readonly row: Row }
  | { readonly type: "drop"; readonly at: string; readonly address: Address }
  | { readonly type: "move"; readonly at: string; readonly from: Address; readonly to: Address }
  | { readonly type: "outputs"; readonly at: string; readonly outputs: Readonly<Record<string, Plain>> }
  | { readonly type: "lab"; readonly at: string; readonly lab: string }
  | { readonly type: "hold"; readonly at: string; readonly address: Address; readonly hold: Hold | null };

export interface LockInfo {
  readonly token: number;
  readonly holder: string;
  readonly pid: number;
  readonly host: string;
  readonly purpose: string;
  readonly since: string;
  /** Milliseconds since the epoch until which the holder vouches for itself. */
  readonly lease_until: number;
  /** What tells the process apart from a later one with its pid; absent where the system does not say. */
  readonly boot_id?: string;
  readonly started?: string;
  readonly machine_id?: string;
  readonly pid_namespace?: string;
}

/** What a machine has, or what is taken of it. Memory and disk in bytes; `slots` counts workloads, `builds` those of a build server. */
export interface Amounts {
  readonly cpus?: number;
  readonly memory?: number;
  readonly disk?: number;
  readonly slots?: number;
  readonly builds?: number;
}

/** What tells one process from every other; see LockInfo. */
export type HolderProcess = Pick<LockInfo, "pid" | "host" | "boot_id" | "started" | "machine_id" | "pid_namespace">;

/** A reservation of a host's capacity or of a board. */
export interface Lease {
  readonly resource: Address;
  readonly holder: string;
  readonly reason: string;
  /** When it lapses, should nobody prolong it. */
  readonly until: string;
  /** Grows with every grant for this resource: what a marker on the hardware is compared with. */
  readonly epoch: number;
  /** How much of it. Absent: all of it, and nobody else has any. */
  readonly amounts?: Amounts;
  /**
   * It ends with this process: at once where that is seen to be dead, not before where it is seen to live, and at `until`
   * where nobody can see. Absent: it stays until `until`, whatever becomes of who took it.
   */
  readonly process?: HolderProcess;
  /** What it is for is there, and counted by whoever looks at the machine. */
  readonly placed?: boolean;
  /** When the work is expected to be done: only for how long others wait. */
  readonly expected_end?: string;
}

/** Somebody who waits for capacity. */
export interface Waiter {
  /** The holder of the lease that it will get. */
  readonly holder: string;
  readonly reason: string;
  /** The highest goes first, then the oldest. */
  readonly priority: number;
  readonly since: string;
  /** It ends as a lease with a process does. */
  readonly until: string;
  readonly process: HolderProcess;
  /** Resources that it could have by waiting: who came later leaves them alone. */
  readonly wants: readonly Address[];
  readonly amounts: Amounts;
  /** Milliseconds that its work is expected to take. */
  readonly estimate?: number;
}
