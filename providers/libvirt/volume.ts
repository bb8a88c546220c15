import { Readable } from "node:stream";
import {
  type Address,
  defineKind,
  type Infer,
  type Item,
  type KindContext,
  LabError,
  type ObjectSchema,
  type OperationContext,
  parseSize,
  type PropertyDiff,
  type Reading,
} from "../../src/index.ts";
import { requireDiskLimit } from "./disk-limit.ts";
import { type LocalImage, localImage, sendImage } from "./local-image.ts";
import { makeSeed, type Seed } from "./model/cloud-init.ts";
import { diskFitErrors } from "./model/disk-fit.ts";
import { readImage, requireImage } from "./model/image.ts";
import { asPropertyDiffs } from "./model/network.ts";
import { isOwn, type Owner } from "./model/owner.ts";
import { volumeSchema, type VolumeDesired } from "./model/volume-schema.ts";
import { diffVolume, resolveVolume, type VolumeModel, volumeName } from "./model/volume.ts";
import {
  HOST_ATTRIBUTE,
  hostAddress,
  hostChange,
  libvirtOf,
  notOwned,
  readByHost,
  requireHost,
  whereabouts,
} from "./on-host.ts";
import {
  dropPool,
  findPool,
  findVolume,
  openPool,
  type OpenPool,
  readOwners,
  removeVolume,
  withPool,
  writeOwner,
} from "./pools.ts";
import type { Libvirt } from "./rpc/index.ts";
import { buildVolume } from "./xml/storage.ts";

const attributes = {
  type: "object",
  properties: {
    path: { type: "string", description: "Its file on the host." },
    pool: { type: "string", description: "libvirt's storage pool that it is in." },
    active: { type: "boolean", description: "Whether the pool is started." },
    format: { type: "string", description: "What the file is." },
    size: { type: "integer", description: "Bytes that a machine sees." },
    allocation: { type: "integer", description: "Bytes that it takes on the host.", "x-labctl": { volatile: true } },
    backing: { type: "string", description: "The volume that it holds the differences to." },
    digest: { type: "string", description: "SHA-256 of what it was made from." },
    host: HOST_ATTRIBUTE,
    owned: { type: "boolean", description: "Whether it says on the host that it is this one's." },
  },
  required: ["path", "pool", "active", "format", "size", "owned"],
  additionalProperties: false,
} as const satisfies ObjectSchema;

type VolumeObserved = Infer<typeof attributes>;
type VolumeItem = Item<VolumeDesired, VolumeObserved>;

/** The file of a volume in its pool, as the spec alone says it. */
export function fileOf(lab: string, desired: Pick<VolumeDesired, "name" | "seed" | "format">): string {
  return volumeName(lab, desired.name, desired.seed === undefined ? (desired.format ?? "qcow2") : "iso");
}

function poolOf(desired: VolumeDesired): string {
  return desired.pool ?? "default";
}

function ownerOf(ctx: KindContext, item: VolumeItem, digest: string | undefined): Owner {
  return {
    lab: ctx.lab.name,
    address: item.address,
    instance_id: item.instance_id,
    lineage: ctx.lab.scope,
    ...(digest !== undefined && { digest }),
  };
}

function seedOf(ctx: KindContext, item: VolumeItem): Seed | undefined {
  const { seed, name } = item.desired;
  if (seed === undefined) return undefined;
  // Keyed with what is the same in a plan and its apply, where the volume is yet to be made.
  return makeSeed(seed, { address: item.address, instance_id: `${ctx.lab.scope} ${item.address}`, hostname: name });
}

/** What it is made of, read and found to be what the spec says. */
async function contentOf(ctx: KindContext, item: VolumeItem): Promise<{ image?: LocalImage; virtual?: number }> {
  const { source, format } = item.desired;
  if (source === undefined) return {};
  const image = await localImage(ctx, item.address, source);
  const info = readImage(image.head, image.size);
  requireImage(info, { format: format ?? "qcow2", address: item.address, path: source });
  return { image, virtual: info.virtual_size };
}

/** The volume of the lab that this one stands on, and where it lies. */
function under(ctx: KindContext, pool: Pick<OpenPool, "path">, name: string) {
  const entry = ctx.inventory.get(`volume.${name}`);
  if (entry === undefined) return undefined;
  const desired = entry.desired as unknown as VolumeDesired;
  const size = entry.observed?.["size"];
  return {
    path: `${pool.path}/${fileOf(ctx.lab.name, { ...desired, name })}`,
    format: desired.seed === undefined ? (desired.format ?? "qcow2") : "raw",
    size: typeof size === "number" ? size : 0,
  };
}

function resolved(
  ctx: KindContext,
  item: VolumeItem,
  pool: Pick<OpenPool, "path">,
  virtual: number | undefined,
  digest: string | undefined,
): VolumeModel {
  return resolveVolume(
    { ...item.desired, ...(digest !== undefined && { digest }) },
    {
      ...ownerOf(ctx, item, digest),
      ...(virtual !== undefined && { content_size: virtual }),
      volume: (name) => under(ctx, pool, name),
    },
  );
}

interface OnHost {
  readonly libvirt: Libvirt;
  readonly host: Address;
  readonly pools: ReadonlyMap<string, OpenPool | undefined>;
  readonly owners: ReadonlyMap<string, Owner>;
}

async function begin(ctx: KindContext, libvirt: Libvirt, host: Address, items: readonly VolumeItem[]): Promise<OnHost> {
  const mine = items.filter((item) => whereabouts(item).includes(host));
  const names = [...new Set(mine.map((item) => poolOf(item.desired)))];
  const pools = new Map(
    await Promise.all(names.map(async (name) => [name, await findPool(libvirt, name, ctx.signal)] as const)),
  );
  const paths = mine.flatMap((item) => {
    const pool = pools.get(poolOf(item.desired));
    return pool === undefined ? [] : [`${pool.path}/${fileOf(ctx.lab.name, item.desired)}`];
  });
  return { libvirt, host, pools, owners: await readOwners(ctx, host, paths) };
}

async function readOne(ctx: KindContext, on: OnHost, item: VolumeItem): Promise<Reading<VolumeObserved>> {
  const pool = on.pools.get(poolOf(item.desired));
  if (pool === undefined) return { is: "absent" };
  const path = `${pool.path}/${fileOf(ctx.lab.name, item.desired)}`;
  const owner = on.owners.get(path);
  const owned = isOwn(owner, item.instance_id);
  const { prior } = item;
  if (!pool.active) {
    // What is in it cannot be seen, and is there all the same.
    return prior?.observed !== undefined && owned
      ? { is: "present", value: { ...prior.observed, active: false } }
      : { is: "absent" };
  }
  const found = await findVolume(on.libvirt, pool, fileOf(ctx.lab.name, item.desired), ctx.signal);
  // What another one made under the name is not this one, even where this one was there before.
  if (found === undefined || (prior !== undefined && owner !== undefined && !owned)) {
    if (prior === undefined && item.unknown.size === 0) await refuseTooLarge(ctx, on.libvirt, pool, item);
    return { is: "absent" };
  }
  const { info } = found;
  const { backing } = item.desired;
  const wanted = backing === undefined ? undefined : under(ctx, pool, backing)?.path;
  const below = info.backing?.path;
  const digest = owned ? owner?.digest : undefined;
  return {
    is: "present",
    value: {
      path: info.path,
      pool: pool.name,
      active: true,
      format: info.format === "iso" ? "raw" : info.format,
      size: info.size,
      allocation: info.allocation,
      ...(below !== undefined && { backing: below === wanted && backing !== undefined ? backing : below }),
      ...(digest !== undefined && { digest }),
      owned,
    },
  };
}

/** E_DISK_FIT before anything is touched: for what is sent at once, and for what it may grow to. */
async function refuseTooLarge(ctx: KindContext, libvirt: Libvirt, pool: OpenPool, item: VolumeItem): Promise<void> {
  const { image, virtual } = await contentOf(ctx, item);
  const { available } = await libvirt.pools.info(pool.pool, { signal: ctx.signal });
  const size = parseSize(item.desired.size ?? "0") ?? virtual ?? 0;
  const wanted = { address: item.address, size, content: image?.size ?? 0, there: 0 };
  const [error] = diskFitErrors({ name: pool.name, available }, [wanted]);
  if (error !== undefined) throw error;
}

function diffOf(desired: VolumeDesired, observed: VolumeObserved): readonly PropertyDiff[] {
  const asked = parseSize(desired.size ?? "");
  const { digest } = desired;
  const wanted: VolumeModel = {
    name: "",
    pool: poolOf(desired),
    format: desired.seed === undefined ? (desired.format ?? "qcow2") : "raw",
    ...(asked !== undefined && { size: Math.ceil(asked / 512) * 512 }),
    ...(desired.backing !== undefined && { backing: { path: desired.backing, format: "" } }),
    ...(digest !== undefined && { digest }),
  };
  const { path: _path, host: _on, active, allocation: _now, backing, owned, ...rest } = observed;
  const there: VolumeModel = {
    ...rest,
    name: "",
    ...(backing !== undefined && { backing: { path: backing, format: "" } }),
  };
  const changes = asPropertyDiffs(diffVolume(wanted, there));
  return [
    ...changes,
    ...(active ? [] : [{ path: "active", before: false, after: true }]),
    ...(owned ? [] : [{ path: "owned", before: false, after: true }]),
  ];
}

async function reconcile(
  ctx: OperationContext,
  item: VolumeItem & { readonly observed: VolumeObserved | undefined },
): Promise<VolumeObserved> {
  const host = requireHost(item);
  const libvirt = await libvirtOf(ctx, host);
  const name = poolOf(item.desired);
  const options = { signal: ctx.signal };
  const { image, virtual } = await contentOf(ctx, item);
  const seed = seedOf(ctx, item);
  const digest = image?.sha256 ?? seed?.digest;
  await withPool(libvirt, name, async () => {
    const pool = await openPool(libvirt, name, item.desired.pool_path, item.address, ctx.signal);
    await libvirt.pools.refresh(pool.pool, options);
    const model = resolved(ctx, item, pool, virtual ?? seed?.image.length, digest);
    const path = `${pool.path}/${model.name}`;
    const owner = (await readOwners(ctx, host, [path])).get(path);
    let found = await findVolume(libvirt, pool, model.name, ctx.signal);
    const own = isOwn(owner, item.instance_id);
    if (found !== undefined && !own && (owner !== undefined || item.observed === undefined)) {
      throw notOwned(item.address, `a volume ${path}`, host, owner);
    }
    // One that was cut off while it was made says nothing yet of what is in it.
    if (found !== undefined && own && digest !== undefined && owner?.digest !== digest) {
      await removeVolume(ctx, libvirt, host, path, found.volume);
      found = undefined;
    }
    if (found === undefined) {
      await refuseTooLarge(ctx, libvirt, pool, item);
      await writeOwner(ctx, host, path, ownerOf(ctx, item, undefined));
      if (image === undefined) {
        const volume = await libvirt.volumes.create(pool.pool, buildVolume(model), options);
        if (seed !== undefined) await libvirt.volumes.upload(volume, Readable.from([seed.image]), options);
      } else {
        await sendImage(ctx, ctx.machine(host), image, path, "0600");
        await libvirt.pools.refresh(pool.pool, options);
      }
      found = await findVolume(libvirt, pool, model.name, ctx.signal);
    }
    if (found !== undefined && model.size !== undefined && found.info.size < model.size) {
      await libvirt.volumes.resize(found.volume, model.size, options);
    }
    await writeOwner(ctx, host, path, ownerOf(ctx, item, digest));
  });
  const reading = await readOne(ctx, await begin(ctx, libvirt, host, [item]), {
    ...item,
    prior: item.prior ?? {
      desired: {},
      observed: undefined,
      original: undefined,
      instance_id: item.instance_id,
      checkpoint: undefined,
    },
  });
  const left = reading.is === "present" ? diffOf(item.desired, reading.value).map((one) => one.path) : ["path"];
  if (reading.is === "present" && left.length === 0) return reading.value;
  throw new LabError("E_MISMATCH", `${left.join(", ")} of the volume did not become what was asked for`, {
    address: item.address,
    hint: `compare with \`virsh vol-dumpxml --pool ${name} ${fileOf(ctx.lab.name, item.desired)}\` on ${host}`,
  });
}

async function remove(ctx: OperationContext, item: VolumeItem, host: Address): Promise<void> {
  const libvirt = await libvirtOf(ctx, host);
  const name = poolOf(item.desired);
  await withPool(libvirt, name, async () => {
    const found = await findPool(libvirt, name, ctx.signal);
    if (found === undefined) return;
    const pool = await openPool(libvirt, name, undefined, item.address, ctx.signal);
    await libvirt.pools.refresh(pool.pool, { signal: ctx.signal });
    const path = `${pool.path}/${fileOf(ctx.lab.name, item.desired)}`;
    const owner = (await readOwners(ctx, host, [path])).get(path);
    if (isOwn(owner, item.instance_id)) {
      const there = await findVolume(libvirt, pool, fileOf(ctx.lab.name, item.desired), ctx.signal);
      // One that was there before labctl stays.
      const mine = item.prior?.original === undefined ? there?.volume : undefined;
      await removeVolume(ctx, libvirt, host, path, mine);
    }
    await dropPool(libvirt, name, ctx.signal);
  });
}

export const volumeKind = defineKind({
  kind: "volume",
  title: "A volume of a QEMU host",
  description: `A disk image in a storage pool of libvirt: empty, from a local file (sent by its digest, once), on top of another volume, or
a cloud-init seed. Whose it is stands beside it, in a file that ends in .labctl.

It grows, and does not shrink. Another content is another volume: it is made anew.`,
  section: { name: "volumes", shape: "map", key: "name" },
  schema: volumeSchema,
  attributes,
  ownership: "exclusive",

  on: hostAddress,

  taints: (sensitive) => ([...sensitive].some((path) => path.startsWith("seed")) ? ["digest"] : []),

  async prepare(ctx, item) {
    await requireDiskLimit(ctx, item.address);
    const { image, virtual } = await contentOf(ctx, item);
    const seed = seedOf(ctx, item);
    const digest = image?.sha256 ?? seed?.digest;
    if (item.unknown.size === 0) resolved(ctx, item, { path: "" }, virtual ?? seed?.image.length, digest);
    return digest === undefined ? {} : { digest };
  },

  readMany: (ctx, items) =>
    readByHost(
      ctx,
      items,
      (libvirt, host) => begin(ctx, libvirt, host, items),
      (on, item) => readOne(ctx, on, item),
    ),

  diff: ({ desired, observed }) => [...hostChange(desired, observed), ...diffOf(desired, observed)],

  reconcile,

  async delete(ctx, item) {
    for (const host of whereabouts(item)) await remove(ctx, item, host);
  },

  manualCleanup: (item) =>
    `on ${whereabouts(item)[0] ?? "the host"}: rm ${item.prior?.observed?.path ?? "the volume"} and the file beside it that ends in .labctl`,
});
