import type { JournalRecord } from "../model/index.ts";
import { LabError } from "../diagnostics/index.ts";
import { Draft, applyRecord, completeRecord, type StateData } from "./data.ts";
import type { Env } from "./env.ts";
import { type FsFile, unlinkIfThere, writeAll, writeError } from "./fs.ts";
import { formatLine, JOURNAL_FORMAT, type JournalHeader } from "./line.ts";
import type { HeldLock } from "./lock.ts";
import type { JournalId, Names } from "./names.ts";

interface Waiting {
  readonly record: JournalRecord;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/** What a journal is written for: the state that its records change, the lock that must be held, and where. */
export interface JournalPlace {
  readonly env: Env;
  readonly names: Names;
  readonly lock: HeldLock;
  readonly data: StateData;
  readonly scope: string;
}

/**
 * Appends records. What is asked for while a write is under way goes out with the next: one write and one fdatasync
 * for all of them. The state in memory changes after the records are on disk, so it never says more than the disk.
 */
export class JournalWriter {
  readonly #place: JournalPlace;
  #file: FsFile;
  #id: JournalId;
  #length: number;
  #seq: number;
  /** Bytes of a failed write may stand after #length. */
  #dirty = false;
  #queue: Waiting[] = [];
  #pumping: Promise<void> | undefined;
  #broken: LabError | undefined;
  #between: (() => Promise<void>) | undefined;

  private constructor(place: JournalPlace, start: { file: FsFile; id: JournalId; length: number; seq: number }) {
    this.#place = place;
    this.#file = start.file;
    this.#id = start.id;
    this.#length = start.length;
    this.#seq = start.seq;
  }

  static async create(place: JournalPlace): Promise<JournalWriter> {
    const id = { token: place.lock.token, segment: 1 };
    const { file, length } = await createFile(place, id, 1);
    return new JournalWriter(place, { file, id, length, seq: 1 });
  }

  get id(): JournalId {
    return this.#id;
  }
  /** Bytes in the current segment. */
  get length(): number {
    return this.#length;
  }
  /** The number that the next record gets, from 1. */
  get next(): number {
    return this.#seq;
  }

  append(record: JournalRecord): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#queue.push({ record, resolve, reject });
      this.#pumping ??= this.#pump();
    });
  }

  /** Resolves when all that was asked for before is on disk or rejected. */
  async drained(): Promise<void> {
    while (this.#pumping !== undefined) await this.#pumping;
  }

  /**
   * Begins a new segment between two writes and calls `then` before any record goes into it: at that moment the state
   * in memory is exactly what the older segments hold.
   */
  async rotate(then: (last: JournalId) => void): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.#between = async () => {
        try {
          const last = this.#id;
          const id = following(last);
          const { file, length } = await createFile(this.#place, id, this.#seq);
          const old = this.#file;
          [this.#file, this.#id, this.#length, this.#dirty] = [file, id, length, false];
          then(last);
          await old.close().catch(() => undefined);
          resolve();
        } catch (error) {
          // A new segment that can be neither finished nor removed says where the old one ends: nothing may follow there.
          const left = await this.#place.env.fs
            .stat(this.#place.names.journal(following(this.#id)))
            .catch(() => undefined);
          if (left !== undefined)
            this.#broken = writeError(error, `the journal ${this.#place.names.journal(this.#id)}`);
          reject(error);
        }
      };
      this.#pumping ??= this.#pump();
    });
  }

  close(): Promise<void> {
    return this.#file.close();
  }

  async #pump(): Promise<void> {
    // Whatever else is asked for in this turn of the event loop comes along.
    await new Promise((resolve) => setImmediate(resolve));
    while (this.#queue.length > 0 || this.#between !== undefined) {
      const between = this.#between;
      this.#between = undefined;
      await between?.();
      const batch = this.#queue;
      this.#queue = [];
      if (batch.length > 0) await this.#write(batch);
    }
    this.#pumping = undefined;
  }

  async #write(batch: readonly Waiting[]): Promise<void> {
    const draft = new Draft(this.#place.data);
    const accepted: { readonly waiting: Waiting; readonly record: JournalRecord }[] = [];
    const lines: string[] = [];
    for (const waiting of batch) {
      try {
        const completed = completeRecord(draft, waiting.record);
        const line = formatLine({ seq: this.#seq + accepted.length, ...completed });
        // What is kept is what a reader of the journal gets: no alias of the caller's objects, nothing JSON cannot hold.
        const record = JSON.parse(JSON.stringify(completed)) as JournalRecord;
        applyRecord(draft, record);
        lines.push(line);
        accepted.push({ waiting, record });
      } catch (error) {
        waiting.reject(error);
      }
    }
    if (accepted.length === 0) return;
    try {
      await this.#commit(Buffer.from(lines.join("")));
    } catch (error) {
      for (const { waiting } of accepted) waiting.reject(error);
      return;
    }
    this.#seq += accepted.length;
    for (const { waiting, record } of accepted) {
      applyRecord(this.#place.data, record);
      waiting.resolve();
    }
  }

  async #commit(data: Buffer): Promise<void> {
    const { lock, names } = this.#place;
    if (this.#broken !== undefined) throw this.#broken;
    await lock.assertHeld();
    try {
      if (this.#dirty) await this.#cut();
      this.#dirty = true;
      await writeAll(this.#file, data, this.#length);
      await this.#file.datasync();
    } catch (error) {
      await this.#cut().catch(() => undefined);
      throw writeError(error, `the journal ${names.journal(this.#id)}`);
    }
    // Who stalled since the check above may have written behind a takeover's back: such bytes do not count.
    await lock.assertHeld();
    this.#length += data.length;
    this.#dirty = false;
  }

  /** Removes what a failed write left, so that the next one does not stand behind a torn line. */
  async #cut(): Promise<void> {
    await this.#file.truncate(this.#length);
    this.#dirty = false;
  }
}

function following(id: JournalId): JournalId {
  return { token: id.token, segment: id.segment + 1 };
}

async function createFile(
  place: JournalPlace,
  id: JournalId,
  first: number,
): Promise<{ readonly file: FsFile; readonly length: number }> {
  const { env, names, data, scope, lock } = place;
  const header: JournalHeader = {
    journal: JOURNAL_FORMAT,
    labctl: env.version,
    scope,
    lineage: data.lineage,
    base_serial: data.serial,
    ...id,
    first,
  };
  const path = names.journal(id);
  const bytes = Buffer.from(formatLine(header));
  await lock.assertHeld();
  let file: FsFile | undefined;
  try {
    file = await env.fs.open(path, "create");
    await writeAll(file, bytes, 0);
    await file.datasync();
    await env.fs.syncDir(names.dir);
    return { file, length: bytes.length };
  } catch (error) {
    if (file !== undefined) {
      await file.close().catch(() => undefined);
      await unlinkIfThere(env.fs, path).catch(() => undefined);
    }
    if (error instanceof LabError) throw error;
    throw writeError(error, `the journal ${path}`);
  }
}
