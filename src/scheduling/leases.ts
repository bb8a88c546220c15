import { resolve } from "node:path";
import type { Low } from "lowdb";
import { LabError } from "../diagnostics/index.ts";
import { type Address, formatDuration, type Lease } from "../model/index.ts";
import {
  acquireLock,
  type Env,
  type EnvOptions,
  ifThere,
  lockedDatabase,
  makeEnv,
  Names,
  readError,
} from "../state/index.ts";

export interface LeaseRequest {
  readonly resource: Address;
  /** Who holds it: the same text again is the same holder. */
  readonly holder: string;
  readonly reason: string;
  /** Milliseconds from now. */
  readonly ttl: number;
}

/**
 * Reservations, in one table for all scopes. Each change is a short transaction under the table's own lock: read,
 * decide, replace. A lease that has lapsed may be taken; its epoch then grows, and whatever the former holder still
 * does with the old epoch can be told from the new holder's. Lapsing goes by the wall clock of whoever asks.
 */
export interface LeaseTable {
  /**
   * Takes a lease, or prolongs the one that this holder has (same epoch, never shortened). Rejects with E_LEASE_HELD,
   * which says by whom, why and until when.
   */
  acquire(request: LeaseRequest, signal?: AbortSignal): Promise<Lease>;
  /**
   * Sets the lease to end `ttl` milliseconds from now, lapsed or not, as long as nobody else took it (E_LEASE_HELD) and
   * it was not released (E_STATE_NOT_FOUND).
   */
  renew(lease: Lease, ttl: number, signal?: AbortSignal): Promise<Lease>;
  /** Gives it back; false where it is no longer this lease, which is then left alone. */
  release(lease: Lease, signal?: AbortSignal): Promise<boolean>;
  /** The leases that have not lapsed, by resource. Takes no lock and writes nothing. */
  list(): Promise<readonly Lease[]>;
}

export interface LeaseTableOptions extends EnvOptions {
  /** The state's folder. */
  readonly dir: string;
  /** Milliseconds to wait for another transaction. */
  readonly timeout?: number;
}

const FORMAT = 1;
const DEFAULT_TIMEOUT = 30_000;

interface LeaseFile {
  readonly format_version: number;
  /** By resource. A Map in memory, so that no name is special. */
  readonly leases: ReadonlyMap<Address, Lease>;
  /** The last epoch given for each resource; kept when the lease is given back. */
  readonly epochs: ReadonlyMap<Address, number>;
}

export function createLeaseTable(options: LeaseTableOptions): LeaseTable {
  return new FileLeases(resolve(options.dir), makeEnv(options), options.timeout ?? DEFAULT_TIMEOUT);
}

class FileLeases implements LeaseTable {
  readonly #names: Names;
  readonly #env: Env;
  readonly #timeout: number;

  constructor(dir: string, env: Env, timeout: number) {
    this.#names = new Names(dir, "leases");
    this.#env = env;
    this.#timeout = timeout;
  }

  acquire(request: LeaseRequest, signal?: AbortSignal): Promise<Lease> {
    const { resource, holder, reason } = request;
    return this.#transact(holder, signal, (file) => {
      const now = this.#env.now().getTime();
      const current = file.leases.get(resource);
      const live = current !== undefined && !lapsed(current, now);
      if (live && current.holder !== holder) throw held(current, now);
      const epoch = live ? current.epoch : (file.epochs.get(resource) ?? 0) + 1;
      const end = now + request.ttl;
      const until = live && Date.parse(current.until) > end ? current.until : new Date(end).toISOString();
      const lease: Lease = { resource, holder, reason, until, epoch };
      return { result: lease, file: withLease(file, lease) };
    });
  }

  renew(lease: Lease, ttl: number, signal?: AbortSignal): Promise<Lease> {
    return this.#transact(lease.holder, signal, (file) => {
      const now = this.#env.now().getTime();
      const current = file.leases.get(lease.resource);
      if (current === undefined) throw gone(lease);
      if (!sameLease(current, lease)) throw lapsed(current, now) ? gone(lease) : held(current, now);
      const renewed: Lease = { ...current, until: new Date(now + ttl).toISOString() };
      return { result: renewed, file: withLease(file, renewed) };
    });
  }

  release(lease: Lease, signal?: AbortSignal): Promise<boolean> {
    return this.#transact(lease.holder, signal, (file) => {
      const current = file.leases.get(lease.resource);
      if (current === undefined || !sameLease(current, lease)) return { result: false };
      const leases = new Map(file.leases);
      leases.delete(lease.resource);
      return { result: true, file: { ...file, leases } };
    });
  }

  async list(): Promise<readonly Lease[]> {
    const data = await this.#read();
    const now = this.#env.now().getTime();
    return [...data.leases.values()]
      .filter((lease) => !lapsed(lease, now))
      .sort((a, b) => (a.resource < b.resource ? -1 : a.resource > b.resource ? 1 : 0));
  }

  async #read(): Promise<LeaseFile> {
    const path = this.#names.snapshot;
    try {
      const data = await ifThere(this.#env.fs.readFile(path));
      return data === undefined ? EMPTY : parseFile(data.toString(), path);
    } catch (error) {
      throw readError(error, path);
    }
  }

  async #transact<T>(
    holder: string,
    signal: AbortSignal | undefined,
    change: (file: LeaseFile) => { readonly result: T; readonly file?: LeaseFile },
  ): Promise<T> {
    const request = { holder, purpose: "lease", timeout: this.#timeout, ...(signal && { signal }) };
    const lock = await acquireLock(this.#env, this.#names, request);
    try {
      const codec = { parse: (text: string) => parseFile(text, this.#names.snapshot), format: formatFile };
      const db: Low<LeaseFile> = lockedDatabase(this.#env, this.#names, lock, codec, EMPTY);
      await db.read();
      const { result, file } = change(db.data);
      if (file !== undefined) {
        db.data = file;
        await db.write();
      }
      return result;
    } finally {
      await lock.release();
    }
  }
}

const EMPTY: LeaseFile = { format_version: FORMAT, leases: new Map(), epochs: new Map() };

function withLease(file: LeaseFile, lease: Lease): LeaseFile {
  return {
    ...file,
    leases: new Map(file.leases).set(lease.resource, lease),
    epochs: new Map(file.epochs).set(lease.resource, lease.epoch),
  };
}

function lapsed(lease: Lease, now: number): boolean {
  return Date.parse(lease.until) <= now;
}

function sameLease(a: Lease, b: Lease): boolean {
  return a.holder === b.holder && a.epoch === b.epoch;
}

function held(lease: Lease, now: number): LabError {
  const left = formatDuration(Math.max(1000, Math.ceil((Date.parse(lease.until) - now) / 1000) * 1000));
  return new LabError(
    "E_LEASE_HELD",
    `${lease.resource} is leased by ${lease.holder} until ${lease.until} (${left} left): ${lease.reason}`,
    { address: lease.resource, retryable: true, hint: "wait until then, or ask the holder to release it" },
  );
}

function gone(lease: Lease): LabError {
  return new LabError("E_STATE_NOT_FOUND", `the lease of ${lease.resource} (epoch ${lease.epoch}) is no longer there`, {
    address: lease.resource,
    hint: "it lapsed or was released, and maybe taken by others since; acquire it again",
  });
}

function formatFile(file: LeaseFile): string {
  const { format_version } = file;
  const data = { format_version, leases: sorted(file.leases), epochs: sorted(file.epochs) };
  return `${JSON.stringify(data, null, 2)}\n`;
}

function sorted<T>(map: ReadonlyMap<string, T>): Record<string, T> {
  return Object.fromEntries([...map].sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0)));
}

function parseFile(text: string, path: string): LeaseFile {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw damaged(path, error instanceof Error ? error.message : String(error));
  }
  if (!isObject(value)) throw damaged(path, "it is not a JSON object");
  const { format_version, leases, epochs } = value;
  if (typeof format_version === "number" && format_version > FORMAT) {
    throw new LabError("E_STATE_VERSION", `${path} has format ${format_version}, and this labctl knows ${FORMAT}`, {
      hint: "use the labctl version that wrote it, or a later one",
    });
  }
  if (format_version !== FORMAT || !isObject(leases) || !isObject(epochs)) throw damaged(path, "its parts are missing");
  const out = new Map<Address, Lease>();
  for (const [resource, lease] of Object.entries(leases)) {
    if (!isLease(resource, lease)) throw damaged(path, `the lease of ${JSON.stringify(resource)} cannot be read`);
    out.set(resource, lease);
  }
  const numbers = new Map<Address, number>();
  for (const [resource, epoch] of Object.entries(epochs)) {
    if (typeof epoch !== "number") throw damaged(path, `the epoch of ${JSON.stringify(resource)} is not a number`);
    numbers.set(resource, epoch);
  }
  return { format_version: FORMAT, leases: out, epochs: numbers };
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return value !== null && typeof value === "object" && !Array.isArray(value);
}

function isLease(resource: string, value: unknown): value is Lease {
  if (!isObject(value)) return false;
  const { holder, reason, until, epoch } = value;
  const texts = typeof holder === "string" && typeof reason === "string" && typeof until === "string";
  return texts && value["resource"] === resource && typeof epoch === "number" && !Number.isNaN(Date.parse(until));
}

function damaged(path: string, why: string): LabError {
  return new LabError("E_STATE_DAMAGED", `${path} is damaged: ${why}`, {
    hint: "nothing was changed; once no machine or board of the lab is in use, move the file away to begin without leases",
  });
}
