import { createHash } from "node:crypto";
import { dirname, extname } from "node:path/posix";
import { LabError, type Machine, type OperationContext, sh, shJoin, type ShellText } from "../../../src/index.ts";
import { sendImage } from "../local-image.ts";
import type { VmModel } from "../model/vm.ts";
import type { Cargo, MadeWith } from "../vm-place.ts";

/** What a disk's file is, as qemu-img sees it. */
export interface ImageFile {
  readonly format: string;
  /** Bytes that a machine sees. */
  readonly size: number;
  readonly backing?: string;
}

/** Prints `image PATH INFO` (both base64) for each of these files that is there. Also while a QEMU has it open. */
export function imagesScript(paths: readonly string[]): ShellText {
  return shJoin(
    paths.map(
      (path) =>
        sh`[ ! -e ${path} ] || printf 'image %s %s\n' ${Buffer.from(path).toString("base64")} "$(qemu-img info -U --output=json -- ${path} | base64 | tr -d '\n')"`,
    ),
  );
}

/** Pure. By path; undefined: there is a file, and qemu-img cannot read it. */
export function readImages(text: string): ReadonlyMap<string, ImageFile | undefined> {
  const decoded = (word: string | undefined): string => Buffer.from(word ?? "", "base64").toString("utf8");
  return new Map(
    text.split("\n").flatMap((line) => {
      const [, path, info] = /^image (\S+) (\S*)$/.exec(line) ?? [];
      return path === undefined ? [] : [[decoded(path), imageOf(decoded(info))] as const];
    }),
  );
}

function imageOf(json: string): ImageFile | undefined {
  if (json === "") return undefined;
  const info = JSON.parse(json) as Readonly<Record<string, unknown>>;
  const { format, "virtual-size": size } = info;
  const backing = info["full-backing-filename"] ?? info["backing-filename"];
  if (typeof format !== "string" || typeof size !== "number") return undefined;
  return { format, size, ...(typeof backing === "string" && { backing }) };
}

/** Brings kernels, images and the seed to the host, and makes the layers that are not there. What is there stays as it is. */
export async function supply(ctx: OperationContext, machine: Machine, made: MadeWith, cargo: Cargo): Promise<void> {
  for (const [path, image] of cargo.images) await sendImage(ctx, machine, image, path, "0600");
  if (made.seed !== undefined && cargo.seed !== undefined) {
    const content = cargo.seed.image;
    const sha256 = createHash("sha256").update(content).digest("hex");
    await machine.upload({ content, sha256 }, { path: made.seed, mode: "0600" }, { signal: ctx.signal });
  }
  for (const disk of made.disks) {
    // CDs are the images themselves.
    if (disk.format !== "qcow2" || dirname(disk.source) !== made.folder || disk.source.includes("/image-")) continue;
    await qemuImg(ctx, machine, made.address, layerScript(disk));
  }
}

/** Makes a disk's layer where there is none: over an image, or empty. Under another name until it is whole. */
export function layerScript(disk: Pick<MadeWith["disks"][number], "source" | "size" | "backing">): ShellText {
  const part = `${disk.source}.new`;
  const size = disk.size === undefined ? [] : [String(disk.size)];
  const under = disk.backing === undefined ? sh`` : sh`-b ${disk.backing} -F ${formatOf(disk.backing)}`;
  return sh`umask 077; [ -e ${disk.source} ] || { qemu-img create -q -f qcow2 ${under} -- ${part} ${size} && mv -f -- ${part} ${disk.source}; }`;
}

/** Of an image that place() named. */
function formatOf(path: string): string {
  const format = extname(path).slice(1);
  return format === "iso" ? "raw" : format;
}

/** Makes the files of a machine that does not run as large as it is to see them. They never shrink. */
export async function grow(ctx: OperationContext, machine: Machine, wanted: VmModel, address: string): Promise<void> {
  const disks = wanted.disks.flatMap(({ source, size }) =>
    source === undefined || size === undefined ? [] : [{ source, size }],
  );
  if (disks.length === 0) return;
  const said = await machine.exec(imagesScript(disks.map((one) => one.source)), { signal: ctx.signal, brief: true });
  const there = readImages(said.stdout.toString("utf8"));
  for (const { source, size } of disks) {
    const now = there.get(source);
    if (now === undefined || now.size >= size) continue;
    await qemuImg(ctx, machine, address, sh`qemu-img resize -q -f ${now.format} -- ${source} ${size}`);
  }
}

async function qemuImg(ctx: OperationContext, machine: Machine, address: string, script: ShellText): Promise<void> {
  const done = await machine.exec(script, { signal: ctx.signal, brief: true });
  if (done.code === 0) return;
  throw new LabError("E_QEMU", `a disk cannot be made: ${done.stderr.toString("utf8").trim()}`, {
    address,
    hint: "is there room on the host's disk?",
  });
}
