import type { BuildAlias, BuildRecord } from "./types.ts";

/** All that a build was asked for by. Records from before there were several have the one. Pure, as all here. */
export function aliasesOf(record: BuildRecord): readonly BuildAlias[] {
  return record.known_as ?? [ownAlias(record)];
}

function ownAlias({ name, branch, finished_at, created_at }: BuildRecord): BuildAlias {
  return { name, ...(branch !== undefined && { branch }), at: finished_at ?? created_at };
}

/** The record, found by these too. What it is known by already only becomes younger. */
export function withAliases(record: BuildRecord, more: readonly BuildAlias[]): BuildRecord {
  const all = new Map<string, BuildAlias>();
  for (const one of [...aliasesOf(record), ...more]) {
    const key = JSON.stringify([one.name, one.branch]);
    const before = all.get(key);
    if (before === undefined || timeOf(before) < timeOf(one)) all.set(key, one);
  }
  return { ...record, known_as: [...all.values()] };
}

/** Milliseconds since the epoch. */
export function timeOf({ at }: BuildAlias): number {
  return Date.parse(at);
}

export function namesOf(record: BuildRecord): readonly string[] {
  return [...new Set([record.name, ...aliasesOf(record).map(({ name }) => name)])];
}

export function branchesOf(record: BuildRecord): readonly string[] {
  return [...new Set([record, ...aliasesOf(record)].flatMap(({ branch }) => branch ?? []))];
}
