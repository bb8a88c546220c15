import { LabError, toLabError } from "../diagnostics/index.ts";
import {
  type Address,
  decodeValue,
  encodeValue,
  isMap,
  type Plain,
  type PlannedAction,
  type Resource,
  type ResourceOptions,
  referenceTarget,
  type Row,
  Sealed,
  type SecretSource,
  Template,
  Unknown,
  type Value,
  type ValueMap,
  walkValue,
} from "../model/index.ts";
import {
  concealed,
  dig,
  encodeObserved,
  observedTaints,
  priorOf,
  type ReferenceSources,
  resolveMap,
  resolveValue,
  type View,
  viewOf,
} from "../plan/index.ts";
import type { Item, Kind, ReconcileItem } from "../provider/index.ts";
import type { ExecutorPorts, PlainMap } from "./ports.ts";

/** One resource on its way to being converged or deleted: everything that handlers and records need of it. */
export interface Target {
  readonly address: Address;
  readonly kind: Kind;
  readonly parent: Address | undefined;
  readonly resolved: ValueMap;
  readonly view: View;
  readonly taints: ReadonlySet<string>;
  readonly prior: Row | undefined;
  readonly instance_id: string;
  /** What an import calls what it takes over, while the state knows nothing of it. */
  readonly import_id?: string;
  readonly depends: readonly Address[];
  readonly options: ResourceOptions;
  readonly secrets: Readonly<Record<string, SecretSource>>;
}

export function itemOf(target: Target): Item<PlainMap, PlainMap> {
  return {
    address: target.address,
    parent: target.parent,
    desired: target.view.plain,
    sensitive: target.view.sensitive,
    unknown: target.view.unknown,
    prior: target.prior && priorOf(target.prior),
    instance_id: target.instance_id,
    ...(target.import_id !== undefined && { import_id: target.import_id }),
  };
}

export function reconcileItemOf(target: Target, observed: PlainMap | undefined): ReconcileItem<PlainMap, PlainMap> {
  return { ...itemOf(target), observed };
}

/** Makes targets of planned actions and of rows. */
export class TargetMaker {
  readonly #ports: ExecutorPorts;
  readonly #secrets: Readonly<Record<string, SecretSource>>;

  constructor(ports: ExecutorPorts, secrets: Readonly<Record<string, SecretSource>>) {
    this.#ports = ports;
    this.#secrets = secrets;
  }

  kind(name: string, address: Address): Kind {
    const kind = this.#ports.kinds.get(name);
    if (kind === undefined)
      throw new LabError("E_PROVIDER_NOT_FOUND", `no provider serves the kind "${name}"`, { address });
    return kind;
  }

  /** The action's resource with every reference resolved now; throws where one is still unknown. */
  async ofAction(action: PlannedAction, signal: AbortSignal): Promise<Target> {
    const kind = this.kind(action.kind, action.address);
    const wanted = this.#wanted(action, kind);
    const sources = await this.#sources(wanted, this.#secrets);
    const prior = this.#ports.session.rows.get(action.address);
    const base = this.#target(kind, action, resolveMap(wanted, sources), prior, this.#used(wanted, this.#secrets));
    const unknown = [...base.view.unknown];
    if (unknown.length > 0) {
      throw new LabError("E_DEPENDENCY_FAILED", `${action.address}: ${unknown.join(", ")} is still unknown`, {
        address: action.address,
        hint: "what it refers to was not applied in this run, or does not have that attribute; plan again",
      });
    }
    if (kind.prepare === undefined) return base;
    const derived = await kind.prepare(this.#ports.context(action.address, signal), itemOf(base));
    return this.#target(kind, action, { ...base.resolved, ...(derived as ValueMap) }, prior, base.secrets);
  }

  /** What the state says of it: for deleting, and for going back to what was before. */
  async ofRow(row: Row, prior: Row | undefined = row): Promise<Target> {
    const kind = this.kind(row.kind, row.address);
    const stored = decodeValue(row.desired);
    const wanted = reviveMap(isMap(stored) ? stored : {});
    const sources = await this.#sources(wanted, { ...this.#secrets, ...row.secrets });
    return {
      ...this.#target(kind, row, resolveMap(wanted, sources), prior, row.secrets),
      instance_id: row.instance_id,
    };
  }

  /** A value with its references resolved from what is there now; undefined where something is still unknown. */
  async resolve(value: Value): Promise<Value | undefined> {
    const wanted = revive(value);
    const map: ValueMap = { value: wanted };
    const resolved = resolveMap(map, await this.#sources(map, this.#secrets));
    return viewOf(resolved, undefined).unknown.size > 0 ? undefined : resolved["value"];
  }

  #target(
    kind: Kind,
    of: {
      readonly address: Address;
      readonly parent?: Address;
      readonly depends: readonly Address[];
      readonly options: ResourceOptions;
      readonly import_id?: string;
    },
    plain: ValueMap,
    prior: Row | undefined,
    secrets: Readonly<Record<string, SecretSource>>,
  ): Target {
    const resolved = concealed(plain, kind);
    const view = viewOf(resolved, kind);
    return {
      address: of.address,
      kind,
      parent: of.parent,
      resolved,
      view,
      taints: observedTaints(kind, view),
      prior,
      instance_id: prior?.instance_id ?? this.#ports.newId(),
      ...(prior === undefined && of.import_id !== undefined && of.import_id !== "" && { import_id: of.import_id }),
      depends: of.depends,
      options: of.options,
      secrets,
    };
  }

  /** The spec's own resource where it is what the plan was made from; else the plan's copy of it. */
  #wanted(action: PlannedAction, kind: Kind): ValueMap {
    const resource: Resource | undefined = this.#ports.resource(action.address);
    if (
      resource !== undefined &&
      JSON.stringify(encodeValue(concealed(resource.desired, kind), () => undefined)) ===
        unsealed(action.desired ?? null)
    ) {
      return resource.desired;
    }
    const stored = decodeValue(action.desired ?? null);
    return reviveMap(isMap(stored) ? stored : {});
  }

  async #sources(value: ValueMap, secrets: Readonly<Record<string, SecretSource>>): Promise<ReferenceSources> {
    const names = new Set(secretNames(value));
    // A value taken from another resource can itself come from a secret.
    for (const address of resourceAddresses(value)) {
      const row = this.#ports.session.rows.get(address);
      const stored = row && decodeValue(row.desired);
      if (isMap(stored)) for (const name of secretNames(revive(stored))) names.add(name);
    }
    const values = new Map<string, Value | undefined>();
    for (const name of names) values.set(name, await this.#ports.secret(name, secrets));
    const sources: ReferenceSources = {
      secret: (name) => values.get(name),
      attribute: (address, path) => {
        const row = this.#ports.session.rows.get(address);
        if (row === undefined) return undefined;
        for (const encoded of [row.desired, row.observed]) {
          const stored = decodeValue(encoded);
          const found = isMap(stored) ? dig(reviveMap(stored), path) : undefined;
          if (found !== undefined) return resolveValue(found, sources);
        }
        return row.observed === null ? undefined : null;
      },
    };
    return sources;
  }

  #used(value: ValueMap, secrets: Readonly<Record<string, SecretSource>>): Record<string, SecretSource> {
    const out: Record<string, SecretSource> = {};
    for (const name of secretNames(value)) {
      const source = secrets[name];
      if (source !== undefined) out[name] = source;
    }
    return out;
  }
}

/** What only references can give again (sealed and unknown values), as those references. */
function revive(value: Value): Value {
  if (value instanceof Sealed) return value.from ?? value;
  if (value instanceof Unknown) return value.template;
  if (Array.isArray(value)) return (value as readonly Value[]).map(revive);
  return isMap(value) ? reviveMap(value) : value;
}

function reviveMap(value: ValueMap): ValueMap {
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, revive(item)]));
}

function secretNames(value: Value): Set<string> {
  const names = new Set<string>();
  walkValue(value, (item) => {
    if (!(item instanceof Template)) return;
    for (const ref of item.references) if (ref.root === "secret") names.add(ref.path[0] ?? "");
  });
  return names;
}

function resourceAddresses(value: Value): Set<Address> {
  const addresses = new Set<Address>();
  walkValue(value, (item) => {
    if (!(item instanceof Template)) return;
    for (const ref of item.references) if (ref.root !== "secret") addresses.add(referenceTarget(ref).address);
  });
  return addresses;
}

function unsealed(encoded: Plain): string {
  return JSON.stringify(encoded, (key, item: unknown) => (key === "hmac" ? undefined : item));
}

/** The row of a target, as it stands while an operation is open or after it. */
export function rowOf(
  target: Target,
  ports: ExecutorPorts,
  fields: { readonly status: Row["status"]; readonly observed: Plain; readonly original: Plain },
): Row {
  return {
    address: target.address,
    kind: target.kind.kind,
    ...(target.parent !== undefined && { parent: target.parent }),
    version: (target.prior?.version ?? 0) + 1,
    instance_id: target.instance_id,
    desired: encodeValue(target.resolved, ports.seal),
    observed: fields.observed,
    original: fields.original,
    depends: target.depends,
    options: target.options,
    secrets: target.secrets,
    status: fields.status,
    updated_at: ports.now().toISOString(),
    updated_by: ports.run,
  };
}

export function encodeObservedOf(target: Target, observed: PlainMap | undefined, ports: ExecutorPorts): Plain {
  return observed === undefined ? null : encodeObserved(target.kind, observed, target.taints, ports.seal);
}

/** What somebody has to do by hand where labctl could not. */
export function manualStep(target: Target, error: unknown): string {
  const own = target.kind.manualCleanup?.(itemOf(target));
  return `${target.address}: ${own ?? "undo it by hand"} (${toLabError(error).message})`;
}
