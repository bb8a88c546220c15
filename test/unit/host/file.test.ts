import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { file } from "../../../providers/host/file.ts";
import { keepId, temporaryName } from "../../../providers/host/file-script.ts";
import { LabError } from "../../../src/index.ts";
import { conformance, countingMachine, KindDriver, type Properties } from "../../../src/testing/index.ts";
import { SHELLS, type ShellWorld, shellWorld } from "./shells.ts";

describe.each(SHELLS)("file through %s", (shell) => {
  let world: ShellWorld;
  beforeEach(() => {
    world = shellWorld(shell);
  });
  const used: { readonly path: string; readonly id: string }[] = [];
  afterEach(async () => {
    await world.close();
    // As root the originals are kept outside of the folder that the tests play in.
    const store = "/var/lib/labctl/originals";
    const kept = existsSync(store) ? readdirSync(store) : [];
    for (const { path, id } of used.splice(0)) {
      for (const name of kept) if (name.startsWith(keepId(path, id))) rmSync(join(store, name));
    }
  });

  const driver = (path: string): KindDriver => {
    const made = new KindDriver(file, world, path);
    used.push({ path, id: made.instanceId });
    return made;
  };
  const at = (name: string): string => join(world.dir, name);

  test("is absent, is made with its mode, reads back the same, and is removed", async () => {
    const path = at("a file");
    const d = driver(path);
    const wish = { path, content: "hello\n", mode: "0640" };
    expect(await d.plan(wish)).toBeUndefined();
    const observed = await d.apply(wish);
    expect(readFileSync(path, "utf8")).toBe("hello\n");
    expect(statSync(path).mode & 0o7777).toBe(0o640);
    expect(observed).toMatchObject({ type: "file", mode: "0640", size: 6 });
    expect(observed).not.toHaveProperty("content");
    expect(await d.plan(wish)).toEqual([]);
    await d.destroy(wish);
    expect(existsSync(path)).toBe(false);
    expect(readdirSync(world.dir).filter((name) => name.startsWith(".labctl"))).toEqual([]);
  });

  test("shows a text diff of a small change", async () => {
    const path = at("f");
    writeFileSync(path, "one\n");
    expect(await driver(path).plan({ path, content: "two\n" })).toEqual([
      { path: "content", before: "one\n", after: "two\n", text: true },
    ]);
  });

  test("never shows sensitive content, nor its digest as untainted", async () => {
    const path = at("f");
    writeFileSync(path, "old secret\n");
    const d = driver(path);
    const wish = { path, content: "new secret\n", sensitive: true };
    const shown = JSON.stringify([await d.plan(wish), await d.read(wish)]);
    expect(shown).not.toContain("secret");
    expect(file.taints?.(new Set(), wish)).toEqual(expect.arrayContaining(["content", "digest"]));
    await d.apply({ path: at("g"), content: "x", sensitive: true });
    expect(statSync(at("g")).mode & 0o7777).toBe(0o600);
  });

  test("keeps the original on the machine and restores content, mode and owner", async () => {
    const path = at("f");
    writeFileSync(path, "original\n");
    chmodSync(path, 0o604);
    const d = driver(path);
    const wish = { path, content: "ours\n", mode: "0600" };
    await d.apply(wish);
    await d.apply({ ...wish, content: "ours again\n" });
    expect(readFileSync(path, "utf8")).toBe("ours again\n");
    await d.destroy(wish);
    expect(readFileSync(path, "utf8")).toBe("original\n");
    expect(statSync(path).mode & 0o7777).toBe(0o604);
    await d.destroy(wish);
    expect(readFileSync(path, "utf8")).toBe("original\n");
  });

  test("refuses to delete where the original was lost", async () => {
    const path = at("f");
    writeFileSync(path, "original\n");
    const d = driver(path);
    const wish = { path, content: "ours\n" };
    await d.apply(wish);
    const store = process.getuid?.() === 0 ? "/var/lib/labctl/originals" : at(".state/labctl/originals");
    for (const name of readdirSync(store)) if (name.startsWith(keepId(path, d.instanceId))) rmSync(join(store, name));
    await expect(d.destroy(wish)).rejects.toMatchObject({
      code: "E_MISMATCH",
      message: expect.stringContaining("no longer kept"),
    });
    expect(readFileSync(path, "utf8")).toBe("ours\n");
  });

  test("a sensitive file, of which the state knows no digest, is restored from its copy, or left where none was made", async () => {
    const path = at("f");
    for (const [before, after] of [
      ["secret\n", "secret\n"],
      ["old secret\n", "old secret\n"],
    ] as const) {
      writeFileSync(path, before);
      chmodSync(path, 0o640);
      const d = driver(path);
      const wish = { path, content: "secret\n", mode: "0600", sensitive: true };
      await d.apply(wish);
      if (d.prior === undefined) throw new Error("no prior");
      const { digest: _original, ...original } = d.prior.original ?? {};
      const { digest: _observed, ...observed } = d.prior.observed ?? {};
      d.prior = { ...d.prior, original, observed };
      await d.destroy(wish);
      expect(readFileSync(path, "utf8")).toBe(after);
      expect(statSync(path).mode & 0o7777).toBe(0o640);
    }
  });

  test("never replaces a directory, and leaves it alone on delete", async () => {
    const path = at("dir");
    mkdirSync(path);
    writeFileSync(join(path, "precious"), "x");
    const d = driver(path);
    await expect(d.apply({ path, content: "x" })).rejects.toMatchObject({ code: "E_MISMATCH" });
    await d.destroy({ path, content: "x" });
    expect(existsSync(join(path, "precious"))).toBe(true);
  });

  test("never writes through a link to a directory, nor over a pipe", async () => {
    mkdirSync(at("dir"));
    symlinkSync("dir", at("l"));
    await expect(driver(at("l")).apply({ path: at("l"), content: "x" })).rejects.toMatchObject({ code: "E_MISMATCH" });
    expect(readdirSync(at("dir"))).toEqual([]);
    execFileSync("mkfifo", [at("p")]);
    await expect(driver(at("p")).apply({ path: at("p"), content: "x" })).rejects.toMatchObject({ code: "E_MISMATCH" });
    expect(lstatSync(at("p")).isFIFO()).toBe(true);
  });

  test("replaces a link by the file, and restores the link", async () => {
    writeFileSync(at("target"), "target\n");
    symlinkSync("target", at("l"));
    const d = driver(at("l"));
    const wish = { path: at("l"), content: "own\n" };
    expect(await d.plan(wish)).toEqual([{ path: "type", before: "link", after: "file" }]);
    await d.apply(wish);
    expect(readFileSync(at("target"), "utf8")).toBe("target\n");
    expect(readFileSync(at("l"), "utf8")).toBe("own\n");
    await d.destroy(wish);
    expect(readlinkSync(at("l"))).toBe("target");
  });

  test("names the missing folder and how to declare it", async () => {
    const path = at("no/such/f");
    await expect(driver(path).apply({ path, content: "x" })).rejects.toMatchObject({
      code: "E_MISMATCH",
      message: expect.stringContaining(at("no/such")),
      hint: expect.stringContaining("directories"),
    });
  });

  test("manages mode alone, and restores it", async () => {
    const path = at("f");
    writeFileSync(path, "theirs\n");
    chmodSync(path, 0o644);
    const d = driver(path);
    expect(await d.plan({ path, mode: "0600" })).toEqual([{ path: "mode", before: "0644", after: "0600" }]);
    await d.apply({ path, mode: "600" });
    expect(statSync(path).mode & 0o7777).toBe(0o600);
    await d.destroy({ path, mode: "0600" });
    expect(statSync(path).mode & 0o7777).toBe(0o644);
    unlinkSync(path);
    await expect(driver(path).apply({ path, mode: "0600" })).rejects.toMatchObject({ code: "E_MISMATCH" });
  });

  test("validate refuses new content before it is visible", async () => {
    const path = at("f");
    writeFileSync(path, "good\n");
    const wish = {
      path,
      content: "bad 'quotes' $(touch pwned)\n",
      validate: 'grep -q good "$FILE" || { echo "not good"; exit 3; }',
    };
    await expect(driver(path).apply(wish)).rejects.toMatchObject({
      code: "E_COMMAND_FAILED",
      message: expect.stringContaining("not good"),
    });
    expect(readFileSync(path, "utf8")).toBe("good\n");
    await driver(path).apply({ ...wish, content: "very good\n" });
    expect(readFileSync(path, "utf8")).toBe("very good\n");
  });

  test("a local source is sent, binary or large, and checked against the plan", async () => {
    const bytes = Buffer.from(Array.from({ length: 300_000 }, (_, i) => (i * 7919) % 256));
    writeFileSync(at("src.bin"), bytes);
    const path = at("big");
    const d = driver(path);
    await d.apply({ path, source: "src.bin", mode: "0755" });
    expect(readFileSync(path).equals(bytes)).toBe(true);
    expect(statSync(path).mode & 0o7777).toBe(0o755);
    const item = await d.item({ path, source: "src.bin" });
    writeFileSync(at("src.bin"), "other");
    const late = file.reconcile(d.context(), { ...item, observed: undefined });
    await expect(late).rejects.toMatchObject({ code: "E_SOURCE_FILE" });
  });

  test("a batch is one probe and one script, and one failure is one outcome", async () => {
    const machine = countingMachine(world.machineItself);
    const many = { ...world, machine: () => machine };
    const wishes: Properties[] = Array.from({ length: 60 }, (_, i) => ({ path: at(`f${i}`), content: `${i}\n` }));
    wishes.push({ path: at("none/f"), content: "x" });
    const drivers = wishes.map((wish) => new KindDriver(file, many, JSON.stringify(wish["path"])));
    const items = await Promise.all(drivers.map((d, i) => d.item(wishes[i] ?? {})));
    const context = drivers[0]?.context();
    if (context === undefined) throw new Error("no driver");
    const readings = await file.readMany(context, items);
    expect([...readings.values()].every((reading) => reading.is === "absent")).toBe(true);
    expect(machine.counts).toEqual({ exec: 0, probe: 1 });
    const outcomes = await file.reconcileMany?.(
      context,
      items.map((item) => ({ ...item, observed: undefined })),
    );
    expect(machine.counts).toEqual({ exec: 1, probe: 1 });
    const failed = [...(outcomes ?? [])].filter(([, outcome]) => "error" in outcome);
    expect(failed.map(([address]) => address)).toEqual([drivers.at(-1)?.address]);
    expect(readFileSync(at("f59"), "utf8")).toBe("59\n");
  });

  test("files that get the same owner in one call fail each for itself where there is no such owner", async () => {
    const wishes: Properties[] = [
      { path: at("a"), content: "a\n", owner: "labctl-nobody" },
      { path: at("b"), content: "b\n", owner: "labctl-nobody" },
      { path: at("c"), content: "c\n", mode: "0604" },
    ];
    const drivers = wishes.map((wish) => driver(typeof wish["path"] === "string" ? wish["path"] : ""));
    const items = await Promise.all(drivers.map((d, i) => d.item(wishes[i] ?? {})));
    const context = drivers[0]?.context();
    if (context === undefined) throw new Error("no driver");
    const outcomes = await file.reconcileMany?.(
      context,
      items.map((item) => ({ ...item, observed: undefined })),
    );
    const failed = [...(outcomes ?? [])].filter(([, outcome]) => "error" in outcome).map(([address]) => address);
    expect(failed).toEqual(drivers.slice(0, 2).map((d) => d.address));
    expect(statSync(at("c")).mode & 0o7777).toBe(0o604);
    expect(readdirSync(world.dir).filter((name) => name !== "c" && !name.startsWith("."))).toEqual([]);
    expect(readdirSync(world.dir).filter((name) => name.startsWith(".labctl"))).toEqual([]);
  });

  test("what a crash left beside the target is gone after the next run", async () => {
    const path = at("f");
    const d = driver(path);
    writeFileSync(temporaryName(path, d.instanceId), "half a secr");
    await d.apply({ path, content: "whole\n" });
    expect(readdirSync(world.dir).filter((name) => !name.startsWith("."))).toEqual(["f"]);
    expect(readdirSync(world.dir).filter((name) => name.startsWith(".labctl"))).toEqual([]);
  });

  test("a script that was cut off on its way does nothing", async () => {
    const d = driver(at("f"));
    const machine = world.machineItself;
    const cut = {
      ...world,
      machine: () => ({
        ...countingMachine(machine),
        exec: (command: { text: string }, options: object) =>
          machine.exec({ text: command.text.slice(0, command.text.length - 20), toString: () => "" } as never, options),
      }),
    };
    await expect(
      new KindDriver(file, cut as never, at("f")).apply({ path: at("f"), content: "x" }),
    ).rejects.toBeInstanceOf(LabError);
    expect(existsSync(at("f"))).toBe(false);
    expect(d.log).toEqual([]);
  });

  describe("conformance", () => {
    const path = (): string => at("conf.txt");
    const suite = (): ReturnType<typeof conformance> =>
      conformance(file, world, {
        name: "a small file",
        key: path(),
        desired: { path: path(), content: "wanted\n", mode: "0640" },
        changed: { path: path(), content: "changed\n", mode: "0600" },
        setup: () => {
          writeFileSync(path(), "before\n");
          chmodSync(path(), 0o644);
        },
        teardown: () => rmSync(path(), { force: true }),
        snapshot: () => (existsSync(path()) ? [readFileSync(path(), "utf8"), statSync(path()).mode] : null),
        tamper: {
          content: () => writeFileSync(path(), "tampered\n"),
          mode: () => chmodSync(path(), 0o777),
        },
      });
    test.each([0, 1, 2, 3, 4, 5, 6, 7])("check %i", async (i) => {
      const check = suite()[i];
      expect(check).toBeDefined();
      await check?.run();
    });
  });
});
