import {
  type Address,
  formatSize,
  type InventoryEntry,
  type KindContext,
  LabError,
  parseSize,
} from "../../src/index.ts";
import { localImage } from "./local-image.ts";
import { readImage } from "./model/image.ts";

/** What one of the lab's resources has of disk. */
interface DiskDemand {
  readonly address: string;
  /** Bytes, as a machine sees them. */
  readonly bytes: number;
}

/** The one with which they have more than `most` bytes together, those before it having less; undefined: all have their place. Pure. */
export function firstBeyond(most: number, demands: readonly DiskDemand[]): DiskDemand | undefined {
  let total = 0;
  return demands.find(({ bytes }) => {
    total += bytes;
    return total > most;
  });
}

type Fields = Readonly<Record<string, unknown>>;

/**
 * Refuses the resource with which the lab's disks and volumes go beyond its `limits: disk`. What the spec says counts, and what is
 * there where it says nothing; qcow2 files grow into it. The root file systems of environments are layers that hold what one boot
 * writes, and do not count.
 *
 * @throws LabError E_NEVER_FITS
 */
export async function requireDiskLimit(ctx: KindContext, address: Address): Promise<void> {
  const { disk } = ctx.lab.limits;
  const most = typeof disk === "string" ? parseSize(disk) : undefined;
  if (most === undefined) return;
  const demands = await demandsOf(ctx);
  if (firstBeyond(most, demands)?.address !== address) return;
  const total = demands.reduce((sum, one) => sum + one.bytes, 0);
  const parts = demands.filter((one) => one.bytes > 0).map((one) => `${one.address} ${formatSize(one.bytes)}`);
  throw new LabError(
    "E_NEVER_FITS",
    `the lab may use ${formatSize(most)} of disk in all, and its disks and volumes have ${formatSize(total)}: ${parts.join(", ")}`,
    { address, hint: "a larger `limits: { disk: ... }`, or less" },
  );
}

async function demandsOf(ctx: KindContext): Promise<DiskDemand[]> {
  const entries = ["volume", "vm", "environment"].flatMap((kind) => ctx.inventory.all(kind));
  return await Promise.all(
    entries.map(async (entry) => ({ address: entry.address, bytes: await bytesOf(ctx, entry) })),
  );
}

async function bytesOf(ctx: KindContext, entry: InventoryEntry): Promise<number> {
  const { kind, desired, observed = {} } = entry;
  if (kind === "volume") return await volumeBytes(ctx, entry, new Set());
  const disks = listOf(kind === "vm" ? desired["disks"] : (desired["vm"] as Fields | undefined)?.["disks"]);
  const there = listOf(observed["disks"]);
  const sizes = disks.map(async (disk, at) => {
    // It is a volume, or a CD, and no disk of its own.
    if (disk["direct"] === true || disk["device"] === "cdrom") return 0;
    const backing = volumeOf(ctx, disk["volume"]);
    return (
      sized(disk["size"]) ??
      (backing === undefined ? undefined : await volumeBytes(ctx, backing, new Set())) ??
      (await imageBytes(ctx, entry.address, disk["image"])) ??
      sized(there[at]?.["size"]) ??
      0
    );
  });
  return (await Promise.all(sizes)).reduce((sum, one) => sum + one, 0);
}

/** `seen`: volumes that stand on this one, for a circle is told elsewhere. */
async function volumeBytes(ctx: KindContext, entry: InventoryEntry, seen: ReadonlySet<Address>): Promise<number> {
  const { address, desired, observed } = entry;
  // A few KiB, which are not known before it is made.
  if (desired["seed"] !== undefined) return 0;
  const backing = volumeOf(ctx, desired["backing"]);
  return (
    sized(desired["size"]) ??
    sized(observed?.["size"]) ??
    (backing === undefined || seen.has(address)
      ? undefined
      : await volumeBytes(ctx, backing, new Set([...seen, address]))) ??
    (await imageBytes(ctx, address, desired["source"])) ??
    0
  );
}

function volumeOf(ctx: KindContext, name: unknown): InventoryEntry | undefined {
  return typeof name === "string" ? ctx.inventory.get(`volume.${name}`) : undefined;
}

function sized(value: unknown): number | undefined {
  return typeof value === "string" ? parseSize(value) : typeof value === "number" ? value : undefined;
}

function listOf(value: unknown): readonly Fields[] {
  return Array.isArray(value) ? (value as readonly Fields[]) : [];
}

/** What a machine sees of a local image. One that cannot be read is told where it is used. */
async function imageBytes(ctx: KindContext, address: Address, path: unknown): Promise<number | undefined> {
  if (typeof path !== "string") return undefined;
  try {
    const { head, size } = await localImage(ctx, address, path);
    return readImage(head, size).virtual_size;
  } catch (error) {
    if (error instanceof LabError) return undefined;
    throw error;
  }
}
