import { randomUUID } from "node:crypto";
import { LabError } from "../diagnostics/index.ts";
import type { Address, Hold, JournalRecord, Plain, Row } from "../model/index.ts";

/** What records change: the state itself, or a draft over it. */
export interface StateTarget {
  row(address: Address): Row | undefined;
  setRow(row: Row): void;
  dropRow(address: Address): void;
  setOutputs(outputs: Readonly<Record<string, Plain>>): void;
  setHold(address: Address, hold: Hold | null): void;
  setLab(lab: string): void;
  readonly versionFloor: number;
}

/** The state of a scope in memory. */
export class StateData implements StateTarget {
  lineage = "";
  lab: string | undefined;
  serial = 0;
  readonly rows = new Map<Address, Row>();
  outputs: Readonly<Record<string, Plain>> = {};
  readonly holds = new Map<Address, Hold>();
  versionFloor = 0;

  row(address: Address): Row | undefined {
    return this.rows.get(address);
  }
  setRow(row: Row): void {
    this.rows.set(row.address, row);
  }
  dropRow(address: Address): void {
    const row = this.rows.get(address);
    if (row === undefined) return;
    this.versionFloor = Math.max(this.versionFloor, row.version);
    this.rows.delete(address);
  }
  setOutputs(outputs: Readonly<Record<string, Plain>>): void {
    this.outputs = outputs;
  }
  setHold(address: Address, hold: Hold | null): void {
    if (hold === null) this.holds.delete(address);
    else this.holds.set(address, hold);
  }
  setLab(lab: string): void {
    this.lab = lab;
  }
  /** A copy that later changes of this one do not reach. Rows are never changed in place, so they are shared. */
  copy(): StateData {
    const copy = new StateData();
    copy.lineage = this.lineage;
    copy.lab = this.lab;
    copy.serial = this.serial;
    for (const [address, row] of this.rows) copy.rows.set(address, row);
    copy.outputs = this.outputs;
    for (const [address, hold] of this.holds) copy.holds.set(address, hold);
    copy.versionFloor = this.versionFloor;
    return copy;
  }
}

/** Records that are being written: seen by the records after them, and by nobody else until they are on disk. */
export class Draft implements StateTarget {
  readonly #base: StateTarget;
  readonly #rows = new Map<Address, Row | null>();
  versionFloor: number;

  constructor(base: StateTarget) {
    this.#base = base;
    this.versionFloor = base.versionFloor;
  }
  row(address: Address): Row | undefined {
    const own = this.#rows.get(address);
    return own === undefined ? this.#base.row(address) : (own ?? undefined);
  }
  setRow(row: Row): void {
    this.#rows.set(row.address, row);
  }
  dropRow(address: Address): void {
    const row = this.row(address);
    if (row !== undefined) this.versionFloor = Math.max(this.versionFloor, row.version);
    this.#rows.set(address, null);
  }
  /** Outputs, holds and the lab's name decide nothing for later records. */
  setOutputs(): void {}
  setHold(): void {}
  setLab(): void {}
}

/** Applies one record. The same function serves the session that writes it and every later reader of the journal. */
export function applyRecord(target: StateTarget, record: JournalRecord): void {
  switch (record.type) {
    case "begin":
    case "put":
      target.setRow(record.row);
      return;
    case "checkpoint": {
      const row = target.row(record.address);
      if (row !== undefined) target.setRow({ ...row, checkpoint: record.checkpoint });
      return;
    }
    case "end": {
      if (record.row === null) return target.dropRow(record.address);
      if (record.row !== undefined) return target.setRow(record.row);
      const row = target.row(record.address);
      if (row === undefined) return;
      const status = record.result === "ok" ? "ok" : "failed";
      target.setRow({ ...row, status, version: row.version + 1, updated_at: record.at });
      return;
    }
    case "drop":
      return target.dropRow(record.address);
    case "move": {
      const row = target.row(record.from);
      if (row === undefined) return;
      target.dropRow(record.from);
      target.setRow({ ...row, address: record.to, version: row.version + 1, updated_at: record.at });
      return;
    }
    case "outputs":
      return target.setOutputs(record.outputs);
    case "hold":
      return target.setHold(record.address, record.hold);
    case "lab":
      return target.setLab(record.lab);
  }
}

/** The row with the version that follows on what is there: one more than before, and never one used before. */
export function withNextVersion(target: StateTarget, row: Row): Row {
  return { ...row, version: (target.row(row.address)?.version ?? target.versionFloor) + 1 };
}

/** Completes a record with what depends on the state at its turn; throws where it does not fit. */
export function completeRecord(target: StateTarget, record: JournalRecord): JournalRecord {
  switch (record.type) {
    case "begin": {
      const prior = target.row(record.row.address);
      const original = prior === undefined ? record.row.original : prior.original;
      return { ...record, row: withNextVersion(target, { ...record.row, original, status: "interrupted" }) };
    }
    case "put":
      return { ...record, row: withNextVersion(target, record.row) };
    case "end":
      return record.row === undefined || record.row === null
        ? record
        : { ...record, row: withNextVersion(target, record.row) };
    case "move":
      if (target.row(record.from) === undefined) throw noRow(record.from);
      if (record.from !== record.to && target.row(record.to) !== undefined) {
        throw new LabError("E_STATE_CONFLICT", `there is a row at ${record.to} already`, {
          address: record.to,
          hint: `remove it first with \`labctl state rm\`, if it is not wanted any more`,
        });
      }
      return record;
    case "drop":
      if (target.row(record.address) === undefined) throw noRow(record.address);
      return record;
    case "checkpoint":
    case "outputs":
    case "hold":
    case "lab":
      return record;
  }
}

function noRow(address: Address): LabError {
  return new LabError("E_STATE_NOT_FOUND", `the state has no row at ${address}`, {
    address,
    hint: "`labctl state list` shows the rows that there are",
  });
}

export function newLineage(): string {
  return randomUUID();
}
