import type { Address, Resource } from "../../model/index.ts";
import { paintFor, type Style } from "./paint.ts";
import { visible } from "./text.ts";
import { splitRoot } from "./words.ts";

type Node = Pick<Resource, "address" | "kind" | "parent" | "depends">;

/** Graphviz: containers point to what they contain with dashed arrows, everything to what it needs with solid ones. */
export function renderDot(nodes: readonly Node[]): string {
  const lines = nodes.flatMap((node) => [
    `  ${dotQuote(node.address)} [label=${dotQuote(labelOf(node))}];`,
    ...(node.parent === undefined ? [] : [`  ${dotQuote(node.parent)} -> ${dotQuote(node.address)} [style=dashed];`]),
    ...node.depends.map((on) => `  ${dotQuote(node.address)} -> ${dotQuote(on)};`),
  ]);
  return ["digraph lab {", "  rankdir=LR;", "  node [shape=box];", ...lines, "}"].join("\n");
}

/** DOT strings know two escapes; a backslash before anything else would be one of its own (`\N`, `\l`). */
function dotQuote(text: string): string {
  return `"${visible(text).replaceAll("\\", "\\\\").replaceAll('"', '\\"')}"`;
}

export function renderMermaid(nodes: readonly Node[]): string {
  const ids = new Map(nodes.map((node, i) => [node.address, `n${i}`]));
  const id = (address: Address): string | undefined => ids.get(address);
  const lines = nodes.flatMap((node) => {
    const own = id(node.address) ?? "";
    const parent = node.parent === undefined ? undefined : id(node.parent);
    return [
      `  ${own}["${mermaidText(labelOf(node))}"]`,
      ...(parent === undefined ? [] : [`  ${parent} -.-> ${own}`]),
      ...node.depends.flatMap((on) => {
        const target = id(on);
        return target === undefined ? [] : [`  ${own} --> ${target}`];
      }),
    ];
  });
  return ["flowchart LR", ...lines].join("\n");
}

/** Mermaid takes entity codes in quoted text: https://mermaid.js.org/syntax/flowchart.html#entity-codes-to-escape-characters */
function mermaidText(text: string): string {
  return visible(text).replaceAll(/[^\p{L}\p{N} ._:/@+=,()[\]-]/gu, (found) => `#${found.codePointAt(0) ?? 0};`);
}

function labelOf(node: Node): string {
  return splitRoot(node.address).rest || node.address;
}

/** A tree of what contains what, with what each needs. */
export function renderTree(nodes: readonly Node[], style: Style): string {
  const paint = paintFor(style);
  const known = new Set(nodes.map((node) => node.address));
  const children = new Map<Address | undefined, Node[]>();
  for (const node of nodes) {
    const parent = node.parent !== undefined && known.has(node.parent) ? node.parent : undefined;
    const list = children.get(parent);
    if (list === undefined) children.set(parent, [node]);
    else list.push(node);
  }
  const lines: string[] = [];
  const walk = (node: Node, lead: string, branch: string, next: string): void => {
    const own = node.parent === undefined ? node.address : node.address.slice(node.parent.length + 1);
    const needs = node.depends.length === 0 ? "" : paint.dim(`  needs ${node.depends.map(visible).join(", ")}`);
    const name = node.parent === undefined ? paint.bold(visible(own)) : visible(own);
    lines.push(`${lead}${paint.dim(branch)}${name}${needs}`);
    const below = children.get(node.address) ?? [];
    for (const [i, child] of below.entries()) {
      const last = i === below.length - 1;
      walk(child, lead + paint.dim(next), last ? "└─ " : "├─ ", last ? "   " : "│  ");
    }
  };
  for (const root of children.get(undefined) ?? []) walk(root, "", "", "");
  return lines.join("\n");
}
