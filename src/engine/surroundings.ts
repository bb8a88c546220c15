import type { ArtifactStore } from "../artifacts/index.ts";
import type { EventBus } from "../events/port.ts";
import { type Address, type Lab, LAB_SCOPE, type Resource, type SecretSource, type Sensitive } from "../model/index.ts";
import { type ReferenceSources, viewOf } from "../plan/index.ts";
import type { Inventory, Kind, KindContext, LabFacts, LocalFiles } from "../provider/index.ts";
import type { Scheduler } from "../scheduling/index.ts";
import type { StateContent } from "../state/index.ts";
import type { ConnectionSpec, Machine, ResettablePool } from "../transport/index.ts";
import { makeInventory } from "./inventory.ts";
import { localFiles } from "./local-files.ts";
import { Machines } from "./machines.ts";
import { labScheduler } from "./scheduler.ts";

export interface SurroundingParts {
  readonly lab: Lab;
  readonly root: string;
  readonly resources: ReadonlyMap<Address, Resource>;
  readonly kinds: ReadonlyMap<string, Kind>;
  readonly artifacts: ArtifactStore;
  readonly pool: ResettablePool;
  readonly bus: EventBus;
  readonly secret: (name: string, sources: Readonly<Record<string, SecretSource>>) => Promise<Sensitive>;
  /** What references give before anything was read. */
  readonly sources: ReferenceSources;
}

/** The lab around a resource, as its kind's handlers are given it. */
export class Surroundings {
  readonly machines: Machines;
  readonly scheduler: Scheduler;
  /** As last read, or, during an apply, as it is. */
  state: StateContent | undefined;
  /** What the user allowed: see KindContext. */
  experimental = false;
  noWait = false;
  readonly #parts: SurroundingParts;
  readonly #facts: LabFacts;
  readonly #inventory: Inventory;
  readonly #local: LocalFiles;

  constructor(parts: SurroundingParts) {
    const { lab, root, kinds, pool, secret, bus, sources } = parts;
    this.#parts = parts;
    this.#facts = factsOf(lab, root, bus.run);
    this.#local = localFiles(root);
    this.#inventory = makeInventory({ lab, kinds, sources, state: () => this.state });
    this.scheduler = labScheduler(this.#facts, bus);
    this.machines = new Machines({ lab, root, kinds, pool, secret });
  }

  context(address: Address, signal: AbortSignal): KindContext {
    const { artifacts, bus, resources } = this.#parts;
    const component = resources.get(address)?.kind ?? "engine";
    return {
      signal,
      lab: this.#facts,
      inventory: this.#inventory,
      artifacts,
      scheduler: this.scheduler,
      machine: (of) => this.machines.machine(of),
      around: (of) => this.machines.context(of),
      guest: (way, options) => this.#guest(way, options),
      local: this.#local,
      experimental: this.experimental,
      noWait: this.noWait,
      log: (level, message, meta) =>
        bus.emit({ type: "log.line", level, component, address, message, ...(meta && { meta }) }),
    };
  }

  async #guest(way: ConnectionSpec, options: { readonly anew?: boolean } = {}): Promise<Machine> {
    const { pool } = this.#parts;
    if (options.anew === true) await pool.reset(way);
    return pool.machine(way);
  }
}

function factsOf({ name, state, limits, groups, scopes }: Lab, root: string, run: string): LabFacts {
  return {
    name,
    root,
    state: state.path,
    limits: viewOf(limits, undefined).plain,
    groups,
    scope: scopes.at(-1) ?? LAB_SCOPE,
    run,
  };
}
