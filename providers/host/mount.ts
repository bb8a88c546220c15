import {
  defineKind,
  type Infer,
  LabError,
  type ObjectSchema,
  type OperationContext,
  parentAddress,
  type PropertyDiff,
  type ReconcileItem,
  sh,
  type ShellText,
} from "../../src/index.ts";
import { failure, machineOf, PATH_PATTERN, readByMachine, readByProbe } from "./common.ts";
import {
  editFstab,
  fstabLine,
  fstabScript,
  isGeneral,
  type MountFacts,
  mountsScript,
  optionMismatches,
  parseFstabLine,
  parseMounts,
} from "./mount-script.ts";
import { afterForPath } from "./order.ts";
import { runSteps, step } from "./steps.ts";

const schema = {
  type: "object",
  properties: {
    path: {
      type: "string",
      pattern: PATH_PATTERN,
      description: "Mount point: an absolute path on the host. The directory is made where it is missing.",
      "x-labctl": { identity: true },
    },
    source: {
      type: "string",
      pattern: "^[^\\s-]\\S*$",
      description:
        "What is mounted: a device, UUID=..., LABEL=..., SERVER:/PATH, a directory (with the option `bind`), or a name for tmpfs.",
      examples: ["nas:/src", "UUID=3e6be9de-8139-4c88-9d1a-8f2b0a2d5d3c"],
    },
    type: {
      type: "string",
      pattern: "^[A-Za-z0-9][A-Za-z0-9._-]*$",
      description: "File system: nfs, ext4, tmpfs, ...; `none` for a bind mount.",
      examples: ["nfs"],
    },
    options: {
      type: "array",
      items: { type: "string", pattern: "^[^\\s,-][^\\s,]*$" },
      description: "Mount options. Passwords do not belong here: use the file system's credentials file.",
      examples: [["ro", "noatime"]],
    },
    persist: {
      type: "boolean",
      default: true,
      description: "Mount it at every start too, through its own line of /etc/fstab.",
    },
    mounted: {
      type: "boolean",
      default: true,
      description: "Mount it now; `false` keeps only the line of /etc/fstab.",
    },
    dump: { type: "integer", minimum: 0, maximum: 1, default: 0, description: "The fifth field of fstab(5)." },
    pass: {
      type: "integer",
      minimum: 0,
      maximum: 2,
      default: 0,
      description: "The sixth field of fstab(5): when fsck checks it.",
    },
  },
  required: ["path", "source", "type"],
  additionalProperties: false,
} as const satisfies ObjectSchema;

const attributes = {
  type: "object",
  properties: {
    mounted: { type: "boolean", description: "Whether something is mounted there." },
    source: { type: "string", description: "What is mounted there, as the kernel says." },
    type: { type: "string", description: "File system that is mounted there." },
    options: { type: "array", items: { type: "string" }, description: "Options that the kernel shows." },
    bound: { type: "boolean", description: "Whether mount point and source are the same directory (bind mounts)." },
    fstab: { type: "string", description: "The line of /etc/fstab for this mount point; absent: there is none." },
  },
  required: ["mounted", "source", "type", "options", "bound"],
  additionalProperties: false,
} as const satisfies ObjectSchema;

type Desired = Infer<typeof schema>;
type Observed = Infer<typeof attributes>;
type MountItem = ReconcileItem<Desired, Observed>;

/** Milliseconds for mount and umount: a server that is away answers late or never. */
const RUN_MS = 120_000;

function isBind(desired: Desired): boolean {
  return desired.options?.some((option) => option === "bind" || option === "rbind") === true;
}

function isNfs(desired: Desired): boolean {
  return desired.type === "nfs" || desired.type === "nfs4";
}

export function wantedLine(desired: Desired): string {
  return fstabLine({
    source: desired.source,
    path: desired.path,
    type: desired.type,
    options: desired.options === undefined || desired.options.length === 0 ? "defaults" : desired.options.join(","),
    dump: desired.dump ?? 0,
    pass: desired.pass ?? 0,
  });
}

function observedOf(facts: MountFacts, path: string): Observed {
  const { old } = editFstab(facts.fstab, path, undefined);
  const { fstab: _whole, ...rest } = facts;
  return { ...rest, options: [...facts.options], ...(old !== undefined && { fstab: old }) };
}

const probe = {
  script: (group: readonly { readonly desired: Desired }[]): ShellText =>
    mountsScript(
      group.map(({ desired }) => ({ path: desired.path, source: desired.source ?? "", bind: isBind(desired) })),
    ),
  parse: (lines: readonly string[], group: readonly { readonly desired: Desired }[]) =>
    parseMounts(lines, group.length).map((facts, i) => {
      const value = observedOf(facts, group[i]?.desired.path ?? "");
      return value.mounted || value.fstab !== undefined ? { is: "present" as const, value } : { is: "absent" as const };
    }),
};

function sameSource(desired: Desired, observed: Observed): boolean {
  if (isBind(desired)) return observed.bound;
  if (desired.source === observed.source) return true;
  // A tag stands for the device that the kernel names; a name in /dev may be a link: the kernel's is the truth of both.
  if (/^(UUID|LABEL|PARTUUID|PARTLABEL)=/.test(desired.source) || desired.source.startsWith("/dev/")) {
    return observed.source.startsWith("/dev/");
  }
  return desired.source.replace(/\/$/, "") === observed.source.replace(/\/$/, "");
}

function sameType(desired: Desired, observed: Observed): boolean {
  return (
    isBind(desired) ||
    desired.type === "auto" ||
    desired.type === observed.type ||
    (desired.type === "nfs" && observed.type === "nfs4")
  );
}

export function diffMount(desired: Desired, observed: Observed): PropertyDiff[] {
  const out: PropertyDiff[] = [];
  const wanted = desired.mounted !== false;
  if (wanted !== observed.mounted) out.push({ path: "mounted", before: observed.mounted, after: wanted });
  else if (wanted) {
    if (!sameSource(desired, observed))
      out.push({ path: "source", before: observed.source, after: desired.source, effect: "restart" });
    if (!sameType(desired, observed))
      out.push({ path: "type", before: observed.type, after: desired.type, effect: "restart" });
    const options = (desired.options ?? []).filter((option) => option !== "bind" && option !== "rbind");
    const wrong = optionMismatches(options, observed.options);
    if (wrong.length > 0) {
      out.push({
        path: "options",
        before: observed.options,
        after: desired.options ?? [],
        ...(isNfs(desired) && !wrong.every(isGeneral) && { effect: "restart" }),
      });
    }
  }
  const line = desired.persist === false ? undefined : wantedLine(desired);
  if (normalLine(line) !== normalLine(observed.fstab)) {
    out.push({
      path: "persist",
      ...(observed.fstab !== undefined && { before: observed.fstab }),
      ...(line !== undefined && { after: line }),
    });
  }
  return out;
}

/** Equal lines may be aligned in another way. */
function normalLine(line: string | undefined): string | undefined {
  const entry = line === undefined ? undefined : parseFstabLine(line);
  return entry === undefined ? undefined : fstabLine(entry);
}

/** Steps that bring a mount to what is wanted; pure. `fstab` is the table as it was read. */
export function mountSteps(desired: Desired, observed: Observed | undefined, fstab: string): ShellText[] {
  const { path } = desired;
  const steps: ShellText[] = [];
  const now = observed ?? { mounted: false, source: "", type: "", options: [], bound: false };
  const changes = new Map(diffMount(desired, now).map((change) => [change.path, change]));
  if (changes.has("persist")) {
    const line = desired.persist === false ? undefined : wantedLine(desired);
    steps.push(fstabScript(fstab, editFstab(fstab, path, line).text));
  }
  const anew = changes.has("source") || changes.has("type") || changes.get("options")?.effect === "restart";
  if (anew || (changes.has("mounted") && desired.mounted === false)) steps.push(step("umount", "umount", path));
  if (desired.mounted === false) return steps;
  const options = desired.options ?? [];
  if (anew || changes.has("mounted")) {
    steps.push(step("directory", "mkdir", "-p", "--", path));
    const words = ["-t", desired.type, ...(options.length > 0 ? ["-o", options.join(",")] : []), desired.source, path];
    steps.push(step("mount", "mount", ...words));
    // The kernel takes no other options while it binds: they are set by mounting the bound place again.
    const further = options.filter((option) => option !== "bind" && option !== "rbind");
    if (isBind(desired) && further.length > 0) steps.push(remount(path, ["bind", ...further]));
  } else if (changes.has("options")) {
    // mount.nfs adds what it is given to what is mounted, and refuses to have versions or the like twice.
    const some = isNfs(desired) ? options.filter(isGeneral) : options;
    steps.push(remount(path, some.includes("ro") ? some : ["rw", ...some]));
  }
  return steps;
}

function remount(path: string, options: readonly string[]): ShellText {
  return step("remount", "mount", "-o", ["remount", ...options].join(","), path);
}

async function look(
  ctx: OperationContext,
  item: MountItem,
): Promise<{ facts: MountFacts; observed: Observed | undefined }> {
  let facts: MountFacts | undefined;
  const [reading] = await readByProbe(ctx, machineOf(ctx, item), [item], {
    script: probe.script,
    parse(lines, group) {
      [facts] = parseMounts(lines, 1);
      return probe.parse(lines, group);
    },
  });
  if (reading?.is === "unreachable") throw reading.why;
  if (facts === undefined) throw new LabError("E_INTERNAL", "no reading", { address: item.address });
  return { facts, observed: reading?.is === "present" ? reading.value : undefined };
}

async function run(ctx: OperationContext, item: MountItem, steps: readonly ShellText[]): Promise<void> {
  const { path, source } = item.desired;
  const failed = await runSteps(ctx, item, steps, `mounting ${path}`, RUN_MS);
  if (failed === undefined) return;
  if (failed.step === "fstab" && failed.text.includes("changed a moment ago")) {
    throw new LabError("E_MISMATCH", "/etc/fstab changed while it was edited", {
      address: item.address,
      retryable: true,
    });
  }
  const hint =
    failed.step === "umount"
      ? `end what uses it: \`fuser -vm ${path}\` on the host`
      : /unknown filesystem|wrong fs type|helper program/i.test(failed.text)
        ? "install the file system's tools (nfs-common, cifs-utils) under `packages:`, or load its module"
        : undefined;
  throw failure(`${source} cannot be mounted at ${path} (${failed.step}): ${failed.text}`, failed.text, hint).atAddress(
    item.address,
  );
}

async function reconcile(ctx: OperationContext, item: MountItem): Promise<Observed> {
  if (item.sensitive.has("options")) {
    throw new LabError("E_SPEC_VALUE", "mount options show on the host to everybody, so a secret cannot stand there", {
      address: item.address,
      hint: "put it into a sensitive file, and name that in the options (`credentials=FILE`)",
    });
  }
  const { facts, observed } = await look(ctx, item);
  await run(ctx, item, mountSteps(item.desired, observed, facts.fstab));
  const after = await look(ctx, item);
  const left =
    after.observed === undefined ? ["mounted"] : diffMount(item.desired, after.observed).map((one) => one.path);
  if (after.observed !== undefined && left.length === 0) return after.observed;
  throw new LabError(
    "E_MISMATCH",
    `${left.join(", ")} of the mount ${item.desired.path} did not become what was asked for`,
    {
      address: item.address,
      hint: `see \`findmnt ${item.desired.path}\` on the host`,
    },
  );
}

/** Unmounts what labctl mounted and gives fstab its former line back. The mount point stays. */
async function remove(ctx: OperationContext, item: MountItem): Promise<void> {
  const { path } = item.desired;
  const original = item.prior?.original;
  const { facts, observed } = await look(ctx, item);
  const steps: ShellText[] = [];
  const line = original?.fstab;
  if (observed?.fstab !== line) steps.push(fstabScript(facts.fstab, editFstab(facts.fstab, path, line).text));
  if (observed?.mounted === true && original?.mounted !== true) steps.push(step("umount", "umount", path));
  else if (observed?.mounted === true && original?.mounted === true && observed.source !== original.source) {
    ctx.log(
      "warn",
      `${path} was mounted from ${original.source} before labctl, and from ${observed.source} now: mount it by hand`,
    );
  } else if (original?.mounted === true && observed?.mounted !== true && original.fstab !== undefined) {
    steps.push(sh`labctl_try mount mount ${path}`);
  }
  await run(ctx, item, steps);
}

export const mount = defineKind({
  kind: "mount",
  title: "A mount on a host",
  description: [
    "A file system that is mounted, now and (unless `persist: false`) at every start. Of /etc/fstab only the line of this mount",
    "point is changed, and the file is whole at every moment. Options change by remounting; another source or type,",
    "and options of NFS's own, by unmounting first. Deleting unmounts what labctl mounted and gives the former line back; the mount point stays.",
  ].join("\n"),
  section: {
    name: "mounts",
    within: "host",
    shape: "map",
    key: "path",
    keySchema: { type: "string", pattern: PATH_PATTERN },
  },
  schema,
  attributes,
  ownership: "shared",
  limits: (_desired, address) => [{ name: `${parentAddress(address) ?? "host"}/fstab`, permits: 1 }],
  after: (desired, siblings, address) => afterForPath("mount", desired, siblings, address),
  readMany: (ctx, items) => readByMachine(ctx, items, probe),
  diff: ({ desired, observed }) => diffMount(desired, observed),
  reconcile,
  delete: remove,
  manualCleanup: (item) => `on the host, run \`umount ${item.desired.path}\` and remove its line from /etc/fstab`,
  fromImportId: (id) => ({ path: id }),
});
