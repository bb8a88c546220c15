import type { ProviderRequirement } from "../model/index.ts";
import { localPath } from "./check-base.ts";
import { entryOf, isNull, type MapNode, rangeOf, type SpecNode } from "./node.ts";
import { Problems } from "./problems.ts";
import { resolveNode, type Variable } from "./scope.ts";

/** The `providers:` of a spec as far as they can be read: their schema is checked later, with everything else. */
export function readProviders(
  lab: MapNode | undefined,
  root: string,
  variables: ReadonlyMap<string, Variable>,
): ProviderRequirement[] {
  const section = entryOf(lab, "providers")?.value;
  if (section?.type !== "map") return [];
  const out: ProviderRequirement[] = [];
  for (const [name, entry] of section.entries) {
    const source = textOf(entryOf(entry.value, "source")?.value, variables);
    const version = textOf(entryOf(entry.value, "version")?.value, variables);
    if (source === undefined) continue;
    const { text, node } = source;
    const origin = node.type === "scalar" ? (node.origin ?? node.source) : node.source;
    out.push({
      name,
      source: text.startsWith("npm:") ? text : localPath(text, origin.dir, root),
      ...(version !== undefined && { version: version.text }),
      at: rangeOf(entry.at),
    });
  }
  return out;
}

function textOf(
  node: SpecNode | undefined,
  variables: ReadonlyMap<string, Variable>,
): { readonly text: string; readonly node: SpecNode } | undefined {
  if (node === undefined) return undefined;
  const quiet = new Problems();
  const found = resolveNode(node, { variables, secrets: new Set(), incomplete: true }, quiet);
  return found?.type === "scalar" && !isNull(found) && found.text !== ""
    ? { text: found.text, node: found }
    : undefined;
}
