import { LabError, parseSize, type Plain } from "../../../src/index.ts";
import { objectName } from "./ids.ts";
import type { Owner } from "./owner.ts";
import type { VolumeDesired } from "./volume-schema.ts";

/** A volume, whole and in one form: what is made, and what is read back. */
export interface VolumeModel {
  /** File name in the pool. */
  readonly name: string;
  readonly pool: string;
  readonly format: string;
  /** Bytes that a machine sees; absent in what is asked for: as the content has. */
  readonly size?: number;
  /** Path and format of the volume that it holds the differences to. */
  readonly backing?: { readonly path: string; readonly format: string };
  /** SHA-256 of the content that it was made from; absent: it was made empty, or nobody recorded it. */
  readonly digest?: string;
  readonly owner?: Owner;
}

export interface VolumeContext {
  readonly lab: string;
  readonly address: string;
  readonly instance_id: string;
  readonly lineage: string;
  /** Its file name, where it was imported. */
  readonly name?: string;
  /** Bytes that a machine sees of the source, or that the seed has. */
  readonly content_size?: number;
  /** Where `backing` lies on the host; undefined: there is none of that name. */
  volume(name: string): { readonly path: string; readonly format: string; readonly size: number } | undefined;
}

/** The volume that a spec asks for. Throws E_SPEC_VALUE and E_DISK_FIT. */
export function resolveVolume(desired: VolumeDesired, context: VolumeContext): VolumeModel {
  const wrong = (message: string): LabError => new LabError("E_SPEC_VALUE", message, { address: context.address });
  const contents = (["source", "seed", "backing"] as const).filter((key) => desired[key] !== undefined);
  if (contents.length > 1) throw wrong(`${contents.join(" and ")} say different things of what is in it`);
  if (contents.length === 0 && desired.size === undefined) throw wrong("an empty volume needs a `size`");
  const seed = desired.seed !== undefined;
  const format = seed ? "raw" : (desired.format ?? "qcow2");
  const under = desired.backing === undefined ? undefined : context.volume(desired.backing);
  if (desired.backing !== undefined && under === undefined)
    throw wrong(`there is no volume ${desired.backing} on its host`);
  if (under !== undefined && format !== "qcow2") throw wrong("only qcow2 holds the differences to another volume");
  if (seed && desired.size !== undefined) throw wrong("a seed is as large as it is");
  const asked = desired.size === undefined ? undefined : parseSize(desired.size);
  const least = context.content_size ?? under?.size;
  if (asked !== undefined && least !== undefined && asked < least) throw tooSmall(context.address, asked, least);
  const size = asked ?? least;
  return {
    name: context.name ?? volumeName(context.lab, desired.name, seed ? "iso" : format),
    pool: desired.pool ?? "default",
    format,
    // Volumes are made of whole sectors.
    ...(size !== undefined && { size: Math.ceil(size / 512) * 512 }),
    ...(under !== undefined && { backing: { path: under.path, format: under.format } }),
    ...(desired.digest !== undefined && { digest: desired.digest }),
    owner: {
      lab: context.lab,
      address: context.address,
      instance_id: context.instance_id,
      lineage: context.lineage,
      ...(desired.digest !== undefined && { digest: desired.digest }),
    },
  };
}

export function tooSmall(address: string, asked: number, least: number): LabError {
  return new LabError("E_DISK_FIT", `it is asked to have ${asked} bytes, and what is in it needs ${least}`, {
    address,
    hint: `\`size\` of at least ${Math.ceil(least / 1024 ** 2)}MiB, or none`,
  });
}

/** The file of a volume in its pool. */
export function volumeName(lab: string, name: string, extension: string): string {
  return `${objectName(lab, name)}.${extension === "raw" ? "img" : extension}`;
}

/** The file of a disk that is a machine's own. */
export function diskVolumeName(lab: string, vm: string, target: string, format = "qcow2"): string {
  return volumeName(lab, `${vm}-${target}`, format);
}

/** The file of a machine's cloud-init seed: another content has another name, which is how a change of it shows. */
export function seedVolumeName(lab: string, vm: string, digest: string): string {
  return `${objectName(lab, vm)}-seed-${digest.slice(0, 16)}.iso`;
}

const SIDECAR = ".labctl";

/**
 * The name of the small volume beside a volume that says whose it is: libvirt keeps no notes on volumes, and a file's name says
 * too little.
 */
export function sidecarName(volume: string): string {
  return `${volume}${SIDECAR}`;
}

export function isSidecar(volume: string): boolean {
  return volume.endsWith(SIDECAR);
}

/** What a sidecar holds: one line of JSON. */
export function formatSidecar(owner: Owner): string {
  const { lab, address, instance_id, lineage, digest } = owner;
  return `${JSON.stringify({ labctl: 1, lab, address, instance_id, lineage, ...(digest !== undefined && { digest }) })}\n`;
}

/** The owner in a sidecar; undefined: it is none, or was cut off, and nothing is known. Zeros at the end do not count. */
export function parseSidecar(text: string): Owner | undefined {
  let data: unknown;
  try {
    data = JSON.parse(text.replace(/\0+$/, ""));
  } catch {
    return undefined;
  }
  if (typeof data !== "object" || data === null) return undefined;
  const { lab, address, instance_id, lineage, digest } = data as Record<string, unknown>;
  if (typeof lab !== "string" || typeof address !== "string") return undefined;
  if (typeof instance_id !== "string" || typeof lineage !== "string") return undefined;
  return { lab, address, instance_id, lineage, ...(typeof digest === "string" && { digest }) };
}

export interface VolumeChange {
  readonly path: string;
  readonly before?: Plain;
  readonly after?: Plain;
  readonly effect: "live" | "restart" | "replace";
}

/** What differs, property by property, named as in the spec. What the spec leaves open (a size) is not compared. */
export function diffVolume(desired: VolumeModel, observed: VolumeModel): VolumeChange[] {
  const out: VolumeChange[] = [];
  const compare = (
    path: string,
    after: Plain | undefined,
    before: Plain | undefined,
    effect: VolumeChange["effect"],
  ) => {
    if (after === before) return;
    out.push({ path, ...(before !== undefined && { before }), ...(after !== undefined && { after }), effect });
  };
  compare("pool", desired.pool, observed.pool, "replace");
  compare("format", desired.format, observed.format, "replace");
  if (desired.size !== undefined) {
    const grows = desired.size >= (observed.size ?? 0);
    compare("size", desired.size, observed.size, grows ? "live" : "replace");
  }
  compare("backing", desired.backing?.path, observed.backing?.path, "replace");
  compare("digest", desired.digest, observed.digest, "replace");
  return out;
}
