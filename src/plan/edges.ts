import { Graph } from "../graph/index.ts";
import type { Address, PlannedAction, Row } from "../model/index.ts";
import type { Decision } from "./decide.ts";

interface EdgeInput {
  readonly rows: ReadonlyMap<Address, Row>;
  readonly graph: Graph;
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
  return graph.order().flatMap((address) => {
    const action = decided.get(address)?.action;
    return action === undefined ? [] : [{ ...action, after_actions: [...graph.predecessors(address)].sort() }];
  });
}
