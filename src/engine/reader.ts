import { LabError, SeveralErrors, toLabError } from "../diagnostics/index.ts";
import {
  type Address,
  decodeValue,
  isMap,
  type Plain,
  type Resource,
  type Row,
  type ValueMap,
} from "../model/index.ts";
import { type PlanReading, priorOf, type Readings, type ReferenceSources, resolveMap, viewOf } from "../plan/index.ts";
import type { Item, Kind, KindContext } from "../provider/index.ts";

export interface ReadInput {
  readonly addresses: ReadonlySet<Address>;
  readonly resources: ReadonlyMap<Address, Resource>;
  readonly rows: ReadonlyMap<Address, Row>;
  readonly kinds: ReadonlyMap<string, Kind>;
  /** What is known of references before anything was read. */
  readonly sources: ReferenceSources;
  /** What imports call what they take over. */
  readonly imports: ReadonlyMap<Address, string>;
  readonly newId: () => string;
  context(address: Address, signal: AbortSignal): KindContext;
  readonly signal: AbortSignal;
  /** Most machines read at once. */
  readonly parallelism: number;
}

export interface ReadResult {
  readonly readings: Readings;
  readonly derived: ReadonlyMap<Address, Record<string, Plain | undefined>>;
}

type PlainMap = Record<string, Plain>;

/**
 * Looks at everything a plan is about. All kinds of one machine are asked in the same turn of the event loop, so that
 * their probes travel as one; machines are read beside each other. Changes nothing.
 */
export async function readAll(input: ReadInput): Promise<ReadResult> {
  const items = new Map<Address, { kind: Kind; item: Item<PlainMap, PlainMap> }>();
  for (const address of input.addresses) {
    const entry = itemFor(input, address);
    if (entry !== undefined) items.set(address, entry);
  }
  const derived = await prepareAll(input, items);
  const byMachine = new Map<string, Map<string, { kind: Kind; items: Item<PlainMap, PlainMap>[] }>>();
  for (const { kind, item } of items.values()) {
    // A machine's own facts travel with its contents.
    const stands = kind.on?.(item.desired) ?? item.parent;
    const machine = kind.machine === undefined || stands !== undefined ? (stands ?? `kind ${kind.kind}`) : item.address;
    const groups = byMachine.get(machine) ?? new Map();
    const key = `${kind.kind} ${item.parent ?? ""}`;
    const group = groups.get(key) ?? { kind, items: [] };
    const more = derived.get(item.address);
    group.items.push(more === undefined ? item : withDerived(item, more));
    groups.set(key, group);
    byMachine.set(machine, groups);
  }
  const readings = new Map<Address, PlanReading>();
  const queue = [...byMachine.values()];
  const worker = async (): Promise<void> => {
    for (let groups = queue.shift(); groups !== undefined; groups = queue.shift()) {
      await Promise.all([...groups.values()].map((group) => readGroup(input, group, readings)));
    }
  };
  await Promise.all(Array.from({ length: Math.min(input.parallelism, queue.length) }, worker));
  return { readings, derived };
}

async function readGroup(
  input: ReadInput,
  group: { kind: Kind; items: readonly Item<PlainMap, PlainMap>[] },
  out: Map<Address, PlanReading>,
): Promise<void> {
  const [first] = group.items;
  if (first === undefined) return;
  try {
    const found = await group.kind.readMany(input.context(first.address, input.signal), group.items);
    for (const item of group.items) {
      const reading = found.get(item.address);
      if (reading === undefined)
        throw new LabError("E_PROVIDER_INVALID", `the kind ${group.kind.kind} did not read ${item.address}`, {
          address: item.address,
        });
      out.set(item.address, reading);
    }
  } catch (error) {
    const lab = toLabError(error);
    // Not reaching a machine is a finding; anything else is a failure of the reading itself.
    if (lab.exitCode !== 5 && lab.code !== "E_DISCONNECTED" && lab.code !== "E_SUDO")
      throw lab.atAddress(first.address);
    for (const item of group.items) out.set(item.address, { is: "unreachable", why: lab });
  }
}

async function prepareAll(
  input: ReadInput,
  items: ReadonlyMap<Address, { kind: Kind; item: Item<PlainMap, PlainMap> }>,
): Promise<Map<Address, Record<string, Plain | undefined>>> {
  const derived = new Map<Address, Record<string, Plain | undefined>>();
  const failed = new Map<Address, LabError>();
  const queue = [...items.values()].filter(
    ({ kind, item }) => kind.prepare !== undefined && input.resources.has(item.address),
  );
  const worker = async (): Promise<void> => {
    for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
      const { kind, item } = next;
      try {
        const more = await kind.prepare?.(input.context(item.address, input.signal), item);
        if (more !== undefined && Object.keys(more).length > 0) derived.set(item.address, more);
      } catch (error) {
        const lab = toLabError(error);
        if (lab.code === "E_CANCELLED") throw lab;
        failed.set(item.address, placed(lab.atAddress(item.address), input.resources.get(item.address)?.at));
      }
    }
  };
  await Promise.all(Array.from({ length: 16 }, worker));
  // All of them at once, in the order of the spec: whoever mends one wants to know of the next.
  const errors = [...input.resources.keys()].flatMap((address) => failed.get(address) ?? []);
  if (errors[0] !== undefined) throw errors.length === 1 ? errors[0] : new SeveralErrors(errors);
  return derived;
}

function placed(error: LabError, at: Resource["at"] | undefined): LabError {
  if (at === undefined || error.at !== undefined) return error;
  const { hint, address, retryable } = error;
  return new LabError(error.code, error.message, {
    ...(hint !== undefined && { hint }),
    ...(address !== undefined && { address }),
    at,
    retryable,
    cause: error,
  });
}

/** The item with what was derived; what is known only after apply is named, and absent. */
function withDerived(
  item: Item<PlainMap, PlainMap>,
  derived: Readonly<Record<string, Plain | undefined>>,
): Item<PlainMap, PlainMap> {
  const desired: PlainMap = { ...item.desired };
  const unknown = new Set(item.unknown);
  for (const [key, value] of Object.entries(derived)) {
    if (value === undefined) unknown.add(key);
    else desired[key] = value;
  }
  return { ...item, desired, unknown };
}

/** A resource as its kind sees it; undefined where neither spec nor state has it. */
export function itemFor(
  input: Pick<ReadInput, "resources" | "rows" | "kinds" | "sources" | "imports" | "newId">,
  address: Address,
): { kind: Kind; item: Item<PlainMap, PlainMap> } | undefined {
  const resource = input.resources.get(address);
  const row = input.rows.get(address);
  const kindName = resource?.kind ?? row?.kind;
  if (kindName === undefined) return undefined;
  const kind = input.kinds.get(kindName);
  if (kind === undefined) {
    throw new LabError("E_PROVIDER_NOT_FOUND", `no provider serves the kind "${kindName}" of ${address}`, {
      address,
      hint: "name its provider under `providers:`, or drop it from the state with `labctl state rm`",
    });
  }
  const desired: ValueMap = resource === undefined ? rowDesired(row) : resolveMap(resource.desired, input.sources);
  const view = viewOf(desired, kind);
  const parent = resource?.parent ?? row?.parent;
  const imported = row === undefined ? input.imports.get(address) : undefined;
  return {
    kind,
    item: {
      address,
      parent,
      desired: view.plain,
      sensitive: view.sensitive,
      unknown: view.unknown,
      prior: row && priorOf(row),
      instance_id: row?.instance_id ?? input.newId(),
      ...(imported !== undefined && imported !== "" && { import_id: imported }),
    },
  };
}

function rowDesired(row: Row | undefined): ValueMap {
  const value = row && decodeValue(row.desired);
  return isMap(value) ? value : {};
}
