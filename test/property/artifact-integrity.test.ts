import {
  chmodSync,
  closeSync,
  openSync,
  readdirSync,
  readFileSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { BLOCK, dataRuns, describePiece, PIECE } from "../../src/artifacts/block-map.ts";
import { build, bytesOf, digest, failure, MEMORY, scratch } from "../unit/artifact-helpers.ts";

const place = scratch(MEMORY);
afterAll(() => place.remove());

/** Content with the edges that matter: empty, around a block, zero runs at either end and in the middle. */
const content = fc
  .array(
    fc.record({
      zero: fc.boolean(),
      size: fc.oneof(fc.integer({ min: 0, max: 300 }), fc.constantFrom(BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK)),
      seed: fc.integer({ min: 1, max: 255 }),
    }),
    { maxLength: 5 },
  )
  .map((parts) => Buffer.concat(parts.map(({ zero, size, seed }) => Buffer.alloc(size, zero ? 0 : seed))));

/** The stream's chunks have nothing to do with blocks. */
async function* chopped(bytes: Buffer, at: readonly number[]): AsyncGenerator<Buffer> {
  let from = 0;
  for (const cut of [...at].sort((a, b) => a - b)) {
    const to = Math.min(bytes.length, cut);
    yield bytes.subarray(from, to);
    from = to;
  }
  yield bytes.subarray(from);
}

describe("property: artifacts", () => {
  test("Build Artifact Integrity", async () => {
    await fc.assert(
      fc.asyncProperty(
        content,
        fc.array(fc.integer({ min: 0, max: 6 * BLOCK }), { maxLength: 4 }),
        fc.double({ min: 0, max: 1, noNaN: true, maxExcluded: true }),
        fc.constantFrom("flip", "cut", "grow"),
        fc.constantFrom("read", "content", "copy", "check"),
        async (bytes, cuts, where, how, via) => {
          const store = place.store();
          const stored = await store.put({ stream: chopped(bytes, cuts) });
          expect(stored).toEqual({ sha256: digest(bytes), size: bytes.length });
          const { sha256 } = stored;
          expect((await bytesOf(store.read(sha256))).equals(bytes)).toBe(true);
          const copy = join(place.root, "copy");
          await store.copyTo(sha256, copy, { mode: "0755" });
          expect(readFileSync(copy).equals(bytes)).toBe(true);
          expect(statSync(copy).mode & 0o7777).toBe(0o755);

          const record = build({
            artifacts: { kernel: { type: "kernel_image", sha256, size: bytes.length, mode: "0644", file: "bzImage" } },
          });
          await store.saveBuild(record);
          damage(place.blob(sha256), bytes, where, how);
          const old = readFileSync(copy);
          switch (via) {
            case "read":
              expect((await failure(bytesOf(store.read(sha256)))).code).toBe("E_ARTIFACT_CORRUPT");
              break;
            case "content":
              expect((await failure(store.content(sha256))).code).toBe("E_ARTIFACT_CORRUPT");
              break;
            case "copy":
              expect((await failure(store.copyTo(sha256, copy))).code).toBe("E_ARTIFACT_CORRUPT");
              expect(readFileSync(copy).equals(old)).toBe(true);
              break;
            case "check":
              expect((await store.check()).findings).toMatchObject([{ sha256, is: "damaged" }]);
              break;
          }
          // Moved aside, marked, and never given again.
          expect(await store.info(sha256)).toBeUndefined();
          expect((await failure(store.content(sha256))).code).toBe("E_ARTIFACT_NOT_FOUND");
          expect((await store.build(record.id))?.artifacts["kernel"]?.corrupted).toBe(true);
          expect((await failure(store.findArtifact({ build: record.id }, "kernel"))).code).toBe("E_ARTIFACT_CORRUPT");
          expect(readdirSync(join(place.root, "corrupted")).some((name) => name.startsWith(sha256))).toBe(true);

          // What is put again is whole again, and said to be.
          await store.put({ content: bytes });
          expect((await store.content(sha256)).equals(bytes)).toBe(true);
          expect((await store.findArtifact({ build: record.id }, "kernel_image")).artifact.corrupted).toBeUndefined();
          expect(readdirSync(join(place.root, "tmp"))).toEqual([]);
          await store.updateBuild(record.id, (one) => ({ ...one, artifacts: {} }));
        },
      ),
      { numRuns: 120 },
    );
  });

  test("holes are where the zeros are, and a piece's digest is of its data alone", () => {
    fc.assert(
      fc.property(fc.array(fc.boolean(), { minLength: 1, maxLength: PIECE / BLOCK }), (blocks) => {
        const piece = Buffer.alloc(blocks.length * BLOCK);
        for (const [i, data] of blocks.entries()) if (data) piece[i * BLOCK + (i % BLOCK)] = 1 + (i % 255);
        const runs = dataRuns(piece);
        const covered = new Set(runs.flatMap(([first, count]) => Array.from({ length: count }, (_, i) => first + i)));
        for (const [i, data] of blocks.entries()) if (data) expect(covered.has(i)).toBe(true);
        // In order, apart from each other, beginning and ending with data.
        for (const [i, [first, count]] of runs.entries()) {
          expect([blocks[first], blocks[first + count - 1]]).toEqual([true, true]);
          expect(first).toBeGreaterThan(i === 0 ? -1 : (runs[i - 1]?.[0] ?? 0) + (runs[i - 1]?.[1] ?? 0));
        }
        expect(runs.length).toBeLessThanOrEqual(8);
        const sent = Buffer.concat(
          runs.map(([first, count]) => piece.subarray(first * BLOCK, (first + count) * BLOCK)),
        );
        expect(describePiece(piece).sha256).toBe(runs.length === 0 ? "" : digest(sent));
      }),
      { numRuns: 100 },
    );
  });
});

function damage(path: string, bytes: Buffer, where: number, how: "flip" | "cut" | "grow"): void {
  chmodSync(path, 0o600);
  const at = Math.floor(where * bytes.length);
  if (how === "cut" && bytes.length > 0) truncateSync(path, at);
  else if (how === "flip" && bytes.length > 0) {
    const file = openSync(path, "r+");
    writeSync(file, Buffer.from([(bytes[at] ?? 0) ^ 0x40]), 0, 1, at);
    closeSync(file);
  } else writeFileSync(path, Buffer.concat([bytes, Buffer.from([0])]));
}
