import { afterEach, beforeEach, describe, expect, test } from "vitest";
import {
  aliasesOf,
  type BlobInfo,
  type BuildRecord,
  findBuild,
  latestOfEach,
  planGc,
  withAliases,
} from "../../src/artifacts/index.ts";
import { build, type Scratch, scratch } from "./artifact-helpers.ts";

const at = (day: number): string => `2026-01-${String(day).padStart(2, "0")}T00:00:00.000Z`;
const found = (all: readonly BuildRecord[], query: Parameters<typeof findBuild>[1]): string | undefined => {
  const result = findBuild(all, query);
  return result.is === "found" ? result.record.id : undefined;
};
const made = build({ name: "a", branch: "main", commit: "abcdef12", finished_at: at(2) });

describe("a build that was asked for by several names", () => {
  test("is known by its own name and branch alone, where its record is of before", () => {
    expect(aliasesOf(made)).toEqual([{ name: "a", branch: "main", at: at(2) }]);
    expect(aliasesOf(build({ name: "b" }))).toEqual([{ name: "b", at: at(1) }]);
  });

  test("learns each once, keeps the younger time, and stays what it was", () => {
    const once = withAliases(made, [{ name: "a", branch: "v1.0", at: at(3) }]);
    const twice = withAliases(once, [
      { name: "a", branch: "main", at: at(5) },
      { name: "a", branch: "v1.0", at: at(1) },
    ]);
    expect(twice).toEqual({
      ...made,
      known_as: [
        { name: "a", branch: "main", at: at(5) },
        { name: "a", branch: "v1.0", at: at(3) },
      ],
    });
  });

  test("is found by each name, branch and tag; a name and a branch must go together", () => {
    const both = withAliases(made, [
      { name: "a", branch: "v1.0", at: at(3) },
      { name: "b", branch: "next", at: at(3) },
    ]);
    for (const query of [
      { branch: "v1.0" },
      { branch: "refs/tags/v1.0" },
      { branch: "main" },
      { name: "b" },
      { name: "b", branch: "refs/heads/next" },
      { commit: "abcdef" },
      {},
    ])
      expect(found([both], query)).toBe(both.id);
    expect(findBuild([both], { name: "b", branch: "v1.0" })).toMatchObject({
      is: "missing",
      near: [{ why: "same branch, on main and v1.0 and next" }],
    });
    expect(findBuild([both], { branch: "v1.0", arch: "arm64" })).toMatchObject({
      near: [{ why: "same branch, for x86_64" }],
    });
    expect(findBuild([both], { name: "c", branch: "next" })).toMatchObject({
      near: [{ why: "same branch, named a and b" }],
    });
    expect(findBuild([both], { branch: "v1.1" })).toMatchObject({ near: [{ why: "its name of a branch is alike" }] });
  });

  test("is one build also where several names lead to it, and several where they part", () => {
    const both = withAliases(made, [{ name: "b", branch: "main", at: at(3) }]);
    expect(found([both], { branch: "main" })).toBe(both.id);
    const other = build({ name: "b", branch: "main", finished_at: at(4) });
    expect(findBuild([both, other], { branch: "main" })).toMatchObject({ is: "ambiguous", candidates: [other, both] });
    expect(found([both, other], { branch: "main", name: "b" })).toBe(other.id);
    expect(latestOfEach([both, other], { branch: "main" })).toEqual([other, both]);
  });
});

describe("a branch that went back", () => {
  const newer = build({ name: "a", branch: "main", commit: "99999999", finished_at: at(4) });
  const back = withAliases(made, [{ name: "a", branch: "main", at: at(6) }]);

  test("means the build that it came to last, not the one that finished last", () => {
    expect(found([made, newer], { branch: "main", latest: true })).toBe(newer.id);
    for (const query of [{ branch: "main", latest: true }, { branch: "main" }, { branch: "main", name: "a" }])
      expect(found([newer, back], query)).toBe(back.id);
    expect(latestOfEach([newer, back], { branch: "main" })).toEqual([back]);
    expect(found([newer, back], { name: "a", latest: true })).toBe(newer.id);
  });

  test("goes by when it was resolved: a build that was long under way does not win for that", () => {
    const slow = build({ name: "a", finished_at: at(9), known_as: [{ name: "a", branch: "main", at: at(1) }] });
    expect(found([slow, newer], { branch: "main", latest: true })).toBe(newer.id);
  });

  test("keeps that build from retention, as each of its names does", () => {
    const now = Date.parse(at(1)) + 400 * 86_400_000;
    const gone = (records: readonly BuildRecord[]): string[] =>
      planGc(records, [] as BlobInfo[], new Set(), { days: 1, keep_latest: 1 }, now).records.map(({ id }) => id);
    expect(gone([made, newer])).toEqual([made.id]);
    expect(gone([back, newer])).toEqual([newer.id]);
    expect(gone([withAliases(made, [{ name: "b", at: at(3) }]), newer])).toEqual([]);
  });
});

describe("in the store", () => {
  let place: Scratch;
  beforeEach(() => {
    place = scratch();
  });
  afterEach(() => place.remove());

  test("names outlive the process, and two that are learnt at once are both kept", async () => {
    await place.store().saveBuild(made);
    await Promise.all(
      ["v1.0", "v1.1", "v1.2"].map(async (branch) =>
        place.store().updateBuild(made.id, (record) => withAliases(record, [{ name: "a", branch, at: at(3) }])),
      ),
    );
    for (const branch of ["main", "v1.0", "v1.1", "v1.2"])
      expect((await place.store().findBuild({ branch })).id).toBe(made.id);
  });

  test("a record whose names are none is damaged", async () => {
    await place.store().saveBuild({ ...made, known_as: [{ branch: "main" }] } as unknown as BuildRecord);
    await expect(place.store().build(made.id)).rejects.toMatchObject({ code: "E_ARTIFACT_STORE" });
  });
});
