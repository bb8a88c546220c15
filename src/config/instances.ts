import { describeNode, type Entry, isNull, type SpecNode } from "./node.ts";
import type { Problems } from "./problems.ts";
import { type Each, resolveNode, type Scope } from "./scope.ts";

/** The entries of a `for_each:`, a list of plain values or a map. What is wrong with it is reported. */
export function instancesOf(entry: Entry, scope: Scope, problems: Problems): Each[] {
  const node = resolveNode(entry.value, scope, problems);
  if (node === undefined) return [];
  if (node.type === "template") {
    problems.error(
      "E_REF_FORBIDDEN",
      "`for_each` must be known when the spec is loaded: it makes names",
      node,
      "only ${var.NAME} and ${each.value} can stand here",
    );
    return [];
  }
  if (node.type === "map") {
    return [...node.entries].map(([key, one]) => ({ key, value: one.value, scope }));
  }
  if (node.type === "scalar") {
    problems.error(
      "E_SPEC_TYPE",
      `"for_each" must be a list or a map, not ${describeNode(node)}`,
      isNull(node) ? entry.at : node,
    );
    return [];
  }
  const out = new Map<string, Each>();
  for (const item of node.items) {
    const value = resolveNode(item, scope, problems);
    if (value === undefined) continue;
    if (value.type !== "scalar" || isNull(value)) {
      const what = value.type === "template" ? "not known when the spec is loaded" : describeNode(value);
      problems.error(
        "E_SPEC_TYPE",
        `an item of "for_each" must be a plain value, not ${what}`,
        item,
        "use a map, from a name to the value of each",
      );
    } else if (out.has(value.text)) {
      problems.error("E_SPEC_DUPLICATE", `"for_each" names "${value.text}" twice`, item);
    } else out.set(value.text, { key: value.text, value: value as SpecNode, scope });
  }
  return [...out.values()];
}
