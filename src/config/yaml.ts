import { basename } from "node:path";
import {
  type Alias,
  Composer,
  type Document,
  isAlias,
  isMap,
  isScalar,
  isSeq,
  Lexer,
  type Node,
  type Pair,
  Parser,
  Scalar,
  type YAMLError,
  type YAMLMap,
  type YAMLSeq,
} from "yaml";
import { type Entry, isNull, type MapNode, type Place, type ScalarNode, type SpecNode } from "./node.ts";
import type { Problems } from "./problems.ts";
import { readSimple } from "./simple-yaml.ts";
import type { SourceText } from "./source.ts";

/** Deepest nesting of maps and lists. What follows walks by recursion; no spec that people write comes near. */
export const DEPTH_LIMIT = 100;
/** YAML knows two directives, %YAML and %TAG. */
const DIRECTIVE_LIMIT = 20;
/** Most lexical elements of one file, some 50,000 resources: four megabytes of dashes would take gigabytes of memory. */
const LEXEME_LIMIT = 1_500_000;
/** Most nodes that aliases may add to what was written: a handful of lines can stand for billions. */
export const ALIAS_LIMIT = 100_000;

/**
 * Parses one file. Undefined where it is not YAML, or empty; `problems` says why. Never throws for what is in the text.
 */
export function parseSpec(source: SourceText, problems: Problems): SpecNode | undefined {
  return readSimple(source) ?? parseFully(source, problems);
}

/** The same by the library alone: all of YAML, and what is wrong with it. */
export function parseFully(source: SourceText, problems: Problems): SpecNode | undefined {
  const documents = composeDocuments(source, problems);
  if (documents === undefined) return undefined;
  const [document, second] = documents;
  const whole = { source, start: 0, end: 0 };
  if (document === undefined || document.contents === null) {
    const error = document?.errors[0];
    if (error !== undefined) problems.error("E_YAML_SYNTAX", ...describe(error, source));
    else refuseEmpty(source, whole, problems);
    return undefined;
  }
  const error = document.errors[0];
  if (error !== undefined) {
    problems.error("E_YAML_SYNTAX", ...describe(error, source));
    return undefined;
  }
  if (second !== undefined) {
    const start = second.range[0];
    problems.error(
      "E_YAML_SYNTAX",
      "a spec is one YAML document, and here a second one begins",
      { source, start, end: start + 3 },
      "put it into a file of its own, and name that under `include:`",
    );
    return undefined;
  }
  const node = new Converter(source, problems).convert(document.contents);
  if (node?.type === "scalar" && isNull(node)) {
    refuseEmpty(source, whole, problems);
    return undefined;
  }
  return node;
}

function refuseEmpty(source: SourceText, whole: Place, problems: Problems): void {
  const hint = /^pipeline\b/.test(basename(source.shown))
    ? "the least that a pipeline holds is `labctl: 1`; without one there need be no file"
    : "`labctl init` writes a small lab to start from";
  problems.error("E_SPEC_EMPTY", `${source.shown} is empty`, whole, hint);
}

/** The documents of a text, or undefined where it nests too deeply: composing recurses, so the parser is watched. */
export function composeDocuments(source: SourceText, problems: Problems): Document.Parsed[] | undefined {
  const parser = new Parser();
  const composer = new Composer({
    schema: "failsafe",
    version: "1.2",
    uniqueKeys: false,
    merge: false,
    logLevel: "silent",
  });
  const documents: Document.Parsed[] = [];
  const take = (token: Parameters<Composer["next"]>[0]): void => {
    for (const document of composer.next(token)) documents.push(document as Document.Parsed);
  };
  let lexemes = 0;
  let directives = 0;
  for (const lexeme of new Lexer().lex(source.text)) {
    lexemes += 1;
    if (lexemes > LEXEME_LIMIT) {
      problems.error(
        "E_SPEC_TOO_LARGE",
        `${source.shown} holds more than labctl reads of one file`,
        { source, start: parser.offset, end: parser.offset },
        "split it with `include:`, or say it with `for_each:`",
      );
      return undefined;
    }
    for (const token of parser.next(lexeme)) {
      take(token);
      if (token.type === "directive") directives += 1;
    }
    if (directives > DIRECTIVE_LIMIT) {
      problems.error("E_YAML_SYNTAX", "this is no spec: it begins with lines of %", { source, start: 0, end: 1 });
      return undefined;
    }
    if (parser.stack.length > DEPTH_LIMIT + 2) {
      problems.error(
        "E_YAML_SYNTAX",
        `maps and lists are nested more than ${DEPTH_LIMIT} deep`,
        { source, start: Math.max(0, parser.offset - 1), end: parser.offset },
        "no section of a spec is that deep; look for brackets or dashes that are too many",
      );
      return undefined;
    }
    if (documents.length > 1) break;
  }
  for (const token of parser.end()) take(token);
  for (const document of composer.end()) documents.push(document as Document.Parsed);
  return documents;
}

const TAB = ["a tab indents this line", "YAML indents with spaces only"] as const;

const PLAINER: Readonly<Record<string, readonly [message: string, hint?: string]>> = {
  TAB_AS_INDENT: TAB,
  MULTILINE_IMPLICIT_KEY: ["this line is no `key: value`", "is there a colon, and a space after it?"],
  BLOCK_AS_IMPLICIT_KEY: ["a map or list begins on the line of a key", "put it on the next line, indented"],
};

function hintFor(code: string, detail: string, line: string): string | undefined {
  if (/[:,{[]\s*[^"'\s]*\$\{/.test(line)) return "text that holds `${` must be in quotes here";
  if (detail.startsWith("Flow ")) return "is a bracket or brace before it not closed?";
  return code === "BAD_INDENT" ? "keys of one map begin in one column" : undefined;
}

type Complaint = [message: string, at: Place, hint: string | undefined];

function describe(error: YAMLError, source: SourceText): Complaint {
  const [start, end] = error.pos;
  // A tab may show up under other names, depending on where it stands.
  const { line, column } = source.position(start);
  const text = source.lines[line - 1] ?? "";
  if (/^ *\t/.test(text)) {
    const tab = start - column + 1 + text.indexOf("\t");
    return [`not valid YAML: ${TAB[0]}`, { source, start: tab, end: tab + 1 }, TAB[1]];
  }
  const detail = (error.message.split("\n")[0] ?? "").replace(/ at line \d+, column \d+:?$/, "");
  const [message, hint] = PLAINER[error.code] ?? [
    detail,
    hintFor(error.code, detail, text.slice(Math.max(0, column - 80), column + 2)),
  ];
  return [`not valid YAML: ${message}`, { source, start, end }, hint];
}

/** Turns the library's tree into ours: aliases and merge keys followed, duplicate keys found. */
class Converter {
  readonly #source: SourceText;
  readonly #problems: Problems;
  readonly #anchors = new Map<string, SpecNode | "open">();
  /** How many nodes there are below and including one, aliases followed; of those that were asked for. */
  readonly #sizes = new Map<SpecNode, number>();
  #borrowed = 0;
  #overflowed = false;

  constructor(source: SourceText, problems: Problems) {
    this.#source = source;
    this.#problems = problems;
  }

  convert(node: Node): SpecNode | undefined {
    if (this.#overflowed) return undefined;
    const place = this.#placeOf(node);
    if (isAlias(node)) return this.#follow(node, place);
    const anchor = "anchor" in node ? node.anchor : undefined;
    if (anchor !== undefined) this.#anchors.set(anchor, "open");
    if (node.tag !== undefined && !["!", "tag:yaml.org,2002:str"].includes(node.tag)) this.#refuseTag(node, place);
    const made = isMap(node)
      ? this.#map(node, place)
      : isSeq(node)
        ? this.#list(node, place)
        : this.#scalar(node, place);
    if (anchor !== undefined) {
      if (made === undefined) this.#anchors.delete(anchor);
      else this.#anchors.set(anchor, made);
    }
    return made;
  }

  #placeOf(node: Node): Place {
    const [start, end] = node.range ?? [0, 0];
    return { source: this.#source, start, end };
  }

  #refuseTag(node: Node, place: Place): void {
    if (["tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"].includes(node.tag ?? "")) return;
    const shown = (node.tag ?? "").replace("tag:yaml.org,2002:", "!!");
    this.#problems.error(
      "E_YAML_SYNTAX",
      `the tag ${shown} is not used in specs`,
      place,
      "remove it; quote what is meant as text",
    );
  }

  #follow(alias: Alias, place: Place): SpecNode | undefined {
    const target = this.#anchors.get(alias.source);
    if (target === "open") {
      this.#problems.error("E_YAML_ALIAS", `*${alias.source} stands inside what it refers to`, place);
      return undefined;
    }
    if (target === undefined) {
      const names = [...this.#anchors.keys()];
      const hint = this.#problems.suggest(alias.source, names)?.replace(/"(.*)"/, "*$1");
      this.#problems.error(
        "E_YAML_ALIAS",
        `*${alias.source} refers to an anchor that is not set before it`,
        place,
        hint ?? `an anchor is set with &${alias.source}, above`,
      );
      return undefined;
    }
    this.#borrow(this.#sizeOf(target), place);
    return this.#overflowed ? undefined : target;
  }

  #borrow(count: number, place: Place): void {
    this.#borrowed += count;
    if (this.#borrowed <= ALIAS_LIMIT || this.#overflowed) return;
    this.#overflowed = true;
    this.#problems.error(
      "E_YAML_ALIAS",
      `the aliases of this file stand for more than ${ALIAS_LIMIT.toLocaleString("en")} values`,
      place,
      "write it with `for_each:` instead",
    );
  }

  #scalar(node: Node, place: Place): ScalarNode | undefined {
    if (!isScalar(node)) return undefined;
    const plain = (node.type === undefined || node.type === Scalar.PLAIN) && node.tag === undefined;
    const text = node.type === Scalar.PLAIN ? (node.source ?? "") : typeof node.value === "string" ? node.value : "";
    return { type: "scalar", text, plain, source: place.source, start: place.start, end: place.end };
  }

  #sizeOf(node: SpecNode): number {
    if (node.type === "scalar") return 1;
    const known = this.#sizes.get(node);
    if (known !== undefined) return known;
    let size = 1;
    if (node.type === "list") for (const item of node.items) size += this.#sizeOf(item);
    else for (const entry of node.entries.values()) size += this.#sizeOf(entry.value);
    this.#sizes.set(node, size);
    return size;
  }

  #list(node: YAMLSeq, place: Place): SpecNode | undefined {
    const items: SpecNode[] = [];
    for (const item of node.items as (Node | Pair)[]) {
      // `[a: 1]` is a list of a map of one pair.
      if (!("range" in item)) {
        items.push({ type: "map", entries: this.#entries([item as Pair<Node, Node | null>], place), ...place });
        continue;
      }
      const made = this.convert(item);
      if (made !== undefined) items.push(made);
    }
    return { type: "list", items, ...place };
  }

  #map(node: YAMLMap, place: Place): SpecNode {
    const entries = this.#entries(node.items as Pair<Node, Node | null>[], place);
    return { type: "map", entries, source: place.source, start: place.start, end: place.end };
  }

  #entries(pairs: readonly Pair<Node, Node | null>[], owner: Place): Map<string, Entry> {
    const entries = new Map<string, Entry>();
    const merged: MapNode[] = [];
    for (const pair of pairs) {
      const at = pair.key === null ? owner : this.#placeOf(pair.key);
      const key = this.#key(pair.key, at);
      const value: SpecNode | undefined =
        pair.value === null ? { type: "scalar", text: "", plain: true, ...at } : this.convert(pair.value);
      if (key === undefined || value === undefined) continue;
      if (key === "<<" && isScalar(pair.key) && pair.key.type === Scalar.PLAIN) {
        merged.push(...this.#mergeSources(value, at));
        continue;
      }
      const first = entries.get(key);
      if (first !== undefined) {
        const { line } = this.#source.position(first.at.start);
        this.#problems.error(
          "E_YAML_DUPLICATE_KEY",
          `the key "${shortened(key)}" stands twice in this map`,
          at,
          `it stands on line ${line} already`,
        );
        continue;
      }
      entries.set(key, { key, at, value });
    }
    for (const from of merged) {
      for (const [key, entry] of from.entries) {
        if (entries.has(key)) continue;
        entries.set(key, entry);
        this.#borrow(this.#sizeOf(entry.value), owner);
      }
    }
    return entries;
  }

  #mergeSources(value: SpecNode, at: Place): MapNode[] {
    const sources = value.type === "list" ? value.items : [value];
    const maps = sources.filter((one): one is MapNode => one.type === "map");
    if (maps.length !== sources.length) {
      this.#problems.error(
        "E_YAML_ALIAS",
        "`<<` merges maps, and this is none",
        at,
        "write `<<: *name`, where &name marks a map",
      );
    }
    return maps;
  }

  #key(node: Node | null, at: Place): string | undefined {
    if (node === null) {
      this.#problems.error("E_YAML_SYNTAX", "a key is missing before the colon", at);
      return undefined;
    }
    const made = this.convert(node);
    if (made === undefined) return undefined;
    if (made.type !== "scalar") {
      this.#problems.error(
        "E_YAML_SYNTAX",
        "a key must be plain text, not a map or a list",
        at,
        "quote it if it is meant as text",
      );
      return undefined;
    }
    if (made.plain && made.text === "") {
      this.#problems.error("E_YAML_SYNTAX", "a key is missing before the colon", at);
      return undefined;
    }
    return made.text;
  }
}

export function shortened(text: string, most = 60): string {
  return text.length > most ? `${text.slice(0, most - 3)}...` : text;
}
