import { randomUUID } from "node:crypto";
import { createReadStream } from "node:fs";
import { readFile, stat } from "node:fs/promises";
import { createHash } from "node:crypto";
import { resolve } from "node:path";
import { createArtifactStore } from "../artifacts/index.ts";
import { LabError } from "../diagnostics/index.ts";
import { type Address, canonicalText, childAddress, type LogLevel, type Plain } from "../model/index.ts";
import type {
  Inventory,
  Item,
  Kind,
  KindContext,
  LabFacts,
  LocalFiles,
  OperationContext,
  Prior,
  PropertyDiff,
  Reading,
  ReconcileItem,
} from "../provider/index.ts";
import { createScheduler, readRules } from "../scheduling/index.ts";
import type { Machine } from "../transport/index.ts";

export type Properties = Readonly<Record<string, Plain>>;

/** Where a kind is tried: the machines that it may reach, and the folder that local paths are relative to. */
export interface World {
  machine(address: Address): Machine;
  /** The lab around it: only kinds that look about need one. */
  readonly lab?: LabFacts;
  readonly inventory?: Inventory;
  /** The resource that contains those under test, e.g. `host.a`; absent for kinds of the top level. */
  readonly parent?: Address;
  readonly root: string;
}

export interface LogEntry {
  readonly level: LogLevel;
  readonly message: string;
}

/**
 * The least of an engine: takes one resource through read, diff, reconcile and delete, and keeps the prior that a state
 * would keep. For tests of kinds.
 */
export class KindDriver {
  readonly kind: Kind;
  readonly world: World;
  readonly address: Address;
  readonly instanceId = randomUUID();
  readonly log: LogEntry[] = [];
  /** What the kind streamed as output of commands. */
  output = "";
  sensitive: ReadonlySet<string> = new Set();
  /** As if `--experimental` was given. */
  experimental = false;
  prior: Prior<Properties, Properties> | undefined;
  #begun = false;
  #original: Properties | undefined;

  constructor(kind: Kind, world: World, key: string) {
    this.kind = kind;
    this.world = world;
    this.address = childAddress(world.parent, kind.kind, key);
  }

  context(signal: AbortSignal = new AbortController().signal): OperationContext {
    return {
      ...kindContext(this.world, signal),
      attempt: 1,
      direction: "forward",
      experimental: this.experimental,
      log: (level, message) => {
        this.log.push({ level, message });
      },
      progress: () => undefined,
      stage: (_name, body) => body(),
      output: (_stream, chunk) => {
        this.output += chunk.toString("utf8");
      },
      checkpoint: () => Promise.resolve(),
    };
  }

  /** The item with derived properties filled in. */
  async item(desired: Properties, signal?: AbortSignal): Promise<Item<Properties, Properties>> {
    const item: Item<Properties, Properties> = {
      address: this.address,
      parent: this.world.parent,
      desired,
      sensitive: this.sensitive,
      unknown: new Set(),
      prior: this.prior,
      instance_id: this.instanceId,
    };
    const derived = await this.kind.prepare?.(this.context(signal), item);
    return derived === undefined ? item : { ...item, desired: { ...desired, ...definedOf(derived) } };
  }

  async read(desired: Properties, signal?: AbortSignal): Promise<Reading<Properties>> {
    const item = await this.item(desired, signal);
    const reading = (await this.kind.readMany(this.context(signal), [item])).get(this.address);
    if (reading === undefined) throw new LabError("E_PROVIDER_INVALID", `readMany says nothing of ${this.address}`);
    return reading;
  }

  /** What a plan would show: undefined where the resource is absent, else the properties that differ. */
  async plan(desired: Properties): Promise<readonly PropertyDiff[] | undefined> {
    const item = await this.item(desired);
    const reading = await this.read(desired);
    if (reading.is === "absent") return undefined;
    if (reading.is !== "present") throw reading.is === "unreachable" ? reading.why : new Error("unverified");
    return this.diff(item, reading.value);
  }

  diff(item: Item<Properties, Properties>, observed: Properties): readonly PropertyDiff[] {
    const input = {
      desired: item.desired,
      observed,
      prior: this.prior,
      sensitive: item.sensitive,
      unknown: item.unknown,
    };
    return this.kind.diff?.(input) ?? defaultDiff(this.kind, item.desired, observed);
  }

  /** Reads, reconciles and keeps what came of it. An error leaves the state of an interrupted operation. */
  async apply(desired: Properties, signal?: AbortSignal): Promise<Properties> {
    const item = await this.item(desired, signal);
    const observed = presentOf(await this.read(desired, signal));
    if (!this.#begun) {
      this.#begun = true;
      this.#original = observed;
    }
    const before = this.prior;
    const reconcileItem: ReconcileItem<Properties, Properties> = { ...item, observed };
    const kept = { original: this.#original, instance_id: this.instanceId, checkpoint: undefined };
    this.prior = {
      ...kept,
      desired: before?.desired ?? item.desired,
      attempted: [...(before?.attempted ?? []), item.desired],
      observed: before?.observed,
    };
    const value = await this.kind.reconcile(this.context(signal), reconcileItem);
    this.prior = { ...kept, desired: item.desired, observed: value };
    return value;
  }

  async destroy(desired: Properties, signal?: AbortSignal): Promise<void> {
    const item = await this.item(desired, signal);
    const observed = presentOf(await this.read(desired, signal));
    await this.kind.delete(this.context(signal), { ...item, observed });
  }

  /** Takes it away and makes it anew, with nothing remembered of what it was. */
  async replace(desired: Properties): Promise<Properties> {
    await this.destroy(desired);
    this.prior = undefined;
    return await this.apply(desired);
  }
}

function presentOf(reading: Reading<Properties>): Properties | undefined {
  if (reading.is === "unreachable") throw reading.why;
  return reading.is === "present" ? reading.value : undefined;
}

function definedOf(properties: Partial<Properties>): Properties {
  return Object.fromEntries(
    Object.entries(properties).filter((entry): entry is [string, Plain] => entry[1] !== undefined),
  );
}

function defaultDiff(kind: Kind, desired: Properties, observed: Properties): PropertyDiff[] {
  return Object.entries(desired).flatMap(([path, after]) => {
    if (kind.attributes.properties[path] === undefined) return [];
    const before = observed[path];
    if (before !== undefined && canonicalText(before) === canonicalText(after)) return [];
    return [{ path, ...(before !== undefined && { before }), after }];
  });
}

/** Files on this machine as kinds see them. */
export function localFiles(root: string): LocalFiles {
  const at = (path: string): string => resolve(root, path);
  return {
    resolve: at,
    read: (path) => readFile(at(path)),
    async digest(path) {
      const found = await stat(at(path)).catch((cause: unknown) => {
        throw new LabError("E_SOURCE_FILE", `${path} cannot be read`, { cause });
      });
      const hash = createHash("sha256");
      for await (const chunk of createReadStream(at(path))) hash.update(chunk as Buffer);
      return {
        sha256: hash.digest("hex"),
        size: found.size,
        mode: (found.mode & 0o7777).toString(8).padStart(4, "0"),
      };
    },
  };
}

/** A lab of nothing, in a folder. */
export function labFacts(root: string): LabFacts {
  return { name: "test", root, state: resolve(root, ".labctl"), limits: {}, groups: {}, scope: "lab", run: "test" };
}

export function kindContext(world: World, signal?: AbortSignal): KindContext {
  const lab = world.lab ?? labFacts(world.root);
  return {
    signal: signal ?? new AbortController().signal,
    lab,
    artifacts: createArtifactStore({ root: resolve(world.root, ".labctl/artifacts") }),
    scheduler: createScheduler({
      dir: lab.state,
      owner: `${lab.name}/${lab.scope}`,
      run: lab.run,
      rules: readRules({}, {}),
    }),
    inventory: world.inventory ?? { all: () => [], get: () => undefined },
    machine: (address) => world.machine(address),
    around: (address) => {
      throw new Error(`nothing is said here of the way to ${address}`);
    },
    guest: () => Promise.reject(new Error("this world has no guests")),
    local: localFiles(world.root),
    log: () => undefined,
  };
}
