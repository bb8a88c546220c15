import { createHash } from "node:crypto";
import { mkdtempSync, renameSync, rmSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { localFiles } from "../../src/engine/local-files.ts";

let root: string;
beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), "labctl-local-"));
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

const sha256 = (text: string): string => createHash("sha256").update(text).digest("hex");

describe("files of this machine", () => {
  test.each([
    ["at once", 0],
    ["once they have settled and are known", 2100],
  ])("what changes is seen, whatever its times say: %s", async (_, wait) => {
    const files = localFiles(root);
    const path = join(root, "a");
    writeFileSync(path, "one");
    const { atime, mtime } = statSync(path);
    await sleep(wait);
    for (let i = 0; i < 2; i++) {
      const many = await Promise.all([files.digest("a", 3), files.digest("a"), files.digest("a", 2)]);
      expect(many.map((one) => one.sha256)).toEqual(Array(3).fill(sha256("one")));
      expect(many.map((one) => one.bytes?.toString())).toEqual([many[0]?.bytes && "one", undefined, undefined]);
      expect((await files.read("a")).toString()).toBe("one");
    }
    // The same size and modification time: only the time of the change itself tells.
    writeFileSync(path, "two");
    utimesSync(path, atime, mtime);
    expect((await files.digest("a")).sha256).toBe(sha256("two"));
    expect((await files.read("a")).toString()).toBe("two");
    writeFileSync(join(root, "b"), "six");
    utimesSync(join(root, "b"), atime, mtime);
    renameSync(join(root, "b"), path);
    expect((await files.digest("a", 3)).sha256).toBe(sha256("six"));
    rmSync(path);
    await expect(files.digest("a")).rejects.toMatchObject({ code: "E_SOURCE_FILE" });
    await expect(files.read("a")).rejects.toMatchObject({ code: "E_SOURCE_FILE" });
  });

  test("who gets a content may write into it", async () => {
    writeFileSync(join(root, "c"), "mine");
    await sleep(2100);
    const files = localFiles(root);
    const { bytes } = await files.digest("c", 10);
    expect(bytes?.toString()).toBe("mine");
    bytes?.fill(0);
    (await files.read("c")).fill(0);
    expect((await files.read("c")).toString()).toBe("mine");
    expect((await files.digest("c", 10)).bytes?.toString()).toBe("mine");
  });

  test("large files are digested as they are, and not kept", async () => {
    const large = "x".repeat(1_500_000);
    writeFileSync(join(root, "d"), large);
    const files = localFiles(root);
    const found = await files.digest("d", 2_000_000);
    expect([found.sha256, found.size, found.bytes]).toEqual([sha256(large), large.length, undefined]);
    expect((await files.read("d")).length).toBe(large.length);
  });
});
