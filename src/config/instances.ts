import { describeNode, type Entry, isNull, type ScalarNode, type SpecNode } from "./node.ts";
import type { Problems } from "./problems.ts";
import type { Combination } from "./scope.ts";
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
  return plainItems(node.items, "for_each", scope, problems).map((value) => ({ key: value.text, value, scope }));
}

/** Most combinations of one `matrix:`. */
const MATRIX_LIMIT = 1000;

/** All combinations of a `matrix:`, a map from names to lists of plain values. What is wrong with it is reported. */
export function combinationsOf(entry: Entry, scope: Scope, problems: Problems): Combination[] {
  const node = entry.value;
  if (node.type !== "map" || node.entries.size === 0) {
    problems.error(
      "E_SPEC_TYPE",
      `"matrix" must be a map from names to lists, not ${node.type === "map" ? "an empty one" : describeNode(node)}`,
      isNull(node) ? entry.at : node,
      "for example `matrix: { arch: [x86_64, arm64] }`",
    );
    return [];
  }
  let out: Combination[] = [{ key: "", values: new Map() }];
  for (const [name, axis] of node.entries) {
    const list = resolveNode(axis.value, scope, problems);
    if (list === undefined) return [];
    if (list.type !== "list") {
      const what =
        list.type === "template" ? "something that is not known when the spec is loaded" : describeNode(list);
      problems.error("E_SPEC_TYPE", `"${name}" of a matrix must be a list, not ${what}`, axis.at);
      return [];
    }
    const items = plainItems(list.items, `matrix.${name}`, scope, problems);
    if (out.length * items.length > MATRIX_LIMIT) {
      problems.error("E_SPEC_TOO_LARGE", `the matrix has more than ${MATRIX_LIMIT} combinations`, entry.at);
      return [];
    }
    out = out.flatMap((one) =>
      items.map((item) => ({
        key: one.key === "" ? item.text : `${one.key}-${item.text}`,
        values: new Map(one.values).set(name, item),
      })),
    );
  }
  return out;
}

function plainItems(items: readonly SpecNode[], what: string, scope: Scope, problems: Problems): ScalarNode[] {
  const out = new Map<string, ScalarNode>();
  for (const item of items) {
    const value = resolveNode(item, scope, problems);
    if (value === undefined) continue;
    if (value.type !== "scalar" || isNull(value)) {
      const found = value.type === "template" ? "not known when the spec is loaded" : describeNode(value);
      problems.error(
        "E_SPEC_TYPE",
        `an item of "${what}" must be a plain value, not ${found}`,
        item,
        what === "for_each" ? "use a map, from a name to the value of each" : undefined,
      );
    } else if (out.has(value.text)) {
      problems.error("E_SPEC_DUPLICATE", `"${what}" names "${value.text}" twice`, item);
    } else out.set(value.text, value);
  }
  return [...out.values()];
}
