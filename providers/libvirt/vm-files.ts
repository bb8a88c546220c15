import { dirname } from "node:path/posix";
import { type Item, type KindContext, type OperationContext, sh } from "../../src/index.ts";
import type { QemuHost } from "./host-facts.ts";
import { objectName } from "./model/ids.ts";
import { isOwn } from "./model/owner.ts";
import type { VmDesired } from "./model/vm-schema.ts";
import { findPool, findVolume, readOwners, removeVolume, withPool } from "./pools.ts";
import type { VmObserved } from "./vm-model.ts";
import { VM_FILES } from "./vm-place.ts";

/** The pool whose folder that is. */
export async function poolAt(ctx: KindContext, host: QemuHost, path: string): Promise<string> {
  for (const pool of await host.libvirt.pools.list({ signal: ctx.signal })) {
    const found = await findPool(host.libvirt, pool.name, ctx.signal);
    if (found?.path === path) return pool.name;
  }
  return "default";
}

/** Removes what it alone has: layers, the seed, kernels. */
export async function removeFiles(
  ctx: OperationContext,
  host: QemuHost,
  item: Item<VmDesired, VmObserved>,
  paths: readonly string[],
): Promise<void> {
  const { libvirt } = host;
  const all = new Set([...paths, ...(await layersOf(ctx, libvirt, objectName(ctx.lab.name, item.desired.name)))]);
  const owners = await readOwners(ctx, host.address, [...all]);
  for (const path of all) {
    if (!isOwn(owners.get(path), item.instance_id)) continue;
    const name = await poolAt(ctx, host, dirname(path));
    await withPool(libvirt, name, async () => {
      const pool = await findPool(libvirt, name, ctx.signal);
      if (pool === undefined) return;
      const there = await findVolume(libvirt, pool, path.slice(pool.path.length + 1), ctx.signal);
      await removeVolume(ctx, libvirt, host.address, path, there?.volume);
    });
  }
  await host.machine.exec(sh`rm -rf -- ${`${VM_FILES}/${item.instance_id}`}`, { signal: ctx.signal });
}

/** Files that are named as layers of that machine, also of disks that it has no more; whose they are, their marks say. */
async function layersOf(ctx: KindContext, libvirt: QemuHost["libvirt"], name: string): Promise<string[]> {
  const out: string[] = [];
  for (const pool of await libvirt.pools.list({ signal: ctx.signal })) {
    const found = await findPool(libvirt, pool.name, ctx.signal);
    if (found === undefined || !(await libvirt.pools.isActive(pool, { signal: ctx.signal }))) continue;
    const volumes = await libvirt.volumes.list(pool, { signal: ctx.signal });
    out.push(...volumes.filter((one) => one.name.startsWith(`${name}-`)).map((one) => `${found.path}/${one.name}`));
  }
  return out;
}
