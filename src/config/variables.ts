import { resolve } from "node:path";
import type { SpecSelection } from "../engine/port.ts";
import { LabError } from "../diagnostics/index.ts";
import { coreValue, describeNode, entryOf, isNull, type MapNode, type ScalarNode, type SpecNode } from "./node.ts";
import { Problems } from "./problems.ts";
import { firstReference } from "./reference.ts";
import type { Variable } from "./scope.ts";
import { readSource, SourceText } from "./source.ts";
import { parseSpec } from "./yaml.ts";

/** Where another key stands, that is the mistake, and not that there is no value. */
const KNOWN = new Set(["default", "type", "description", "sensitive"]);
const FROM_ENV = "LABCTL_VAR_";

interface Given {
  readonly node: SpecNode;
  /** How messages call it: `--var port`. */
  readonly by: string;
}

/**
 * The values of variables. Later wins: default, environment (`LABCTL_VAR_NAME`), `--var-file`, `--var`; profiles have
 * changed the default already. Relative paths in a value are relative to the file that holds it, or to where the user
 * stands.
 */
export async function readVariables(
  lab: MapNode | undefined,
  selection: SpecSelection,
  problems: Problems,
  incomplete: boolean,
): Promise<{ variables: Map<string, Variable>; sensitive: Map<string, string> }> {
  const section = entryOf(lab, "variables")?.value;
  const declared = section?.type === "map" ? section.entries : new Map<string, never>();
  const given = new Map<string, Given>();
  fromEnvironment(declared.keys(), selection, given);
  await fromFiles(declared, selection, given, problems, incomplete);
  fromFlags(declared, selection, given, problems, incomplete);

  const variables = new Map<string, Variable>();
  const sensitive = new Map<string, string>();
  for (const [name, entry] of declared) {
    const fallback = entryOf(entry.value, "default")?.value;
    const secret = isTrue(entryOf(entry.value, "sensitive")?.value);
    if (fallback !== undefined) refuseReferences(fallback, name, problems);
    const value = valueOf(name, entry, given.get(name), problems);
    const sound =
      isNull(entry.value) ||
      (entry.value.type === "map" && [...entry.value.entries.keys()].every((key) => KNOWN.has(key)));
    if (sound && value === undefined && given.get(name) === undefined && fallback === undefined) {
      problems.error(
        "E_VAR_MISSING",
        `the variable "${name}" has no value`,
        entry.at,
        `give it with --var ${name}=VALUE or ${FROM_ENV}${name}, or write a \`default:\``,
      );
    }
    if (secret && value !== undefined) {
      if (value.type === "scalar") sensitive.set(name, value.text);
      else problems.error("E_SPEC_TYPE", `the sensitive variable "${name}" must be text`, entry.at);
    }
    variables.set(name, { name, value: value === undefined ? undefined : asLiteral(value), sensitive: secret });
  }
  return { variables, sensitive };
}

function isTrue(node: SpecNode | undefined): boolean {
  return node?.type === "scalar" && node.plain && coreValue(node.text) === true;
}

function fromEnvironment(names: Iterable<string>, selection: SpecSelection, given: Map<string, Given>): void {
  for (const name of names) {
    const text = selection.env[`${FROM_ENV}${name}`];
    if (text !== undefined)
      given.set(name, { node: typed(text, `${FROM_ENV}${name}`, selection), by: `${FROM_ENV}${name}` });
  }
}

function fromFlags(
  declared: ReadonlyMap<string, unknown>,
  selection: SpecSelection,
  given: Map<string, Given>,
  problems: Problems,
  incomplete: boolean,
): void {
  for (const [name, text] of Object.entries(selection.vars)) {
    if (declared.has(name)) given.set(name, { node: typed(text, `--var ${name}`, selection), by: `--var ${name}` });
    else if (!incomplete) unknown(name, `--var ${name}`, declared, problems, undefined);
  }
}

async function fromFiles(
  declared: ReadonlyMap<string, unknown>,
  selection: SpecSelection,
  given: Map<string, Given>,
  problems: Problems,
  incomplete: boolean,
): Promise<void> {
  for (const file of selection.varFiles) {
    let source: SourceText;
    try {
      source = await readSource(resolve(selection.cwd, file), selection.cwd);
    } catch (error) {
      if (!(error instanceof LabError)) throw error;
      problems.take(error);
      continue;
    }
    const node = parseSpec(source, problems);
    if (node === undefined) continue;
    if (node.type !== "map") {
      problems.error(
        "E_SPEC_TYPE",
        `a file of variables must be a map, not ${describeNode(node)}`,
        node,
        "NAME: value, one a line",
      );
      continue;
    }
    for (const [name, entry] of node.entries) {
      if (declared.has(name)) given.set(name, { node: entry.value, by: source.shown });
      else if (!incomplete) unknown(name, source.shown, declared, problems, entry.at);
    }
  }
}

function unknown(
  name: string,
  by: string,
  declared: ReadonlyMap<string, unknown>,
  problems: Problems,
  at: Parameters<Problems["error"]>[2],
): void {
  const hint = problems.suggest(name, declared.keys()) ?? "variables are declared under `variables:` in lab.yaml";
  problems.error("E_VAR_UNKNOWN", `${by} gives a value to "${name}", which is no variable of this lab`, at, hint);
}

/** Text from a flag or the environment: plain, so that it can stand for a number as well. */
function typed(text: string, name: string, selection: SpecSelection): ScalarNode {
  const source = new SourceText({ path: name, shown: name, dir: resolve(selection.cwd), text });
  return { type: "scalar", text, plain: true, source, start: 0, end: text.length };
}

function refuseReferences(node: SpecNode, name: string, problems: Problems): void {
  if (node.type === "map") for (const entry of node.entries.values()) refuseReferences(entry.value, name, problems);
  else if (node.type === "list") for (const item of node.items) refuseReferences(item, name, problems);
  else if (firstReference(node.text) !== -1) {
    problems.error(
      "E_REF_FORBIDDEN",
      `the default of the variable "${name}" is a value, not a reference`,
      node,
      "refer to what is meant where the variable is used",
    );
  }
}

type Type = "string" | "number" | "boolean" | "list" | "map";

function typeOf(node: SpecNode): Type | undefined {
  if (node.type !== "scalar") return node.type;
  if (!node.plain) return "string";
  const value = coreValue(node.text);
  if (value === null) return undefined;
  return typeof value === "number" ? "number" : typeof value === "boolean" ? "boolean" : "string";
}

function valueOf(
  name: string,
  entry: { readonly at: SpecNode | { source: SourceText; start: number; end: number }; readonly value: SpecNode },
  given: Given | undefined,
  problems: Problems,
): SpecNode | undefined {
  const said = entryOf(entry.value, "type")?.value;
  const fallback = entryOf(entry.value, "default")?.value;
  const declared = said?.type === "scalar" ? (said.text as Type) : undefined;
  const wanted = declared ?? (fallback === undefined ? undefined : typeOf(fallback));
  const node = given?.node ?? fallback;
  if (node === undefined) return undefined;
  const value = given !== undefined && fromText(given) ? asType(node, wanted) : node;
  const is = value === undefined ? undefined : typeOf(value);
  // A string takes the source text of whatever was written, as properties do.
  const good =
    wanted === undefined || is === wanted || (wanted === "string" && value?.type === "scalar" && !isNull(value));
  if (value !== undefined && good) {
    return wanted === "string" && declared === "string" && value.type === "scalar" ? { ...value, plain: false } : value;
  }
  const by = given === undefined ? "" : ` (${given.by})`;
  const article =
    wanted === "list" || wanted === "map"
      ? `a ${wanted}`
      : wanted === "string"
        ? "text"
        : wanted === "number"
          ? "a number"
          : "true or false";
  const shown = isTrue(entryOf(entry.value, "sensitive")?.value) ? "what was given" : describeNode(node);
  problems.error(
    "E_SPEC_TYPE",
    `the variable "${name}" must be ${article}, not ${shown}${by}`,
    given === undefined || fromText(given) ? entry.at : node,
  );
  return undefined;
}

function fromText(given: Given): boolean {
  return given.by.startsWith("--var ") || given.by.startsWith(FROM_ENV);
}

/** What typed text means where a type is wanted: lists and maps are written as YAML, `[a, b]`. */
function asType(node: SpecNode, wanted: Type | undefined): SpecNode | undefined {
  if (node.type !== "scalar") return node;
  if (wanted === "list" || wanted === "map") {
    const quiet = new Problems();
    return parseSpec(node.source, quiet);
  }
  return wanted === "string" || node.text === "" ? { ...node, plain: false } : node;
}

/** References inside a value are text: only specs hold references. */
export function asLiteral(node: SpecNode): SpecNode {
  if (node.type === "scalar") return { ...node, literal: true };
  if (node.type === "list") return { ...node, items: node.items.map(asLiteral) };
  return {
    ...node,
    entries: new Map([...node.entries].map(([key, entry]) => [key, { ...entry, value: asLiteral(entry.value) }])),
  };
}
