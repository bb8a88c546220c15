import type { Address, Checkpoint, Hold, ActionType, LockInfo, Plain, Row, Scope } from "../model/index.ts";

/** What is known of the world. */
export interface StateContent {
  readonly rows: ReadonlyMap<Address, Row>;
  readonly outputs: Readonly<Record<string, Plain>>;
  readonly holds: ReadonlyMap<Address, Hold>;
}

/** What a scope's state says at one moment. Reading it takes no lock and writes nothing. */
export interface StateView extends StateContent {
  readonly scope: Scope;
  /** Empty text where no state exists yet. */
  readonly lineage: string;
  readonly serial: number;
  /** The lab that it was last applied for; undefined: not known. */
  readonly lab: string | undefined;
}

export interface LockRequest {
  readonly holder: string;
  readonly purpose: string;
  /** Milliseconds to wait for a live holder; 0 refuses at once. */
  readonly timeout: number;
  readonly signal?: AbortSignal;
  readonly onWaiting?: (holder: LockInfo) => void;
}

export interface StateSession extends StateView, StateChanges {}

/**
 * Versions are the store's: each write of a row (begin, end, put, move) sets `version` to one more than the row had, or
 * than any row that is gone had, whatever the caller's row says; a checkpoint does not count. `serial` grows by one with
 * each fold of a journal into the snapshot. `rows`, `outputs` and `holds` show what is on disk, and change as it does.
 *
 * The state under lock. Every method resolves when its record is on disk; calls made together share one fsync.
 * After the lock was taken over every call rejects with E_STATE_LOCK_LOST and writes nothing.
 */
export interface StateChanges {
  readonly lock: LockInfo;
  /** The dead holder whose lock was taken over, if that happened. */
  readonly takenOver: LockInfo | undefined;
  /**
   * Stores the row with status "interrupted", and with `original` of the row that was there, if one was. Must resolve
   * before the operation starts. `op` is new in this session; rejects with E_DISK_FULL or E_STATE_WRITE where the disk
   * does not take it, after which the same call may be made again.
   */
  begin(record: {
    readonly op: string;
    readonly run: string;
    readonly action: ActionType;
    readonly row: Row;
  }): Promise<void>;
  checkpoint(op: string, checkpoint: Checkpoint): Promise<void>;
  /**
   * `row`: the row afterwards; null: the resource is gone; absent: as at begin, with status "failed" (or "ok", for that
   * result).
   */
  end(record: { readonly op: string; readonly result: "ok" | "failed"; readonly row?: Row | null }): Promise<void>;
  put(row: Row): Promise<void>;
  /** Rejects with E_STATE_NOT_FOUND where there is no such row. */
  drop(address: Address): Promise<void>;
  /** Keeps all of the row but its address. E_STATE_NOT_FOUND: nothing at `from`; E_STATE_CONFLICT: something at `to`. */
  move(from: Address, to: Address): Promise<void>;
  setOutputs(outputs: Readonly<Record<string, Plain>>): Promise<void>;
  setHold(address: Address, hold: Hold | null): Promise<void>;
  /** Whose state this is from now on. */
  setLab(lab: string): Promise<void>;
  /** Rejects where this holder was fenced; called right before each effect on the world. */
  assertHeld(): Promise<void>;
  /**
   * Folds the journal into the snapshot and releases the lock. Where folding fails (a full disk) it rejects, the lock is
   * free all the same, and what was recorded stays in the journal, which the next open folds.
   */
  close(): Promise<void>;
}

/** Where states live. Backends implement this one port and pass one suite. */
export interface StateStore {
  read(scope: Scope): Promise<StateView>;
  /** The scopes that there is something of, the lab's first. */
  scopes(): Promise<readonly Scope[]>;
  open(scope: Scope, lock: LockRequest): Promise<StateSession>;
  /** Who holds the lock, if anybody; a holder that is known to be dead is nobody. */
  holder(scope: Scope): Promise<LockInfo | undefined>;
  /** Takes the lock away from whoever holds it, dead or alive, and says who that was: nothing that it writes counts. */
  unlock(scope: Scope): Promise<LockInfo | undefined>;
  /** The snapshot with the journal folded in, as text. */
  pull(scope: Scope): Promise<string>;
  /** Replaces the state; refused where the lineage differs or the serial is older, unless forced. */
  push(scope: Scope, snapshot: string, options: { readonly force: boolean; readonly lock: LockRequest }): Promise<void>;
  /** Says what is wrong and what would be kept; writes only with `write`, and keeps the damaged files beside. */
  repair(scope: Scope, options: { readonly write: boolean }): Promise<RepairReport>;
}

export interface RepairReport {
  readonly damaged: boolean;
  readonly findings: readonly string[];
  readonly kept: { readonly rows: number };
  readonly lost: readonly string[];
  readonly backups: readonly string[];
}
