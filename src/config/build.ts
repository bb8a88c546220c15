import { resolve } from "node:path";
import { DiagnosticsError, type Diagnostic } from "../diagnostics/index.ts";
import {
  type Address,
  isMap,
  type Lab,
  LAB_SCOPE,
  pipelineScope,
  type PlanSettings,
  type Scope as StateScope,
  Sensitive,
  type Resource,
  type SourceRange,
  type Value,
} from "../model/index.ts";
import type { Kind } from "../provider/index.ts";
import type { SpecSelection } from "../engine/port.ts";
import { readArtifacts } from "./artifacts.ts";
import { check, type CheckContext } from "./check.ts";
import { listed } from "./check-base.ts";
import type { Documents } from "./documents.ts";
import { loadDocuments } from "./documents.ts";
import { type Draft, Expander, unsupported } from "./expand.ts";
import { GROUP, Linker } from "./links.ts";
import { type Entry, entryOf, isNull, type MapNode, rangeOf } from "./node.ts";
import { Roster } from "./roster.ts";
import type { Scope } from "./scope.ts";
import { readDefaults, readGroups, readOutputs, readSecrets, readState, type Sections } from "./sections.ts";
import { KindTables } from "./tables.ts";
import { asLiteral } from "./variables.ts";
import { fixedSections, LATER_LAB, LATER_PIPELINE, LATER_WITHIN, PIPELINE_SECTIONS } from "./top.ts";
import { shortened } from "./yaml.ts";

export interface LoadResult {
  readonly lab: Lab;
  /** Absolute folder of the lab's spec: relative paths in the lab are relative to it. */
  readonly root: string;
  /** What named the spec, for saved plans. Without values of sensitive variables. */
  readonly selection: PlanSettings["selection"];
  readonly warnings: readonly Diagnostic[];
  /** Values of sensitive variables: what resolveSecret() gives for a source `{ variable }`. */
  readonly variables: ReadonlyMap<string, Sensitive<string>>;
}

/** Reads, validates and expands a spec. Rejects with DiagnosticsError, which holds every problem there is. */
export async function loadLab(selection: SpecSelection, kinds: readonly Kind[]): Promise<LoadResult> {
  return buildLab(await loadDocuments(selection), kinds);
}

/** The second half of loadLab, once the kinds of all providers are at hand. */
export async function buildLab(documents: Documents, kinds: readonly Kind[]): Promise<LoadResult> {
  const { problems, root, incomplete } = documents;
  const tables = new KindTables(kinds);
  const lab = documents.lab;
  const { values, pipeline, sections } = readTop(documents, kinds, tables);
  const scope = scopeOf(documents);
  const defaults = readDefaults(values);
  const groups = readGroups(values, lab);
  const expander = new Expander({ problems, tables, root, defaults });
  for (const [kind, entry] of sections) expander.section(kind, entry, undefined, scope);

  const { drafts } = expander;
  const linker = new Linker({
    problems,
    tables,
    drafts,
    expanded: expander.expanded,
    groups: new Set(groups.map(([name]) => name)),
    incomplete,
  });
  const depends = linker.depends();
  const outputs = readOutputs(lab, { problems, scope, root }, (reference, at) => linker.reference(reference, at));
  const roster = new Roster({
    problems,
    tables,
    drafts,
    lab,
    incomplete,
    suggest: (address) => problems.suggest(address, drafts.keys()),
  });
  const [imports, moved, removed] = [roster.imports(), roster.moved(), roster.removed()];
  if (!problems.hasErrors) (await import("./record.ts")).checkRecord(documents, kinds);
  if (problems.hasErrors) throw new DiagnosticsError(problems.diagnostics());

  const name = values.get("name");
  const scopes = scopesOf(documents, pipeline, tables);
  const members = membersOf(drafts);
  return {
    lab: {
      name: typeof name === "string" ? name : "lab",
      files: documents.files,
      scopes: scopes.own,
      resources: [...drafts.values()].map((draft) => ({
        ...resourceOf(draft, depends.get(draft.address) ?? []),
        scope: scopes.of(draft),
      })),
      secrets: readSecrets(values, documents.sensitive),
      providers: documents.providers,
      groups: Object.fromEntries(
        groups.map(([group, made]) => [group, { ...made, members: members.get(group) ?? [] }]),
      ),
      limits: mapOf(values.get("limits")),
      defaults,
      state: readState(values, root),
      artifacts: readArtifacts(values.get("artifacts"), root, readState(values, root).path),
      imports,
      moved,
      removed,
      outputs,
    },
    root,
    selection: keptSelection(documents),
    warnings: problems.diagnostics(),
    variables: new Map([...documents.sensitive].map(([key, value]) => [key, new Sensitive(value)])),
  };
}

function keptSelection({ selection, sensitive }: Documents): PlanSettings["selection"] {
  const { profile, instance, vars, varFiles, cwd } = selection;
  return {
    ...(profile !== undefined && { profile }),
    ...(instance !== undefined && { instance }),
    vars: Object.fromEntries(Object.entries(vars).filter(([name]) => !sensitive.has(name))),
    var_files: varFiles.map((file) => resolve(cwd, file)),
  };
}

function mapOf(value: Value | undefined): Readonly<Record<string, Value>> {
  return isMap(value) ? value : {};
}

/** Whose rows are kept where, and which of that the selection owns. */
function scopesOf(
  documents: Documents,
  pipeline: string | undefined,
  tables: KindTables,
): { own: readonly StateScope[]; of(draft: Draft): StateScope } {
  const { given, selection } = documents;
  const second = pipelineScope(pipeline ?? "pipeline", selection.instance);
  return {
    own: [...(given.lab ? [LAB_SCOPE] : []), ...(given.pipeline && pipeline !== undefined ? [second] : [])],
    of: (draft) => (tables.documentOf(draft.kind) === "pipeline" ? second : LAB_SCOPE),
  };
}

function resourceOf(draft: Draft, depends: readonly Address[]): Omit<Resource, "scope"> {
  const places: [string, SourceRange][] = [...draft.places].map(([path, at]) => [path, rangeOf(at)]);
  return {
    address: draft.address,
    kind: draft.kind.kind,
    ...(draft.parent && { parent: draft.parent.address }),
    desired: draft.desired,
    depends,
    options: draft.options.options,
    at: rangeOf(draft.at),
    places: Object.fromEntries(places),
  };
}

/** By group, the resources that name it: with a property that refers to groups, or the top level's `group:`. */
function membersOf(drafts: ReadonlyMap<Address, Draft>): Map<string, Address[]> {
  const out = new Map<string, Address[]>();
  for (const address of [...drafts.keys()].sort()) {
    for (const { kind, name } of drafts.get(address)?.refers ?? []) {
      const members = out.get(name) ?? [];
      if (kind !== GROUP || members.at(-1) === address) continue;
      members.push(address);
      out.set(name, members);
    }
  }
  return out;
}

function scopeOf(documents: Documents): Scope {
  const secrets = entryOf(documents.lab, "secrets")?.value;
  return {
    variables: documents.variables,
    secrets: new Set(secrets?.type === "map" ? secrets.entries.keys() : []),
    incomplete: documents.incomplete,
  };
}

/** Checks the sections that no kind brings, and finds those that kinds bring. */
function readTop(
  documents: Documents,
  kinds: readonly Kind[],
  tables: KindTables,
): { values: Sections; pipeline: string | undefined; sections: (readonly [Kind, Entry])[] } {
  const { problems, root, lab, pipeline } = documents;
  const values = new Map<string, Value>();
  const sections: (readonly [Kind, Entry])[] = [];
  const fixed = fixedSections(kinds);
  const ofLab = [...Object.keys(fixed), ...tables.top.keys()];
  const ofPipeline = [...Object.keys(PIPELINE_SECTIONS), ...tables.pipeline.keys()];
  const scope = scopeOf(documents);
  const base: CheckContext = { problems, scope, root };
  for (const [key, entry] of lab?.entries ?? []) {
    const kind = tables.top.get(key);
    const schema = Object.hasOwn(fixed, key) ? fixed[key] : undefined;
    if (kind !== undefined) sections.push([kind, entry]);
    else if (schema === undefined)
      unknownSection(key, entry, ofLab, LATER_LAB, documents, {
        file: "pipeline.yaml",
        sections: [...ofPipeline, ...LATER_PIPELINE],
      });
    else if (key !== "outputs") {
      // References in defaults of variables were refused where variables are read.
      const written = key === "variables" ? asLiteral(entry.value) : entry.value;
      const node = { ...entry, value: withoutLater(key, written, documents) };
      // Values that connections are made of may hold secrets; all else must be known now.
      const known = key === "defaults" ? {} : { known: `in \`${key}:\`` };
      const value = check(node.value, schema, { path: "", label: `"${key}"`, at: entry.at }, { ...base, ...known });
      if (value !== undefined) values.set(key, value);
    }
  }
  if (lab !== undefined && !documents.incomplete) required(lab, ["labctl", "name"], documents);
  let pipelineName: string | undefined;
  for (const [key, entry] of pipeline?.entries ?? []) {
    const kind = tables.pipeline.get(key);
    const schema = Object.hasOwn(PIPELINE_SECTIONS, key) ? PIPELINE_SECTIONS[key] : undefined;
    if (kind !== undefined) sections.push([kind, entry]);
    else if (schema === undefined) {
      unknownSection(key, entry, ofPipeline, LATER_PIPELINE, documents, { file: "lab.yaml", sections: ofLab });
    } else {
      const spot = { path: "", label: `"${key}"`, at: entry.at };
      const value = check(entry.value, schema, spot, { ...base, known: `in \`${key}:\`` });
      if (key === "name" && typeof value === "string") pipelineName = value;
    }
  }
  if (pipeline !== undefined && !documents.incomplete) required(pipeline, ["labctl", "name"], documents);
  return { values, pipeline: pipelineName, sections };
}

function withoutLater(section: string, node: Entry["value"], documents: Documents): Entry["value"] {
  const later = LATER_WITHIN[section];
  if (later === undefined || node.type !== "map") return node;
  const entries = new Map(node.entries);
  for (const [key, entry] of node.entries) {
    if (entry.value.type !== "map") continue;
    const kept = new Map(entry.value.entries);
    for (const name of later) {
      const found = kept.get(name);
      if (found === undefined) continue;
      unsupported(found, documents.problems);
      kept.delete(name);
    }
    entries.set(key, { ...entry, value: { ...entry.value, entries: kept } });
  }
  return { ...node, entries };
}

function unknownSection(
  key: string,
  entry: Entry,
  known: readonly string[],
  later: readonly string[],
  { problems }: Documents,
  elsewhere: { readonly file: string; readonly sections: readonly string[] },
): void {
  if (later.includes(key)) {
    unsupported(entry, problems);
    return;
  }
  if (elsewhere.sections.includes(key)) {
    const what = `"${key}" belongs to ${elsewhere.file}`;
    problems.error("E_SPEC_UNKNOWN_KEY", what, entry.at, `move it into ${elsewhere.file} beside this file`);
    return;
  }
  const hint = problems.suggest(key, [...known, ...later]) ?? listed(known);
  problems.error("E_SPEC_UNKNOWN_KEY", `there is no section "${shortened(key)}"`, entry.at, hint);
}

function required(node: MapNode, keys: readonly string[], { problems }: Documents): void {
  for (const key of keys) {
    const entry = node.entries.get(key);
    if (entry !== undefined && !isNull(entry.value)) continue;
    if (entry !== undefined) continue;
    const hint = key === "labctl" ? "write `labctl: 1`: the version of the language" : `write \`${key}: my-lab\``;
    const first = [...node.entries.values()][0];
    problems.error("E_SPEC_MISSING_KEY", `${node.source.shown} needs "${key}"`, first?.at ?? node, hint);
  }
}

/** Where the state stands, read from a spec that may be broken otherwise. */
export async function locateState(selection: SpecSelection): Promise<Lab["state"]> {
  try {
    const documents = await loadDocuments(selection);
    const path = entryOf(entryOf(documents.lab, "state")?.value, "path")?.value;
    const scope: Scope = { ...scopeOf(documents), incomplete: true };
    const found =
      path &&
      check(
        path,
        { type: "string", minLength: 1, "x-labctl": { path: true } },
        { path: "", label: "", at: path },
        { problems: documents.problems, scope, root: documents.root },
      );
    return { backend: "file", path: resolve(documents.root, typeof found === "string" ? found : ".labctl") };
  } catch {
    return { backend: "file", path: resolve(selection.cwd, ".labctl") };
  }
}
