import type { Entry, MapNode, SpecNode } from "./node.ts";
import { isNull, rangeOf } from "./node.ts";
import type { Problems } from "./problems.ts";
import { shortened } from "./yaml.ts";

/** What every file says for itself. */
const ADDITIVE = new Set(["labctl", "include"]);

/**
 * The files of one spec as one document: sections are put together, and what two files say is an error that names both.
 * `deep`: sections whose entries are put together one level further down (`defaults: { ssh: ... }`).
 */
export function unite(documents: readonly MapNode[], problems: Problems): MapNode | undefined {
  const [first, ...rest] = documents;
  if (first === undefined) return undefined;
  const entries = new Map(first.entries);
  for (const document of rest) {
    for (const [key, entry] of document.entries) {
      const known = entries.get(key);
      if (known === undefined || isNull(known.value)) entries.set(key, entry);
      else if (ADDITIVE.has(key) || isNull(entry.value)) continue;
      else if (known.value.type === "map" && entry.value.type === "map") {
        entries.set(key, { ...known, value: uniteSection(known.value, entry.value, problems, key === "defaults") });
      } else clash(known, entry, problems);
    }
  }
  return { ...first, entries };
}

function uniteSection(one: MapNode, other: MapNode, problems: Problems, deep: boolean): MapNode {
  const entries = new Map(one.entries);
  for (const [key, entry] of other.entries) {
    const known = entries.get(key);
    if (known === undefined) entries.set(key, entry);
    else if (deep && known.value.type === "map" && entry.value.type === "map") {
      entries.set(key, { ...known, value: uniteSection(known.value, entry.value, problems, false) });
    } else clash(known, entry, problems);
  }
  return { ...one, entries };
}

function clash(known: Entry, entry: Entry, problems: Problems): void {
  const { file, line } = rangeOf(known.at);
  problems.error(
    "E_SPEC_DUPLICATE",
    `"${shortened(entry.key)}" is declared twice`,
    entry.at,
    `it is declared at ${file}:${line} already; a profile (lab.NAME.yaml) may change it, an included file may not`,
  );
}

/** A profile over a base: maps deep, lists and scalars replace, null deletes. Places stay those of whoever said it. */
export function overlay(base: MapNode, profile: MapNode): MapNode {
  const entries = new Map(base.entries);
  for (const [key, entry] of profile.entries) {
    const known = entries.get(key);
    if (isNull(entry.value)) entries.delete(key);
    else if (known === undefined) entries.set(key, { ...entry, value: withoutNulls(entry.value) });
    else if (known.value.type === "map" && entry.value.type === "map") {
      entries.set(key, { ...entry, value: overlay(known.value, entry.value) });
    } else entries.set(key, entry);
  }
  return { ...base, entries };
}

/** Where a profile adds a map to nothing, its deletions have nothing to delete. */
function withoutNulls(node: SpecNode): SpecNode {
  if (node.type !== "map") return node;
  const entries = new Map<string, Entry>();
  for (const [key, entry] of node.entries) {
    if (!isNull(entry.value)) entries.set(key, { ...entry, value: withoutNulls(entry.value) });
  }
  return { ...node, entries };
}
