import type { Argument, Option } from "commander";
import { listRuns } from "../../events/index.ts";
import { type Context, selectionOf } from "../context.ts";
import type { Kind } from "../../provider/index.ts";
import { readWhole, stateOfLab } from "../state-access.ts";
import type { Candidate, Line } from "./complete.ts";

const MOST_RUNS = 20;
const FILES: Candidate = { value: ":files", description: "" };
const DIRS: Candidate = { value: ":dirs", description: "" };

/** Candidates for an option's value or an argument, by what it is called. Whatever goes wrong, there are just none. */
export async function valuesFor(of: Option | Argument, line: Line, context: Context): Promise<Candidate[]> {
  try {
    return await find(nameOf(of), line, context);
  } catch {
    return [];
  }
}

function nameOf(of: Option | Argument): string {
  return "long" in of ? (/<([^>]+)>/.exec(of.flags)?.[1] ?? "") : of.name();
}

async function find(name: string, line: Line, context: Context): Promise<Candidate[]> {
  switch (name) {
    case "address":
    case "from":
    case "to":
      return addresses(line, context);
    case "address-or-plan":
      return [...(await addresses(line, context)), FILES];
    case "host":
      return (await addresses(line, context)).filter(({ value }) => !value.includes("/"));
    case "machine":
      return machines(line, context);
    case "environment":
      return ofKinds(line, context, (kind) => kind.restore !== undefined);
    case "builds":
      return (await addresses(line, context)).filter(({ description }) => description === "build");
    case "run":
      return runs(line, context);
    case "run-or-address":
      return [...(await runs(line, context)), ...(await addresses(line, context))];
    case "on|off":
      return ["on", "off"].map((value) => ({ value, description: "" }));
    case "what":
      return ["lab", "pipeline", ...(await context.services.kinds()).keys()].map((value) => ({
        value,
        description: "",
      }));
    case "name":
      return line.command.name() === "output" ? outputs(line, context) : [];
    case "folder":
      return [DIRS];
    case "file":
    case "kernel":
    case "path":
    case "spec":
    case "spec-or-plan":
      return [FILES];
    default:
      return [];
  }
}

function stateFor(line: Line, context: Context): ReturnType<typeof stateOfLab> {
  const selection = selectionOf(context);
  return stateOfLab(context, { ...selection, paths: line.files.length > 0 ? line.files : selection.paths });
}

async function addresses(line: Line, context: Context): Promise<Candidate[]> {
  const { store } = await stateFor(line, context);
  const { rows } = await readWhole(store);
  return [...rows.values()].map((row) => ({ value: row.address, description: row.kind }));
}

/** What can be logged in to; of `vm` only what nothing is declared on. */
function machines(line: Line, context: Context): Promise<Candidate[]> {
  const guests = line.command.parent?.name() === "vm";
  return ofKinds(line, context, (kind) =>
    guests
      ? kind.machine === undefined && kind.reach !== undefined
      : kind.machine !== undefined || kind.reach !== undefined,
  );
}

async function ofKinds(line: Line, context: Context, wanted: (kind: Kind) => boolean): Promise<Candidate[]> {
  const kinds = await context.services.kinds();
  return (await addresses(line, context)).filter(({ description }) => {
    const kind = kinds.get(description);
    return kind !== undefined && wanted(kind);
  });
}

async function outputs(line: Line, context: Context): Promise<Candidate[]> {
  const { store } = await stateFor(line, context);
  return Object.keys((await readWhole(store)).outputs).map((value) => ({ value, description: "" }));
}

async function runs(line: Line, context: Context): Promise<Candidate[]> {
  const { settings } = await stateFor(line, context);
  const found = await listRuns(settings.path, MOST_RUNS);
  return [
    { value: "last", description: "the last run" },
    ...found.map((run) => ({ value: run.id, description: run.command })),
  ];
}
