import { randomBytes } from "node:crypto";
import { chmod, lstat, mkdir, readdir, readFile, realpath, rename, rm, stat, writeFile } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import type { Command } from "commander";
import { closest } from "fastest-levenshtein";
import { LabError } from "../../diagnostics/index.ts";
import type { Context } from "../context.ts";
import { readAll } from "../input.ts";
import type { Host } from "../program.ts";
import { renderDiff } from "../renderers/diff.ts";
import { paintFor } from "../renderers/paint.ts";
import { visible } from "../renderers/text.ts";

/** Commands for writing specs: init, fmt, schema. */
export function registerAuthor(program: Command, host: Host): void {
  const init = program
    .command("init")
    .argument("[folder]", "where (default: here)")
    .summary("write a small lab that works")
    .description("Writes a small working lab to start from. Never overwrites a file.")
    .option("--name <name>", "the lab's name (default: the folder's)")
    .addHelpText("after", "\nExamples:\n  labctl init\n  labctl init labs/berlin --name berlin");
  init.action(async (folder: string | undefined, flags: { name?: string }) => {
    await host.invoke((context) => initLab(context, folder ?? ".", flags.name), init);
  });

  const fmt = program
    .command("fmt")
    .argument("[path...]", "spec files or folders; - for stdin")
    .summary("bring spec files into their normal form")
    .description(
      "Brings spec files into their normal form and keeps comments. Prints the names of the files that it changed.",
    )
    .option("--check", "change nothing; exit 3 where a file is not in its normal form")
    .option("--diff", "show the differences; with --check change nothing")
    .addHelpText("after", "\nExamples:\n  labctl fmt\n  labctl fmt --check --diff labs/\n  labctl fmt - < lab.yaml");
  fmt.action(async (paths: string[], flags: FmtFlags) => {
    await host.invoke((context) => format(context, paths, flags), fmt);
  });

  const schema = program
    .command("schema")
    .argument("[what]", "lab, pipeline, or a kind such as file", "lab")
    .summary("what can be written: a JSON Schema, or a kind's reference page")
    .description(
      "Prints the JSON Schema of lab.yaml or pipeline.yaml, or a kind's reference page (with --json its schema).",
    )
    .addHelpText(
      "after",
      "\nExamples:\n  labctl schema > lab.schema.json\n  labctl schema file\n  labctl schema file --json",
    );
  schema.action(async (what: string) => {
    await host.invoke((context) => printSchema(context, what), schema);
  });
}

async function initLab(context: Context, folder: string, name: string | undefined): Promise<number> {
  const { term, services } = context;
  const root = resolve(term.io.cwd, folder);
  const lab = labName(name, root);
  const files = await services.initFiles(lab, await freeFolder(`/tmp/labctl-${lab}`));
  const written: string[] = [];
  const kept: string[] = [];
  for (const file of files) {
    const there = (await stat(join(root, file.path)).catch(() => undefined)) !== undefined;
    if (there && /\.ya?ml$/.test(file.path)) {
      throw new LabError("E_USAGE", `${visible(join(folder, file.path))} is there already: nothing was written`, {
        hint: "init never overwrites; name another folder",
      });
    }
    (there ? kept : written).push(join(folder, file.path));
  }
  for (const file of files) {
    if (kept.includes(join(folder, file.path))) continue;
    const path = join(root, file.path);
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, file.content, { flag: "wx" });
  }
  if (term.options.json) term.json({ written, kept });
  else {
    for (const one of written) term.out(`wrote ${visible(one)}`);
    for (const one of kept) term.out(`kept ${visible(one)} as it is; keep .labctl/ out of version control`);
    const where = folder === "." ? "" : ` ${folder}`;
    term.out(`\nNext: \`labctl plan${where}\` shows what it would do, \`labctl apply${where}\` does it.`);
  }
  return 0;
}

/** `wanted`, or that with a number, where nothing is yet: what is there is somebody's. */
async function freeFolder(wanted: string): Promise<string> {
  for (let n = 1; ; n++) {
    const path = n === 1 ? wanted : `${wanted}-${n}`;
    if ((await lstat(path).catch(() => undefined)) === undefined) return path;
  }
}

function labName(name: string | undefined, root: string): string {
  if (name !== undefined) {
    if (/^[a-z0-9][a-z0-9-]*$/.test(name)) return name;
    throw new LabError("E_SPEC_NAME", `${JSON.stringify(name)} cannot be a lab's name`, {
      hint: "small letters, digits and hyphens, a letter or digit first",
    });
  }
  const made = basename(root)
    .toLowerCase()
    .replaceAll(/[^a-z0-9]+/g, "-")
    .replaceAll(/^-+|-+$/g, "");
  return made === "" ? "lab" : made;
}

interface FmtFlags {
  readonly check?: boolean;
  readonly diff?: boolean;
}

interface Formatted {
  readonly path: string;
  readonly changed: boolean;
}

async function format(context: Context, paths: readonly string[], flags: FmtFlags): Promise<number> {
  const { term, services } = context;
  const paint = paintFor({ color: term.color });
  if (paths.includes("-")) {
    const before = await readAll(term.io.stdin);
    const after = await services.formatSpec(before, "<stdin>");
    if (flags.diff === true) term.out(renderDiff(before, after, paint, true).join("\n"));
    else if (flags.check !== true) term.raw(after);
    return flags.check === true && before !== after ? 3 : 0;
  }
  const named = [...paths, ...context.globals.file];
  const files = await filesOf(term.io.cwd, named.length > 0 ? named : ["."]);
  const done: Formatted[] = [];
  for (const file of files) {
    const path = resolve(term.io.cwd, file);
    const before = await readSpec(path, file);
    const after = await services.formatSpec(before, path);
    const changed = before !== after;
    done.push({ path: file, changed });
    if (!changed) continue;
    if (!term.options.json) {
      term.out(visible(file));
      if (flags.diff === true) term.out(renderDiff(before, after, paint, true).join("\n"));
    }
    if (flags.check !== true) await replaceFile(path, after);
  }
  if (term.options.json) term.json({ files: done });
  return flags.check === true && done.some((one) => one.changed) ? 3 : 0;
}

/** Files as named; of a folder those that labctl reads by itself, profiles included. */
async function filesOf(cwd: string, named: readonly string[]): Promise<string[]> {
  const files: string[] = [];
  for (const one of named) {
    const path = resolve(cwd, one);
    const info = await stat(path).catch(() => undefined);
    if (info?.isDirectory() !== true) {
      files.push(one);
      continue;
    }
    const names = (await readdir(path)).filter((name) => /^(lab|pipeline)(\.[^/]+)?\.ya?ml$/.test(name)).sort();
    if (names.length === 0) {
      throw new LabError("E_SPEC_NOT_FOUND", `there is no lab.yaml or pipeline.yaml in ${visible(path)}`, {
        hint: "name the files, or `labctl init` writes a first one",
      });
    }
    files.push(...names.map((name) => join(one, name)));
  }
  return files;
}

async function readSpec(path: string, shown: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch (cause) {
    const missing = cause instanceof Error && "code" in cause && cause.code === "ENOENT";
    throw new LabError(
      missing ? "E_SPEC_NOT_FOUND" : "E_SPEC_UNREADABLE",
      missing ? `there is no ${visible(shown)}` : `${visible(shown)} cannot be read`,
      { cause, hint: "name a spec file, or a folder that holds lab.yaml" },
    );
  }
}

/** As a whole or not at all; its mode stays, and a link stays a link. */
async function replaceFile(path: string, text: string): Promise<void> {
  const real = await realpath(path);
  const { mode } = await stat(real);
  const temporary = join(dirname(real), `.${basename(real)}.${randomBytes(4).toString("hex")}.tmp`);
  try {
    await writeFile(temporary, text, { flag: "wx" });
    await chmod(temporary, mode & 0o7777);
    await rename(temporary, real);
  } finally {
    await rm(temporary, { force: true });
  }
}

async function printSchema(context: Context, what: string): Promise<number> {
  const { term, services } = context;
  const kinds = await services.kinds();
  if (what === "lab" || what === "pipeline") {
    term.json(await services.specSchema(what, kinds));
    return 0;
  }
  const kind = kinds.get(what);
  if (kind === undefined) {
    const names = ["lab", "pipeline", ...kinds.keys()];
    throw new LabError("E_USAGE", `there is no schema ${JSON.stringify(what)}`, {
      hint: `did you mean ${closest(what, names)}? There are: ${names.join(", ")}`,
    });
  }
  if (term.options.json) term.json(kind.schema);
  else {
    const page = await services.kindReference(kind, kinds);
    // The note in the generated files that they are generated.
    term.out(page.replace(/^<!--.*?-->\s*/s, ""));
  }
  return 0;
}
