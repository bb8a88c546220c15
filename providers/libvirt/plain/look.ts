import { setTimeout as sleep } from "node:timers/promises";
import { type Address, type KindContext, LabError, sh, shJoin } from "../../../src/index.ts";
import { uuidOf } from "../model/ids.ts";
import { observeArgv } from "../model/qemu-observe.ts";
import type { VmDesired } from "../model/vm-schema.ts";
import type { VmModel } from "../model/vm.ts";
import { observedOf, type VmObserved } from "../vm-model.ts";
import { type MadeWith, wantedVm } from "../vm-place.ts";
import { type Definition, filesOf, type PlainFiles, requireOwn } from "./definition.ts";
import { type ImageFile, imagesScript, readImages } from "./disks.ts";
import type { PlainHost } from "./host.ts";
import { type Monitored, monitored, overlaid, withMonitor } from "./monitor.ts";
import { findScript, type QemuProcess, readProcesses } from "./process.ts";

/** What was found of one machine on its host. */
export interface PlainMachine {
  readonly files: PlainFiles;
  readonly uuid: string;
  /** Absent: its folder is not there, or says nothing. */
  readonly definition?: Definition;
  readonly processes: readonly QemuProcess[];
  /** Files of its disks that are there; undefined: damaged. */
  readonly images: ReadonlyMap<string, ImageFile | undefined>;
  /** Files that its QEMU has open, as they are called now. */
  readonly open: ReadonlySet<string>;
}

interface Who {
  readonly address: Address;
  readonly instance_id: string;
}

/** Looks at folder, files and processes; asks no QEMU. Rejects with E_NOT_OWNED for what is somebody else's. */
export async function findMachine(
  ctx: KindContext,
  host: PlainHost,
  item: Who,
  disks: readonly string[],
): Promise<PlainMachine> {
  const files = filesOf(host.root, item.instance_id);
  const uuid = uuidOf(item.instance_id);
  const script = shJoin([
    sh`LC_ALL=C; export LC_ALL; f=${files.definition}
if [ -e "$f" ]; then printf 'definition %s\n' "$(base64 <"$f" | tr -d '\n')"; fi`,
    sh`found=$(${findScript(uuid)}); printf '%s\n' "$found"`,
    sh`printf '%s\n' "$found" | while read -r _ p _; do
  for o in /proc/"$p"/fd/*; do t=$(readlink "$o") && printf 'open %s\n' "$(printf %s "$t" | base64 | tr -d '\n')"; done
done 2>/dev/null`,
    imagesScript(disks),
    sh`:`,
  ]);
  const said = (await host.machine.probe(script, { signal: ctx.signal })).stdout.toString("utf8");
  const decoded = (pattern: RegExp): string[] =>
    [...said.matchAll(pattern)].map((match) => Buffer.from(match[1] ?? "", "base64").toString("utf8"));
  const [text] = decoded(/^definition (\S*)$/gm);
  return {
    files,
    uuid,
    ...(text !== undefined && { definition: requireOwn(item.address, host.address, files, text, item.instance_id) }),
    processes: readProcesses(said, uuid),
    images: readImages(said),
    open: new Set(decoded(/^open (\S+)$/gm)),
  };
}

/** The QEMUs of a machine at this moment. */
export async function runningNow(ctx: KindContext, host: PlainHost, uuid: string): Promise<readonly QemuProcess[]> {
  const said = await host.machine.exec(findScript(uuid), { signal: ctx.signal, brief: true });
  return readProcesses(said.stdout.toString("utf8"), uuid);
}

/** How long a QEMU that somebody has just started may take until it listens. Milliseconds. */
const STARTING_MS = 10_000;

/** Its monitor, as soon as it listens: a run that was killed leaves one that still starts. Undefined: it went. */
async function answerOf(ctx: KindContext, host: PlainHost, found: PlainMachine): Promise<Monitored | undefined> {
  for (const until = performance.now() + STARTING_MS; ; await sleep(250, undefined, { signal: ctx.signal })) {
    try {
      return await withMonitor(ctx, host.machine, found.files.qmp, (qmp) => monitored(qmp, ctx.signal));
    } catch (error) {
      if (!(error instanceof LabError) || error.code !== "E_SOCKET" || performance.now() > until) throw error;
    }
    if ((await runningNow(ctx, host, found.uuid)).length === 0) return undefined;
  }
}

/** Whether its QEMU runs it, asked of QEMU itself: undefined where there is none. Rejects with E_QEMU where it does not answer. */
export async function askMachine(
  ctx: KindContext,
  host: PlainHost,
  found: PlainMachine,
): Promise<Monitored | undefined> {
  const [process] = found.processes;
  if (process === undefined) return undefined;
  try {
    const seen = await answerOf(ctx, host, found);
    if (seen === undefined || seen.uuid === found.uuid) return seen;
    throw new LabError("E_QEMU", `${found.files.qmp} is the monitor of another machine (${seen.uuid})`);
  } catch (error) {
    if (!(error instanceof LabError) || !["E_QEMU", "E_SOCKET"].includes(error.code)) throw error;
    throw new LabError(
      "E_QEMU",
      `its QEMU on ${host.address} runs (process ${process.pid}) and does not answer: ${error.message}`,
      {
        address: host.address,
        cause: error,
        retryable: true,
        hint: `look at it there; kill -9 ${process.pid} ends it as a power cut would`,
      },
    );
  }
}

/** All of it, from its folder, its files and its QEMU; undefined: it is not there. */
export async function look(
  ctx: KindContext,
  host: PlainHost,
  item: Who & { readonly desired: VmDesired },
  made: MadeWith,
): Promise<VmObserved | undefined> {
  const found = await findMachine(
    ctx,
    host,
    item,
    made.disks.map((disk) => disk.source),
  );
  if (found.definition === undefined) return undefined;
  const seen = await askMachine(ctx, host, found);
  return { ...observed(found.definition, found, seen, wantedVm(item.desired, made), made), host: host.address };
}

/** Pure. What is there, in the form of what is wanted. */
export function observed(
  { model, owner }: Definition,
  found: Pick<PlainMachine, "processes" | "images" | "open">,
  seen: Monitored | undefined,
  wanted: VmModel,
  made: MadeWith,
): VmObserved {
  const running = seen?.status === "running";
  const stored = trimmed(
    { ...model, owner, running, disks: model.disks.map((disk) => onDisk(disk, found.images)) },
    wanted,
  );
  const [process] = found.processes;
  if (seen === undefined || process === undefined) return observedOf(stored, undefined, made);
  const disks = (all: VmModel["disks"]): VmModel["disks"] =>
    all.map((disk) => {
      // What it has open has another file under its name by now, or none.
      if (disk.source === undefined || found.open.has(disk.source)) return disk;
      const { source: _gone, ...rest } = disk;
      return rest;
    });
  const started = overlaid(observeArgv(process.argv), seen);
  const now = trimmed({ ...started, owner, autostart: false, running, disks: disks(started.disks) }, wanted);
  // The guest fills its balloon when it gets round to it, which is no drift: what it is asked to have is shown.
  const memory = { size: Math.min(stored.memory.size, now.memory.max), max: now.memory.max };
  return { ...observedOf(now, stored, made), memory };
}

/** A disk of the definition, as its file is. */
function onDisk(disk: VmModel["disks"][number], images: PlainMachine["images"]): VmModel["disks"][number] {
  const { source, size: _size, backing: _backing, ...rest } = disk;
  const file = source === undefined ? undefined : images.get(source);
  if (source === undefined || file === undefined) return rest;
  return {
    ...rest,
    source,
    // A raw disk may hold anything, also what looks like another format.
    format: disk.format === "raw" ? disk.format : file.format,
    size: file.size,
    ...(file.backing !== undefined && { backing: file.backing }),
  };
}

/** Without sizes and layers that nobody asked for. */
function trimmed(model: VmModel, wanted: VmModel): VmModel {
  const disks = model.disks.map((disk) => {
    const asked = wanted.disks.find((one) => one.target === disk.target);
    const { size, backing, ...rest } = disk;
    return {
      ...rest,
      ...(size !== undefined && asked?.size !== undefined && { size }),
      ...(backing !== undefined && asked?.backing !== undefined && { backing }),
    };
  });
  return { ...model, disks };
}
