import { LabError } from "../diagnostics/index.ts";
import {
  type Address,
  decodeValue,
  formatSegment,
  isMap,
  type Lab,
  lastSegment,
  type Plain,
  parseAddress,
  type Resource,
  type Row,
  Sealed,
  type SecretSource,
  Template,
  type Value,
  type ValueMap,
  walkValue,
} from "../model/index.ts";
import { dig, type ReferenceSources, resolveMap, viewOf } from "../plan/index.ts";
import type { Kind, MachineContext } from "../provider/index.ts";
import type { ConnectionSpec, Machine, MachinePool } from "../transport/index.ts";

export interface MachineSources {
  readonly lab: Lab;
  readonly root: string;
  readonly kinds: ReadonlyMap<string, Kind>;
  readonly pool: MachinePool;
  secret(name: string, sources: Readonly<Record<string, SecretSource>>): Promise<Value | undefined>;
}

interface Known {
  readonly kind: Kind;
  readonly plain: Record<string, Plain>;
  readonly observed: Record<string, Plain> | undefined;
}

/** Finds the machine that an address stands for, from the spec or, for what left it, from the state. */
export class Machines {
  readonly #sources: MachineSources;
  readonly #resources: ReadonlyMap<Address, Resource>;
  readonly #known = new Map<Address, Known>();
  #defaults: MachineContext["defaults"] | undefined;

  constructor(sources: MachineSources) {
    this.#sources = sources;
    this.#resources = new Map(sources.lab.resources.map((resource) => [resource.address, resource]));
  }

  /** Resolves what connections need, secrets included, for every machine of the spec and the state. Connects nowhere. */
  async prepare(rows: ReadonlyMap<Address, Row>, wanted: ReadonlySet<Address>): Promise<void> {
    const defaults = await this.#resolve(this.#sources.lab.defaults.ssh, this.#sources.lab.secrets);
    this.#defaults = { ...this.#sources.lab.defaults, ssh: viewOf(defaults, undefined).plain };
    for (const address of this.#closure(rows, wanted)) await this.learn(address, rows.get(address));
  }

  /** Takes in what the spec or a row says of one machine. */
  async learn(address: Address, row: Row | undefined): Promise<void> {
    const resource = this.#resources.get(address);
    const kind = this.#sources.kinds.get(resource?.kind ?? row?.kind ?? "");
    if (kind?.machine === undefined) return;
    const stored = row && decodeValue(row.desired);
    const wanted = resource?.desired ?? (isMap(stored) ? revive(stored) : {});
    const resolved = await this.#resolve(wanted, { ...this.#sources.lab.secrets, ...row?.secrets });
    const view = viewOf(resolved, kind);
    const observed = row === undefined || row.observed === null ? undefined : decodeValue(row.observed);
    this.#known.set(address, {
      kind,
      plain: view.plain,
      observed: isMap(observed) ? viewOf(observed, undefined).plain : undefined,
    });
  }

  machine(address: Address): Machine {
    return this.#sources.pool.machine(this.connection(address));
  }

  connection(address: Address): ConnectionSpec {
    const spec = this.#connect(address, new Set());
    if (spec === undefined) {
      throw new LabError("E_CONNECT", `${address} cannot be reached: where it is is not known yet`, {
        address,
        hint: "its address comes from something that was not applied yet; apply that first",
      });
    }
    return spec;
  }

  #connect(address: Address, way: Set<Address>): ConnectionSpec | undefined {
    const known = this.#known.get(address);
    if (known?.kind.machine === undefined) {
      throw new LabError("E_ADDRESS_UNKNOWN", `${address} is not a machine`, {
        address,
        hint: "`labctl host list` shows the machines of this lab",
      });
    }
    if (way.has(address)) {
      throw new LabError("E_CYCLE", `jump hosts go in a circle: ${[...way, address].join(" -> ")}`, {
        address,
        hint: "one of them must be reached directly",
      });
    }
    way.add(address);
    return known.kind.machine({ ...known.plain }, known.observed, {
      ...this.#around(address),
      connection: (name) => this.#connect(formatSegment({ kind: known.kind.kind, key: name }), new Set(way)),
    });
  }

  /** For what is no machine of the lab and is reached all the same: jump hosts are any of its machines, by name. */
  context(address: Address): MachineContext {
    return {
      ...this.#around(address),
      connection: (name) => {
        const found = [...this.#known.keys()].find((one) => one === name || lastSegment(one).key === name);
        return this.#connect(found ?? name, new Set());
      },
    };
  }

  #around(address: Address): Omit<MachineContext, "connection"> {
    const { defaults } = this.#sources.lab;
    return {
      address,
      defaults: this.#defaults ?? { ssh: {}, timeouts: defaults.timeouts, retry: defaults.retry },
      root: this.#sources.root,
    };
  }

  /** The machines that the wanted addresses lie on, and those on the way there. */
  #closure(rows: ReadonlyMap<Address, Row>, wanted: ReadonlySet<Address>): Address[] {
    const machines = new Set<Address>();
    for (const address of [...this.#resources.keys(), ...rows.keys()]) {
      const kind = this.#sources.kinds.get(this.#resources.get(address)?.kind ?? rows.get(address)?.kind ?? "");
      if (kind?.machine !== undefined) machines.add(address);
    }
    const needed = new Set<Address>();
    const take = (address: Address): void => {
      if (!machines.has(address) || needed.has(address)) return;
      needed.add(address);
      for (const on of [...(this.#resources.get(address)?.depends ?? []), ...(rows.get(address)?.depends ?? [])])
        take(on);
    };
    for (const address of wanted) {
      const segments = parseAddress(address) ?? [];
      for (let length = segments.length; length > 0; length--)
        take(segments.slice(0, length).map(formatSegment).join("/"));
    }
    return [...needed];
  }

  async #resolve(value: ValueMap, secrets: Readonly<Record<string, SecretSource>>): Promise<ValueMap> {
    const values = new Map<string, Value | undefined>();
    for (const name of secretNames(value)) values.set(name, await this.#sources.secret(name, secrets));
    const sources: ReferenceSources = {
      secret: (name) => values.get(name),
      // A connection may use what another resource's spec says; what only apply finds out is not known here.
      attribute: (address, path) => {
        const desired = this.#resources.get(address)?.desired;
        const found = desired && dig(desired, path);
        return found === undefined ? undefined : resolveMap({ found }, sources)["found"];
      },
    };
    return resolveMap(value, sources);
  }
}

/** Names of the secrets that a value refers to. */
export function secretNames(value: Value | undefined): Set<string> {
  const names = new Set<string>();
  walkValue(value, (item) => {
    if (!(item instanceof Template)) return;
    for (const ref of item.references) if (ref.root === "secret") names.add(ref.path[0] ?? "");
  });
  return names;
}

function revive(value: ValueMap): ValueMap {
  const one = (item: Value): Value => {
    if (item instanceof Sealed) return item.from ?? item;
    return isMap(item) ? revive(item) : item;
  };
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, one(item)]));
}

/** Values of all secrets that these resources and the lab's outputs refer to. */
export async function resolveSecrets(
  lab: Lab,
  selected: ReadonlySet<Address>,
  resources: ReadonlyMap<Address, Resource>,
  read: (name: string, sources: Readonly<Record<string, SecretSource>>) => Promise<Value>,
): Promise<Map<string, Value>> {
  const names = new Set<string>();
  for (const address of selected) for (const name of secretNames(resources.get(address)?.desired)) names.add(name);
  for (const output of Object.values(lab.outputs)) for (const name of secretNames(output.value)) names.add(name);
  const out = new Map<string, Value>();
  for (const name of names) out.set(name, await read(name, lab.secrets));
  return out;
}
