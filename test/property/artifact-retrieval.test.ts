import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  type BlobInfo,
  blobsOf,
  type BuildQuery,
  type BuildRecord,
  createArtifactStore,
  digestsIn,
  findBuild,
  planGc,
  withAliases,
} from "../../src/artifacts/index.ts";
import { digest, MEMORY, scratch } from "../unit/artifact-helpers.ts";

const NAMES = ["kasan", "kcsan", "plain"];
const ARCHES = ["x86_64", "arm64"];
/** Beginnings in common, so that short prefixes are ambiguous. */
const COMMITS = ["aaaa1111", "aaaa2222", "bbbb1111"].map((start) => start + digest(start).slice(0, 32));
const BRANCHES = ["main", "linux-6.1.y"];
const DAY = 24 * 3600 * 1000;
const NOW = Date.parse("2026-06-01T00:00:00Z");

const record = fc
  .record({
    seed: fc.integer({ min: 0, max: 1e9 }),
    shared: fc.boolean(),
    name: fc.constantFrom(...NAMES),
    arch: fc.constantFrom(...ARCHES),
    commit: fc.constantFrom(...COMMITS),
    branch: fc.constantFrom(...BRANCHES, "refs/heads/main"),
    status: fc.constantFrom("queued", "building", "completed", "completed", "completed", "failed", "cancelled"),
    days: fc.integer({ min: 0, max: 90 }),
    files: fc.uniqueArray(fc.integer({ min: 0, max: 8 }), { maxLength: 3 }),
    log: fc.option(fc.integer({ min: 20, max: 24 }), { nil: undefined }),
  })
  .map(
    ({ seed, shared, days, files, log, ...rest }): BuildRecord => ({
      ...rest,
      status: rest.status as BuildRecord["status"],
      // Ids that begin alike are what a prefix has to tell apart.
      id: (shared ? "abc" : "") + digest(String(seed)).slice(shared ? 3 : 0),
      created_at: new Date(NOW - days * DAY - 1000).toISOString(),
      ...(["completed", "failed"].includes(rest.status) && {
        finished_at: new Date(NOW - days * DAY).toISOString(),
      }),
      artifacts: Object.fromEntries(
        files.map((n) => [
          `file-${n}`,
          { type: "x", sha256: digest(`blob ${n}`), size: n, mode: "0644", file: `f${n}` },
        ]),
      ),
      ...(log !== undefined && { log: digest(`blob ${log}`) }),
      inputs: {},
    }),
  );
const records = fc.uniqueArray(record, { selector: ({ id }) => id, maxLength: 12 });

/** The newest of those that finished, said in the plainest way. */
function model(all: readonly BuildRecord[]): string | undefined {
  let best: BuildRecord | undefined;
  for (const one of all.filter(({ status }) => status === "completed")) {
    const later =
      best === undefined ||
      (one.finished_at ?? "") > (best.finished_at ?? "") ||
      (one.finished_at === best.finished_at && one.id < best.id);
    if (later) best = one;
  }
  return best?.id;
}

const found = (all: readonly BuildRecord[], query: BuildQuery): string | undefined => {
  const result = findBuild(all, query);
  return result.is === "found" ? result.record.id : undefined;
};

describe("property: artifacts", () => {
  test("Build Artifact Retrieval Consistency", async () => {
    const place = scratch(MEMORY);
    try {
      await fc.assert(
        fc.asyncProperty(
          records,
          fc.integer({ min: 1, max: 64 }),
          fc.integer({ min: 4, max: 40 }),
          async (all, idLength, commitLength) => {
            // Through the store, so that what is written and read back is part of it; content is another property.
            const store = createArtifactStore({ root: `${place.root}/${digest(String(Math.random())).slice(0, 12)}` });
            for (const one of all) {
              const marked = Object.entries(one.artifacts).map(([key, artifact]) => [
                key,
                { ...artifact, corrupted: true },
              ]);
              await store.saveBuild({ ...one, artifacts: Object.fromEntries(marked) as BuildRecord["artifacts"] });
            }
            const stored = await store.builds();
            expect(stored.map(({ id }) => id).sort()).toEqual(all.map(({ id }) => id).sort());
            for (const one of all) {
              expect((await store.build(one.id))?.id).toBe(one.id);
              // By id: the whole of it always; a beginning exactly where it is one's alone.
              expect(found(stored, { build: one.id })).toBe(one.id);
              const prefix = one.id.slice(0, idLength);
              const alike = all.filter(({ id }) => id.startsWith(prefix));
              expect(found(stored, { build: prefix })).toBe(alike.length === 1 ? one.id : undefined);
              if (alike.length > 1) expect(findBuild(stored, { build: prefix }).is).toBe("ambiguous");
            }
            for (const commit of COMMITS) {
              const short = commit.slice(0, commitLength);
              for (const name of NAMES) {
                for (const arch of ARCHES) {
                  const fits = all.filter(
                    (one) => one.name === name && one.arch === arch && one.commit?.startsWith(short),
                  );
                  const done = fits.filter(({ status }) => status === "completed");
                  const several = new Set(done.map((one) => one.commit)).size > 1;
                  const result = findBuild(stored, { commit: short, name, arch });
                  expect(result.is).toBe(done.length === 0 ? "missing" : several ? "ambiguous" : "found");
                  if (result.is === "found") expect(result.record.id).toBe(model(fits));
                }
              }
            }
            for (const arch of ARCHES) {
              expect(found(stored, { arch, latest: true })).toBe(model(all.filter((one) => one.arch === arch)));
              for (const name of NAMES) {
                const fits = all.filter((one) => one.name === name && one.arch === arch);
                expect(found(stored, { name, arch })).toBe(model(fits));
                const onMain = fits.filter(({ branch }) => branch === "main" || branch === "refs/heads/main");
                expect(found(stored, { branch: "main", name, arch })).toBe(model(onMain));
              }
            }
            // What is not found names only builds that are there.
            const nothing = findBuild(stored, { commit: "ffffffff", arch: "riscv64" });
            expect(nothing.is).toBe("missing");
          },
        ),
        { numRuns: 100 },
      );
    } finally {
      place.remove();
    }
  });

  test("Build Artifact Retrieval Consistency: whatever applies came to what, each name and branch means the build that it came to last", () => {
    const steps = fc.array(
      fc.record({
        build: fc.nat({ max: 11 }),
        name: fc.constantFrom(...NAMES),
        branch: fc.option(fc.constantFrom(...BRANCHES), { nil: undefined }),
      }),
      { maxLength: 12 },
    );
    fc.assert(
      fc.property(records, steps, (all, came) => {
        const now = new Map(all.map((one) => [one.id, one]));
        const last = new Map<string, string>();
        for (const [i, { build, name, branch }] of came.entries()) {
          const one = now.get(all[build]?.id ?? "");
          if (one?.status !== "completed") continue;
          // After all that was built.
          const at = new Date(NOW + i * 1000).toISOString();
          now.set(one.id, withAliases(one, [{ name, ...(branch !== undefined && { branch }), at }]));
          if (branch !== undefined) last.set(JSON.stringify([name, branch, one.arch]), one.id);
        }
        const stored = [...now.values()];
        for (const [key, id] of last) {
          const [name, branch, arch] = JSON.parse(key) as [string, string, string];
          expect(found(stored, { name, branch, arch })).toBe(id);
          expect(found(stored, { name, branch: `refs/heads/${branch}`, arch, latest: true })).toBe(id);
        }
        // What it could be found by before, it can still be found by.
        for (const { id, name, branch, arch, status } of all) {
          const alone = stored.filter((one) => one.id === id);
          const query = { name, arch, ...(branch !== undefined && { branch }) };
          expect(found(alone, query)).toBe(status === "completed" ? id : undefined);
        }
      }),
      { numRuns: 200 },
    );
  });

  test("retention never removes what is pinned, unfinished, young or among the latest", () => {
    fc.assert(
      fc.property(
        records,
        fc.array(fc.record({ n: fc.integer({ min: 0, max: 30 }), hours: fc.integer({ min: 0, max: 2000 }) }), {
          maxLength: 20,
        }),
        fc.array(fc.integer({ min: 0, max: 30 }), { maxLength: 3 }),
        fc.array(fc.nat({ max: 11 }), { maxLength: 2 }),
        fc.record({ days: fc.integer({ min: 0, max: 60 }), keep_latest: fc.integer({ min: 0, max: 4 }) }),
        (all, some, pinnedBlobs, pinnedBuilds, policy) => {
          const blobs = [...new Map(some.map(({ n, hours }) => [n, hours]))].map(
            ([n, hours]): BlobInfo => ({
              sha256: digest(`blob ${n}`),
              size: n,
              allocated: n,
              touched: NOW - hours * 3600_000,
            }),
          );
          // As rows of a state hold them: anywhere in data.
          const pins = digestsIn({
            rows: new Map([["vm.a", { kernel: `store:${pinnedBlobs.map((n) => digest(`blob ${n}`)).join(",")}` }]]),
            deployments: pinnedBuilds.flatMap((i) => all[i]?.id ?? []),
          });
          const plan = planGc(all, blobs, pins, policy, NOW);
          const goneBuilds = new Set(plan.records.map(({ id }) => id));
          const goneBlobs = new Set(plan.blobs.map(({ sha256 }) => sha256));
          for (const pin of pins) {
            expect(goneBlobs.has(pin)).toBe(false);
            expect(goneBuilds.has(pin)).toBe(false);
          }
          for (const one of all) {
            const age = NOW - Date.parse(one.finished_at ?? one.created_at);
            const newer = all.filter(
              (other) =>
                other.status === "completed" &&
                other.name === one.name &&
                other.arch === one.arch &&
                ((other.finished_at ?? "") > (one.finished_at ?? "") ||
                  (other.finished_at === one.finished_at && other.id < one.id)),
            ).length;
            const must =
              one.status === "queued" ||
              one.status === "building" ||
              age <= policy.days * DAY ||
              (one.status === "completed" && newer < policy.keep_latest) ||
              pins.has(one.id) ||
              blobsOf(one).some((sha256) => pins.has(sha256));
            expect(goneBuilds.has(one.id)).toBe(!must);
            // Whatever a record that stays names, stays.
            if (must) for (const sha256 of blobsOf(one)) expect(goneBlobs.has(sha256)).toBe(false);
          }
          for (const { sha256, touched } of blobs) {
            if (NOW - touched <= 3600_000) expect(goneBlobs.has(sha256)).toBe(false);
          }
          expect(plan.frees).toBe(plan.blobs.reduce((sum, { allocated }) => sum + allocated, 0));
          // Doing it twice does no more: what is left is all kept.
          const left = all.filter(({ id }) => !goneBuilds.has(id));
          const again = planGc(
            left,
            blobs.filter(({ sha256 }) => !goneBlobs.has(sha256)),
            pins,
            policy,
            NOW,
          );
          expect([again.records, again.blobs]).toEqual([[], []]);
        },
      ),
      { numRuns: 300 },
    );
  });
});
