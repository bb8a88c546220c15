import type { Reference, SourceRange } from "../model/index.ts";
import type { SourceText } from "./source.ts";

/** A stretch of text: where something stands. Lines and columns are worked out when they are asked for. */
export interface Place {
  readonly source: SourceText;
  readonly start: number;
  readonly end: number;
}

/** YAML as the loader sees it: aliases and merge keys followed, scalars not yet given a type. */
export type SpecNode = MapNode | ListNode | ScalarNode;

export interface MapNode extends Place {
  readonly type: "map";
  /** A Map and not an object: a key may be called `__proto__`. */
  readonly entries: ReadonlyMap<string, Entry>;
}

export interface Entry {
  readonly key: string;
  readonly at: Place;
  readonly value: SpecNode;
}

export interface ListNode extends Place {
  readonly type: "list";
  readonly items: readonly SpecNode[];
}

export interface ScalarNode extends Place {
  readonly type: "scalar";
  /** What was written, quotes and folding removed; for a plain scalar its source text. */
  readonly text: string;
  /** Not quoted and no block: may stand for a number, a boolean or nothing. */
  readonly plain: boolean;
  /** It came from a flag, the environment or a variable: references inside are text. */
  readonly literal?: boolean;
  /** Where it was written, when that is not where it is used: relative paths are relative to there. */
  readonly origin?: SourceText;
}

/** Text with references that are resolved later, if at all before apply. Made by the scope, never by the parser. */
export interface TemplateNode extends Place {
  readonly type: "template";
  readonly parts: readonly (string | Reference)[];
}

export function rangeOf(place: Place): SourceRange {
  return place.source.range(place.start, place.end);
}

export function entryOf(node: SpecNode | undefined, key: string): Entry | undefined {
  return node?.type === "map" ? node.entries.get(key) : undefined;
}

export function isNull(node: SpecNode | TemplateNode): boolean {
  return node.type === "scalar" && node.plain && /^(~|null|Null|NULL)?$/.test(node.text);
}

/** True where nothing at all was written. */
export function isEmpty(node: SpecNode | TemplateNode): boolean {
  return node.type === "scalar" && node.plain && node.text === "";
}

/**
 * What a plain scalar means by the core schema of YAML 1.2 (section 10.3.2), whatever a `%YAML` line says.
 * Undefined for text.
 */
export function coreValue(text: string): null | boolean | number | undefined {
  if (/^(~|null|Null|NULL)?$/.test(text)) return null;
  if (/^(true|True|TRUE)$/.test(text)) return true;
  if (/^(false|False|FALSE)$/.test(text)) return false;
  if (/^[-+]?[0-9]+$/.test(text)) return Number(text);
  if (/^0o[0-7]+$/.test(text) || /^0x[0-9a-fA-F]+$/.test(text)) return Number(text);
  if (/^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$/.test(text)) return Number(text);
  return undefined;
}

/** How a node is called in messages. */
export function describeNode(node: SpecNode | TemplateNode): string {
  switch (node.type) {
    case "map":
      return "a map";
    case "list":
      return "a list";
    case "template":
      return "text with references";
    case "scalar": {
      if (isEmpty(node)) return "nothing";
      const value = node.plain ? coreValue(node.text) : undefined;
      if (value === null || typeof value === "boolean") return node.text;
      const text = node.text.length > 40 ? `${node.text.slice(0, 37)}...` : node.text;
      return typeof value === "number" ? `the number ${text}` : JSON.stringify(text);
    }
  }
}
