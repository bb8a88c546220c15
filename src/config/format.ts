import { isDeepStrictEqual } from "node:util";
import {
  type Document,
  isMap,
  isScalar,
  Lexer,
  parseDocument,
  Scalar,
  type ScalarTag,
  visit,
  YAMLMap,
  YAMLSeq,
} from "yaml";
import { stringifyString } from "yaml/util";
import { DiagnosticsError } from "../diagnostics/index.ts";
import type { SpecNode } from "./node.ts";
import { Problems } from "./problems.ts";
import { SourceText } from "./source.ts";
import { parseSpec } from "./yaml.ts";

/** The order of sections; what is not named here comes behind, as it stood. */
const ORDER: readonly string[] = [
  "labctl",
  "name",
  "lab",
  "include",
  "variables",
  "secrets",
  "defaults",
  "limits",
  "providers",
  "hosts",
  "networks",
  "volumes",
  "vms",
  "power",
  "board_types",
  "boards",
  "groups",
  "stacks",
  "builds",
  "environments",
  "domains",
  "test_defaults",
  "tests",
  "artifacts",
  "monitoring",
  "notifiers",
  "alerts",
  "server",
  "results",
  "reports",
  "state",
  "import",
  "moved",
  "removed",
  "outputs",
];

/**
 * A spec in its normal form: indented by two spaces, sections in their order; comments, anchors, quotes, and one blank
 * line where there were any, stay. Where that would change what the text means or lose a comment, less is changed.
 * Throws DiagnosticsError where the text is not YAML. Formatting twice gives the same as formatting once.
 */
export function formatSpec(text: string, file: string): string {
  const source = new SourceText({ path: file, shown: file, dir: "/", text: text.replace(/^\uFEFF/, "") });
  const problems = new Problems();
  const meaning = parseSpec(source, problems);
  if (meaning === undefined || problems.hasErrors) throw new DiagnosticsError(problems.diagnostics());
  const expected = shapeOf(meaning);
  const comments = commentsOf(source.text);
  for (const sorted of [true, false]) {
    const formatted = settle(source.text, sorted);
    if (formatted === undefined) continue;
    const again = parseSpec(new SourceText({ path: file, shown: file, dir: "/", text: formatted }), new Problems());
    const same = again !== undefined && isDeepStrictEqual(shapeOf(again), expected);
    if (same && isDeepStrictEqual(commentsOf(formatted), comments)) return formatted;
  }
  return text;
}

/** Formats until nothing changes any more; undefined where it never comes to rest. */
function settle(text: string, sorted: boolean): string | undefined {
  let current = text;
  for (let round = 0; round < 4; round++) {
    const next = formatOnce(current, sorted);
    if (next === current) return current;
    if (next === undefined) return undefined;
    current = next;
  }
  return undefined;
}

function formatOnce(text: string, sorted: boolean): string | undefined {
  const document = parseDocument(text, {
    schema: "failsafe",
    customTags: (tags) => tags.map((tag) => (typeof tag === "object" && tag.tag === SOURCE.tag ? SOURCE : tag)),
    keepSourceTokens: true,
    uniqueKeys: false,
    merge: false,
    logLevel: "silent",
  });
  if (document.errors.length > 0) return undefined;
  if (sorted && isMap(document.contents)) sortSections(document, document.contents);
  // `{ a: 1 }` and `[1, 2]`, as the examples of the language are written.
  visit(document, {
    Seq: (_, node) => pad(node, YAMLSeq.prototype, ""),
    Map: (_, node) => pad(node, YAMLMap.prototype, " "),
  });
  try {
    const out = document.toString({ indent: 2, lineWidth: 0, flowCollectionPadding: true, minContentWidth: 0 });
    return out.endsWith("\n") ? out : `${out}\n`;
  } catch {
    // An alias that came to stand before its anchor.
    return undefined;
  }
}

function pad(node: YAMLMap | YAMLSeq, prototype: YAMLMap | YAMLSeq, padding: string): void {
  node.toString = (ctx, onComment, onChompKeep) =>
    prototype.toString.call(node, ctx && { ...ctx, flowCollectionPadding: padding }, onComment, onChompKeep);
}

function isNothing(node: Scalar): boolean {
  return node.type === Scalar.PLAIN && node.source === "";
}

/** Scalars as they were written: quotes, escapes, and the spelling of numbers are their author's. */
const SOURCE: ScalarTag = {
  tag: "tag:yaml.org,2002:str",
  default: true,
  identify: (value) => typeof value === "string",
  resolve: (text) => text,
  stringify(item, ctx, onComment, onChompKeep) {
    if (isNothing(item)) return "";
    const token = item.srcToken;
    const source = token !== undefined && "source" in token ? token.source : undefined;
    if (token === undefined || source === undefined)
      return stringifyString(item as StringScalar, ctx, onComment, onChompKeep);
    if (token.type === "block-scalar") {
      const header = token.props.find((one) => one.type === "block-scalar-header");
      const bare = token.props.every((one) => one.type !== "comment");
      const head = bare && header !== undefined && "source" in header ? header.source : "";
      const block =
        /^[|>]-?$/.test(head) && !ctx.inFlow && ctx.implicitKey !== true ? indented(source, ctx.indent) : undefined;
      if (block !== undefined) return `${head}\n${block}`;
    } else if (!source.includes("\n")) return source;
    return stringifyString(item as StringScalar, ctx, onComment, onChompKeep);
  },
};

type StringScalar = Parameters<typeof stringifyString>[0];

/** The lines of a block scalar at another indentation; undefined where its first line says more than the others. */
function indented(source: string, indent: string): string | undefined {
  const lines = source.replaceAll("\r", "").replace(/\n+$/, "").split("\n");
  const depthOf = (line: string): number => line.length - line.trimStart().length;
  const [first = ""] = lines;
  const depth = depthOf(first);
  if (indent === "" || first.trim() === "" || lines.some((line) => line.trim() !== "" && depthOf(line) < depth))
    return undefined;
  return lines.map((line) => (line.length <= depth ? "" : `${indent}${line.slice(depth)}`)).join("\n");
}

function sortSections(document: Document.Parsed, contents: YAMLMap): void {
  const first = contents.items[0];
  const rank = (key: unknown): number => {
    const at = isScalar(key) && typeof key.value === "string" ? ORDER.indexOf(key.value) : -1;
    return at === -1 ? ORDER.length : at;
  };
  const sorted = contents.items
    .map((pair, i) => ({ pair, i }))
    .sort((a, b) => rank(a.pair.key) - rank(b.pair.key) || a.i - b.i);
  if (sorted.every(({ i }, place) => i === place)) return;
  contents.items = sorted.map(({ pair }) => pair);
  if (first !== undefined && isScalar(first.key)) {
    // The comment above the first section goes with it, unless it is about the file.
    const lines = (contents.commentBefore ?? first.key.commentBefore ?? "").split("\n");
    const about = lines.filter((line) => MODELINE.test(line));
    const own = lines.filter((line) => !MODELINE.test(line)).join("\n");
    contents.commentBefore = null;
    first.key.commentBefore = own === "" ? null : own;
    first.key.spaceBefore = contents.items[0] !== first;
    if (about.length > 0) {
      document.commentBefore = [...(document.commentBefore ? [document.commentBefore] : []), ...about].join("\n");
    }
  }
  const top = contents.items[0]?.key;
  if (isScalar(top)) top.spaceBefore = false;
}

/** Comments that editors read. */
const MODELINE = /yaml-language-server:|vim?:|-\*-/;

/** What a document says, places left out, with which scalars are quoted. */
function shapeOf(node: SpecNode): unknown {
  switch (node.type) {
    case "scalar":
      return node.plain ? { plain: node.text } : node.text;
    case "list":
      return node.items.map(shapeOf);
    case "map":
      return new Map([...node.entries].map(([key, entry]) => [key, shapeOf(entry.value)]));
  }
}

function commentsOf(text: string): string[] {
  const out: string[] = [];
  for (const lexeme of new Lexer().lex(text)) if (lexeme.startsWith("#")) out.push(lexeme.trimEnd());
  return out.sort();
}
