import type { ArtifactStore } from "../artifacts/index.ts";
import type { Address, Checkpoint, Group, Hold, LogLevel, Placement, Plain, Row, Scope } from "../model/index.ts";
import type { Scheduler } from "../scheduling/index.ts";
import type { ConnectionSpec, Machine } from "../transport/index.ts";
import type { ObjectSchema, Schema } from "./schema.ts";

/** The version of this contract; a provider that was built for another major version is refused. */
export const API_VERSION = 1;

/** Where a kind's resources are written. */
export type Section = KeyedSection | SingleSection;

interface SectionPlace {
  /** The key in the document (`hosts`), or below the parent kind's resource (`files`). */
  readonly name: string;
  /** The document that it stands in; children stand where their parent does. Absent: lab.yaml. */
  readonly document?: SpecDocument;
}

/** `lab` is lab.yaml, `pipeline` pipeline.yaml: each has its own scope of the state. */
export type SpecDocument = "lab" | "pipeline";

export interface KeyedSection extends SectionPlace {
  /** The kind that contains it; absent: the top level of the document. */
  readonly within?: string;
  /** `map`: from key to properties; `list`: of keys, or of objects that hold the key. */
  readonly shape: "map" | "list";
  /** The property that the key fills: it identifies the resource. */
  readonly key: string;
  /** What keys may be; absent: `[a-z0-9][a-z0-9-]*`. */
  readonly keySchema?: Schema;
}

/** At most one of its kind in each parent: `build_server:` of a host. Its address has no key: `host.a/build_server`. */
export interface SingleSection extends SectionPlace {
  readonly within: string;
  readonly shape: "one";
  readonly key?: undefined;
  readonly keySchema?: undefined;
}

export type Reading<O> =
  | { readonly is: "present"; readonly value: O }
  /** `placement`: where it would be made now, of kinds that choose among machines. */
  | { readonly is: "absent"; readonly placement?: Placement | undefined }
  /** Never leads to create, delete or forget. */
  | { readonly is: "unreachable"; readonly why: Error }
  | { readonly is: "unverified"; readonly since: string };

/** What the state says of a resource. */
export interface Prior<D, O> {
  readonly desired: Partial<D>;
  /** What operations that did not finish were bringing about since the last that did: some of it may be there. */
  readonly attempted?: readonly Partial<D>[] | undefined;
  readonly observed: O | undefined;
  /** What was there before labctl touched it; undefined: nothing. */
  readonly original: O | undefined;
  readonly instance_id: string;
  readonly checkpoint: Checkpoint | undefined;
}

/** One resource as handlers see it: plain values, secrets revealed. */
export interface Item<D, O> {
  readonly address: Address;
  readonly parent: Address | undefined;
  /** Identifies the resource also where it has left the spec: then it comes from the state. */
  readonly desired: D;
  /** Dotted paths in `desired` whose values must not be shown, stored, or put on a command line. */
  readonly sensitive: ReadonlySet<string>;
  /** Dotted paths whose values are known only after apply; they are absent from `desired`. Empty in reconcile. */
  readonly unknown: ReadonlySet<string>;
  readonly prior: Prior<D, O> | undefined;
  /** Stable for the life of the resource, journaled before the first call. */
  readonly instance_id: string;
  /**
   * What it is called where it is, by the words of an import that takes it over; see {@link Kind.importId}. Absent as soon as the
   * state knows something of it, which says better what it is.
   */
  readonly import_id?: string;
}

export interface ReconcileItem<D, O> extends Item<D, O> {
  /** What the executor read just before; undefined: absent. */
  readonly observed: O | undefined;
}

/** One property that differs. Values are plain; the planner masks those of sensitive paths. */
export interface PropertyDiff {
  readonly path: string;
  readonly before?: Plain;
  readonly after?: Plain;
  /** Default: `replace` where the schema says so, else `update`. */
  readonly effect?: "update" | "replace" | "restart";
  /** Show as a unified diff. */
  readonly text?: boolean;
}

export interface DiffInput<D, O> {
  readonly desired: D;
  readonly observed: O;
  readonly prior: Prior<D, O> | undefined;
  readonly sensitive: ReadonlySet<string>;
  readonly unknown: ReadonlySet<string>;
}

/** A resource of the spec, as kinds see it that choose among several: hosts to build on, to boot on. */
export interface InventoryEntry {
  readonly address: Address;
  readonly kind: string;
  readonly parent?: Address;
  /** As far as the spec alone says it: without secrets, and without what only apply finds out. */
  readonly desired: Readonly<Record<string, Plain>>;
  /** What the state last saw; absent: never applied. */
  readonly observed?: Readonly<Record<string, Plain>>;
  readonly status?: Row["status"];
  /** A cordon set at run time. It may have lapsed: see `until`. */
  readonly hold?: Hold;
}

export interface Inventory {
  /** In the order of the spec. */
  all(kind: string): readonly InventoryEntry[];
  get(address: Address): InventoryEntry | undefined;
}

/** The lab around a resource. */
export interface LabFacts {
  readonly name: string;
  /** Absolute folder of the spec. */
  readonly root: string;
  /** Absolute folder of the state. */
  readonly state: string;
  /** `limits:` of the lab, as written. */
  readonly limits: Readonly<Record<string, Plain>>;
  readonly groups: Readonly<Record<string, Group>>;
  /** What this apply owns, and its id: who holds what it reserves. */
  readonly scope: Scope;
  readonly run: string;
}

/** What handlers may use. Every wait ends with `signal`. */
export interface KindContext {
  readonly signal: AbortSignal;
  readonly lab: LabFacts;
  readonly inventory: Inventory;
  /** What builds made, by digest. */
  readonly artifacts: ArtifactStore;
  /** Who gets which machine. Outside of `reconcile` and `delete` only its `preview`, which takes nothing. */
  readonly scheduler: Scheduler;
  /** The machine that a resource of a machine-providing kind stands for. */
  machine(address: Address): Machine;
  /** What the lab says of connections, for what is reached without being a machine of the lab: see connectionOf(). */
  around(address: Address): MachineContext;
  /**
   * Such a machine: a guest, on the way that its kind found out. `anew`: it is tried once more also where it was given up before in
   * this run.
   */
  guest(way: ConnectionSpec, options?: { readonly anew?: boolean }): Promise<Machine>;
  /** Files on the machine labctl runs on; relative paths are relative to the lab's root. */
  readonly local: LocalFiles;
  /** `--no-wait` was given: what is busy is refused, not waited for. */
  readonly noWait?: boolean;
  /** `--experimental` was given. A kind refuses ways that have no evidence yet (E_EXPERIMENTAL) unless this is true. */
  readonly experimental?: boolean;
  log(level: LogLevel, message: string, meta?: Readonly<Record<string, string | number | boolean>>): void;
}

/** The context of one operation. */
export interface OperationContext extends KindContext {
  /** 1 for the first try. */
  readonly attempt: number;
  /**
   * `forward`: as planned. `reversible`: as planned, in a run that takes back what it did where it fails: keep what that
   * needs and the state does not hold. `back`: taking it back.
   */
  readonly direction: "forward" | "reversible" | "back";
  progress(fraction: number | undefined, text?: string): void;
  /** A visible step of a long operation: told as it begins and ends, and kept in the run's record. */
  stage<T>(name: string, body: () => Promise<T>): Promise<T>;
  /** Output of a command, streamed to the run's log. */
  output(stream: "stdout" | "stderr", chunk: Buffer): void;
  /** Durable before it returns; kinds with visible steps record each. */
  checkpoint(step: string, data?: Plain): Promise<void>;
}

export interface LocalDigest {
  readonly sha256: string;
  /** Bytes. */
  readonly size: number;
  readonly mode: string;
  readonly bytes?: Buffer;
}

export interface LocalFiles {
  /** The absolute path. */
  resolve(path: string): string;
  read(path: string): Promise<Buffer>;
  /**
   * SHA-256 (hex) and size, without holding the file in memory. `most`: up to so many bytes the content may come along,
   * and is what the digest says; where it does not, read it.
   */
  digest(path: string, most?: number): Promise<LocalDigest>;
}

export type Outcome<O> = { readonly ok: O } | { readonly error: Error };

/** Named semaphore that one operation holds: `host/kvm-1`, `pdu/rack-1`. */
export interface Semaphore {
  readonly name: string;
  readonly permits: number;
}

/** One of the resources that share a parent: what `after` looks at. */
export interface Sibling {
  readonly address: Address;
  readonly kind: string;
  readonly desired: Readonly<Record<string, Plain>>;
}

/**
 * The type of a resource. Handlers are called with plain values; what is sensitive is named in `item.sensitive`, and
 * the engine keeps the same paths out of state, plans and output. See docs/providers.md.
 */
export interface Kind<D = Record<string, Plain>, O = Record<string, Plain>> {
  readonly kind: string;
  readonly title: string;
  /** Markdown for the reference page. */
  readonly description: string;
  readonly section: Section;
  /** Properties as users write them (and `derived` ones). */
  readonly schema: ObjectSchema;
  /** What read gives; these can be referred to as `${kind.name.attribute}`. */
  readonly attributes: ObjectSchema;
  readonly ownership: "exclusive" | "shared";
  /** Has no evidence from something that labctl's authors did not write: refuses to run without --experimental. */
  readonly experimental?: boolean;
  /** Its operations are not cut short by the first Ctrl-C (a package manager at work, a flash). */
  readonly critical?: boolean;
  /** What it did cannot be taken back; a rollback says so before the start. */
  readonly irreversible?: boolean;

  /**
   * Work before planning that changes nothing: digests of local files, a branch as a commit. Returns the derived properties; one that
   * is there and undefined is known only after apply. Called again at apply, when it must be known and the same.
   */
  prepare?(ctx: KindContext, item: Item<D, O>): Promise<{ readonly [K in keyof D]?: D[K] | undefined }>;
  /** What one operation holds. */
  limits?(desired: D, address: Address): readonly Semaphore[];
  /**
   * Pure. Which siblings come first where both have something to do (and last where both are deleted): a directory
   * before the files in it. Order only, and soft: the failure of one does not skip the other, and where what users wrote
   * (`depends_on`, references) says otherwise, that wins and this edge is dropped. `siblings` are all resources of the
   * same parent, this one included; the same array is handed to every call, so that an index of it can be kept.
   */
  after?(desired: D, siblings: readonly Sibling[], address: Address): readonly Address[];
  /**
   * The stages that `reconcile` tells of (see {@link OperationContext.stage}), in the order in which they come where all goes well:
   * with them whoever looks sees also what is still to come, and what was never reached.
   */
  readonly stages?: readonly string[];
  /**
   * Pure. Resources elsewhere in the lab that come first where they have something to do: the servers that a build may
   * go to. Order only, and soft, as `after`.
   */
  awaits?(desired: D, lab: readonly Sibling[], address: Address): readonly Address[];
  /** Pure. The machine that it is made on, where that is not its parent: read together with what stands there. */
  on?(desired: D): Address | undefined;
  /** Observed paths that show a sensitive desired value: a digest of secret content. */
  taints?(sensitive: ReadonlySet<string>, desired: D): readonly string[];
  /** One round trip for all resources of one parent; never changes or disturbs anything. */
  readMany(ctx: KindContext, items: readonly Item<D, O>[]): Promise<ReadonlyMap<Address, Reading<O>>>;
  /** Pure. The default compares every property that `desired` sets and `attributes` knows. */
  diff?(input: DiffInput<D, O>): readonly PropertyDiff[];
  /** Idempotent: brings it to what is wanted and returns what is there, read back. */
  reconcile(ctx: OperationContext, item: ReconcileItem<D, O>): Promise<O>;
  /** For kinds whose resources are cheaper together; the executor uses it for what is ready at the same time. */
  reconcileMany?(
    ctx: OperationContext,
    items: readonly ReconcileItem<D, O>[],
  ): Promise<ReadonlyMap<Address, Outcome<O>>>;
  /**
   * What was there already, as wanted, becomes this resource's (`adopt`, or it came there since the plan): called before the
   * state says so, in place of `reconcile`, for kinds that keep a note of who refers to what. Idempotent; never changes the
   * resource itself. Not called where a failed run takes back what it did.
   */
  adopted?(ctx: KindContext, item: ReconcileItem<D, O>): Promise<void>;
  /** Idempotent: restores what was there before; removes nothing that labctl did not make. */
  delete(ctx: OperationContext, item: ReconcileItem<D, O>): Promise<void>;
  /** How to undo it by hand, for what could not be deleted. */
  manualCleanup?(item: Item<D, O>): string;
  list?(ctx: KindContext, parent: Address | undefined): AsyncIterable<{ readonly id: string; readonly value: O }>;
  /**
   * The desired properties that identify what `import:` names by `id`; an import whose id speaks of another one is refused. Default:
   * the section's key.
   */
  fromImportId?(id: string): Partial<D>;
  /**
   * For kinds that find what has a name of its own by {@link Item.import_id}: what an id may be, as it completes "known by".
   * Without it nothing is imported under another name than the spec's.
   */
  readonly importId?: string;
  /** For kinds that are machines: how to reach it. Undefined: not (yet) reachable from what is known. */
  machine?(desired: D, observed: O | undefined, context: MachineContext): ConnectionSpec | undefined;
  /**
   * For kinds whose resources people log in to (`labctl ssh`, `labctl exec`) though nothing is declared on them: guests,
   * containers, boards. Looks where it is now, changes nothing. Rejects with E_CONNECT, and what to do, where it has no
   * address. See connectionOf() for what `ssh:` and the lab's defaults (`ctx.around`) make of one.
   */
  reach?(ctx: KindContext, item: Item<D, O>): Promise<ConnectionSpec>;
  /**
   * Ends work on it that goes on without labctl (a build on its server), whoever began it. Gives what it ended, a sentence for
   * people; undefined: nothing ran.
   */
  cancel?(ctx: KindContext, item: Item<D, O>): Promise<string | undefined>;
  /**
   * Pure. The properties with which `desired` brings back what was seen when all was well (`labctl rollback`); a property that
   * is there and undefined is left out. Undefined: nothing can be brought back from that.
   */
  restore?(desired: D, good: O): { readonly [K in keyof D]?: D[K] | undefined } | undefined;
}

/** What a machine's connection is made of besides its own properties. */
export interface MachineContext {
  readonly address: Address;
  /** The connection of another machine, for jump hosts. */
  connection(name: string): ConnectionSpec | undefined;
  /** The lab's `defaults:`, revealed. */
  readonly defaults: {
    readonly ssh: Readonly<Record<string, Plain>>;
    readonly timeouts: { readonly connect: number; readonly command: number; readonly boot: number };
    readonly retry: { readonly attempts: number; readonly delay: number; readonly max_delay: number };
  };
  /** Absolute folder of the lab's spec; relative paths are relative to it. */
  readonly root: string;
}

export interface Provider {
  readonly name: string;
  readonly version: string;
  readonly api: number;
  readonly kinds: readonly Kind[];
}
