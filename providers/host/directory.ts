import {
  type Address,
  defineKind,
  type Infer,
  LabError,
  type ObjectSchema,
  type OperationContext,
  type Outcome,
  type PropertyDiff,
  type ReconcileItem,
  sh,
  type ShellText,
  shJoin,
} from "../../src/index.ts";
import {
  asError,
  groupByMachine,
  machineOf,
  normalMode,
  PATH_PATTERN,
  readByMachine,
  requireSuccess,
  runScript,
} from "./common.ts";
import { entriesScript, type Entry, entryReading, parseEntries, sameOwner } from "./entries.ts";
import { fileFailure } from "./file-errors.ts";
import { ENTRY_ATTRIBUTES, MODE_SCHEMA, OWNER_SCHEMA } from "./file-model.ts";
import { FILE_FUNCTIONS, parseFilesOutput } from "./file-script.ts";
import { afterForPath } from "./order.ts";

const schema = {
  type: "object",
  properties: {
    path: {
      type: "string",
      pattern: PATH_PATTERN,
      description: "Absolute path on the host, without `.`, `..` or doubled slashes.",
      "x-labctl": { identity: true },
    },
    mode: {
      type: "string",
      ...MODE_SCHEMA,
      description: "Permissions in octal, quoted. Default: left as they are; 0755 for a new directory.",
      examples: ["0755", "2775"],
      "x-labctl": { octal: true },
    },
    owner: {
      type: "string",
      ...OWNER_SCHEMA,
      description: "User that owns it, by name or number. Default: left as it is; root for a new one.",
      examples: ["build"],
    },
    group: {
      type: "string",
      ...OWNER_SCHEMA,
      description: "Group that owns it, by name or number. Default: left as it is.",
      examples: ["build"],
    },
    parents: {
      type: "boolean",
      default: false,
      description: "Make missing directories above it too, with mode 0755. They stay when it is deleted.",
    },
  },
  required: ["path"],
  additionalProperties: false,
} as const satisfies ObjectSchema;

const attributes = {
  type: "object",
  properties: { ...ENTRY_ATTRIBUTES, target: { type: "string", description: "Where a symbolic link leads." } },
  required: ["type", "mode", "owner", "group", "uid", "gid"],
  additionalProperties: false,
} as const satisfies ObjectSchema;

type Desired = Infer<typeof schema>;
type Observed = Infer<typeof attributes>;
type DirectoryItem = ReconcileItem<Desired, Observed>;

/** The size of a directory is the file system's business and moves with its contents. */
function withoutSize({ size: _size, digest: _digest, content: _content, ...entry }: Entry): Observed {
  return entry;
}

function diffDirectory(desired: Desired, observed: Observed): PropertyDiff[] {
  if (observed.type !== "directory") return [{ path: "type", before: observed.type, after: "directory" }];
  const out: PropertyDiff[] = [];
  if (desired.mode !== undefined && normalMode(desired.mode) !== observed.mode) {
    out.push({ path: "mode", before: observed.mode, after: normalMode(desired.mode) });
  }
  if (desired.owner !== undefined && !sameOwner(desired.owner, observed.owner, observed.uid)) {
    out.push({ path: "owner", before: observed.owner, after: desired.owner });
  }
  if (desired.group !== undefined && !sameOwner(desired.group, observed.group, observed.gid)) {
    out.push({ path: "group", before: observed.group, after: desired.group });
  }
  return out;
}

/** One directory: made with its mode, then given its owner. Prints failures like the scripts for files. */
export function directoryStep(i: number, desired: Desired): ShellText {
  const { path } = desired;
  const mode = desired.mode === undefined ? "" : normalMode(desired.mode);
  const first = mode === "" ? "0755" : mode;
  const make =
    desired.parents === true
      ? sh`( umask 022; mkdir -p -- "$labctl_up" ) 2>/dev/null; mkdir -m ${first} -- ${path}`
      : sh`mkdir -m ${first} -- ${path}`;
  return sh`labctl_dir() {
  if [ -L ${path} ]; then labctl_say ${i} not-a-directory; return 1; fi
  if [ ! -d ${path} ]; then
    if [ -e ${path} ]; then labctl_say ${i} not-a-directory; return 1; fi
    labctl_up=${path}; labctl_up=\${labctl_up%/*}; [ -n "$labctl_up" ] || labctl_up=/
    if [ ! -d "$labctl_up" ] && ! ${desired.parents === true ? sh`:` : sh`false`}; then labctl_say ${i} parent "$labctl_up"; return 1; fi
    labctl_m=$( { ${make}; } 2>&1 ) || { labctl_say ${i} make "$labctl_m"; return 1; }
  fi
  labctl_mode ${i} ${path} ${"/dev/null/none"} ${desired.owner ?? ""} ${desired.group ?? ""} ${mode}
}
labctl_dir`;
}

async function reconcileMany(
  ctx: OperationContext,
  items: readonly DirectoryItem[],
): Promise<ReadonlyMap<Address, Outcome<Observed>>> {
  const outcomes = new Map<Address, Outcome<Observed>>();
  for (const group of groupByMachine(items)) {
    // Those above come first; order by path does that.
    const sorted = [...group].sort((a, b) => (a.desired.path < b.desired.path ? -1 : 1));
    try {
      await makeAll(ctx, sorted, outcomes);
    } catch (error) {
      for (const item of sorted) if (!outcomes.has(item.address)) outcomes.set(item.address, { error: asError(error) });
    }
  }
  return outcomes;
}

async function makeAll(
  ctx: OperationContext,
  group: readonly DirectoryItem[],
  outcomes: Map<Address, Outcome<Observed>>,
): Promise<void> {
  const [first] = group;
  if (first === undefined) return;
  const requests = group.map((item) => ({ path: item.desired.path, digest: "no" as const }));
  const script = shJoin([
    FILE_FUNCTIONS,
    ...group.map((item, i) => directoryStep(i, item.desired)),
    sh`echo READ`,
    entriesScript(requests),
  ]);
  const result = requireSuccess(
    await runScript(machineOf(ctx, first), script, { signal: ctx.signal, keep: 16 << 20 }),
    "making directories",
  );
  const { failures, entries } = parseFilesOutput(result.stdout.toString("utf8"));
  const answers = parseEntries(entries, requests);
  for (const [i, item] of group.entries()) {
    const failed = failures.get(i);
    const reading = entryReading(answers[i], item);
    if (failed !== undefined) outcomes.set(item.address, { error: directoryFailure(failed, item) });
    else if (reading?.is !== "present" || diffDirectory(item.desired, withoutSize(reading.value)).length > 0) {
      const error = new LabError("E_MISMATCH", `${item.desired.path} did not become what was asked for`, {
        address: item.address,
        retryable: true,
      });
      outcomes.set(item.address, { error });
    } else outcomes.set(item.address, { ok: withoutSize(reading.value) });
  }
}

function directoryFailure(failed: { readonly step: string; readonly text: string }, item: DirectoryItem): LabError {
  const { path } = item.desired;
  if (failed.step === "not-a-directory") {
    return new LabError("E_MISMATCH", `${path} is there and is not a directory; labctl never replaces it`, {
      address: item.address,
      hint: "move it away by hand, or choose another path",
    });
  }
  if (failed.step === "parent") {
    return new LabError("E_MISMATCH", `the directory above ${path} is not there`, {
      address: item.address,
      hint: "declare it too, or set `parents: true`",
    });
  }
  return fileFailure(failed, path, item.address);
}

async function reconcile(ctx: OperationContext, item: DirectoryItem): Promise<Observed> {
  const outcome = (await reconcileMany(ctx, [item])).get(item.address);
  if (outcome === undefined) throw new LabError("E_INTERNAL", "no outcome", { address: item.address });
  if ("error" in outcome) throw outcome.error;
  return outcome.ok;
}

/** Removes what labctl made where it is empty; gives what was there before its owner and mode back. */
async function remove(ctx: OperationContext, item: DirectoryItem): Promise<void> {
  const { path } = item.desired;
  const { observed } = item;
  if (observed === undefined) return;
  if (observed.type !== "directory") {
    ctx.log("warn", `${path} is no directory any more and is left alone`);
    return;
  }
  const original = item.prior?.original;
  if (original !== undefined) {
    if (original.type !== "directory") return;
    const same = observed.mode === original.mode && observed.uid === original.uid && observed.gid === original.gid;
    if (same) return;
    const back = sh`labctl_mode 0 ${path} /dev/null/none ${String(original.uid)} ${String(original.gid)} ${original.mode}`;
    const result = requireSuccess(
      await runScript(machineOf(ctx, item), shJoin([FILE_FUNCTIONS, back]), { signal: ctx.signal }),
      `restoring ${path}`,
    );
    const failed = parseFilesOutput(result.stdout.toString("utf8")).failures.get(0);
    if (failed !== undefined) throw fileFailure(failed, path, item.address);
    return;
  }
  const result = await runScript(
    machineOf(ctx, item),
    sh`labctl_m=$(rmdir -- ${path} 2>&1) || [ ! -d ${path} ] || printf 'kept %s\n' "$labctl_m"`,
    { signal: ctx.signal },
  );
  const said = requireSuccess(result, `removing ${path}`).stdout.toString("utf8").trim();
  if (said !== "") ctx.log("warn", `${path} was left: ${said.replace(/^kept /, "")}`);
}

export const directory = defineKind({
  kind: "directory",
  title: "A directory on a host",
  description: [
    "A directory with mode and owner. Deleting it removes what labctl made, and only where it is empty by then; one that was",
    "there before gets its mode and owner back. Contents are never removed, and anything else at the path is an error.",
  ].join("\n"),
  section: {
    name: "directories",
    within: "host",
    shape: "map",
    key: "path",
    keySchema: { type: "string", pattern: PATH_PATTERN },
  },
  schema,
  attributes,
  ownership: "shared",
  after: (desired, siblings, address) => afterForPath("directory", desired, siblings, address),
  readMany(ctx, items) {
    return readByMachine(ctx, items, {
      script: (group) => entriesScript(group.map((item) => ({ path: item.desired.path, digest: "no" }))),
      parse: (lines, group) =>
        parseEntries(
          lines,
          group.map((item) => ({ path: item.desired.path, digest: "no" })),
        ).map((answer, i) => {
          const item = group[i];
          const reading = item === undefined ? undefined : entryReading(answer, item);
          return reading?.is === "present" ? { is: "present", value: withoutSize(reading.value) } : reading;
        }),
    });
  },
  diff: ({ desired, observed }) => diffDirectory(desired, observed),
  reconcile,
  reconcileMany,
  delete: remove,
  manualCleanup: (item) => `on the host, remove the directory ${item.desired.path} if nothing needs it`,
  fromImportId: (id) => ({ path: id }),
});
