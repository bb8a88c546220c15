import { randomBytes } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, rmSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Ajv } from "ajv";
import { afterEach, describe, expect, test } from "vitest";
import { BLOCK, PIECE } from "../../src/artifacts/block-map.ts";
import { temporaryName } from "../../src/artifacts/files.ts";
import { demandArtifact, demandBuild, provenanceOf } from "../../src/artifacts/index.ts";
import { build, bytesOf, digest, failure, MEMORY, type Scratch, scratch } from "./artifact-helpers.ts";

let place: Scratch | undefined;
const fresh = (): Scratch => (place = scratch(MEMORY));
afterEach(() => place?.remove());

const HOUR = 3600_000;
const DAY = 24 * HOUR;

describe("blobs", () => {
  test("content, file and stream come to one blob, read-only, for its owner alone", async () => {
    const { root, store, blob } = fresh();
    const bytes = randomBytes(300_000);
    const file = join(root, "source");
    writeFileSync(file, bytes);
    const sha256 = digest(bytes);
    const one = store();
    await one.put({ file });
    await one.put({ content: bytes });
    await one.put(
      {
        stream: (async function* () {
          yield bytes;
        })(),
      },
      { sha256 },
    );
    expect(statSync(blob(sha256)).mode & 0o7777).toBe(0o400);
    expect(statSync(join(root, "blobs")).mode & 0o7777).toBe(0o700);
    expect(readdirSync(join(root, "blobs/sha256"))).toEqual([sha256.slice(0, 2)]);
    expect(readdirSync(join(root, "tmp"))).toEqual([]);
  });

  test("what is announced and not so is refused, and leaves nothing", async () => {
    const { root, store } = fresh();
    const error = await failure(store().put({ content: "a" }, { sha256: digest("b") }));
    expect([error.code, error.retryable]).toEqual(["E_MISMATCH", true]);
    expect((await failure(store().put({ file: join(root, "none") }))).code).toBe("E_SOURCE_FILE");
    expect((await failure(store().put({ file: root }))).code).toBe("E_SOURCE_FILE");
    expect(readdirSync(join(root, "tmp"))).toEqual([]);
  });

  test("a name that is no digest reaches no path", async () => {
    const { store } = fresh();
    for (const name of ["../../etc/passwd", "", "A".repeat(64), `${"a".repeat(63)}/`]) {
      expect((await failure(store().info(name))).code).toBe("E_ARTIFACT_NOT_FOUND");
    }
  });

  test("zeros become holes, here and in a copy", async () => {
    const { root, store, blob } = fresh();
    const bytes = Buffer.alloc(PIECE + 5 * BLOCK + 77);
    bytes.fill(7, 3 * BLOCK, 3 * BLOCK + 10);
    bytes[PIECE + 1] = 1;
    const { sha256, size } = await store().put({ content: bytes });
    expect(size).toBe(bytes.length);
    expect((await store().info(sha256))?.allocated).toBeLessThanOrEqual(3 * BLOCK);
    await store().copyTo(sha256, join(root, "copy"));
    expect(statSync(join(root, "copy")).blocks * 512).toBeLessThanOrEqual(3 * BLOCK);
    expect(readFileSync(join(root, "copy")).equals(bytes)).toBe(true);
    // A hole at the very end keeps its size.
    const tail = await store().put({ content: Buffer.concat([Buffer.from("x"), Buffer.alloc(3 * BLOCK)]) });
    expect(statSync(blob(tail.sha256)).size).toBe(3 * BLOCK + 1);
  });

  test("a source that is cancelled or fails half-way leaves nothing", async () => {
    const { root, store } = fresh();
    const broken = async function* (): AsyncGenerator<Buffer> {
      yield randomBytes(PIECE + 5);
      throw new Error("the pipe broke");
    };
    expect((await failure(store().put({ stream: broken() }))).message).toContain("the pipe broke");
    const abort = new AbortController();
    abort.abort();
    expect((await failure(store().put({ content: "x" }, { signal: abort.signal }))).code).toBe("E_CANCELLED");
    expect(readdirSync(join(root, "tmp"))).toEqual([]);
  });
});

describe("records", () => {
  test("are replaced as a whole; changes made at once all count", async () => {
    const { store } = fresh();
    const one = build();
    await store().saveBuild(one);
    const artifact = {
      type: "x",
      sha256: (await store().put({ content: "x" })).sha256,
      size: 1,
      mode: "0644",
      file: "x",
    };
    const stores = [store(), store(), store()];
    await Promise.all(
      Array.from({ length: 30 }, (_, i) =>
        (stores[i % 3] ?? store()).updateBuild(one.id, (record) => ({
          ...record,
          artifacts: { ...record.artifacts, [`a${i}`]: artifact },
        })),
      ),
    );
    expect(Object.keys((await store().build(one.id))?.artifacts ?? {})).toHaveLength(30);
    expect((await failure(store().updateBuild(digest("none"), (x) => x))).code).toBe("E_ARTIFACT_NOT_FOUND");
  });

  test("cannot name what is not there", async () => {
    const { store } = fresh();
    const artifacts = { k: { type: "x", sha256: digest("not stored"), size: 1, mode: "0644", file: "x" } };
    expect((await failure(store().saveBuild(build({ artifacts })))).code).toBe("E_ARTIFACT_NOT_FOUND");
    expect(await store().builds()).toEqual([]);
  });

  test("a damaged one is named, and stops gc", async () => {
    const { root, store } = fresh();
    const good = build();
    await store().saveBuild(good);
    const bad = join(root, "builds", `${digest("bad")}.json`);
    writeFileSync(bad, '{"version":1,"id"');
    expect((await store().builds()).map(({ id }) => id)).toEqual([good.id]);
    expect((await store().check()).records).toEqual([bad]);
    const error = await failure(store().gc());
    expect([error.code, error.message]).toEqual(["E_ARTIFACT_STORE", expect.stringContaining(bad)]);
  });
});

describe("not found", () => {
  const all = [
    build({
      name: "kasan-x86_64",
      arch: "x86_64",
      commit: "abcdef1234",
      branch: "main",
      finished_at: "2026-01-02T00:00:00.000Z",
    }),
    build({ name: "kasan-arm64", arch: "arm64", commit: "abcdef1234", branch: "main", status: "failed" }),
    build({ name: "plain", arch: "arm64", commit: "9999", branch: "main", finished_at: "2026-01-03T00:00:00.000Z" }),
  ];
  const hint = (query: Parameters<typeof demandBuild>[1]): string => {
    try {
      demandBuild(all, query);
    } catch (error) {
      return (error as { hint?: string }).hint ?? "";
    }
    throw new Error("it was found");
  };
  test("says which builds come near, and why", () => {
    expect(hint({ commit: "abcdef", arch: "arm64" })).toMatch(
      /kasan-arm64 .*\(it is failed, not completed\); kasan-x86_64 .*\(same commit, for x86_64\)/,
    );
    expect(hint({ branch: "refs/heads/main", arch: "riscv64" })).toMatch(/plain .* \(same branch, for arm64\)/);
    expect(hint({ name: "kasan-x8664" })).toMatch(/kasan-x86_64 .*\(its name is alike\)/);
    expect(hint({ name: "zzz" })).toBe("`labctl artifact list` shows the builds there are");
  });
  test("an artifact that the build does not have", () => {
    const record = build({
      artifacts: {
        bzImage: { type: "kernel_image", sha256: digest("k"), size: 1, mode: "0644", file: "bzImage" },
        a: { type: "device_tree", sha256: digest("a"), size: 1, mode: "0644", file: "a.dtb" },
        b: { type: "device_tree", sha256: digest("b"), size: 1, mode: "0644", file: "b.dtb" },
      },
    });
    expect(demandArtifact(record, "kernel_image").name).toBe("bzImage");
    expect(() => demandArtifact(record, "initrd")).toThrowError(
      expect.objectContaining({
        code: "E_ARTIFACT_NOT_FOUND",
        hint: expect.stringContaining("bzImage (kernel_image)"),
      }),
    );
    expect(() => demandArtifact(record, "device_tree")).toThrowError(
      expect.objectContaining({ code: "E_ARTIFACT_AMBIGUOUS" }),
    );
    expect(() => demandArtifact(record, "constructor")).toThrowError(
      expect.objectContaining({ code: "E_ARTIFACT_NOT_FOUND" }),
    );
  });
});

describe("gc", () => {
  const now = Date.now();
  const old = (days: number): string => new Date(now - days * DAY).toISOString();

  test("removes what retention lets go, with what only that refers to; dry runs remove nothing", async () => {
    const { store, blob } = fresh();
    const one = store({ retention: { days: 10, keep_latest: 1 } });
    const put = async (
      text: string,
    ): Promise<{ type: string; sha256: string; size: number; mode: string; file: string }> => {
      const { sha256, size } = await one.put({ content: text });
      return { type: "x", sha256, size, mode: "0644", file: "x" };
    };
    const shared = await put("shared");
    const [first, second, third] = [
      build({ finished_at: old(40), artifacts: { a: await put("first"), s: shared } }),
      build({ finished_at: old(30), artifacts: { a: await put("second"), s: shared } }),
      build({ finished_at: old(20), artifacts: { a: await put("third"), s: shared } }),
    ];
    const unfinished = build({ status: "building", created_at: old(99), artifacts: { a: await put("unfinished") } });
    for (const record of [first, second, third, unfinished]) await one.saveBuild(record);
    const stray = await one.put({ content: "stray" });
    const recent = await one.put({ content: "recent" });
    const all = [first, second, third, unfinished].flatMap((record) =>
      Object.values(record.artifacts).map((x) => x.sha256),
    );
    for (const sha256 of [...all, stray.sha256]) utimesSync(blob(sha256), now / 1000 - 7200, now / 1000 - 7200);
    const pins = new Set([second.artifacts["a"]?.sha256 ?? ""]);
    const dry = await one.gc({ dryRun: true, pins });
    const gone = new Set([first.artifacts["a"]?.sha256, stray.sha256]);
    expect(dry.records.map(({ id }) => id)).toEqual([first.id]);
    expect(new Set(dry.blobs.map(({ sha256 }) => sha256))).toEqual(gone);
    expect((await one.builds()).length).toBe(4);
    const done = await one.gc({ pins });
    expect(done).toMatchObject({ records: dry.records, frees: dry.frees, kept: { records: 3, blobs: 5 } });
    expect(await one.info(stray.sha256)).toBeUndefined();
    expect(await one.info(recent.sha256)).toBeDefined();
    expect((await one.content(second.artifacts["a"]?.sha256 ?? "")).toString()).toBe("second");
    expect((await one.check()).findings).toEqual([]);
  });

  test("removes nothing where the pins cannot be known", async () => {
    const { store } = fresh();
    const one = store({ retention: { days: 0, keep_latest: 0 }, pins: () => Promise.reject(new Error("no state")) });
    const record = build({ finished_at: old(40) });
    await one.saveBuild(record);
    await expect(one.gc()).rejects.toThrow("no state");
    expect(await one.builds()).toHaveLength(1);
  });

  test("what is put again while it runs stays", async () => {
    const { store, blob } = fresh();
    const one = store();
    const contents = Array.from({ length: 40 }, (_, i) => `content ${i}`);
    for (let round = 0; round < 5; round++) {
      for (const content of contents) {
        const { sha256 } = await one.put({ content });
        utimesSync(blob(sha256), 1, 1);
      }
      const kept: string[] = [];
      const putting = (async () => {
        for (const content of contents.filter((_, i) => i % 2 === round % 2)) {
          const { sha256 } = await store().put({ content }, { sha256: digest(content) });
          kept.push(sha256);
        }
      })();
      await Promise.all([one.gc(), store().gc(), putting]);
      for (const sha256 of kept) expect(await one.info(sha256)).toBeDefined();
      expect((await one.check()).findings).toEqual([]);
    }
  });

  test("takes temporary files that nobody writes to, after their grace, and old damaged content", async () => {
    const { root, store } = fresh();
    const one = store({ retention: { days: 10, keep_latest: 1 } });
    await one.put({ content: "x" });
    mkdirSync(join(root, "corrupted"), { recursive: true });
    const own = temporaryName("blob");
    const file = (name: string, age: number): void => {
      writeFileSync(join(root, name), "left");
      utimesSync(join(root, name), (now - age) / 1000, (now - age) / 1000);
    };
    // Of a process that cannot be: pids are smaller.
    const dead = own.replace(/\.\d+-/, ".99999999-");
    file(`tmp/${own}`, 30 * DAY);
    file(`tmp/${dead}`, 2 * HOUR);
    file(`tmp/young-${dead}`, HOUR / 2);
    file("tmp/foreign.1-1-00000000.000000000000", 2 * HOUR);
    file("tmp/foreign.2-1-00000000.000000000000", 2 * DAY);
    file(`corrupted/${digest("a")}`, 20 * DAY);
    file(`corrupted/${digest("b")}`, 5 * DAY);
    expect(await one.gc({ dryRun: true })).toMatchObject({ temporary: 2, corrupted: 1 });
    expect(await one.gc()).toMatchObject({ temporary: 2, corrupted: 1 });
    expect(readdirSync(join(root, "tmp")).sort()).toEqual(
      [own, "foreign.1-1-00000000.000000000000", `young-${dead}`].sort(),
    );
    expect(readdirSync(join(root, "corrupted"))).toEqual([digest("b")]);
  });

  test("a remover that died in between loses nothing", async () => {
    const { store, blob } = fresh();
    const { sha256 } = await store().put({ content: "kept" });
    const { renameSync } = await import("node:fs");
    renameSync(blob(sha256), `${blob(sha256)}.gone.0123456789ab`);
    expect((await bytesOf(store().read(sha256))).toString()).toBe("kept");
    expect(readdirSync(join(blob(sha256), "..")).filter((name) => name.includes(".gone"))).toEqual([]);
  });
});

test("verify tells damaged from missing from what was found before", async () => {
  const { store, blob } = fresh();
  const one = store();
  const named = await Promise.all(["a", "b", "c"].map((content) => one.put({ content })));
  const [a, b, c] = named.map(({ sha256 }) => sha256) as [string, string, string];
  const artifact = (sha256: string): object => ({ type: "x", sha256, size: 1, mode: "0644", file: "x" });
  const record = build({ artifacts: { a: artifact(a), b: artifact(b), c: artifact(c) } as never });
  await one.saveBuild(record);
  rmSync(blob(a));
  rmSync(blob(b));
  writeFileSync(blob(b), "X");
  const seen = async (): Promise<string[]> =>
    (await one.check()).findings
      .map(({ sha256, is, builds }) => `${is} ${sha256} ${builds.map((use) => use.artifact).join()}`)
      .sort();
  expect(await seen()).toEqual([`damaged ${b} b`, `missing ${a} a`]);
  expect(await seen()).toEqual([`marked ${b} b`, `missing ${a} a`]);
});

describe("provenance", () => {
  const record = build({
    commit: "abc",
    branch: "main",
    server: "host.builder-1",
    toolchain: { name: "gcc", version: "12.2.0" },
    started_at: "2026-01-01T00:00:00.000Z",
    finished_at: "2026-01-01T00:10:00.000Z",
    run: "20260101-000000-abcd",
    log: digest("log"),
    inputs: { defconfig: "tinyconfig" },
    materials: [{ name: "linux", uri: "git+https://git.example/linux.git@main", digest: { gitCommit: "abc" } }],
    artifacts: { kernel: { type: "kernel_image", sha256: digest("k"), size: 1, mode: "0644", file: "bzImage" } },
  });

  test("has the fields that in-toto Statement v1 and SLSA provenance v1 publish, and no other", () => {
    // https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md and resource_descriptor.md,
    // https://slsa.dev/spec/v1.0/provenance (schema, and "REQUIRED" at each field).
    const descriptor = {
      type: "object",
      properties: {
        name: { type: "string" },
        uri: { type: "string" },
        digest: { type: "object", additionalProperties: { type: "string", pattern: "^[0-9a-f]+$" } },
        content: { type: "string" },
        downloadLocation: { type: "string" },
        mediaType: { type: "string" },
        annotations: { type: "object" },
      },
      additionalProperties: false,
      anyOf: [{ required: ["uri"] }, { required: ["digest"] }, { required: ["content"] }],
    };
    const time = { type: "string", pattern: "^\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d(\\.\\d+)?Z$" };
    const valid = new Ajv({ allErrors: true, strict: false }).compile({
      type: "object",
      required: ["_type", "subject", "predicateType", "predicate"],
      additionalProperties: false,
      properties: {
        _type: { const: "https://in-toto.io/Statement/v1" },
        subject: { type: "array", minItems: 1, items: { ...descriptor, required: ["digest"] } },
        predicateType: { const: "https://slsa.dev/provenance/v1" },
        predicate: {
          type: "object",
          required: ["buildDefinition", "runDetails"],
          additionalProperties: false,
          properties: {
            buildDefinition: {
              type: "object",
              required: ["buildType", "externalParameters"],
              additionalProperties: false,
              properties: {
                buildType: { type: "string", pattern: "^[a-z]+:" },
                externalParameters: { type: "object" },
                internalParameters: { type: "object" },
                resolvedDependencies: { type: "array", items: descriptor },
              },
            },
            runDetails: {
              type: "object",
              required: ["builder"],
              additionalProperties: false,
              properties: {
                builder: {
                  type: "object",
                  required: ["id"],
                  additionalProperties: false,
                  properties: {
                    id: { type: "string", pattern: "^[a-z]+:" },
                    version: { type: "object", additionalProperties: { type: "string" } },
                    builderDependencies: { type: "array", items: descriptor },
                  },
                },
                metadata: {
                  type: "object",
                  additionalProperties: false,
                  properties: { invocationId: { type: "string" }, startedOn: time, finishedOn: time },
                },
                byproducts: { type: "array", items: descriptor },
              },
            },
          },
        },
      },
    });
    for (const one of [record, { ...build(), artifacts: record.artifacts }]) {
      const statement: unknown = JSON.parse(JSON.stringify(provenanceOf(one, "0.1.0")));
      expect(valid(statement), JSON.stringify(valid.errors)).toBe(true);
    }
  });

  test("says what went in, what came out, and when", () => {
    const { subject, predicate } = provenanceOf(record, "0.1.0");
    expect(subject).toMatchObject([{ name: "bzImage", digest: { sha256: digest("k") } }]);
    expect(predicate.buildDefinition.resolvedDependencies).toMatchObject([{ digest: { gitCommit: "abc" } }]);
    expect(predicate.runDetails).toMatchObject({
      builder: { id: "labctl:host.builder-1", version: { labctl: "0.1.0" } },
      metadata: { startedOn: record.started_at, finishedOn: record.finished_at, invocationId: record.run },
      byproducts: [{ digest: { sha256: digest("log") } }],
    });
  });
});
