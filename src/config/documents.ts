import { realpath, stat } from "node:fs/promises";
import { basename, dirname, extname, join, resolve } from "node:path";
import { glob } from "tinyglobby";
import type { SpecSelection } from "../engine/port.ts";
import { LabError } from "../diagnostics/index.ts";
import type { ProviderRequirement, SpecFile } from "../model/index.ts";
import { overlay, unite } from "./merge.ts";
import { entryOf, isNull, type MapNode, type Place } from "./node.ts";
import { Problems } from "./problems.ts";
import { mayHoldReference } from "./reference.ts";
import { readProviders } from "./requirements.ts";
import { readSource, shownPath, type SourceText, TOTAL_LIMIT } from "./source.ts";
import { LATER_LAB, LATER_PIPELINE } from "./top.ts";
import { readVariables } from "./variables.ts";
import type { Variable } from "./scope.ts";
import { parseSpec } from "./yaml.ts";

/** Most files of one spec. */
const FILE_COUNT = 1000;
/** Milliseconds and folders that one glob may take: `include: [/**]` must not search a whole disk. */
const GLOB_TIME = 10_000;
const GLOB_DEPTH = 20;

/** A spec that was read, before anything is known of kinds. What is wrong with it so far waits for buildLab. */
export interface Documents {
  readonly selection: SpecSelection;
  /** Absolute folder of the lab's spec. */
  readonly root: string;
  /** What the selection names. A lab that was only found through its pipeline is read, and not changed. */
  readonly given: { readonly lab: boolean; readonly pipeline: boolean };
  readonly files: readonly SpecFile[];
  readonly providers: readonly ProviderRequirement[];
  readonly lab: MapNode | undefined;
  readonly pipeline: MapNode | undefined;
  readonly variables: ReadonlyMap<string, Variable>;
  /** Values of sensitive variables, by name. */
  readonly sensitive: ReadonlyMap<string, string>;
  readonly problems: Problems;
  /** Some file could not be read or parsed, so what seems to be missing may be in it. */
  readonly incomplete: boolean;
}

/**
 * Reads what the selection names, with includes and profiles, and the values of variables. It collects what is wrong
 * rather than throwing it, so that buildLab can report everything at once.
 */
export async function loadDocuments(selection: SpecSelection): Promise<Documents> {
  const problems = new Problems();
  const reader = new SpecReader(selection.cwd, problems);
  const { labs, pipelines, root, given } = await chooseFiles(selection, reader, problems);
  let lab = unite(await reader.trees(labs), problems);
  let pipeline = unite(await reader.trees(pipelines), problems);
  if (selection.profile !== undefined) {
    const over = await profileFiles(selection, labs, pipelines, problems);
    const [labOver, pipeOver] = [
      unite(await reader.trees(over.labs), problems),
      unite(await reader.trees(over.pipelines), problems),
    ];
    if (labOver !== undefined) lab = lab === undefined ? labOver : overlay(lab, labOver);
    if (pipeOver !== undefined) pipeline = pipeline === undefined ? pipeOver : overlay(pipeline, pipeOver);
  }
  const incomplete = reader.failed;
  const { variables, sensitive } = await readVariables(lab, selection, problems, incomplete);
  const found = readProviders(lab, root, variables);
  return {
    selection,
    root,
    given,
    files: reader.files.map((file) => ({ path: shownPath(file.path, root), sha256: file.sha256 })),
    providers: found,
    lab,
    pipeline,
    variables,
    sensitive,
    problems,
    incomplete,
  };
}

export interface ChosenFiles {
  readonly labs: readonly string[];
  readonly pipelines: readonly string[];
  readonly root: string;
  readonly given: Documents["given"];
}

/** Which files are the lab's and which the pipeline's: by what stands in them, for `-f` takes any name. */
export async function chooseFiles(
  selection: SpecSelection,
  reader: SpecReader,
  problems: Problems,
): Promise<ChosenFiles> {
  const labs: string[] = [];
  const pipelines: string[] = [];
  const given = selection.paths.length > 0 ? selection.paths : ["."];
  for (const one of given) {
    const path = resolve(selection.cwd, one);
    const info = await stat(path).catch(() => undefined);
    if (info?.isDirectory() !== true) {
      const node = await reader.read(path);
      (node !== undefined && isPipeline(path, node) ? pipelines : labs).push(path);
      continue;
    }
    const [lab, pipeline] = [join(path, "lab.yaml"), join(path, "pipeline.yaml")];
    const [hasLab, hasPipeline] = [await exists(lab), await exists(pipeline)];
    if (hasLab) labs.push(lab);
    if (hasPipeline) pipelines.push(pipeline);
    if (!hasLab && !hasPipeline) {
      problems.error(
        "E_SPEC_NOT_FOUND",
        `there is no lab.yaml in ${shownPath(path, selection.cwd)}`,
        undefined,
        "`labctl init` writes a small working lab; -f FILE names another file",
      );
      reader.failed = true;
    }
  }
  const chosen = { lab: labs.length > 0, pipeline: pipelines.length > 0 };
  for (const path of labs.length > 0 ? [] : pipelines) {
    const lab = await labOfPipeline(path, reader, problems, selection.cwd);
    if (lab !== undefined) labs.push(lab);
  }
  const first = labs[0] ?? pipelines[0];
  return {
    labs: [...new Set(labs)],
    pipelines,
    root: first === undefined ? resolve(selection.cwd) : dirname(first),
    given: chosen,
  };
}

/** The lab that a pipeline belongs to: `lab: PATH`, a file or a folder, or the lab.yaml beside it. */
async function labOfPipeline(
  path: string,
  reader: SpecReader,
  problems: Problems,
  cwd: string,
): Promise<string | undefined> {
  const said = entryOf(await reader.read(path), "lab");
  const named = said?.value.type === "scalar" && said.value.text !== "" ? said.value.text : ".";
  const target = resolve(dirname(path), named);
  const info = await stat(target).catch(() => undefined);
  const file = info?.isDirectory() === true ? join(target, "lab.yaml") : target;
  if (await exists(file)) return file;
  problems.error(
    "E_SPEC_NOT_FOUND",
    `the lab of this pipeline is not there: ${shownPath(file, cwd)}`,
    said?.value ?? { file: shownPath(path, cwd), line: 1, column: 1 },
    "`lab: PATH` names the file or folder of the lab, relative to the pipeline",
  );
  reader.failed = true;
  return undefined;
}

const LAB_ONLY: readonly string[] = [
  "hosts",
  "groups",
  "defaults",
  "providers",
  "secrets",
  "state",
  "moved",
  "removed",
];

function isPipeline(path: string, node: MapNode): boolean {
  if (basename(path).startsWith("pipeline.")) return true;
  const keys = [...node.entries.keys()];
  // A section in the wrong file is to be reported as that, not by taking the whole file for another.
  if (keys.some((key) => LAB_ONLY.includes(key) || LATER_LAB.includes(key))) return false;
  return keys.some((key) => key === "lab" || LATER_PIPELINE.includes(key));
}

async function exists(path: string): Promise<boolean> {
  return (await stat(path).catch(() => undefined)) !== undefined;
}

function profilePath(path: string, profile: string): string {
  const extension = extname(path);
  return join(dirname(path), `${basename(path, extension)}.${profile}${extension}`);
}

async function profileFiles(
  selection: SpecSelection,
  labs: readonly string[],
  pipelines: readonly string[],
  problems: Problems,
): Promise<{ labs: string[]; pipelines: string[] }> {
  const profile = selection.profile ?? "";
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]*$/.test(profile)) {
    const hint = "letters, digits, dots, - and _";
    problems.error("E_USAGE", `${JSON.stringify(profile)} cannot be the name of a profile`, undefined, hint);
    return { labs: [], pipelines: [] };
  }
  const there = async (bases: readonly string[]): Promise<string[]> => {
    const out: string[] = [];
    for (const base of bases) if (await exists(profilePath(base, profile))) out.push(profilePath(base, profile));
    return out;
  };
  const found = { labs: await there(labs), pipelines: await there(pipelines) };
  if (found.labs.length + found.pipelines.length === 0) {
    const shown = [...labs, ...pipelines].map((base) => shownPath(profilePath(base, profile), selection.cwd));
    const hint = `it would be ${shown.join(" or ") || `lab.${profile}.yaml`}`;
    problems.error("E_SPEC_NOT_FOUND", `no file makes the profile "${profile}"`, undefined, hint);
  }
  return found;
}

/** Reads files once each, with what they include. */
export class SpecReader {
  readonly files: SourceText[] = [];
  failed = false;
  readonly #cwd: string;
  readonly #problems: Problems;
  readonly #nodes = new Map<string, MapNode | undefined>();
  readonly #done = new Set<string>();
  #bytes = 0;

  constructor(cwd: string, problems: Problems) {
    this.#cwd = cwd;
    this.#problems = problems;
  }

  /** One file's top-level map; undefined where it has none, which was then reported. */
  async read(path: string, from?: Place): Promise<MapNode | undefined> {
    if (this.#nodes.has(path)) return this.#nodes.get(path);
    const node = await this.#load(path, from);
    if (node === undefined) this.failed = true;
    this.#nodes.set(path, node);
    return node;
  }

  async #load(path: string, from: Place | undefined): Promise<MapNode | undefined> {
    let source: SourceText;
    try {
      source = await readSource(path, this.#cwd);
    } catch (error) {
      if (!(error instanceof LabError)) throw error;
      if (from !== undefined && error.code === "E_SPEC_NOT_FOUND") {
        this.#problems.error(
          "E_INCLUDE_NOT_FOUND",
          `the included file is not there: ${shownPath(path, this.#cwd)}`,
          from,
          "paths are relative to the file that holds them",
        );
      } else this.#problems.take(error, error.at === undefined ? from : undefined);
      return undefined;
    }
    this.files.push(source);
    this.#bytes += source.text.length;
    if (this.#bytes > TOTAL_LIMIT || this.files.length > FILE_COUNT) {
      const what = this.files.length > FILE_COUNT ? `${FILE_COUNT} files` : `${TOTAL_LIMIT / 1024 / 1024} MiB`;
      this.#problems.error("E_SPEC_TOO_LARGE", `the files of this spec are more than ${what}`, from);
      return undefined;
    }
    const node = parseSpec(source, this.#problems);
    if (node === undefined || node.type === "map") return node;
    this.#problems.error(
      "E_SPEC_TYPE",
      `a spec must be a map of sections, not ${node.type === "list" ? "a list" : "text"}`,
      node,
      "it begins with `labctl: 1`",
    );
    return undefined;
  }

  /** Files with all that they include, in order: each before what it includes. */
  async trees(paths: readonly string[]): Promise<MapNode[]> {
    const out: MapNode[] = [];
    for (const path of paths) await this.#tree(path, [], out, undefined);
    return out;
  }

  async #tree(path: string, stack: readonly string[], out: MapNode[], from: Place | undefined): Promise<void> {
    const real = await realpath(path).catch(() => path);
    if (stack.includes(real)) {
      const way = [...stack.slice(stack.indexOf(real)), real].map((one) => shownPath(one, this.#cwd));
      this.#problems.error("E_INCLUDE_LOOP", `files include each other: ${way.join(" -> ")}`, from);
      return;
    }
    if (this.#done.has(real) || this.#nodes.size > FILE_COUNT) return;
    this.#done.add(real);
    const node = await this.read(path, from);
    if (node === undefined) return;
    out.push(node);
    for (const item of includesOf(node)) {
      if (mayHoldReference(item.text)) {
        this.#problems.error(
          "E_REF_FORBIDDEN",
          "references are not allowed in `include:`: files are read before variables have values",
          item,
        );
        continue;
      }
      for (const target of await this.#targets(item, [...stack, real]))
        await this.#tree(target, [...stack, real], out, item);
    }
  }

  async #targets(item: Place & { readonly text: string }, stack: readonly string[]): Promise<string[]> {
    const { dir } = item.source;
    if (!/[*?[\]{}]/.test(item.text)) return [resolve(dir, item.text)];
    try {
      const found = await glob(item.text, {
        cwd: dir,
        absolute: true,
        onlyFiles: false,
        expandDirectories: false,
        deep: GLOB_DEPTH,
        signal: AbortSignal.timeout(GLOB_TIME),
      });
      const files = found.sort();
      const real = await Promise.all(files.map((file) => realpath(file).catch(() => file)));
      // A glob that matches the file it stands in is no loop.
      return files.filter((_, i) => !stack.includes(real[i] ?? ""));
    } catch (error) {
      this.#problems.error(
        "E_SPEC_UNREADABLE",
        `"${item.text}" cannot be searched: ${error instanceof Error ? error.message : String(error)}`,
        item,
      );
      this.failed = true;
      return [];
    }
  }
}

function includesOf(node: MapNode): (Place & { readonly text: string })[] {
  const value = entryOf(node, "include")?.value;
  if (value?.type !== "list") return [];
  return value.items
    .filter((item) => item.type === "scalar" && !isNull(item))
    .map((item) => item as Place & { text: string });
}
