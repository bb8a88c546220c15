import { aliasesOf, namesOf, timeOf } from "./aliases.ts";
import { newestFirst } from "./lookup.ts";
import type { BlobInfo, BuildRecord, GcPlan, RetentionPolicy } from "./types.ts";

export const DEFAULT_RETENTION: RetentionPolicy = { days: 30, keep_latest: 5 };
const DAY_MS = 24 * 3600 * 1000;
/** What was just put and is not yet in a record belongs to a build that runs. */
export const GRACE_MS = 3600 * 1000;

/**
 * What retention lets go. A record stays while it is unfinished, young, among the newest completed ones of its name and
 * architecture, or pinned itself or through one of its blobs. A blob stays while a record that stays names it, while it
 * is pinned, or while it was used within the grace time. `pins` are digests: of builds or of blobs. Pure.
 */
export function planGc(
  records: readonly BuildRecord[],
  blobs: readonly BlobInfo[],
  pins: ReadonlySet<string>,
  policy: RetentionPolicy,
  now: number,
  grace = GRACE_MS,
): GcPlan {
  const newest = newestOfEach(records, policy.keep_latest);
  const kept: BuildRecord[] = [];
  const gone: GcPlan["records"][number][] = [];
  for (const record of records) {
    const age = now - finishedAt(record);
    const stays =
      record.status === "queued" ||
      record.status === "building" ||
      !(age > policy.days * DAY_MS) ||
      newest.has(record.id) ||
      pins.has(record.id) ||
      blobsOf(record).some((sha256) => pins.has(sha256));
    if (stays) kept.push(record);
    else {
      const days = Math.floor(age / DAY_MS);
      const why = record.status === "completed" ? `finished ${days} days ago` : `${record.status} ${days} days ago`;
      gone.push({ id: record.id, name: record.name, arch: record.arch, why });
    }
  }
  const wanted = new Set(kept.flatMap(blobsOf));
  const unused = blobs.filter(
    ({ sha256, touched }) => !wanted.has(sha256) && !pins.has(sha256) && now - touched > grace,
  );
  return {
    records: gone,
    blobs: unused.map(({ sha256, size, allocated }) => ({ sha256, size, allocated })),
    kept: { records: kept.length, blobs: blobs.length - unused.length },
    frees: unused.reduce((sum, { allocated }) => sum + allocated, 0),
  };
}

function newestOfEach(records: readonly BuildRecord[], count: number): ReadonlySet<string> {
  const lines = new Map<string, { readonly record: BuildRecord; readonly at: number }[]>();
  for (const record of records.filter(({ status }) => status === "completed")) {
    for (const name of namesOf(record)) {
      const key = JSON.stringify([name, record.arch]);
      // What a branch went back to counts from then on.
      const at = Math.max(
        finishedAt(record),
        ...aliasesOf(record).flatMap((one) => (one.name === name ? timeOf(one) : [])),
      );
      lines.set(key, [...(lines.get(key) ?? []), { record, at }]);
    }
  }
  return new Set(
    [...lines.values()].flatMap((line) =>
      line
        .sort((a, b) => b.at - a.at || newestFirst(a.record, b.record))
        .slice(0, count)
        .map(({ record }) => record.id),
    ),
  );
}

function finishedAt(record: BuildRecord): number {
  return Date.parse(record.finished_at ?? record.created_at);
}

/** Digests of all that a record refers to. */
export function blobsOf(record: BuildRecord): string[] {
  return [
    ...Object.values(record.artifacts).map(({ sha256 }) => sha256),
    ...(record.log === undefined ? [] : [record.log]),
  ];
}

/** Every digest in data of any shape, such as the rows of a state: what a deployment refers to must not go. */
export function digestsIn(value: unknown, into: Set<string> = new Set()): Set<string> {
  if (typeof value === "string") {
    for (const [digest] of value.matchAll(/(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])/g)) into.add(digest);
  } else if (value instanceof Map || value instanceof Set) {
    for (const one of value) digestsIn(one, into);
  } else if (typeof value === "object" && value !== null) {
    for (const [key, one] of Object.entries(value)) {
      digestsIn(key, into);
      digestsIn(one, into);
    }
  }
  return into;
}
