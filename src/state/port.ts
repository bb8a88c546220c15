import type { Address, Checkpoint, Hold, ActionType, LockInfo, Plain, Row, Scope } from "../model/index.ts";

/** What a scope's state says at one moment. Reading it takes no lock and writes nothing. */
export interface StateView {
  readonly scope: Scope;
  /** Empty text where no state exists yet. */
  readonly lineage: string;
  readonly serial: number;
  readonly rows: ReadonlyMap<Address, Row>;
  readonly outputs: Readonly<Record<string, Plain>>;
  readonly holds: ReadonlyMap<Address, Hold>;
}

export interface LockRequest {
  readonly holder: string;
  readonly purpose: string;
  /** Milliseconds to wait for a live holder; 0 refuses at once. */
  readonly timeout: number;
  readonly signal?: AbortSignal;
  readonly onWaiting?: (holder: LockInfo) => void;
}

/**
 * The state under lock. Every method resolves when its record is on disk; calls made together share one fsync.
 * After the lock was taken over every call rejects with E_STATE_LOCK_LOST and writes nothing.
 */
export interface StateSession extends StateView {
  readonly lock: LockInfo;
  /** The dead holder whose lock was taken over, if that happened. */
  readonly takenOver: LockInfo | undefined;
  /** `row.status` is "interrupted". Must resolve before the operation starts. */
  begin(record: {
    readonly op: string;
    readonly run: string;
    readonly action: ActionType;
    readonly row: Row;
  }): Promise<void>;
  checkpoint(op: string, checkpoint: Checkpoint): Promise<void>;
  /** `row`: the row afterwards; null: the resource is gone; absent: as at begin, with status "failed". */
  end(record: { readonly op: string; readonly result: "ok" | "failed"; readonly row?: Row | null }): Promise<void>;
  put(row: Row): Promise<void>;
  drop(address: Address): Promise<void>;
  move(from: Address, to: Address): Promise<void>;
  setOutputs(outputs: Readonly<Record<string, Plain>>): Promise<void>;
  setHold(address: Address, hold: Hold | null): Promise<void>;
  /** Rejects where this holder was fenced; called right before each effect on the world. */
  assertHeld(): Promise<void>;
  /** Folds the journal into the snapshot and releases the lock. */
  close(): Promise<void>;
}

/** Where states live. Backends implement this one port and pass one suite. */
export interface StateStore {
  read(scope: Scope): Promise<StateView>;
  open(scope: Scope, lock: LockRequest): Promise<StateSession>;
  /** Who holds the lock, if anybody. */
  holder(scope: Scope): Promise<LockInfo | undefined>;
  /** Takes the lock away from whoever holds it. */
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
