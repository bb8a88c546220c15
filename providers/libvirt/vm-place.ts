import { type Address, type KindContext, LabError, lastSegment, parseSize, type Plain } from "../../src/index.ts";
import { type LocalImage, localImage } from "./local-image.ts";
import { makeSeed, type Seed } from "./model/cloud-init.ts";
import type { HostFacts } from "./model/facts.ts";
import { readImage } from "./model/image.ts";
import { readKernel, requireKernel } from "./model/kernel-image.ts";
import { diskVolumeName, seedVolumeName } from "./model/volume.ts";
import { type Inherited, type PlacedDisk, resolveVm, targetOf } from "./model/vm-resolve.ts";
import type { VmDesired } from "./model/vm-schema.ts";
import type { VmModel } from "./model/vm.ts";
import { refuseAddresses } from "./vm-addresses.ts";
import type { VolumeDesired } from "./model/volume-schema.ts";
import { libvirtNetwork } from "./things.ts";
import { fileOf } from "./volume.ts";

/** Where a machine's kernels and initial RAM disks lie on its host; their names hold their digests. */
export const VM_FILES = "/var/lib/libvirt/labctl/vms";

/** All that a machine's model is made of besides its own properties, as plain data: it is kept with what was seen. */
export interface MadeWith {
  readonly lab: string;
  readonly address: string;
  readonly instance_id: string;
  readonly lineage: string;
  readonly name?: string;
  readonly inherited?: Inherited;
  readonly facts: HostFacts;
  readonly disks: readonly PlacedDisk[];
  /** From the text in the spec to the path on the host. */
  readonly files: Readonly<Record<string, string>>;
  readonly networks: Readonly<Record<string, string>>;
  readonly seed?: string;
  /** On a host without libvirt: the folder that holds all of the machine. */
  readonly folder?: string;
}

/** Local things that have to get to the host, by the path that they have there. */
export interface Cargo {
  readonly images: ReadonlyMap<string, LocalImage>;
  readonly seed?: Seed;
}

interface Who {
  readonly address: Address;
  readonly desired: VmDesired;
  readonly instance_id: string;
}

/**
 * Where everything of the machine is to lie on its host: in libvirt's pools, or all in one `folder`. Throws what local files and the
 * lab's volumes are wrong about.
 */
export async function place(
  ctx: KindContext,
  item: Who,
  host: { readonly address: Address; readonly facts: HostFacts },
  pools: ReadonlyMap<string, string>,
  { folder, inherited }: { readonly folder?: string; readonly inherited?: Inherited | undefined } = {},
): Promise<{ readonly made: MadeWith; readonly cargo: Cargo }> {
  const { desired, address, instance_id } = item;
  const { facts } = host;
  const lab = ctx.lab.name;
  const images = new Map<string, LocalImage>();
  const files: Record<string, string> = {};
  const below = folder ?? `${VM_FILES}/${instance_id}`;
  const arch = desired.arch ?? facts.host.arch;
  for (const what of ["kernel", "initrd", "dtb"] as const) {
    const text = desired.boot?.[what];
    if (text === undefined) continue;
    const image = await localImage(ctx, address, text);
    if (what === "kernel" && arch !== undefined) requireKernel(readKernel(image.head), { arch, address, path: text });
    const path = `${below}/${what}-${image.sha256}`;
    files[text] = path;
    images.set(path, image);
  }
  const disks: PlacedDisk[] = [];
  for (const [at, disk] of (desired.disks ?? []).entries()) {
    const target = disk.target ?? targetOf(desired.disks ?? [], at);
    const size = disk.size === undefined ? undefined : Math.ceil((parseSize(disk.size) ?? 0) / 512) * 512;
    const sized = size === undefined ? {} : { size };
    const under = disk.volume === undefined ? undefined : volumeOf(ctx, address, disk.volume);
    const dir = pools.get(under?.pool ?? "default") ?? "/var/lib/libvirt/images";
    const own =
      folder === undefined ? `${dir}/${diskVolumeName(lab, desired.name, target)}` : `${folder}/${target}.qcow2`;
    if (under !== undefined) {
      const path = `${dir}/${under.file}`;
      disks.push(
        disk.direct === true || disk.device === "cdrom"
          ? { source: path, kind: "file", format: under.format, ...sized }
          : { source: own, kind: "file", format: "qcow2", backing: path, ...sized },
      );
    } else if (disk.image === undefined) {
      const { size: _theirs, ...kept } = inherited?.disks[target] ?? {};
      disks.push({ source: own, kind: "file", format: "qcow2", ...kept, ...sized });
    } else {
      const image = await localImage(ctx, address, disk.image);
      const { format, virtual_size } = readImage(image.head, image.size);
      if (size !== undefined && size < virtual_size) {
        throw new LabError(
          "E_DISK_FIT",
          `disk ${at} is asked to have ${size} bytes, and its image needs ${virtual_size}`,
          {
            address,
            hint: "a larger `size`, or none",
          },
        );
      }
      const path = `${below}/image-${image.sha256}.${format}`;
      images.set(path, image);
      disks.push(
        disk.device === "cdrom"
          ? { source: path, kind: "file", format: "raw" }
          : { source: own, kind: "file", format: "qcow2", backing: path, ...sized },
      );
    }
  }
  refuseAddresses(ctx, address, desired);
  const networks: Record<string, string> = {};
  for (const nic of desired.networks ?? []) {
    const name = typeof nic === "string" ? nic : nic.network;
    const known = name === undefined ? undefined : libvirtNetwork(ctx, name, lastSegment(host.address).key);
    if (name !== undefined && known !== undefined) networks[name] = known;
  }
  const seed =
    desired.cloud_init === undefined
      ? undefined
      : makeSeed(desired.cloud_init, { address, instance_id, hostname: desired.name });
  const dir = folder ?? pools.get("default") ?? "/var/lib/libvirt/images";
  return {
    made: {
      lab,
      address,
      instance_id,
      lineage: ctx.lab.scope,
      facts,
      disks,
      files,
      networks,
      ...(inherited !== undefined && { inherited }),
      ...(folder !== undefined && { folder }),
      ...(seed !== undefined && { seed: `${dir}/${seedVolumeName(lab, desired.name, seed.digest)}` }),
    },
    cargo: { images, ...(seed !== undefined && { seed }) },
  };
}

/** Said of local files and of the spec. */
const OF_ITS_PARTS = new Set(["E_SOURCE_FILE", "E_ARTIFACT_NOT_FOUND", "E_SPEC_VALUE", "E_IMAGE_ARCH", "E_DISK_FIT"]);

/**
 * What it is made of now; of one that is on its way out, and whose parts have left the spec or this machine, what it was made of
 * ({@link requireParts} is asked of all others).
 */
export async function madeOf(
  item: { readonly prior: { readonly observed: { readonly made_with: unknown } | undefined } | undefined },
  now: () => Promise<{ readonly made: MadeWith }>,
): Promise<MadeWith> {
  try {
    return (await now()).made;
  } catch (error) {
    const former = item.prior?.observed?.made_with as MadeWith | undefined;
    if (former === undefined || !(error instanceof LabError) || !OF_ITS_PARTS.has(error.code)) throw error;
    return former;
  }
}

/** That the local files and the lab's volumes are there which it is made of. @throws LabError E_SOURCE_FILE, E_ARTIFACT_NOT_FOUND, E_SPEC_VALUE */
export async function requireParts(ctx: KindContext, { address, desired }: Who): Promise<void> {
  const { boot, disks = [] } = desired;
  const files = [boot?.kernel, boot?.initrd, boot?.dtb, ...disks.map((disk) => disk.image)];
  for (const text of files) if (text !== undefined) await localImage(ctx, address, text);
  for (const { volume } of disks) if (volume !== undefined) volumeOf(ctx, address, volume);
}

function volumeOf(ctx: KindContext, address: Address, name: string) {
  const entry = ctx.inventory.get(`volume.${name}`);
  if (entry === undefined) throw new LabError("E_SPEC_VALUE", `there is no volume ${name}`, { address });
  const desired = entry.desired as unknown as VolumeDesired;
  return {
    pool: desired.pool ?? "default",
    file: fileOf(ctx.lab.name, { ...desired, name }),
    format: desired.seed === undefined ? (desired.format ?? "qcow2") : "raw",
  };
}

/** The machine as it is wanted. Pure. */
export function wantedVm(desired: VmDesired, made: MadeWith): VmModel {
  return resolveVm(desired, {
    ...made,
    ...(made.folder !== undefined && { log: `${made.folder}/console.log` }),
    placed: (text) => made.files[text] ?? text,
    network: (name) => made.networks[name],
  });
}

export function asPlain(value: unknown): Record<string, Plain> {
  return JSON.parse(JSON.stringify(value)) as Record<string, Plain>;
}
