import { existsSync, lstatSync, mkdirSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { command } from "../../providers/host/command.ts";
import { directory } from "../../providers/host/directory.ts";
import { file } from "../../providers/host/file.ts";
import { hostProvider } from "../../providers/host/index.ts";
import { usersScript, userScript } from "../../providers/host/user-script.ts";
import { type Plain, shJoin, type Sibling, userScript as trusted } from "../../src/index.ts";
import { KindDriver } from "../../src/testing/index.ts";
import { SHELLS, type ShellWorld, shellWorld } from "../unit/host/shells.ts";

const RUNS = 100;
const nasty = fc
  .array(
    fc.oneof(
      fc.constantFrom(
        "'",
        '"',
        " ",
        "\n",
        "$(touch pwned)",
        "`touch pwned`",
        "-rf",
        "\\",
        "*",
        ";touch pwned;",
        "&",
        "|",
        "é",
        "~",
        "%s",
        "${x}",
        "\r",
      ),
      fc.string({ unit: "grapheme", maxLength: 4 }),
    ),
    { minLength: 1, maxLength: 8 },
  )
  .map((parts) => parts.join("").replaceAll(/[/\0]/g, "_"))
  .filter((name) => name !== "" && name !== "." && name !== ".." && Buffer.byteLength(name) < 200);

describe.each(SHELLS)("hostile names through %s", (shell) => {
  let world: ShellWorld;
  let play: string;
  beforeEach(() => {
    world = shellWorld(shell);
    play = join(world.dir, "play");
    mkdirSync(play);
  });
  afterEach(() => world.close());

  test("property: Hostile names: paths and contents are exact and never run", async () => {
    await fc.assert(
      fc.asyncProperty(nasty, nasty, nasty, async (folder, name, content) => {
        const dir = join(play, folder);
        const path = join(dir, name);
        const inner = new KindDriver(directory, world, dir);
        await inner.apply({ path: dir });
        const driver = new KindDriver(file, world, path);
        await driver.apply({ path, content });
        expect(readdirSync(dir)).toEqual([name]);
        expect(readFileSync(path, "utf8")).toBe(content);
        expect(await driver.plan({ path, content })).toEqual([]);
        await driver.destroy({ path, content });
        await inner.destroy({ path: dir });
        expect(readdirSync(play)).toEqual([]);
      }),
      { numRuns: RUNS },
    );
    expect(existsSync(join(world.dir, "pwned")) || existsSync("pwned")).toBe(false);
  }, 180_000);

  test("property: Hostile names: variables reach a command exactly", async () => {
    const out = join(play, "out");
    await fc.assert(
      fc.asyncProperty(nasty, async (value) => {
        rmSync(out, { force: true });
        const driver = new KindDriver(command, world, "c");
        await driver.apply({
          name: "c",
          run: 'printf %s "$VALUE" >"$OUT"',
          creates: out,
          env: { VALUE: value, OUT: out },
        });
        expect(readFileSync(out, "utf8")).toBe(value);
        const holds = {
          name: "c",
          run: "false",
          unless: 'test "$VALUE" = "$(cat "$OUT"; echo x)"',
          env: { VALUE: `${value}x`, OUT: out },
        };
        expect((await driver.read(holds)).is).toBe("present");
      }),
      { numRuns: RUNS },
    );
    expect(lstatSync(play).isDirectory()).toBe(true);
    expect(readdirSync(play).filter((name) => name !== "out")).toEqual([]);
  }, 180_000);

  test("property: Hostile names: user names are only ever words", async () => {
    await fc.assert(
      fc.asyncProperty(nasty, nasty, async (name, comment) => {
        await world.machineItself.exec(usersScript([name]));
        // With tools that only print their arguments, one a line and in brackets, every word must come out whole.
        const work = { name, create: true, comment, addGroups: [], removeGroups: [] };
        const tools = `useradd() { for w; do printf '[%s]' "$w"; done >&3; }\nexec 3>&1\n`;
        const shown = await world.machineItself.exec(shJoin([trusted(tools), userScript(work)]));
        expect(shown.stdout.toString("utf8")).toBe(`[-c][${comment}][-m][-p][*][--][${name}]`);
      }),
      { numRuns: RUNS },
    );
    expect(existsSync("pwned")).toBe(false);
  }, 180_000);
});

test("property: the natural order of siblings has no circle, whatever stands on a host", () => {
  const kinds = new Map(hostProvider.kinds.map((kind) => [kind.kind, kind]));
  const segment = fc.constantFrom("etc", "apt", "sources.list.d", "modprobe.d", "srv", "a", "lib", "firmware");
  const path = fc.array(segment, { minLength: 1, maxLength: 4 }).map((parts) => `/${parts.join("/")}`);
  const name = fc.constantFrom("a", "b", "root");
  const sibling = fc.oneof(
    fc.record({ kind: fc.constantFrom("file", "directory"), desired: fc.record({ path, owner: name }) }),
    fc.record({ kind: fc.constant("mount"), desired: fc.record({ path }) }),
    fc.record({
      kind: fc.constantFrom("package", "user", "service", "module", "command"),
      desired: fc.record({ name }),
    }),
    fc.record({ kind: fc.constant("sysctl"), desired: fc.record({ key: name }) }),
  );
  // Keys of a section are unique, and so are identities.
  const identity = (one: { kind: string; desired: object }): string => {
    const { path: at, name: called, key } = one.desired as Record<string, string | undefined>;
    return `${one.kind} ${at ?? called ?? key ?? ""}`;
  };
  fc.assert(
    fc.property(fc.uniqueArray(sibling, { maxLength: 25, selector: identity }), (members) => {
      const siblings: Sibling[] = members.map((one, i) => ({
        address: `${one.kind}.${i}`,
        kind: one.kind,
        desired: { ...one.desired } as Record<string, Plain>,
      }));
      const edges = new Map(
        siblings.map((one) => [
          one.address,
          kinds.get(one.kind)?.after?.({ ...one.desired }, siblings, one.address) ?? [],
        ]),
      );
      const done = new Set<string>();
      const visit = (address: string, way: ReadonlySet<string>): void => {
        if (done.has(address)) return;
        if (way.has(address)) throw new Error(`circle: ${[...way, address].join(" after ")}`);
        for (const before of edges.get(address) ?? []) visit(before, new Set([...way, address]));
        done.add(address);
      };
      for (const one of siblings) visit(one.address, new Set());
    }),
    { numRuns: 2000 },
  );
});
