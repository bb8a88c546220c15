/** Tar archives as GNU tar writes them in each of its formats. */
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { readTar, type TarEntry } from "../../src/archives/index.ts";

const LONG = `${"deep/".repeat(40)}module-${"x".repeat(120)}.ko`;
let folder: string;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "labctl-archives-"));
  mkdirSync(join(folder, "deep/".repeat(40)), { recursive: true });
  writeFileSync(join(folder, LONG), "long\n");
  writeFileSync(join(folder, "full"), "f".repeat(512), { mode: 0o755 });
  writeFileSync(join(folder, "empty"), "");
  symlinkSync(`/${LONG}`, join(folder, "link"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const tar = (...more: string[]): Buffer =>
  execFileSync("tar", ["-C", folder, "--sort=name", ...more, "-cf", "-", "."], { maxBuffer: 1 << 24 });

async function* pieces(bytes: Buffer, size: number): AsyncGenerator<Buffer> {
  for (let at = 0; at < bytes.length; at += size) {
    await Promise.resolve();
    yield bytes.subarray(at, at + size);
  }
}

async function all(bytes: Buffer, size = 10_000, wants: (entry: TarEntry) => boolean = () => true) {
  const out = new Map<string, TarEntry & { data: Buffer }>();
  for await (const entry of readTar(pieces(bytes, size), wants)) out.set(entry.path, entry);
  return out;
}

describe("a tar archive", () => {
  test.each(["gnu", "pax", "oldgnu"])("of the format %s is read, in pieces of any size", async (format) => {
    for (const size of [7, 512, 100_000]) {
      const found = await all(tar(`--format=${format}`), size);
      expect(found.get(LONG)).toMatchObject({ type: "file", size: 5 });
      expect(found.get(LONG)?.data.toString()).toBe("long\n");
      expect(found.get("full")).toMatchObject({ mode: 0o755, size: 512 });
      expect(found.get("empty")?.data.length).toBe(0);
      expect(found.get("link")).toMatchObject({ type: "symlink", target: `/${LONG}` });
      expect(found.get("deep")).toMatchObject({ type: "directory" });
    }
  });

  test("gives only the content that is wanted", async () => {
    const found = await all(tar(), 100, (entry) => entry.path === "full");
    expect([...found.values()].filter((one) => one.data.length > 0).map((one) => one.path)).toEqual(["full"]);
  });

  test("that is cut off, or is none, is refused", async () => {
    const whole = tar();
    await expect(all(whole.subarray(0, whole.indexOf("f".repeat(512)) + 100))).rejects.toThrow(/cut off/);
    await expect(all(Buffer.alloc(2048, "no tar"))).rejects.toThrow(/no tar archive/);
    expect(await all(Buffer.alloc(0))).toEqual(new Map());
  });
});
