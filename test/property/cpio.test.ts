import { execFileSync } from "node:child_process";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type CpioEntry, cpioArchive, padArchive, readCpio } from "../../src/archives/index.ts";

const segment = fc.stringMatching(/^[A-Za-z0-9_.@ äé-]{1,20}$/).filter((name) => name !== "." && name !== "..");
const path = fc.array(segment, { minLength: 1, maxLength: 4 }).map((parts) => parts.join("/"));
const mode = fc.integer({ min: 0, max: 0o7777 });
const entry: fc.Arbitrary<CpioEntry> = fc.oneof(
  fc.record({
    type: fc.constant("file" as const),
    path,
    mode,
    data: fc.uint8Array({ maxLength: 300 }).map((array) => Buffer.from(array)),
  }),
  fc.record({ type: fc.constant("directory" as const), path, mode }),
  fc.record({ type: fc.constant("symlink" as const), path, mode, target: path }),
  fc.record({
    type: fc.constant("device" as const),
    path,
    mode,
    device: fc.constantFrom("char" as const, "block" as const),
    major: fc.nat(4095),
    minor: fc.nat(255),
  }),
);

describe("Initramfs Archives Hold What Was Put In", () => {
  it("reads back every entry, also from archives that follow each other", () => {
    fc.assert(
      fc.property(fc.array(entry, { maxLength: 12 }), fc.array(entry, { maxLength: 4 }), (first, second) => {
        const one = cpioArchive(first);
        expect(one.length % 512).toBe(0);
        expect(readCpio(one)).toEqual(first);
        const bare = one.subarray(0, one.lastIndexOf("TRAILER!!!") + 12);
        expect(readCpio(Buffer.concat([padArchive(bare), cpioArchive(second)]))).toEqual([...first, ...second]);
      }),
      { numRuns: 200 },
    );
  });

  it("busybox cpio lists the same names", () => {
    fc.assert(
      fc.property(fc.uniqueArray(path, { minLength: 1, maxLength: 8 }), (paths) => {
        const entries = paths.map(
          (one, index): CpioEntry => ({ type: "file", path: one, mode: 0o644, data: Buffer.alloc(index, 1) }),
        );
        const listed = execFileSync("busybox", ["cpio", "-t"], {
          input: cpioArchive(entries),
          stdio: ["pipe", "pipe", "ignore"],
        });
        expect(listed.toString("utf8").replace(/\n$/, "").split("\n")).toEqual(paths);
      }),
      { numRuns: 100 },
    );
  });

  it("refuses what is cut off or is no archive", () => {
    const archive = cpioArchive([{ type: "file", path: "a", mode: 0o644, data: Buffer.alloc(2000) }]);
    expect(() => readCpio(archive.subarray(0, 900))).toThrow(RangeError);
    expect(() => readCpio(Buffer.from("not an archive at all, and longer than a header ".repeat(4)))).toThrow(
      RangeError,
    );
  });
});
