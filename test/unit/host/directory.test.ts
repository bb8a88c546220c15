import { chmodSync, existsSync, mkdirSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { directory } from "../../../providers/host/directory.ts";
import { conformance, KindDriver } from "../../../src/testing/index.ts";
import { SHELLS, type ShellWorld, shellWorld } from "./shells.ts";

describe.each(SHELLS)("directory through %s", (shell) => {
  let world: ShellWorld;
  beforeEach(() => {
    world = shellWorld(shell);
  });
  afterEach(() => world.close());
  const at = (name: string): string => join(world.dir, name);
  const mode = (path: string): number => statSync(path).mode & 0o7777;

  test("is made with its mode and removed where it is empty", async () => {
    const d = new KindDriver(directory, world, at("d"));
    const wish = { path: at("d"), mode: "2770" };
    await d.apply(wish);
    expect(mode(at("d"))).toBe(0o2770);
    expect(await d.plan(wish)).toEqual([]);
    writeFileSync(at("d/precious"), "x");
    await d.destroy(wish);
    expect(existsSync(at("d/precious"))).toBe(true);
    expect(d.log).toMatchObject([{ level: "warn" }]);
    rmSync(at("d/precious"));
    await d.destroy(wish);
    expect(existsSync(at("d"))).toBe(false);
  });

  test("an unset mode is left alone, and one that was there before is never removed", async () => {
    mkdirSync(at("d"));
    chmodSync(at("d"), 0o711);
    const d = new KindDriver(directory, world, at("d"));
    await d.apply({ path: at("d") });
    expect(mode(at("d"))).toBe(0o711);
    await d.apply({ path: at("d"), mode: "0700" });
    await d.destroy({ path: at("d") });
    expect(mode(at("d"))).toBe(0o711);
  });

  test("parents only where asked for", async () => {
    const path = at("a/b/c");
    const d = new KindDriver(directory, world, path);
    await expect(d.apply({ path })).rejects.toMatchObject({
      code: "E_MISMATCH",
      hint: expect.stringContaining("parents"),
    });
    await d.apply({ path, parents: true });
    expect(existsSync(path)).toBe(true);
  });

  test("a file or a link at the path is an error and stays", async () => {
    writeFileSync(at("f"), "x");
    symlinkSync("f", at("l"));
    for (const name of ["f", "l"]) {
      const d = new KindDriver(directory, world, at(name));
      await expect(d.apply({ path: at(name) })).rejects.toMatchObject({ code: "E_MISMATCH" });
      await d.destroy({ path: at(name) });
      expect(existsSync(at(name))).toBe(true);
    }
  });

  test("conformance", async () => {
    const path = at("conf");
    const checks = conformance(directory, world, {
      name: "a directory",
      key: path,
      desired: { path, mode: "0750" },
      changed: { path, mode: "0700" },
      teardown: () => rmSync(path, { recursive: true, force: true }),
      snapshot: () => (existsSync(path) ? mode(path) : null),
      tamper: { mode: () => chmodSync(path, 0o777) },
    });
    for (const check of checks) await check.run();
  });
});
