import { LabError } from "../diagnostics/index.ts";
import { Graph } from "../graph/index.ts";
import {
  type Address,
  canonicalAddress,
  isWithin,
  type Move,
  parentAddress,
  type Resource,
  type Row,
} from "../model/index.ts";

/** The order in which things must be there: behind parents and dependencies. Rows that left the spec come last. */
export function dependencyGraph(resources: readonly Resource[], rows: ReadonlyMap<Address, Row>): Graph {
  const graph = new Graph();
  for (const resource of resources) graph.add(resource.address);
  const inSpec = new Set(graph.nodes);
  for (const address of [...rows.keys()].sort()) graph.add(address);
  for (const resource of resources) {
    if (resource.parent !== undefined) graph.after(resource.address, resource.parent);
    for (const on of resource.depends) graph.after(resource.address, on);
  }
  for (const row of rows.values()) {
    if (inSpec.has(row.address)) continue;
    if (row.parent !== undefined) graph.after(row.address, row.parent);
    for (const on of row.depends) graph.after(row.address, on);
  }
  // Rows of different ages can disagree about who needs whom; containment is what must hold.
  for (const component of graph.components()) {
    const members = new Set(component);
    for (const node of component) {
      for (const on of graph.predecessors(node)) {
        if (members.has(on) && !inSpec.has(node) && parentAddress(node) !== on) graph.remove(node, on);
      }
    }
  }
  return graph;
}

export interface Selection {
  readonly targets: readonly string[];
  readonly excludes: readonly string[];
}

/**
 * Which addresses a plan is about. A target takes along what it contains and what it needs; when things are deleted,
 * what needs them. An exclusion takes along what it contains and what needs it.
 */
export function selectAddresses(
  graph: Graph,
  selection: Selection,
  mode: "normal" | "destroy" | "refresh-only",
): Set<Address> {
  const all = graph.nodes;
  let selected = new Set(all);
  if (selection.targets.length > 0) {
    const named = expand(selection.targets, all, "--target");
    selected = mode === "destroy" ? graph.downstream(named) : graph.upstream(named);
  }
  if (selection.excludes.length > 0) {
    for (const address of graph.downstream(expand(selection.excludes, all, "--exclude"))) selected.delete(address);
  }
  return selected;
}

/** Addresses as typed, with what they contain; an address that nothing has is an error. */
export function expand(typed: readonly string[], all: readonly Address[], flag: string): Address[] {
  return typed.flatMap((text) => {
    const address = canonicalAddress(text);
    const found = address === undefined ? [] : all.filter((one) => isWithin(one, address));
    if (found.length === 0) {
      throw new LabError("E_ADDRESS_UNKNOWN", `${flag} ${text}: nothing in the spec or the state has this address`, {
        hint: "`labctl state list` and `labctl graph --format text` show the addresses there are",
      });
    }
    return found;
  });
}

export interface MovedRows {
  readonly rows: ReadonlyMap<Address, Row>;
  /** From new address to old. */
  readonly from: ReadonlyMap<Address, Address>;
}

/** The rows under their new addresses. A move takes along what the resource contains; one that was made already is past. */
export function applyMoves(rows: ReadonlyMap<Address, Row>, moves: readonly Move[]): MovedRows {
  const out = new Map(rows);
  const from = new Map<Address, Address>();
  for (const move of moves) {
    const moving = [...out.keys()].filter((address) => isWithin(address, move.from));
    if (moving.length === 0) continue;
    for (const address of moving) {
      const to = move.to + address.slice(move.from.length);
      if (out.has(to)) {
        throw new LabError("E_MOVED", `cannot rename ${address} to ${to}: the state has both`, {
          at: move.at,
          address: to,
          hint: `drop one of them with \`labctl state rm\`, or take the line out of \`moved:\``,
        });
      }
      const row = out.get(address);
      if (row === undefined) continue;
      out.delete(address);
      out.set(to, renameRow(row, move.from, move.to));
      from.set(to, from.get(address) ?? address);
      from.delete(address);
    }
  }
  if (from.size > 0) {
    for (const [address, row] of out) {
      const depends = moves.reduce((all, move) => all.map((on) => rename(on, move.from, move.to)), row.depends);
      out.set(address, { ...row, depends });
    }
  }
  return { rows: out, from };
}

function rename(address: Address, from: Address, to: Address): Address {
  return isWithin(address, from) ? to + address.slice(from.length) : address;
}

function renameRow(row: Row, from: Address, to: Address): Row {
  return {
    ...row,
    address: rename(row.address, from, to),
    ...(row.parent !== undefined && { parent: rename(row.parent, from, to) }),
  };
}
