import { stat, unlink } from "node:fs/promises";
import { join } from "node:path";
import type { Blobs } from "./blobs.ts";
import { ifThere, isAbandoned, list, ownerOf } from "./files.ts";
import type { Layout } from "./layout.ts";
import { damaged, type Records } from "./records.ts";
import { GRACE_MS, planGc } from "./retention.ts";
import type { BlobInfo, GcResult, RetentionPolicy } from "./types.ts";

const DAY_MS = 24 * 3600 * 1000;

/** Plans retention and carries it out. What began to be used since it was looked at stays. */
export async function collect(
  store: { readonly layout: Layout; readonly blobs: Blobs; readonly records: Records },
  options: {
    readonly pins: ReadonlySet<string>;
    readonly policy: RetentionPolicy;
    readonly now: number;
    readonly dryRun: boolean;
  },
): Promise<GcResult> {
  const { layout, blobs, records } = store;
  const { policy, now, dryRun } = options;
  const blobsThere: BlobInfo[] = [];
  // Blobs first: one that comes later has a record that comes later still.
  for await (const blob of blobs.all()) blobsThere.push(blob);
  const all = await records.all();
  // What such a record refers to cannot be known.
  if (all.damaged.length > 0) throw damaged(all.damaged);
  const plan = planGc(all.records, blobsThere, options.pins, policy, now);
  const temporary = await removeOld(layout.temporary, dryRun, (name, age) => isOrphan(name, age), now);
  const corrupted = await removeOld(layout.corrupted, dryRun, (_name, age) => age > policy.days * DAY_MS, now);
  if (dryRun) return { ...plan, temporary, corrupted };
  const byId = new Map(all.records.map((record) => [record.id, record]));
  const gone: GcResult["records"][number][] = [];
  for (const one of plan.records) {
    const record = byId.get(one.id);
    if (record !== undefined && (await records.remove(record))) gone.push(one);
  }
  // A record that was changed in the meantime stays, and with it all that it names by now.
  const left = await records.all();
  const again = planGc(left.records, blobsThere, options.pins, policy, now);
  const removed: GcResult["blobs"][number][] = [];
  const touched = new Map(blobsThere.map((blob) => [blob.sha256, blob.touched]));
  for (const blob of again.blobs) {
    if (await blobs.remove(blob.sha256, touched.get(blob.sha256) ?? 0)) removed.push(blob);
  }
  return {
    records: gone,
    blobs: removed,
    kept: { records: left.records.length, blobs: blobsThere.length - removed.length },
    frees: removed.reduce((sum, { allocated }) => sum + allocated, 0),
    temporary,
    corrupted,
  };
}

/** A writer that lives keeps its file; one whose fate cannot be known has a day. */
function isOrphan(name: string, age: number): boolean {
  if (isAbandoned(name)) return age > GRACE_MS;
  return ownerOf(name) === "unknown" && age > DAY_MS;
}

async function removeOld(
  folder: string,
  dryRun: boolean,
  old: (name: string, age: number) => boolean,
  now: number,
): Promise<number> {
  let count = 0;
  for (const name of await list(folder)) {
    const found = await ifThere(stat(join(folder, name)));
    if (found === undefined || !old(name, now - found.mtimeMs)) continue;
    count += 1;
    if (!dryRun) await ifThere(unlink(join(folder, name)));
  }
  return count;
}
