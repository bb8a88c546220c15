import { basename, dirname } from "node:path/posix";
import { Readable } from "node:stream";
import { type KindContext, LabError, type OperationContext, sh } from "../../src/index.ts";
import type { QemuHost } from "./host-facts.ts";
import { sendImage } from "./local-image.ts";
import { objectName } from "./model/ids.ts";
import { isOwn, type Owner } from "./model/owner.ts";
import type { VmDesired } from "./model/vm-schema.ts";
import { notOwned } from "./on-host.ts";
import { findVolume, openPool, readOwners, withPool, writeOwner } from "./pools.ts";
import { isLibvirtError, VirErr } from "./rpc/index.ts";
import { poolAt } from "./vm-files.ts";
import { type Cargo, type MadeWith, VM_FILES } from "./vm-place.ts";
import { buildVolume, observeVolume } from "./xml/storage.ts";

function ownerOf(made: MadeWith): Owner {
  const { lab, address, instance_id, lineage } = made;
  return { lab, address, instance_id, lineage };
}

/** Brings kernels, images and the seed to the host, and makes the machine's own layers. `runs`: it is on, and its disks in use. */
export async function supply(
  ctx: OperationContext,
  host: QemuHost,
  { desired, runs }: { readonly desired: VmDesired; readonly runs: boolean },
  made: MadeWith,
  cargo: Cargo,
): Promise<void> {
  const { libvirt, machine } = host;
  const options = { signal: ctx.signal };
  const folder = `${VM_FILES}/${made.instance_id}`;
  if (cargo.images.size > 0) await machine.exec(sh`umask 022; mkdir -p -- ${folder}`, options);
  for (const [path, image] of cargo.images) await sendImage(ctx, machine, image, path);
  if (!runs) await growInherited(ctx, host, made);
  const theirs = new Set(Object.values(made.inherited?.disks ?? {}).map((disk) => disk.source));
  const layer = `${objectName(made.lab, desired.name)}-`;
  const own = made.disks.filter(({ source }) => basename(source).startsWith(layer) && !theirs.has(source));
  if (own.length === 0 && cargo.seed === undefined) return;
  for (const disk of [...own, ...(made.seed === undefined ? [] : [{ source: made.seed, format: "raw" }])]) {
    const name = await poolAt(ctx, host, dirname(disk.source));
    await withPool(libvirt, name, async () => {
      const pool = await openPool(libvirt, name, undefined, made.address, ctx.signal);
      await libvirt.pools.refresh(pool.pool, options);
      const file = disk.source.slice(pool.path.length + 1);
      const owner = (await readOwners(ctx, host.address, [disk.source])).get(disk.source);
      const there = await findVolume(libvirt, pool, file, ctx.signal);
      if (there !== undefined && !isOwn(owner, made.instance_id)) {
        throw notOwned(made.address, `a disk ${disk.source}`, host.address, owner);
      }
      const asked = "size" in disk ? disk.size : undefined;
      if (there !== undefined && disk.source !== made.seed) {
        if (asked !== undefined && there.info.size < asked && !runs) {
          await libvirt.volumes.resize(there.volume, asked, options);
        }
        return;
      }
      await writeOwner(ctx, host.address, disk.source, ownerOf(made));
      if (disk.source === made.seed && cargo.seed !== undefined) {
        const size = cargo.seed.image.length;
        const volume =
          there?.volume ??
          (await libvirt.volumes.create(pool.pool, buildVolume({ name: file, format: "raw", size }), options));
        await libvirt.volumes.upload(volume, Readable.from([cargo.seed.image]), options);
        return;
      }
      const backing = "backing" in disk ? disk.backing : undefined;
      const under = backing === undefined ? undefined : await backingOf(ctx, host, made, backing);
      const size = Math.max(asked ?? 0, under?.size ?? 0);
      if (asked !== undefined && under !== undefined && asked < under.size) {
        throw new LabError(
          "E_DISK_FIT",
          `${file} is asked to have ${asked} bytes, and what is under it has ${under.size}`,
          {
            address: made.address,
            hint: "a larger `size`, or none",
          },
        );
      }
      await libvirt.volumes.create(
        pool.pool,
        buildVolume({ name: file, format: "qcow2", size, ...(under !== undefined && { backing: under }) }),
        options,
      );
    });
  }
}

/** A disk image of the host that is in no pool, with the bytes that a machine sees of it; undefined: it is not there. */
export async function imageOnHost(ctx: KindContext, host: QemuHost, path: string) {
  const said = await host.machine.exec(
    sh`LC_ALL=C; export LC_ALL; test -f ${path} && od -An -tx1 -v -N32 -- ${path} | tr -d ${" \n"} && echo && stat -c %s -- ${path}`,
    { signal: ctx.signal },
  );
  if (said.code !== 0) return undefined;
  const [head = "", size = "0"] = said.stdout.toString("utf8").trim().split("\n");
  const qcow2 = head.startsWith("514649fb");
  return {
    path,
    format: qcow2 ? "qcow2" : "raw",
    size: qcow2 ? Number(BigInt(`0x${head.slice(48, 64)}`)) : Number(size),
  };
}

/** Disks that a machine had before labctl stay where they are, in a pool or not; a machine that does not run lets them grow. */
async function growInherited(ctx: OperationContext, host: QemuHost, made: MadeWith): Promise<void> {
  for (const { source, format } of Object.values(made.inherited?.disks ?? {})) {
    const asked = made.disks.find((disk) => disk.source === source)?.size;
    if (asked === undefined) continue;
    const there = await imageOnHost(ctx, host, source);
    if (there === undefined || there.size >= asked) continue;
    const said = await host.machine.exec(sh`qemu-img resize -q -f ${format} -- ${source} ${asked}`, {
      signal: ctx.signal,
    });
    if (said.code === 0) continue;
    throw new LabError("E_MISMATCH", `${source} does not grow: ${said.stderr.toString("utf8").trim()}`, {
      address: made.address,
      hint: `see \`qemu-img info ${source}\` on ${host.address}`,
    });
  }
}

async function backingOf(ctx: KindContext, host: QemuHost, made: MadeWith, path: string) {
  const ours = path.startsWith(`${VM_FILES}/`) ? await imageOnHost(ctx, host, path) : undefined;
  if (ours !== undefined) return ours;
  try {
    const volume = await host.libvirt.volumes.lookupByPath(path, { signal: ctx.signal });
    const info = observeVolume(await host.libvirt.volumes.xml(volume, { signal: ctx.signal }));
    return { path, format: info.format === "iso" ? "raw" : info.format, size: info.size };
  } catch (error) {
    if (!isLibvirtError(error, VirErr.NO_STORAGE_VOL)) throw error;
    throw new LabError("E_MISMATCH", `${path}, which a disk stands on, is not there`, {
      address: made.address,
      cause: error,
      hint: "apply its volume as well",
    });
  }
}
