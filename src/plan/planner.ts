import {
  type Address,
  canonicalText,
  containsSpecial,
  encodeValue,
  type OutputChange,
  type Plain,
  PLAN_FORMAT,
  type Plan,
  type PlannedAction,
  type PlanWarning,
  sameValue,
  type Value,
} from "../model/index.ts";
import { type Decision, Decider } from "./decide.ts";
import { orderActions } from "./edges.ts";
import type { PlanInput } from "./input.ts";
import { resolveValue } from "./resolve.ts";
import { expand } from "./select.ts";

export function makePlan(input: PlanInput): Plan {
  const replace = new Set(input.replace.length === 0 ? [] : expand(input.replace, input.graph.nodes, "--replace"));
  const decider = new Decider(input, replace);
  const resources = new Map(input.resources.map((resource) => [resource.address, resource]));
  const order = input.graph.order();
  for (const address of order) {
    const resource = resources.get(address);
    if (resource !== undefined && input.mode === "normal") decider.decide(resource, input.selected.has(address));
  }
  for (const address of order.toReversed()) {
    const row = input.rows.get(address);
    if (row !== undefined && !decider.decisions.has(address) && input.selected.has(address))
      decider.decideRow(row, resources.get(address));
  }
  const decided = new Map([...decider.decisions].filter(([address]) => input.selected.has(address)));
  const actions = orderActions(input, decided);
  return {
    format_version: PLAN_FORMAT,
    labctl: input.header.labctl,
    id: input.header.id,
    created_at: input.header.created_at,
    lab: input.header.lab,
    mode: input.mode,
    spec: input.header.spec,
    state: {
      scopes: input.header.scopes,
      rows: Object.fromEntries(
        [...input.rows]
          .filter(([address]) => input.selected.has(address))
          .map(([address, row]) => [input.movedFrom.get(address) ?? address, row.version]),
      ),
    },
    secrets: input.secrets,
    settings: input.header.settings,
    actions,
    outputs: outputChanges(input, decider, actions),
    warnings: warnings(input, decided),
  };
}

function outputChanges(input: PlanInput, decider: Decider, actions: readonly PlannedAction[]): OutputChange[] {
  if (input.mode === "refresh-only") return [];
  const destroying = input.mode === "destroy" && actions.length > 0;
  const changes: OutputChange[] = [];
  for (const [name, declaration] of Object.entries(destroying ? {} : input.outputs)) {
    const value = resolveValue(declaration.value, decider.sources());
    const after = encodeValue(value, input.seal);
    const before = input.stateOutputs[name];
    if (before === undefined || containsUnknown(value) || canonicalText(before) !== canonicalText(after)) {
      changes.push({ name, ...(before !== undefined && { before }), after });
    }
  }
  for (const [name, before] of Object.entries(input.stateOutputs)) {
    if (destroying || input.outputs[name] === undefined) changes.push({ name, before });
  }
  return changes.sort((a, b) => (a.name < b.name ? -1 : 1));
}

function containsUnknown(value: Value): boolean {
  return containsSpecial(value) && !sameValue(value, value, () => "");
}

/** A host that leaves while one like it comes is most likely the same one under another name. */
function warnings(input: PlanInput, decided: ReadonlyMap<Address, Decision>): PlanWarning[] {
  const out: PlanWarning[] = [];
  const leaving = [...decided.values()].filter(
    (one) => one.action.action === "delete" && input.mode === "normal" && one.action.parent === undefined,
  );
  const coming = [...decided.values()].filter(
    (one) => !input.rows.has(one.action.address) && one.action.parent === undefined,
  );
  for (const gone of leaving) {
    for (const fresh of coming) {
      if (gone.action.kind !== fresh.action.kind || !alike(input, gone, fresh)) continue;
      out.push({
        code: "maybe-moved",
        address: gone.action.address,
        text: `${gone.action.address} leaves and ${fresh.action.address}, which is like it, comes. If it is the same one under another name, write \`moved: { ${gone.action.address}: ${fresh.action.address} }\`; else labctl undoes there what it did, while it does it again`,
      });
    }
  }
  return out;
}

function alike(input: PlanInput, gone: Decision, fresh: Decision): boolean {
  const identity = new Set(
    Object.entries(input.kinds.get(gone.action.kind)?.schema.properties ?? {})
      .filter(([, property]) => property["x-labctl"]?.identity === true)
      .map(([key]) => key),
  );
  const strip = (value: Plain | undefined): string =>
    canonicalText(
      Object.fromEntries(Object.entries((value ?? {}) as Record<string, Plain>).filter(([key]) => !identity.has(key))),
    );
  return strip(input.rows.get(gone.action.address)?.desired) === strip(fresh.action.after);
}
