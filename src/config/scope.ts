import type { Reference } from "../model/index.ts";
import { describeNode, isNull, type Place, type ScalarNode, type SpecNode, type TemplateNode } from "./node.ts";
import type { Problems } from "./problems.ts";
import { mayHoldReference, parseReferences } from "./reference.ts";

export interface Variable {
  readonly name: string;
  /** Its value; undefined: it has none, which was reported where it is declared. */
  readonly value: SpecNode | undefined;
  /** References to it stay references, to a secret: its value is never part of a document. */
  readonly sensitive: boolean;
}

/** What `for_each` gives to one instance. References in the value belong to where `for_each` stands. */
export interface Each {
  readonly key: string;
  readonly value: SpecNode;
  readonly scope: Scope;
}

/** One combination of a `matrix:`. */
export interface Combination {
  /** Its values joined with `-`: what names end in. */
  readonly key: string;
  readonly values: ReadonlyMap<string, ScalarNode>;
}

/** What references mean at one place of the spec. */
export interface Scope {
  readonly variables: ReadonlyMap<string, Variable>;
  readonly secrets: ReadonlySet<string>;
  readonly each?: Each;
  readonly matrix?: Combination;
  /** Files are missing, so what is not found may be in one of them: dangling names are not reported. */
  readonly incomplete: boolean;
}

/** Sensitive variables are secrets by another name; names of declared secrets hold no dot. */
export function secretOfVariable(name: string): string {
  return `var.${name}`;
}

export function scalar(text: string, plain: boolean, place: Place): ScalarNode {
  const { source, start, end } = place;
  return { type: "scalar", text, plain, literal: true, source, start, end };
}

/** The place of a piece of a scalar's text, where it can be found in the file as written. */
export function pieceOf(node: ScalarNode, start: number, end: number): Place {
  const piece = node.text.slice(start, end);
  const written = node.source.text.slice(node.start, node.end);
  // Quotes and escapes only make what is written longer.
  const at = written.indexOf(piece, start);
  return at === -1 ? node : { source: node.source, start: node.start + at, end: node.start + at + piece.length };
}

/**
 * A node with `var.*` and `each.*` put in. A whole-string reference keeps the type of what it names. Undefined where
 * that fails, which was then reported.
 */
export function resolveNode(node: SpecNode, scope: Scope, problems: Problems): SpecNode | TemplateNode | undefined {
  if (node.type !== "scalar" || node.literal === true || !mayHoldReference(node.text)) return node;
  const parsed = parseReferences(node.text);
  for (const { message, start, end } of parsed.bad) {
    problems.error("E_REF_SYNTAX", message, pieceOf(node, start, end), "write `$${` for a literal `${`");
  }
  if (parsed.bad.length > 0) return undefined;
  const resolved = parsed.parts.map((part) => {
    if (typeof part === "string") return part;
    const at = (): Place => (problems.full ? node : pieceOf(node, part.start, part.end));
    return resolveReference(part.reference, scope, problems, at);
  });
  if (resolved.includes(undefined)) return undefined;
  const [only] = resolved;
  if (resolved.length === 1 && only !== undefined && typeof only !== "string") {
    return "type" in only ? moved(only, node) : { ...place(node), type: "template", parts: [only] };
  }
  const parts = joined(resolved, node, problems);
  if (parts === undefined) return undefined;
  if (parts.every((part) => typeof part === "string")) return scalar(parts.join(""), false, node);
  return { ...place(node), type: "template", parts };
}

function place(node: Place): Place {
  return { source: node.source, start: node.start, end: node.end };
}

/** A value at the place where it is used; relative paths in it stay relative to where it was written. */
function moved(value: SpecNode | TemplateNode, use: Place): SpecNode | TemplateNode {
  if (value.type !== "scalar") return value;
  return { ...value, ...place(use), origin: value.origin ?? value.source };
}

function joined(
  pieces: readonly (string | Reference | SpecNode | TemplateNode | undefined)[],
  node: ScalarNode,
  problems: Problems,
): (string | Reference)[] | undefined {
  const parts: (string | Reference)[] = [];
  const push = (part: string | Reference): void => {
    const last = parts.at(-1);
    if (typeof part === "string" && typeof last === "string") parts[parts.length - 1] = last + part;
    else parts.push(part);
  };
  for (const piece of pieces) {
    if (piece === undefined) return undefined;
    if (typeof piece === "string" || !("type" in piece)) push(piece);
    else if (piece.type === "template") for (const part of piece.parts) push(part);
    else if (piece.type === "scalar") push(isNull(piece) ? "" : piece.text);
    else {
      problems.error(
        "E_SPEC_TYPE",
        `${describeNode(piece)} cannot stand inside text`,
        node,
        "name one of its values, or let the reference be the whole value",
      );
      return undefined;
    }
  }
  return parts;
}

function resolveReference(
  reference: Reference,
  scope: Scope,
  problems: Problems,
  at: () => Place,
): Reference | SpecNode | TemplateNode | undefined {
  const [name = "", ...path] = reference.path;
  switch (reference.root) {
    case "var":
      return resolveVariable(name, path, scope, problems, at);
    case "each":
      return resolveEach(name, path, scope, problems, at);
    case "matrix":
      return resolveMatrix(name, path, scope, problems, at);
    case "secret":
      if (!scope.secrets.has(name) && !scope.incomplete) {
        const hint = problems.suggest(name, scope.secrets) ?? "declare where it comes from under `secrets:`";
        problems.error("E_REF_UNKNOWN", `there is no secret "${name}"`, at(), hint);
        return undefined;
      }
      if (path.length > 0) {
        problems.error("E_REF_UNKNOWN", `a secret is one text: "${name}" has no parts`, at());
        return undefined;
      }
      return reference;
    default:
      return reference;
  }
}

function resolveVariable(
  name: string,
  path: readonly string[],
  scope: Scope,
  problems: Problems,
  at: () => Place,
): Reference | SpecNode | undefined {
  const variable = scope.variables.get(name);
  if (variable === undefined) {
    if (!scope.incomplete) {
      const hint = problems.suggest(name, scope.variables.keys()) ?? "declare it under `variables:`";
      problems.error("E_REF_UNKNOWN", `there is no variable "${name}"`, at(), hint);
    }
    return undefined;
  }
  if (variable.sensitive) return { root: "secret", path: [secretOfVariable(name)] };
  return variable.value === undefined ? undefined : dig(variable.value, path, `var.${name}`, problems, at);
}

function resolveEach(
  name: string,
  path: readonly string[],
  scope: Scope,
  problems: Problems,
  at: () => Place,
): SpecNode | TemplateNode | undefined {
  const { each } = scope;
  if (each === undefined) {
    problems.error("E_REF_UNKNOWN", `each.${name} has a meaning only beside or below \`for_each:\``, at());
    return undefined;
  }
  if (name === "key" && path.length === 0) return scalar(each.key, true, at());
  if (name !== "value") {
    const what = name === "key" ? "each.key is one text and has no parts" : `there is no each.${name}`;
    problems.error("E_REF_UNKNOWN", what, at(), "there are each.key and each.value");
    return undefined;
  }
  const found = dig(each.value, path, "each.value", problems, at);
  return found === undefined ? undefined : resolveNode(found, each.scope, problems);
}

function resolveMatrix(
  name: string,
  path: readonly string[],
  scope: Scope,
  problems: Problems,
  at: () => Place,
): SpecNode | undefined {
  const { matrix } = scope;
  if (matrix === undefined) {
    problems.error("E_REF_UNKNOWN", `matrix.${name} has a meaning only beside \`matrix:\``, at());
    return undefined;
  }
  const found = matrix.values.get(name);
  if (found === undefined || path.length > 0) {
    const hint = problems.suggest(name, matrix.values.keys());
    problems.error("E_REF_UNKNOWN", `there is no matrix.${[name, ...path].join(".")}`, at(), hint);
    return undefined;
  }
  return found;
}

function dig(
  node: SpecNode,
  path: readonly string[],
  name: string,
  problems: Problems,
  at: () => Place,
): SpecNode | undefined {
  let found = node;
  for (const [i, key] of path.entries()) {
    const next: SpecNode | undefined =
      found.type === "map"
        ? found.entries.get(key)?.value
        : found.type === "list" && /^\d+$/.test(key)
          ? found.items[Number(key)]
          : undefined;
    if (next === undefined) {
      const hint = found.type === "map" ? problems.suggest(key, found.entries.keys()) : undefined;
      problems.error("E_REF_UNKNOWN", `${[name, ...path.slice(0, i)].join(".")} has no "${key}"`, at(), hint);
      return undefined;
    }
    found = next;
  }
  return found;
}
