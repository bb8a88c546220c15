import { posix } from "node:path";
import { type Address, LabError, sh, type KindContext } from "../../src/index.ts";
import { uuidOf } from "./model/ids.ts";
import { formatSidecar, isSidecar, parseSidecar, sidecarName } from "./model/volume.ts";
import type { Owner } from "./model/owner.ts";
import { absentOf } from "./on-host.ts";
import { isLibvirtError, type Libvirt, type Pool, VirErr, type Volume } from "./rpc/index.ts";
import { buildPool, observePool, observeVolume, type ObservedVolume } from "./xml/storage.ts";

/** Where Debian, Fedora and libvirt itself have the pool `default`. */
const DEFAULT_PATH = "/var/lib/libvirt/images";

export interface OpenPool {
  readonly pool: Pool;
  readonly name: string;
  /** Absolute. */
  readonly path: string;
  readonly active: boolean;
}

const queues = new WeakMap<Libvirt, Map<string, Promise<unknown>>>();

/** One at a time for each pool: libvirt refuses to look at one that is being changed. */
export async function withPool<T>(libvirt: Libvirt, name: string, body: () => Promise<T>): Promise<T> {
  const all = queues.get(libvirt) ?? new Map<string, Promise<unknown>>();
  queues.set(libvirt, all);
  const before = all.get(name) ?? Promise.resolve();
  const mine = before.then(body, body);
  all.set(
    name,
    mine.catch(() => undefined),
  );
  return await mine;
}

/** The pool as it is; undefined: there is none of that name. */
export async function findPool(libvirt: Libvirt, name: string, signal: AbortSignal): Promise<OpenPool | undefined> {
  const pool = await libvirt.pools.find(name, { signal });
  if (pool === undefined) return undefined;
  const [xml, active] = await Promise.all([
    libvirt.pools.xml(pool, { signal }),
    libvirt.pools.isActive(pool, { signal }),
  ]);
  return { pool, name, path: observePool(xml).path, active };
}

/** The pool, made and started where it has to be. Throws E_SPEC_VALUE where it lies elsewhere than the spec says. */
export async function openPool(
  libvirt: Libvirt,
  name: string,
  wanted: string | undefined,
  address: Address,
  signal: AbortSignal,
): Promise<OpenPool> {
  const options = { signal };
  const found = await findPool(libvirt, name, signal);
  if (found !== undefined) {
    if (wanted !== undefined && posix.normalize(wanted) !== posix.normalize(found.path)) {
      throw new LabError("E_SPEC_VALUE", `the pool ${name} lies at ${found.path}, and not at ${wanted}`, {
        address,
        hint: "leave `pool_path` out, or give the pool another name",
      });
    }
    if (!found.active) await libvirt.pools.create(found.pool, options);
    return { ...found, active: true };
  }
  const path = wanted ?? (name === "default" ? DEFAULT_PATH : undefined);
  if (path === undefined) {
    throw new LabError("E_SPEC_VALUE", `${libvirt.address} has no pool ${name}`, {
      address,
      hint: "say where it is to be: `pool_path: /srv/images`",
    });
  }
  const pool = await libvirt.pools.define(buildPool({ name, uuid: ownPool(libvirt, name), path }), options);
  await libvirt.pools.build(pool, options);
  await libvirt.pools.create(pool, options);
  await libvirt.pools.setAutostart(pool, true, options);
  return { pool, name, path, active: true };
}

function ownPool(libvirt: Libvirt, name: string): string {
  return uuidOf(`pool ${name}`, libvirt.address);
}

/** Takes a pool away that labctl made and that holds nothing any more; its directory stays. */
export async function dropPool(libvirt: Libvirt, name: string, signal: AbortSignal): Promise<void> {
  const found = await findPool(libvirt, name, signal);
  if (found === undefined || found.pool.uuid !== ownPool(libvirt, name)) return;
  if (found.active) {
    await libvirt.pools.refresh(found.pool, { signal });
    if ((await libvirt.volumes.list(found.pool, { signal })).length > 0) return;
    await libvirt.pools.destroy(found.pool, { signal });
  }
  await libvirt.pools.undefine(found.pool, { signal });
}

/** A volume, and whose it is. */
export interface FoundVolume {
  readonly volume: Volume;
  readonly info: ObservedVolume;
}

export async function findVolume(
  libvirt: Libvirt,
  pool: OpenPool,
  name: string,
  signal: AbortSignal,
): Promise<FoundVolume | undefined> {
  const volume = await libvirt.volumes.find(pool.pool, name, { signal });
  if (volume === undefined) return undefined;
  try {
    return { volume, info: observeVolume(await libvirt.volumes.xml(volume, { signal })) };
  } catch (error) {
    // libvirt remembers files that somebody has removed since.
    if (isLibvirtError(error, VirErr.NO_STORAGE_VOL) || absentOf(error)) return undefined;
    throw error;
  }
}

/** What the files beside volumes say of their owners; a volume without one is not in it. */
export async function readOwners(
  ctx: KindContext,
  host: Address,
  paths: readonly string[],
): Promise<ReadonlyMap<string, Owner>> {
  const owners = new Map<string, Owner>();
  if (paths.length === 0) return owners;
  const files = paths.map(sidecarName);
  const said = await ctx
    .machine(host)
    .probe(sh`for f in ${files}; do printf '%s\\t' "$f"; head -n 1 -- "$f" 2>/dev/null | head -c 4096; echo; done`, {
      signal: ctx.signal,
    });
  for (const line of said.stdout.toString("utf8").split("\n")) {
    const [file = "", text = ""] = line.split("\t");
    const owner = parseSidecar(text);
    if (owner !== undefined && isSidecar(file)) owners.set(file.slice(0, -sidecarName("").length), owner);
  }
  return owners;
}

/** Says beside the volume whose it is: before the volume is made, so that one that was cut off is found to be ours. */
export async function writeOwner(ctx: KindContext, host: Address, path: string, owner: Owner): Promise<void> {
  const file = sidecarName(path);
  const machine = ctx.machine(host);
  const done = await machine.exec(
    sh`umask 077; printf '%s' ${formatSidecar(owner)} >${`${file}.new`} && mv -f -- ${`${file}.new`} ${file}`,
    { signal: ctx.signal },
  );
  if (done.code === 0) return;
  throw new LabError("E_COMMAND_FAILED", `${file} cannot be written: ${done.stderr.toString("utf8").trim()}`, {
    address: machine.address,
    hint: "is there room on the disk, and may the login become root (`sudo: true`)?",
  });
}

/** Removes a volume with what says whose it is. */
export async function removeVolume(
  ctx: KindContext,
  libvirt: Libvirt,
  host: Address,
  path: string,
  volume: Volume | undefined,
): Promise<void> {
  if (volume !== undefined) {
    try {
      await libvirt.volumes.delete(volume, { signal: ctx.signal });
    } catch (error) {
      if (!isLibvirtError(error, VirErr.NO_STORAGE_VOL) && !absentOf(error)) throw error;
    }
  }
  await ctx.machine(host).exec(sh`rm -f -- ${sidecarName(path)}`, { signal: ctx.signal });
}
