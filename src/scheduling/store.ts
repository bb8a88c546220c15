import { resolve } from "node:path";
import type { Low } from "lowdb";
import {
  acquireLock,
  type Env,
  type EnvOptions,
  ifThere,
  lockedDatabase,
  makeEnv,
  Names,
  type ProcessIdentity,
  readError,
} from "../state/index.ts";
import { EMPTY, formatTable, type Moment, parseTable, type Table } from "./table.ts";

export interface LeaseTableOptions extends EnvOptions {
  /** The state's folder. */
  readonly dir: string;
  /** Milliseconds to wait for another transaction. */
  readonly timeout?: number;
}

const DEFAULT_TIMEOUT = 30_000;

/** The table in its file. Each change is a short transaction under the table's own lock: read, decide, replace. */
export class TableFile {
  readonly #names: Names;
  readonly #env: Env;
  readonly #timeout: number;

  constructor(options: LeaseTableOptions) {
    this.#names = new Names(resolve(options.dir), "leases");
    this.#env = makeEnv(options);
    this.#timeout = options.timeout ?? DEFAULT_TIMEOUT;
  }

  get self(): ProcessIdentity {
    return this.#env.processes.self;
  }

  /** Milliseconds since the epoch. */
  now(): Moment {
    return { at: this.#env.now().getTime(), liveness: (one) => this.#env.processes.liveness(one) };
  }

  /** Takes no lock and writes nothing. */
  async read(): Promise<Table> {
    const path = this.#names.snapshot;
    try {
      const data = await ifThere(this.#env.fs.readFile(path));
      return data === undefined ? EMPTY : parseTable(data.toString(), path);
    } catch (error) {
      throw readError(error, path);
    }
  }

  /** `change` is pure. Without a table in what it gives, nothing is written. */
  async transact<T>(
    holder: string,
    signal: AbortSignal | undefined,
    change: (table: Table, now: Moment) => { readonly result: T; readonly table?: Table },
  ): Promise<T> {
    const request = { holder, purpose: "lease", timeout: this.#timeout, ...(signal && { signal }) };
    const lock = await acquireLock(this.#env, this.#names, request);
    try {
      const codec = { parse: (text: string) => parseTable(text, this.#names.snapshot), format: formatTable };
      const db: Low<Table> = lockedDatabase(this.#env, this.#names, lock, codec, EMPTY);
      await db.read();
      const { result, table } = change(db.data, this.now());
      if (table !== undefined) {
        db.data = table;
        await db.write();
      }
      return result;
    } finally {
      await lock.release();
    }
  }
}
