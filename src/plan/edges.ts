import { Graph } from "../graph/index.ts";
import { type Address, type Envelope, isEffective, type PlannedAction, type Row } from "../model/index.ts";
import type { Decision } from "./decide.ts";
import type { PlanKind } from "./kind.ts";

interface EdgeInput {
  readonly rows: ReadonlyMap<Address, Row>;
  readonly graph: Graph;
  readonly soft: ReadonlyMap<Address, readonly Address[]>;
  readonly kinds: ReadonlyMap<string, PlanKind>;
}

/**
 * The actions in an order in which they can run, each with what it waits for: parents and dependencies before what
 * needs them; for what goes, the other way round, and only once nothing that stays needs it any more.
 */
export function orderActions(input: EdgeInput, decided: ReadonlyMap<Address, Decision>): PlannedAction[] {
  const graph = new Graph();
  for (const address of input.graph.order()) if (decided.has(address)) graph.add(address);
  const goes = (address: Address): boolean => {
    const action = decided.get(address)?.action.action;
    return action === "delete" || (action === "forget" && input.rows.has(address));
  };
  for (const address of graph.nodes) {
    for (const on of input.graph.predecessors(address)) {
      if (goes(on)) graph.after(on, address);
      else if (!goes(address)) graph.after(address, on);
    }
    // What it needed until now must outlive the change that frees it.
    for (const on of input.rows.get(address)?.depends ?? []) if (goes(on) && !goes(address)) graph.after(on, address);
  }
  const hard = new Map(graph.nodes.map((address) => [address, [...graph.predecessors(address)].sort()]));
  const soft = addSoftEdges(graph, input.soft, goes, hard);
  return graph.order().flatMap((address) => {
    const action = decided.get(address)?.action;
    if (action === undefined) return [];
    const after_actions = hard.get(address) ?? [];
    const after_soft = soft.get(address) ?? [];
    const before = [...after_actions, ...after_soft].flatMap((one) => decided.get(one)?.action ?? []);
    return [{ ...action, after_actions, after_soft, envelope: envelopeOf(action, before, input.kinds) }];
  });
}

/**
 * What is to be made may be there, in another shape, once what comes before it was done: a package brings its
 * configuration files, a new user its home. That is not the world changing behind the plan's back; what is found is then
 * taken over as any shared thing is, and given back when the resource goes.
 */
function envelopeOf(
  action: PlannedAction,
  before: readonly PlannedAction[],
  kinds: ReadonlyMap<string, PlanKind>,
): Envelope {
  const { envelope } = action;
  if (envelope.action !== "create" || kinds.get(action.kind)?.ownership !== "shared") return envelope;
  const brings = before.some(
    (one) => one.address !== action.parent && isEffective(one.action) && one.kind !== action.kind,
  );
  return brings ? { ...envelope, exact: false } : envelope;
}

/** Adds what merely orders siblings; where that closes a circle, what users wrote wins. */
function addSoftEdges(
  graph: Graph,
  wanted: ReadonlyMap<Address, readonly Address[]>,
  goes: (address: Address) => boolean,
  hard: ReadonlyMap<Address, readonly Address[]>,
): Map<Address, Address[]> {
  const soft = new Map<Address, Set<Address>>();
  const link = (address: Address, before: Address): void => {
    if (address === before || !graph.has(address) || !graph.has(before) || hard.get(address)?.includes(before)) return;
    graph.after(address, before);
    soft.set(address, (soft.get(address) ?? new Set()).add(before));
  };
  for (const [address, befores] of wanted) {
    for (const before of befores) {
      if (goes(address) && goes(before)) link(before, address);
      else if (!goes(address) && !goes(before)) link(address, before);
    }
  }
  for (const component of graph.components()) {
    const members = new Set(component);
    for (const node of component) {
      for (const before of soft.get(node) ?? []) {
        if (!members.has(before)) continue;
        graph.remove(node, before);
        soft.get(node)?.delete(before);
      }
    }
  }
  return new Map([...soft].map(([address, befores]) => [address, [...befores].sort()]));
}
