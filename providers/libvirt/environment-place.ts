import { basename } from "node:path/posix";
import {
  type Address,
  LabError,
  lastSegment,
  type Machine,
  type OperationContext,
  sh,
  shJoin,
} from "../../src/index.ts";
import { store } from "./boot-file.ts";
import type { BootImages } from "./environment-images.ts";
import { cmdlineOf, diskSizesOf, type EnvironmentDesired } from "./environment-model.ts";
import { withModules } from "./environment-modules.ts";
import type { QemuHost } from "./host-facts.ts";
import { diskName, type PlacedDisk, resolveVm } from "./model/vm-resolve.ts";
import { requireSupport } from "./model/vm-support.ts";
import type { VmModel } from "./model/vm.ts";
import { layerScript } from "./plain/disks.ts";
import { libvirtNetwork } from "./things.ts";

/** Where what environments boot lies on their host, where QEMU may read it, each below its own instance's id. */
export const ENVIRONMENTS = "/var/lib/libvirt/labctl/environments";

export interface Deployment {
  readonly address: Address;
  readonly instance_id: string;
  readonly desired: EnvironmentDesired;
  readonly images: BootImages;
}

/** From the digest of what is booted to its path on the host. Names there hold the digests of what they were made from. */
export type Placed = ReadonlyMap<string, string>;

type Part = "kernel" | "initrd" | "rootfs" | "modules";

/** The digest of such a part that the name of a placed file tells. Pure. */
export function digestIn(part: Part, path: string | undefined): string | undefined {
  if (path === undefined) return undefined;
  return new RegExp(String.raw`(?:^|-)${part}-([0-9a-f]{64})(?=[-.]|$)`).exec(basename(path))?.[1];
}

function folderOf(deployment: Pick<Deployment, "instance_id">): string {
  return `${ENVIRONMENTS}/${deployment.instance_id}`;
}

/** Where the host key is kept that the machine showed since it was last booted. */
export function hostKeyFile(instance_id: string): string {
  return `${folderOf({ instance_id })}/host_key`;
}

/** What an environment's machine has that its spec says nothing of. */
const PLAIN_VM = {
  type: "vm",
  acceleration: "auto",
  hugepages: false,
  firmware: "bios",
  rng: true,
  agent: false,
  tpm: false,
  vsock: false,
  autostart: false,
  running: true,
} as const;

const PLAIN_DISK = { direct: false, bus: "virtio", device: "disk", discard: false, readonly: false } as const;

/** Its name in libvirt, without the lab's. */
export function domainName(ctx: OperationContext, name: string): string {
  const scope = ctx.lab.scope.split("/").slice(1).join("-");
  return scope === "" ? name : `${scope}-${name}`;
}

/** The machine that boots what was placed, as it is to be. */
export function modelOf(ctx: OperationContext, host: QemuHost, deployment: Deployment, placed: Placed): VmModel {
  const { desired, images, address, instance_id } = deployment;
  const { vm } = desired;
  const { rootfs } = images;
  const below = [
    ...(rootfs === undefined ? [] : [{ backing: placed.get(rootfs.sha256) ?? rootfs.sha256 }]),
    ...diskSizesOf(desired).map((size) => ({ size })),
  ];
  const layers = below.map((disk, at): PlacedDisk => {
    const target = diskName("vd", at);
    return { source: `${folderOf(deployment)}/${target}.qcow2`, kind: "file", format: "qcow2", ...disk };
  });
  const model = resolveVm(
    {
      ...PLAIN_VM,
      name: domainName(ctx, desired.name),
      arch: vm.arch ?? "x86_64",
      ...(vm.machine !== undefined && { machine: vm.machine }),
      cpus: vm.cpus ?? 1,
      memory: vm.memory ?? "1GiB",
      disks: layers.map(({ source }) => ({ ...PLAIN_DISK, image: source })),
      networks: vm.networks ?? [],
      boot: {
        kernel: images.kernel.sha256,
        ...(images.initrd && { initrd: images.initrd.sha256 }),
        cmdline: cmdlineOf(desired),
      },
    },
    {
      lab: ctx.lab.name,
      address,
      instance_id,
      lineage: ctx.lab.scope,
      facts: host.facts,
      disks: layers,
      placed: (sha256) => placed.get(sha256) ?? sha256,
      network: (name) => libvirtNetwork(ctx, name, lastSegment(host.address).key),
    },
  );
  requireSupport(model, host.facts, address);
  if (rootfs === undefined) return model;
  const shared = model.disks.map((disk) => (disk.backing === undefined ? disk : { ...disk, shared: rootfs.format }));
  return { ...model, disks: shared };
}

/** Sends what is booted to the host: once, however often it is booted there. */
export async function transfer(ctx: OperationContext, host: QemuHost, deployment: Deployment): Promise<Placed> {
  const placed = new Map<string, string>();
  const { kernel, initrd, rootfs } = deployment.images;
  const folder = folderOf(deployment);
  const { machine } = host;
  await machine.exec(sh`umask 022; mkdir -p -- ${folder}`, { signal: ctx.signal });
  const send = async (what: Part, sha256: string, path: string, how: "copy" | "link"): Promise<void> => {
    await ctx.artifacts.send(
      machine,
      sha256,
      { path, how, ...(how === "copy" && { mode: "0644" }) },
      {
        signal: ctx.signal,
        onProgress: ({ done, total }) => ctx.progress(total === 0 ? undefined : done / total, `sending the ${what}`),
        onRetry: (why, attempt) => ctx.log("warn", `sending the ${what} to ${host.address}: ${why} (retry ${attempt})`),
      },
    );
  };
  placed.set(kernel.sha256, `${folder}/kernel-${kernel.sha256}`);
  await send("kernel", await store(ctx, kernel), `${folder}/kernel-${kernel.sha256}`, "copy");
  if (initrd !== undefined) {
    const { sha256, name } = await initrdOf(ctx, deployment, initrd);
    placed.set(initrd.sha256, `${folder}/${name}`);
    await send("initrd", sha256, `${folder}/${name}`, "copy");
  }
  if (rootfs !== undefined) {
    const path = `${folder}/rootfs-${rootfs.sha256}.${rootfs.format}`;
    placed.set(rootfs.sha256, path);
    // The host's one copy: it may be large, and machines write to a layer over it.
    await send("rootfs", await store(ctx, rootfs), path, "link");
    if (rootfs.format === "qcow2") await requireWhole(ctx, machine, deployment, path);
  }
  return placed;
}

/** What the machine gets as its initial RAM disk, in the store, and its name on the host. */
async function initrdOf(
  ctx: OperationContext,
  { images, desired }: Deployment,
  initrd: NonNullable<BootImages["initrd"]>,
): Promise<{ readonly sha256: string; readonly name: string }> {
  const { modules } = images;
  const own = await store(ctx, initrd);
  if (modules === undefined) return { sha256: own, name: `initrd-${own}` };
  // Known by both: a rollback needs the two apart.
  await store(ctx, modules);
  const stream = withModules(ctx, initrd, modules, desired.boot.modules ?? "the archive of modules");
  const { sha256 } = await ctx.artifacts.put({ stream }, { signal: ctx.signal });
  return { sha256, name: `initrd-${own}-modules-${modules.sha256}` };
}

/** What the first bytes of an image do not tell: whether all is there that its tables speak of. */
async function requireWhole(
  ctx: OperationContext,
  machine: Machine,
  { address, desired }: Deployment,
  path: string,
): Promise<void> {
  await requireTools(ctx, machine, address);
  const said = await machine.exec(sh`qemu-img check -q -U -f qcow2 -- ${path} 2>&1`, { signal: ctx.signal });
  // 3: clusters that nobody uses, which does no harm.
  if (said.code === 0 || said.code === 3) return;
  const lines = said.stdout.toString("utf8").trim().split("\n");
  throw new LabError(
    "E_IMAGE_FORMAT",
    `${desired.boot.rootfs ?? path} cannot be a root file system: it is cut off or damaged: ${lines[0] ?? ""}`,
    { address, hint: "look at it with `qemu-img check`, and make it anew" },
  );
}

async function requireTools(ctx: OperationContext, machine: Machine, address: string): Promise<void> {
  const said = await machine.exec(sh`command -v qemu-img >/dev/null`, { signal: ctx.signal, brief: true });
  if (said.code === 0) return;
  throw new LabError("E_QEMU_MISSING", `${machine.address} has no qemu-img, which disks are made with`, {
    address,
    hint: "install it there: `packages: [qemu-utils]`",
  });
}

/** Makes the machine's disks anew: what was written to those of an earlier start is gone. */
export async function makeLayers(
  ctx: OperationContext,
  host: QemuHost,
  address: string,
  model: VmModel,
): Promise<void> {
  const { machine } = host;
  const layers = model.disks.flatMap(({ source, backing, size }) =>
    source === undefined
      ? []
      : [
          sh`rm -f -- ${source}`,
          layerScript({ source, ...(backing !== undefined && { backing }), ...(size !== undefined && { size }) }),
        ],
  );
  if (layers.length === 0) return;
  await requireTools(ctx, machine, address);
  const said = await machine.exec(shJoin([sh`set -e`, ...layers]), { signal: ctx.signal });
  if (said.code === 0) return;
  const why = said.stderr.toString("utf8").trim();
  const full = /No space left|quota exceeded/i.test(why);
  throw new LabError(full ? "E_DISK_FULL" : "E_LIBVIRT", `its disks cannot be made on ${host.address}: ${why}`, {
    address,
    hint: full ? `free some space below ${ENVIRONMENTS} there` : "look at the machine, then run again",
  });
}

/** Takes away what earlier deployments have left, once this one is up. */
export async function prune(
  ctx: OperationContext,
  host: QemuHost,
  deployment: Deployment,
  model: VmModel,
): Promise<void> {
  const { boot, disks } = model;
  const used = [boot?.kernel, boot?.initrd, ...disks.flatMap((disk) => [disk.source, disk.backing])];
  const kept = [...used, hostKeyFile(deployment.instance_id)];
  const names = kept.flatMap((path) => (path === undefined ? [] : [basename(path)])).join(" ");
  await host.machine.exec(
    sh`cd -- ${folderOf(deployment)} || exit 0
for f in * .labctl-*; do case ${` ${names} `} in *" $f "*) ;; *) rm -f -- "$f" ;; esac; done`,
    { signal: ctx.signal },
  );
}
