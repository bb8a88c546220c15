import type { Address, Checkpoint, Hold, LockInfo, Plain, Row, Scope, ScopeVersion } from "../model/index.ts";
import { LAB_SCOPE } from "../model/index.ts";
import type { LockRequest, StateChanges, StateContent, StateSession, StateStore, StateView } from "./port.ts";

/** Several scopes seen as one. Addresses of different scopes never collide: each kind has its rows in one scope. */
export interface ScopedView extends StateContent {
  readonly versions: Readonly<Record<Scope, ScopeVersion>>;
  /** The name of the lab that each scope was last applied for. */
  readonly labs: Readonly<Record<Scope, string | undefined>>;
  /** The scope that has a row at this address. */
  scopeOf(address: Address): Scope | undefined;
}

/** Some scopes under their locks, others only looked at: what one apply works with. */
export interface ScopedSession extends ScopedView, StateChanges {
  /** The name is kept in every scope under lock that has another, or none. */
  claim(lab: string): Promise<void>;
}

export interface ScopesToOpen {
  /** Locked, in this order in every process, so that two of them never wait for each other. */
  readonly own: readonly Scope[];
  readonly others: readonly Scope[];
  /** Where a row that is not there yet is kept. */
  route(address: Address): Scope;
}

export async function readScopes(store: StateStore, scopes: readonly Scope[]): Promise<ScopedView> {
  const views: StateView[] = [];
  for (const scope of scopes) views.push(await store.read(scope));
  return new Scoped(views);
}

/** Opens all or none. */
export async function openScopes(
  store: StateStore,
  scopes: ScopesToOpen,
  request: LockRequest,
): Promise<ScopedSession> {
  const opened: StateSession[] = [];
  try {
    for (const scope of [...scopes.own].sort()) opened.push(await store.open(scope, request));
    const others: StateView[] = [];
    for (const scope of scopes.others) others.push(await store.read(scope));
    return new OpenScopes(opened, others, (address) => scopes.route(address));
  } catch (error) {
    for (const one of opened) await one.close().catch(() => undefined);
    throw error;
  }
}

class Scoped implements ScopedView {
  readonly rows: ReadonlyMap<Address, Row>;
  protected readonly views: readonly StateView[];

  constructor(views: readonly StateView[]) {
    this.views = views;
    const [only] = views;
    this.rows = views.length === 1 && only !== undefined ? only.rows : new Joined(views.map((view) => () => view.rows));
  }

  get outputs(): Readonly<Record<string, Plain>> {
    return this.views.find((view) => view.scope === LAB_SCOPE)?.outputs ?? {};
  }
  get holds(): ReadonlyMap<Address, Hold> {
    return new Joined(this.views.map((view) => () => view.holds));
  }
  get versions(): Readonly<Record<Scope, ScopeVersion>> {
    return Object.fromEntries(
      this.views.map(({ scope, lineage, serial }): [Scope, ScopeVersion] => [scope, { lineage, serial }]),
    );
  }
  get labs(): Readonly<Record<Scope, string | undefined>> {
    return Object.fromEntries(this.views.map((view) => [view.scope, view.lab]));
  }
  scopeOf(address: Address): Scope | undefined {
    return this.views.find((view) => view.rows.has(address))?.scope;
  }
}

class OpenScopes extends Scoped implements ScopedSession {
  readonly #own: readonly StateSession[];
  readonly #route: (address: Address) => Scope;
  /** By operation, the session that it began in. */
  readonly #begun = new Map<string, StateSession>();

  constructor(own: readonly StateSession[], others: readonly StateView[], route: (address: Address) => Scope) {
    super([...own, ...others]);
    this.#own = own;
    this.#route = route;
  }

  get lock(): LockInfo {
    return this.#first.lock;
  }
  get takenOver(): LockInfo | undefined {
    return this.#own.find((one) => one.takenOver !== undefined)?.takenOver;
  }

  async claim(lab: string): Promise<void> {
    await Promise.all(this.#own.filter((one) => one.lab !== lab).map((one) => one.setLab(lab)));
  }

  async begin(record: Parameters<StateChanges["begin"]>[0]): Promise<void> {
    const session = this.#of(record.row.address);
    await session.begin(record);
    this.#begun.set(record.op, session);
  }
  async checkpoint(op: string, checkpoint: Checkpoint): Promise<void> {
    await (this.#begun.get(op) ?? this.#first).checkpoint(op, checkpoint);
  }
  async end(record: Parameters<StateChanges["end"]>[0]): Promise<void> {
    await (this.#begun.get(record.op) ?? this.#first).end(record);
    this.#begun.delete(record.op);
  }
  put(row: Row): Promise<void> {
    return this.#of(row.address).put(row);
  }
  drop(address: Address): Promise<void> {
    return this.#of(address).drop(address);
  }
  move(from: Address, to: Address): Promise<void> {
    return this.#of(from).move(from, to);
  }
  /** Outputs belong to the lab. */
  async setOutputs(outputs: Readonly<Record<string, Plain>>): Promise<void> {
    await this.#own.find((one) => one.scope === LAB_SCOPE)?.setOutputs(outputs);
  }
  setHold(address: Address, hold: Hold | null): Promise<void> {
    return this.#of(address).setHold(address, hold);
  }
  setLab(lab: string): Promise<void> {
    return this.claim(lab);
  }
  async assertHeld(): Promise<void> {
    await Promise.all(this.#own.map((one) => one.assertHeld()));
  }
  async close(): Promise<void> {
    const closed = await Promise.allSettled(this.#own.map((one) => one.close()));
    for (const one of closed) if (one.status === "rejected") throw one.reason;
  }

  get #first(): StateSession {
    const [first] = this.#own;
    if (first === undefined) throw new TypeError("no scope is open");
    return first;
  }

  #of(address: Address): StateSession {
    const scope = this.#own.find((one) => one.rows.has(address))?.scope ?? this.#route(address);
    return this.#own.find((one) => one.scope === scope) ?? this.#first;
  }
}

/** Maps with no key in common, as one. Each is asked for anew, so that what changes is seen. */
class Joined<V> implements ReadonlyMap<Address, V> {
  readonly #parts: readonly (() => ReadonlyMap<Address, V>)[];
  constructor(parts: readonly (() => ReadonlyMap<Address, V>)[]) {
    this.#parts = parts;
  }
  get size(): number {
    return this.#parts.reduce((sum, part) => sum + part().size, 0);
  }
  get(address: Address): V | undefined {
    for (const part of this.#parts) {
      const found = part().get(address);
      if (found !== undefined) return found;
    }
    return undefined;
  }
  has(address: Address): boolean {
    return this.#parts.some((part) => part().has(address));
  }
  *entries(): MapIterator<[Address, V]> {
    for (const part of this.#parts) yield* part().entries();
  }
  *keys(): MapIterator<Address> {
    for (const [address] of this.entries()) yield address;
  }
  *values(): MapIterator<V> {
    for (const [, value] of this.entries()) yield value;
  }
  forEach(each: (value: V, address: Address, map: ReadonlyMap<Address, V>) => void): void {
    for (const [address, value] of this.entries()) each(value, address, this);
  }
  [Symbol.iterator](): MapIterator<[Address, V]> {
    return this.entries();
  }
}
