import { distance } from "fastest-levenshtein";
import { LabError } from "../diagnostics/index.ts";
import { aliasesOf, branchesOf, namesOf, timeOf } from "./aliases.ts";
import type { Artifact, BuildAlias, BuildQuery, BuildRecord } from "./types.ts";

/** What a lookup comes to: one build, several that fit alike, or none and those that come near. */
export type Lookup =
  | { readonly is: "found"; readonly record: BuildRecord }
  | { readonly is: "ambiguous"; readonly candidates: readonly BuildRecord[] }
  | { readonly is: "missing"; readonly near: readonly Near[] };

export interface Near {
  readonly record: BuildRecord;
  readonly why: string;
}

const MOST_NEAR = 5;

/**
 * By build id: that build, whatever became of it. By commit, branch or name: the newest completed build, provided that
 * all that fit are of one name, architecture and commit, or `latest` is asked for. Builds of one branch may differ in
 * their commit; the newest of them is the one that the branch came to last, which may have been built long before: a
 * branch can go back. Pure.
 */
export function findBuild(records: readonly BuildRecord[], query: BuildQuery): Lookup {
  if (query.build !== undefined && query.latest !== true) {
    const fitting = records.filter((record) => fits(record, query));
    const [first] = fitting;
    if (fitting.length > 1) return { is: "ambiguous", candidates: fitting };
    return first === undefined ? missing(records, query) : { is: "found", record: first };
  }
  const hits = completedHits(records, query);
  const [newest] = hits;
  if (newest === undefined) return missing(records, query);
  if (query.latest === true) return { is: "found", record: newest.record };
  const candidates = firstOfEach(hits, ({ record, alias }) => [
    alias.name,
    record.arch,
    query.commit === undefined ? "" : record.commit,
  ]);
  return candidates.length === 1 ? { is: "found", record: newest.record } : { is: "ambiguous", candidates };
}

/** The newest completed build that fits, for each name and architecture. Pure. */
export function latestOfEach(records: readonly BuildRecord[], query: BuildQuery): readonly BuildRecord[] {
  return firstOfEach(completedHits(records, query), ({ record, alias }) => [alias.name, record.arch]);
}

/** A build by one of the names that fit. */
interface Hit {
  readonly record: BuildRecord;
  readonly alias: BuildAlias;
}

/** Newest first. */
function completedHits(records: readonly BuildRecord[], query: BuildQuery): readonly Hit[] {
  const hits = records
    .filter((record) => record.status === "completed" && fits(record, query))
    .flatMap((record) => fittingAliases(record, query).map((alias): Hit => ({ record, alias })));
  const cameTo = (a: Hit, b: Hit): number => (query.branch === undefined ? 0 : timeOf(b.alias) - timeOf(a.alias));
  return hits.sort((a, b) => cameTo(a, b) || newestFirst(a.record, b.record));
}

/** One build may be the first of several lines: two names for the same. */
function firstOfEach(hits: readonly Hit[], lineOf: (hit: Hit) => readonly unknown[]): readonly BuildRecord[] {
  const lines = new Map<string, BuildRecord>();
  for (const hit of hits) {
    const line = JSON.stringify(lineOf(hit));
    if (!lines.has(line)) lines.set(line, hit.record);
  }
  return [...new Set(lines.values())];
}

function fits(record: BuildRecord, query: BuildQuery): boolean {
  return (
    (query.build === undefined || record.id.startsWith(query.build.toLowerCase())) &&
    (query.commit === undefined || sameCommit(record, query.commit)) &&
    (query.arch === undefined || record.arch === query.arch) &&
    fittingAliases(record, query).length > 0
  );
}

/** Name and branch must be of one alias: what `a` has of main is not what `b` has of it. */
function fittingAliases(record: BuildRecord, { name, branch }: BuildQuery): readonly BuildAlias[] {
  return aliasesOf(record).filter(
    (one) =>
      (name === undefined || one.name === name) &&
      (branch === undefined || branchName(one.branch) === branchName(branch)),
  );
}

function sameCommit(record: BuildRecord, prefix: string): boolean {
  return record.commit?.startsWith(prefix.toLowerCase()) === true;
}

export function branchName(ref: string | undefined): string | undefined {
  return ref?.replace(/^refs\/(heads|tags|remotes\/[^/]+)\//, "");
}

/** Newest first by when it finished, then by id, so that the order is one. */
export function newestFirst(a: BuildRecord, b: BuildRecord): number {
  const [x, y] = [Date.parse(a.finished_at ?? a.created_at), Date.parse(b.finished_at ?? b.created_at)];
  return y - x || (a.id < b.id ? -1 : a.id > b.id ? 1 : 0);
}

function missing(records: readonly BuildRecord[], query: BuildQuery): Lookup {
  const near: Near[] = [];
  for (const record of [...records].sort(newestFirst)) {
    const why = nearness(record, query);
    if (why !== undefined) near.push({ record, why });
  }
  const order = ["it is", "same commit", "same branch", "its name", "its id", "same name"];
  const rank = ({ why }: Near): number => order.findIndex((start) => why.startsWith(start));
  return { is: "missing", near: near.sort((a, b) => rank(a) - rank(b)).slice(0, MOST_NEAR) };
}

function nearness(record: BuildRecord, query: BuildQuery): string | undefined {
  if (fits(record, query)) return `it is ${record.status}, not completed`;
  if (query.commit !== undefined && sameCommit(record, query.commit))
    return `same commit, ${differences(record, query)}`;
  const { name, branch } = query;
  if (branch !== undefined && fittingAliases(record, { branch }).length > 0)
    return `same branch, ${differences(record, query)}`;
  if (name !== undefined && namesOf(record).includes(name)) return `same name, ${differences(record, query)}`;
  if (name !== undefined && namesOf(record).some((one) => alike(one, name))) return "its name is alike";
  if (branch !== undefined && branchesOf(record).some((one) => alike(one, branch)))
    return "its name of a branch is alike";
  if (query.build !== undefined && query.build.length >= 4 && record.id.startsWith(query.build.slice(0, 4)))
    return "its id begins alike";
  return undefined;
}

function differences(record: BuildRecord, query: BuildQuery): string {
  const { name, branch } = query;
  const named = name !== undefined && !namesOf(record).includes(name);
  // Of the builds of that name, where there are any.
  const onBranch = fittingAliases(record, { ...(name !== undefined && !named && { name }), ...(branch && { branch }) });
  const other = [
    ...(query.arch !== undefined && query.arch !== record.arch ? [`for ${record.arch}`] : []),
    ...(named ? [`named ${namesOf(record).join(" and ")}`] : []),
    ...(query.commit !== undefined && !sameCommit(record, query.commit)
      ? [`of commit ${record.commit?.slice(0, 12) ?? "(none)"}`]
      : []),
    ...(onBranch.length === 0 ? [`on ${branchesOf(record).join(" and ") || "no branch"}`] : []),
    ...(query.build !== undefined && !record.id.startsWith(query.build) ? ["of another id"] : []),
  ];
  return other.length > 0 ? other.join(", ") : `it is ${record.status}`;
}

/** One holds the other, or they differ in few letters. */
function alike(a: string, b: string): boolean {
  const [x, y] = [a.toLowerCase(), b.toLowerCase()];
  if (x === y || (Math.min(x.length, y.length) >= 3 && (x.includes(y) || y.includes(x)))) return true;
  const most = Math.floor(Math.max(x.length, y.length) / 4);
  return most > 0 && distance(x, y) <= most;
}

/** The build of a lookup. @throws LabError E_ARTIFACT_NOT_FOUND with what comes near, E_ARTIFACT_AMBIGUOUS */
export function demandBuild(records: readonly BuildRecord[], query: BuildQuery): BuildRecord {
  const found = findBuild(records, query);
  switch (found.is) {
    case "found":
      return found.record;
    case "ambiguous":
      throw new LabError(
        "E_ARTIFACT_AMBIGUOUS",
        `${found.candidates.length} builds fit ${describeQuery(query)}: ${found.candidates.slice(0, 6).map(describe).join("; ")}`,
        { hint: "give more of the id, or add --name, --arch or --latest" },
      );
    case "missing":
      throw new LabError("E_ARTIFACT_NOT_FOUND", `no completed build fits ${describeQuery(query)}`, {
        hint:
          found.near.length > 0
            ? `these come near: ${found.near.map(({ record, why }) => `${describe(record)} (${why})`).join("; ")}`
            : records.length === 0
              ? "the store has no builds yet"
              : "`labctl artifact list` shows the builds there are",
      });
  }
}

/** An artifact of a build, by its name, else by a type that only one of them has. @throws LabError */
export function demandArtifact(
  record: BuildRecord,
  what: string,
): { readonly name: string; readonly artifact: Artifact } {
  const own = Object.hasOwn(record.artifacts, what) ? record.artifacts[what] : undefined;
  if (own !== undefined) return { name: what, artifact: own };
  const typed = Object.entries(record.artifacts).filter(([, artifact]) => artifact.type === what);
  const [first] = typed;
  if (typed.length === 1 && first !== undefined) return { name: first[0], artifact: first[1] };
  const there = Object.entries(record.artifacts).map(([name, { type }]) =>
    name === type ? name : `${name} (${type})`,
  );
  if (typed.length > 1) {
    throw new LabError("E_ARTIFACT_AMBIGUOUS", `${describe(record)} has ${typed.length} artifacts of type ${what}`, {
      hint: `name one of: ${typed.map(([name]) => name).join(", ")}`,
    });
  }
  throw new LabError("E_ARTIFACT_NOT_FOUND", `${describe(record)} has no artifact ${JSON.stringify(what)}`, {
    hint: there.length > 0 ? `it has: ${there.join(", ")}` : `it has none: it is ${record.status}`,
  });
}

export function describe(record: BuildRecord): string {
  const commit = record.commit === undefined ? "" : ` at ${record.commit.slice(0, 12)}`;
  return `${record.name} ${record.id.slice(0, 12)}${commit} for ${record.arch}`;
}

export function describeQuery(query: BuildQuery): string {
  const words = [
    ...(query.latest === true ? ["latest"] : []),
    ...(["build", "commit", "branch", "name", "arch"] as const).flatMap((key) =>
      query[key] === undefined ? [] : [`${key} ${query[key]}`],
    ),
  ];
  return words.length > 0 ? words.join(", ") : "(any)";
}
