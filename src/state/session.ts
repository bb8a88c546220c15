import { LabError } from "../diagnostics/index.ts";
import type {
  ActionType,
  Address,
  Checkpoint,
  Hold,
  JournalRecord,
  LockInfo,
  Plain,
  Row,
  Scope,
} from "../model/index.ts";
import type { StateData } from "./data.ts";
import type { Env } from "./env.ts";
import { unlinkIfThere } from "./fs.ts";
import { JournalWriter } from "./journal.ts";
import type { HeldLock } from "./lock.ts";
import type { JournalId, Names } from "./names.ts";
import type { StateSession } from "./port.ts";
import { writeSnapshot } from "./snapshot.ts";

export interface SessionPlace {
  readonly env: Env;
  readonly names: Names;
  readonly scope: Scope;
  readonly lock: HeldLock;
  readonly data: StateData;
  readonly snapshotBytes: number;
}

export class FileSession implements StateSession {
  readonly #place: SessionPlace;
  readonly #data: StateData;
  readonly #writer: JournalWriter;
  /** Operations begun and not ended, by id. */
  readonly #open = new Map<string, Address>();
  /** Records in the journal that no snapshot contains. */
  #unfolded = 0;
  #foldAt: number;
  #folding: Promise<void> | undefined;
  #closed: Promise<void> | undefined;

  private constructor(place: SessionPlace, writer: JournalWriter) {
    this.#place = place;
    this.#data = place.data;
    this.#writer = writer;
    this.#foldAt = Math.max(place.env.foldBytes, place.snapshotBytes);
  }

  static async create(place: SessionPlace): Promise<FileSession> {
    return new FileSession(place, await JournalWriter.create(place));
  }

  get scope(): Scope {
    return this.#place.scope;
  }
  get lineage(): string {
    return this.#data.lineage;
  }
  get lab(): string | undefined {
    return this.#data.lab;
  }
  get serial(): number {
    return this.#data.serial;
  }
  get rows(): ReadonlyMap<Address, Row> {
    return this.#data.rows;
  }
  get outputs(): Readonly<Record<string, Plain>> {
    return this.#data.outputs;
  }
  get holds(): ReadonlyMap<Address, Hold> {
    return this.#data.holds;
  }
  get lock(): LockInfo {
    return this.#place.lock.info;
  }
  get takenOver(): LockInfo | undefined {
    return this.#place.lock.takenOver;
  }

  async begin(record: { op: string; run: string; action: ActionType; row: Row }): Promise<void> {
    if (this.#open.has(record.op)) throw misuse(`operation ${record.op} was begun already`);
    const { op, run, action, row } = record;
    await this.#append({ type: "begin", op, run, at: this.#now(), action, row });
    this.#open.set(op, row.address);
  }

  async checkpoint(op: string, checkpoint: Checkpoint): Promise<void> {
    await this.#append({ type: "checkpoint", op, at: this.#now(), address: this.#begun(op), checkpoint });
  }

  async end(record: { op: string; result: "ok" | "failed"; row?: Row | null }): Promise<void> {
    const { op, result, row } = record;
    const address = this.#begun(op);
    if (row !== undefined && row !== null && row.address !== address) {
      throw misuse(`operation ${op} began at ${address} and ends at ${row.address}`);
    }
    await this.#append({ type: "end", op, at: this.#now(), address, result, ...(row !== undefined && { row }) });
    this.#open.delete(op);
  }

  put(row: Row): Promise<void> {
    return this.#append({ type: "put", at: this.#now(), row });
  }

  drop(address: Address): Promise<void> {
    return this.#append({ type: "drop", at: this.#now(), address });
  }

  async move(from: Address, to: Address): Promise<void> {
    for (const [op, address] of this.#open) {
      if (address === from || address === to) throw misuse(`operation ${op} at ${address} is open during a move`);
    }
    await this.#append({ type: "move", at: this.#now(), from, to });
  }

  setOutputs(outputs: Readonly<Record<string, Plain>>): Promise<void> {
    return this.#append({ type: "outputs", at: this.#now(), outputs });
  }

  setHold(address: Address, hold: Hold | null): Promise<void> {
    return this.#append({ type: "hold", at: this.#now(), address, hold });
  }

  setLab(lab: string): Promise<void> {
    return this.#append({ type: "lab", at: this.#now(), lab });
  }

  async assertHeld(): Promise<void> {
    this.#assertOpen();
    await this.#place.lock.assertHeld();
  }

  /** Resolves when the state is in the snapshot. Where that fails it is in the journal, and the lock is free all the same. */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    const { lock } = this.#place;
    try {
      await this.#folding;
      await this.#writer.drained();
      await lock.assertHeld();
      if (this.#unfolded > 0) await this.#writeSnapshot(this.#data, this.#writer.id);
      else await this.#removeJournals(this.#writer.id);
    } finally {
      await this.#writer.close().catch(() => undefined);
      await lock.release();
    }
  }

  async #append(record: JournalRecord): Promise<void> {
    this.#assertOpen();
    await this.#writer.append(record);
    this.#unfolded += 1;
    if (this.#writer.length > this.#foldAt && this.#folding === undefined && this.#closed === undefined) {
      this.#folding = this.#foldBetween().finally(() => {
        this.#folding = undefined;
      });
    }
  }

  /** Folds while records go on being written, into the next segment. What fails here is tried again, at close at last. */
  async #foldBetween(): Promise<void> {
    try {
      let copy: StateData | undefined;
      let until: JournalId | undefined;
      await this.#writer.rotate((last) => {
        copy = this.#data.copy();
        until = last;
        this.#unfolded = 0;
      });
      if (copy === undefined || until === undefined) return;
      await this.#writeSnapshot(copy, until);
    } catch {
      this.#unfolded += 1;
      this.#foldAt = this.#writer.length + this.#place.env.foldBytes;
    }
  }

  async #writeSnapshot(data: StateData, until: JournalId): Promise<void> {
    const { env, names, scope, lock } = this.#place;
    const serial = this.#data.serial + 1;
    const bytes = await writeSnapshot(env, names, lock, { scope, data, serial, folded: until });
    this.#data.serial = serial;
    this.#foldAt = Math.max(env.foldBytes, bytes);
    if (data === this.#data) this.#unfolded = 0;
    await this.#removeJournals(until);
  }

  /** Journals that the snapshot contains, or that hold nothing. One that stays is ignored and removed by the next. */
  async #removeJournals(until: JournalId): Promise<void> {
    const { env, names } = this.#place;
    for (let segment = 1; segment <= until.segment; segment++) {
      await unlinkIfThere(env.fs, names.journal({ token: until.token, segment })).catch(() => undefined);
    }
  }

  #begun(op: string): Address {
    const address = this.#open.get(op);
    if (address === undefined) throw misuse(`operation ${op} was not begun`);
    return address;
  }

  #assertOpen(): void {
    if (this.#closed !== undefined) throw misuse("the session was closed");
  }

  #now(): string {
    return this.#place.env.now().toISOString();
  }
}

function misuse(what: string): LabError {
  return new LabError("E_INTERNAL", `state session: ${what}`, {
    hint: "this is a defect in labctl; please report it with the output of the same command under -vv",
  });
}
