import { distance } from "fastest-levenshtein";
import { LabError } from "../diagnostics/index.ts";
import type { Artifact, BuildQuery, BuildRecord } from "./types.ts";

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
 * By build id: that build, whatever became of it. By commit, branch or name: the completed build that finished last,
 * provided that all that fit are of one name, architecture and commit, or `latest` is asked for. Builds of one branch
 * may differ in their commit. Pure.
 */
export function findBuild(records: readonly BuildRecord[], query: BuildQuery): Lookup {
  const fitting = records.filter((record) => fits(record, query));
  if (query.build !== undefined && query.latest !== true) {
    const [first] = fitting;
    if (fitting.length > 1) return { is: "ambiguous", candidates: fitting };
    return first === undefined ? missing(records, query) : { is: "found", record: first };
  }
  const done = fitting.filter((record) => record.status === "completed").sort(newestFirst);
  const [newest] = done;
  if (newest === undefined) return missing(records, query);
  if (query.latest === true) return { is: "found", record: newest };
  const seen = new Map(done.map((record) => [lineOf(record, query), record]));
  if (seen.size === 1) return { is: "found", record: newest };
  const one = new Map<string, BuildRecord>();
  for (const record of done) if (!one.has(lineOf(record, query))) one.set(lineOf(record, query), record);
  return { is: "ambiguous", candidates: [...one.values()] };
}

/** What must not differ between builds that one query means. */
function lineOf(record: BuildRecord, query: BuildQuery): string {
  return JSON.stringify([record.name, record.arch, query.commit === undefined ? "" : record.commit]);
}

function fits(record: BuildRecord, query: BuildQuery): boolean {
  return (
    (query.build === undefined || record.id.startsWith(query.build.toLowerCase())) &&
    (query.commit === undefined || sameCommit(record, query.commit)) &&
    (query.branch === undefined || branchName(record.branch) === branchName(query.branch)) &&
    (query.name === undefined || record.name === query.name) &&
    (query.arch === undefined || record.arch === query.arch)
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
  if (query.branch !== undefined && branchName(record.branch) === branchName(query.branch))
    return `same branch, ${differences(record, query)}`;
  if (query.name !== undefined && record.name === query.name) return `same name, ${differences(record, query)}`;
  if (query.name !== undefined && alike(record.name, query.name)) return "its name is alike";
  if (query.branch !== undefined && record.branch !== undefined && alike(record.branch, query.branch))
    return "its name of a branch is alike";
  if (query.build !== undefined && query.build.length >= 4 && record.id.startsWith(query.build.slice(0, 4)))
    return "its id begins alike";
  return undefined;
}

function differences(record: BuildRecord, query: BuildQuery): string {
  const other = [
    ...(query.arch !== undefined && query.arch !== record.arch ? [`for ${record.arch}`] : []),
    ...(query.name !== undefined && query.name !== record.name ? [`named ${record.name}`] : []),
    ...(query.commit !== undefined && !sameCommit(record, query.commit)
      ? [`of commit ${record.commit?.slice(0, 12) ?? "(none)"}`]
      : []),
    ...(query.branch !== undefined && branchName(record.branch) !== branchName(query.branch)
      ? [`on ${record.branch ?? "no branch"}`]
      : []),
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
