import { createHash } from "node:crypto";
import { readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { file } from "../../providers/host/file.ts";
import { KindDriver } from "../../src/testing/index.ts";
import { machinesUnavailable } from "../support/sshd.ts";
import { type HostWorld, hostWorld } from "./host-machine.ts";

const RUNS = 120;
const mode = fc.integer({ min: 0, max: 0o7777 }).map((bits) => bits.toString(8).padStart(4, "0"));
const IDS: Readonly<Record<string, number>> = { root: 0, daemon: 1, bin: 2, games: 5 };
const account = fc.constantFrom("root", "daemon", "bin");

/** Names made of what shells and tools stumble over. */
const hostileName = fc
  .oneof(
    fc.string({ unit: "grapheme", minLength: 1, maxLength: 30 }),
    fc
      .array(
        fc.constantFrom(
          "'",
          '"',
          " ",
          "\n",
          "$(id)",
          "`id`",
          "-",
          "--",
          "\\",
          "*",
          "?",
          ";",
          "&&",
          "|",
          "é",
          "\t",
          "~",
          "#",
          "!",
          "%s",
          "\r",
          "😀",
          "[a]",
        ),
        { minLength: 1, maxLength: 10 },
      )
      .map((parts) => parts.join("")),
  )
  .map((name) => name.replaceAll(/[/\0]/g, "_"))
  .filter((name) => name !== "" && name !== "." && name !== ".." && Buffer.byteLength(name) <= 200);

describe.skipIf(machinesUnavailable() !== undefined)("files on a real machine over SSH", () => {
  let world: HostWorld;
  beforeAll(async () => {
    world = await hostWorld({ name: "files" });
    await world.sh("mkdir -p /srv/p /srv/q");
  });
  afterAll(async () => {
    await world.close();
  });

  test("property: File permission consistency", async () => {
    let n = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.record({ mode, owner: account, group: account }, { requiredKeys: [] }),
        fc.option(fc.record({ mode, owner: account, group: account })),
        fc.boolean(),
        async (wish, before, sameContent) => {
          const path = `/srv/p/mode-${n++}`;
          const here = world.test.root(path);
          if (before !== null) {
            await world.sh(
              `printf same >${path}; chown ${before.owner}:${before.group} ${path}; chmod 0${before.mode} ${path}`,
            );
          }
          const desired = { path, content: sameContent ? "same" : "other", ...wish };
          const driver = new KindDriver(file, world, path);
          const observed = await driver.apply(desired);
          const found = statSync(here);
          expect((found.mode & 0o7777).toString(8).padStart(4, "0")).toBe(wish.mode ?? before?.mode ?? "0644");
          expect(found.uid).toBe(IDS[wish.owner ?? before?.owner ?? "root"]);
          expect(found.gid).toBe(IDS[wish.group ?? before?.group ?? "root"]);
          expect(observed).toMatchObject({
            mode: (found.mode & 0o7777).toString(8).padStart(4, "0"),
            uid: found.uid,
            gid: found.gid,
          });
          expect(await driver.plan(desired)).toEqual([]);
          await driver.destroy(desired);
          if (before === null) expect(() => statSync(here)).toThrow();
          else {
            const back = statSync(here);
            expect([
              (back.mode & 0o7777).toString(8).padStart(4, "0"),
              back.uid,
              back.gid,
              readFileSync(here, "utf8"),
            ]).toEqual([before.mode, IDS[before.owner], IDS[before.group], "same"]);
          }
        },
      ),
      { numRuns: RUNS },
    );
    expect(readdirSync(world.test.root("/srv/p")).filter((name) => name.startsWith(".labctl"))).toEqual([]);
  }, 300_000);

  test("property: Artifact deployment verification", async () => {
    const content = fc.oneof(
      { weight: 4, arbitrary: fc.uint8Array({ maxLength: 300 }) },
      { weight: 2, arbitrary: fc.string({ unit: "grapheme", maxLength: 200 }).map((text) => Buffer.from(text)) },
      // Across the size at which content is sent ahead rather than written by the script.
      { weight: 1, arbitrary: fc.integer({ min: 90_000, max: 400_000 }).map((size) => Buffer.alloc(size, "labctl\n")) },
    );
    await fc.assert(
      fc.asyncProperty(hostileName, content, mode, async (name, bytes, wantedMode) => {
        const path = `/srv/q/${name}`;
        writeFileSync(join(world.root, "artifact"), bytes);
        const driver = new KindDriver(file, world, path);
        const desired = { path, source: "artifact", mode: wantedMode, owner: "daemon" };
        const observed = await driver.apply(desired);
        const here = world.test.root(path);
        expect(readFileSync(here).equals(Buffer.from(bytes))).toBe(true);
        expect(observed["digest"]).toBe(createHash("sha256").update(bytes).digest("hex"));
        expect([statSync(here).uid, (statSync(here).mode & 0o7777).toString(8).padStart(4, "0")]).toEqual([
          1,
          wantedMode,
        ]);
        expect(await driver.plan(desired)).toEqual([]);
        await driver.destroy(desired);
        expect(readdirSync(world.test.root("/srv/q"))).toEqual([]);
      }),
      { numRuns: RUNS },
    );
  }, 300_000);
});
