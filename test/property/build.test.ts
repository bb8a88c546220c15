import { spawnSync } from "node:child_process";
import {
  chmodSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { VERIFY } from "../../providers/build/build-script.ts";
import { ErrorScanner } from "../../providers/build/compile-errors.ts";
import { type BuildInputs, buildDigest, canonicalJson, objectsDigest } from "../../providers/build/digest.ts";
import { evaluate, type Expr, formatExpr, parseExpr } from "../../providers/build/kconfig-expr.ts";
import { mergeConfig, parseConfig, verifyConfig } from "../../providers/build/kernel-config.ts";
import { prepareDirectory, scanDirectory } from "../../providers/build/source-directory.ts";
import { APPLY_FUNCTIONS, applySource } from "../../providers/build/source-script.ts";
import { splitUrl, withoutCredentials } from "../../providers/build/source-url.ts";
import { sh, shJoin } from "../../src/index.ts";
import { createMachinePool } from "../../src/transport/index.ts";
import { digestOf, pathsOf } from "../support/build-lab.ts";

const word = fc.string({ minLength: 1, maxLength: 8 });
const hex = fc.string({ unit: fc.constantFrom(..."0123456789abcdef".split("")), minLength: 64, maxLength: 64 });
const source = fc.oneof(
  fc.record({ type: fc.constant("git" as const), commit: hex }),
  fc.record({ type: fc.constant("directory" as const), digest: hex }),
  fc.record({ type: fc.constant("tarball" as const), sha256: hex }),
);
const map = fc.dictionary(word, word, { maxKeys: 5 });
const inputs: fc.Arbitrary<BuildInputs> = fc.record({
  source,
  arch: fc.constantFrom("x86_64", "arm64"),
  toolchain: fc.record({ name: word, version: word, target: word }),
  env: map,
  work: fc.oneof(
    fc.record({
      type: fc.constant("kernel" as const),
      base: fc.oneof(fc.record({ defconfig: word }), fc.record({ config: word })),
      symbols: map,
      modules: fc.boolean(),
      dtbs: fc.oneof(fc.boolean(), fc.array(word, { maxLength: 3 })),
      make_args: fc.array(word, { maxLength: 3 }),
    }),
    fc.record({
      type: fc.constant("run" as const),
      run: word,
      outputs: fc.dictionary(word, fc.record({ path: word }), { maxKeys: 3 }),
    }),
  ),
});

describe("the identity of a build", () => {
  /** The same data, every map's keys in another order. */
  const shuffled = (value: unknown, random: () => number): unknown => {
    if (Array.isArray(value)) return value.map((item) => shuffled(item, random));
    if (value === null || typeof value !== "object") return value;
    const entries = Object.entries(value).map(([key, item]) => [random(), key, shuffled(item, random)] as const);
    return Object.fromEntries(entries.sort((a, b) => a[0] - b[0]).map(([, key, item]) => [key, item]));
  };

  test("Build Digest Ignores the Order of Maps", () => {
    fc.assert(
      fc.property(inputs, fc.infiniteStream(fc.double({ min: 0, max: 1, noNaN: true })), (given, stream) => {
        const other = shuffled(given, () => stream.next().value ?? 0) as BuildInputs;
        expect(buildDigest(other)).toBe(buildDigest(given));
        expect(objectsDigest(other)).toBe(objectsDigest(given));
      }),
      { numRuns: 300 },
    );
  });

  /** Every way to change one leaf, add or drop one entry of a map or a list. */
  const mutations = (value: unknown): unknown[] => {
    if (typeof value === "string") return [`${value}x`, value.slice(1) === value ? `y${value}` : `${value} `];
    if (typeof value === "boolean") return [!value];
    if (Array.isArray(value)) {
      return [
        [...value, "more"],
        ...value.flatMap((item, i) => mutations(item).map((changed) => value.with(i, changed))),
        ...(value.length > 1 && value[0] !== value[1] ? [[value[1], value[0], ...value.slice(2)]] : []),
      ];
    }
    const entries = Object.entries(value as object);
    return entries.flatMap(([key, item]) =>
      mutations(item).map((changed) => ({ ...(value as object), [key]: changed })),
    );
  };

  test("Build Digest Changes with Every Input", () => {
    fc.assert(
      fc.property(inputs, (given) => {
        const own = buildDigest(given);
        const all = mutations(given).map((changed) => buildDigest(changed as BuildInputs));
        all.push(buildDigest({ ...given, env: { ...given.env, ["new one"]: "" } }));
        expect(all).not.toContain(own);
        // What objects are kept for is all but the source.
        expect(objectsDigest({ ...given, source: { type: "git", commit: "0".repeat(40) } })).toBe(objectsDigest(given));
        expect(objectsDigest({ ...given, arch: `${given.arch}x` })).not.toBe(objectsDigest(given));
      }),
      { numRuns: 200 },
    );
  });

  test("canonical text is JSON of the same data", () => {
    fc.assert(
      fc.property(fc.jsonValue({ noUnicodeString: false }), (value) => {
        expect(JSON.parse(canonicalJson(value as never))).toEqual(JSON.parse(JSON.stringify(value)));
      }),
      { numRuns: 200 },
    );
  });
});

describe("configurations", () => {
  const symbol = fc.constantFrom("A", "B", "CC", "D_1", "LONG_NAME", "X9");
  const value = fc.constantFrom("y", "m", "n", "1", "0x1F", "0x1f", '"text"', '""', '"y"', "300");
  const requests = fc.array(fc.record({ symbol, value, optional: fc.boolean() }), { maxLength: 6 });

  test("later sources win, whatever came before; optional ones never over required ones", () => {
    fc.assert(
      fc.property(fc.array(requests, { maxLength: 4 }), (sources) => {
        const merged = mergeConfig(sources.map((given, i) => ({ origin: `s${i}`, requests: given })));
        const model = new Map<string, { value: string; optional: boolean }>();
        for (const one of sources.flat()) {
          const before = model.get(one.symbol);
          if (one.optional && before !== undefined && !before.optional) continue;
          model.set(one.symbol, { value: one.value, optional: one.optional });
        }
        expect(
          new Map(
            [...merged.requests].map(([name, { value: wanted, optional }]) => [name, { value: wanted, optional }]),
          ),
        ).toEqual(model);
      }),
      { numRuns: 300 },
    );
  });

  test("the server finds dropped the same symbols that labctl names", () => {
    const folder = mkdtempSync(join(tmpdir(), "labctl-verify-"));
    try {
      fc.assert(
        fc.property(
          requests,
          fc.dictionary(
            symbol,
            value.filter((one) => one !== "n"),
          ),
          (wanted, config) => {
            const merged = mergeConfig([{ origin: "config", requests: wanted }]);
            const text = `# CONFIG_NOT is not set\n${Object.entries(config)
              .map(([name, is]) => `CONFIG_${name}=${is}\n`)
              .join("")}`;
            writeFileSync(join(folder, ".config"), text);
            writeFileSync(join(folder, "requested"), merged.table);
            rmSync(join(folder, "problem"), { force: true });
            const run = spawnSync(
              "sh",
              ["-c", shJoin([sh`job=${folder} obj=${folder}`, VERIFY, sh`labctl_verify`]).text],
              { encoding: "utf8" },
            );
            const found = readdirSync(folder).includes("problem") ? readFileSync(join(folder, "problem"), "utf8") : "";
            const dropped = verifyConfig(merged, parseConfig(text));
            expect(found).toBe(dropped.map((one) => `dropped\t${one.symbol}\t${one.actual}\n`).join(""));
            expect(run.status).toBe(dropped.length === 0 ? 0 : 1);
          },
        ),
        {
          numRuns: 100,
          // What chance meets in some draws only: a module that became a part of the kernel.
          examples: [[[{ symbol: "A", value: "m", optional: false }], { A: "y" }]],
        },
      );
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });

  test("an expression that is written and read again means the same", () => {
    const leaf: fc.Arbitrary<Expr> = fc.oneof(
      symbol.map((name) => ({ op: "symbol" as const, name })),
      fc.constantFrom("y", "m", "n").map((text) => ({ op: "text" as const, text })),
    );
    const { expr } = fc.letrec<{ expr: Expr }>((tie) => ({
      expr: fc.oneof(
        { maxDepth: 5 },
        leaf,
        fc.record({ op: fc.constant("not" as const), of: tie("expr") }),
        fc.record({
          op: fc.constantFrom("and" as const, "or" as const),
          of: fc.array(tie("expr"), { minLength: 2, maxLength: 3 }),
        }),
      ),
    }));
    fc.assert(
      fc.property(expr, fc.dictionary(symbol, fc.constantFrom("y", "m")), (given, config) => {
        const again = parseExpr(formatExpr(given));
        expect(again).toBeDefined();
        const values = new Map(Object.entries(config));
        expect(again && evaluate(again, values)).toBe(evaluate(given, values));
      }),
      { numRuns: 500 },
    );
  });
});

test("a log is read alike however it arrives in pieces", () => {
  const line = fc.constantFrom(
    "a.c:1:2: error: x",
    "  CC      a.o",
    "[ 42%] Building",
    "ok",
    "/bin/sh: 1: flex: not found",
    "ld: final link failed: No space left on device",
    "make: *** [x] Error 1",
    "é: error: ü",
  );
  fc.assert(
    fc.property(fc.array(line, { maxLength: 20 }), fc.array(fc.nat({ max: 40 }), { maxLength: 20 }), (lines, cuts) => {
      const text = lines.join("\n");
      const whole = new ErrorScanner();
      whole.push(text);
      whole.end();
      const pieces = new ErrorScanner();
      let rest = Buffer.from(text);
      for (const cut of cuts) {
        pieces.push(rest.subarray(0, cut));
        rest = rest.subarray(cut);
      }
      pieces.push(rest);
      pieces.end();
      expect(Object.entries(pieces)).toEqual(Object.entries(whole));
    }),
    { numRuns: 300 },
  );
});

test("no URL keeps its password, and no text that a tool prints of it", () => {
  const part = fc
    .string({ unit: fc.constantFrom(..."abcXYZ019-_.~%40%2F%3A".split("")), minLength: 4, maxLength: 12 })
    .filter((text) => !/%(?![0-9A-F]{2})/.test(text));
  fc.assert(
    fc.property(part, part, fc.constantFrom("https", "http", "ftp"), (user, password, scheme) => {
      const full = `${scheme}://${user}:secret${password}@git.example/x.git`;
      const split = splitUrl(full);
      expect(split.url).toBe(`${scheme}://git.example/x.git`);
      expect(JSON.stringify(split)).not.toContain("secret");
      const said = withoutCredentials(
        `fatal: unable to access '${full}': secret? ${split.password?.reveal() ?? ""}`,
        split,
      );
      expect(said).not.toContain(`secret${password}`);
      expect(said).not.toContain(split.password?.reveal() ?? "none");
    }),
    { numRuns: 300 },
  );
});

describe("a tree on a server", () => {
  type Tree = Readonly<Record<string, string>>;
  const folders: string[] = [];
  afterAll(() => {
    for (const folder of folders) rmSync(folder, { recursive: true, force: true });
  });
  /** `x:` executable, `l:` a link. Names that shells and awk like to take apart. */
  const name = fc.constantFrom("a", "b c", "-n", "'q'", "d$x", "*", "e\\t");
  const path = fc.array(name, { minLength: 1, maxLength: 3 }).map((parts) => parts.join("/"));
  const content = fc.constantFrom("1", "2", "x:1", "x:2", "l:a", "l:nowhere", "");
  /** A name is a file or a directory: what stands in another's way goes. */
  const consistent = (files: Tree): Tree =>
    Object.fromEntries(
      Object.entries(files).filter(([one]) => !Object.keys(files).some((other) => other.startsWith(`${one}/`))),
    );
  const files = fc.dictionary(path, content, { maxKeys: 7 });
  /** What a source was, and what it becomes: most often much of it stays. */
  const trees = fc.tuple(files, files, fc.boolean()).map(([one, two, anew]): readonly [Tree, Tree] => {
    const first = consistent(one);
    return [first, consistent(anew ? two : { ...first, ...Object.fromEntries(Object.entries(two).slice(0, 2)) })];
  });

  const write = (root: string, files: Tree): void => {
    rmSync(root, { recursive: true, force: true });
    mkdirSync(root, { recursive: true });
    for (const [file, text] of Object.entries(files)) {
      const full = join(root, file);
      mkdirSync(dirname(full), { recursive: true });
      if (text.startsWith("l:")) symlinkSync(text.slice(2), full);
      else {
        writeFileSync(full, text);
        chmodSync(full, text.startsWith("x:") ? 0o700 : 0o640);
      }
    }
  };
  const read = (root: string, below = ""): Record<string, string> => {
    const out: Record<string, string> = {};
    for (const one of readdirSync(join(root, below), { withFileTypes: true })) {
      const at = below === "" ? one.name : `${below}/${one.name}`;
      const full = join(root, at);
      if (one.isDirectory()) Object.assign(out, read(root, at));
      else if (one.isSymbolicLink()) out[at] = `l:${readlinkSync(full)}`;
      else out[at] = readFileSync(full, "utf8");
    }
    return out;
  };

  test("becomes what its source says from whatever it was; what did not change keeps its time, objects stay", {
    timeout: 400_000,
  }, async () => {
    const base = mkdtempSync(join(tmpdir(), "labctl-trees-"));
    folders.push(base);
    const pool = createMachinePool({ env: process.env });
    const machine = pool.machine({ type: "local", address: "host.a", become: { method: "none" } });
    let serial = 0;
    const bring = async (root: string, workdir: string, files: Tree): Promise<number> => {
      write(root, files);
      const scan = await scanDirectory(root, { ignore: "nothing" });
      const paths = pathsOf("tree", digestOf("tree"), workdir);
      const { prepared, sent } = await prepareDirectory(machine, paths, scan);
      const script = shJoin([
        sh`tree=${paths.tree} stage=${paths.stage} workdir=${workdir}
labctl_die() { echo "$*" >&2; exit 1; }`,
        APPLY_FUNCTIONS,
        applySource(prepared, { pristine: false }),
        sh`rm -rf -- "$stage"`,
      ]);
      const result = spawnSync("sh", ["-c", script.text], { encoding: "utf8" });
      expect(result.stderr).toBe("");
      expect(result.status).toBe(0);
      return sent.length;
    };
    await fc.assert(
      fc.asyncProperty(trees, fc.boolean(), async ([first, second], vandal) => {
        const workdir = join(base, `w${serial++}`);
        const root = join(workdir, "source");
        mkdirSync(join(workdir, "trees"), { recursive: true });
        await bring(root, workdir, first);
        const at = pathsOf("tree", digestOf("tree"), workdir).tree;
        expect(read(at)).toEqual(read(root));
        for (const [file, text] of Object.entries(read(at))) {
          if (!text.startsWith("l:"))
            expect((lstatSync(join(at, file)).mode & 0o111) !== 0).toBe(text.startsWith("x:"));
        }
        // An object of the build, and somebody who meddles with the source.
        writeFileSync(join(at, "made.o"), "object");
        const [victim] = Object.keys(first).filter((file) => !first[file]?.startsWith("l:"));
        if (vandal && victim !== undefined) writeFileSync(join(at, victim), "vandal was here");
        const times = new Map(
          Object.keys(first).map((file) => [file, lstatSync(join(at, file), { bigint: true }).mtimeNs]),
        );
        const sent = await bring(root, workdir, second);
        const { "made.o": made, ...rest } = read(at);
        expect(made).toBe("object");
        expect(rest).toEqual(read(root));
        const same = Object.keys(second).filter((file) => first[file] === second[file] && !(vandal && file === victim));
        for (const file of same) expect(lstatSync(join(at, file), { bigint: true }).mtimeNs).toBe(times.get(file));
        expect(sent).toBe(Object.keys(second).length - same.length);
        rmSync(workdir, { recursive: true, force: true });
      }),
      { numRuns: 100 },
    );
    await pool.close();
  });
});
