import { describe, expect, test } from "vitest";
import {
  compareVersions,
  instrumentMap,
  type KernelTarget,
  planInstruments,
  requireInstruments,
} from "../../../providers/build/instrumentation.ts";
import { INSTRUMENTS } from "../../../providers/build/instrumentation-table.ts";

const gcc = (version: string): NonNullable<KernelTarget["compiler"]> => ({ family: "gcc", version });
const clang = (version: string): NonNullable<KernelTarget["compiler"]> => ({ family: "clang", version });
const target = (more: Partial<KernelTarget> = {}): KernelTarget => ({
  arch: "x86_64",
  version: "6.1",
  compiler: { family: "gcc", version: "12.2.0" },
  ...more,
});
const problems = (
  names: readonly string[],
  at: KernelTarget,
  explicit?: ReadonlyMap<string, { value: string; origin: string }>,
): readonly string[] => planInstruments(instrumentMap(names), at, explicit).problems;

describe("what goes together is known before anything is built", () => {
  test.each<[string, readonly string[], KernelTarget, readonly RegExp[]]>([
    ["KASAN and KCSAN", ["kasan", "kcsan"], target(), [/^kasan and kcsan exclude each other/]],
    [
      "all three",
      ["kasan", "kcsan", "kmsan"],
      target({ compiler: clang("14.0.6") }),
      [/kasan and kcsan/, /kasan and kmsan/, /kcsan and kmsan/],
    ],
    [
      "KMSAN with gcc on arm64, too early",
      ["kmsan"],
      target({ arch: "arm64", version: "5.15" }),
      [/does not exist for arm64, only for x86_64/, /needs clang 14/],
    ],
    [
      "KMSAN too early",
      ["kmsan"],
      target({ version: "6.0.9", compiler: clang("15") }),
      [/exists for x86_64 from 6\.1 on, and this kernel is 6\.0\.9/],
    ],
    [
      "KCSAN with an old compiler",
      ["kcsan"],
      target({ compiler: gcc("10.2.1") }),
      [/needs gcc 11 or later, and the toolchain is gcc 10\.2\.1/],
    ],
    ["KCSAN on arm64, too early", ["kcsan"], target({ arch: "arm64", version: "5.16" }), [/from 5\.17 on/]],
    ["BTF and KASAN", ["btf", "kasan", "lockdep", "gcov"], target(), []],
    [
      "release candidates count as the release",
      ["kmsan"],
      target({ version: "6.1-rc3", compiler: clang("14.0.6") }),
      [],
    ],
    ["an unknown version is left to the kernel", ["kcsan"], { arch: "arm64" }, []],
  ])("%s", (_name, names, at, wanted) => {
    const found = problems(names, at);
    expect(found).toHaveLength(wanted.length);
    for (const [i, pattern] of wanted.entries()) expect(found[i]).toMatch(pattern);
  });

  test("modes of KASAN have their own limits", () => {
    const plan = (options: object, at: KernelTarget) => planInstruments({ kasan: options }, at);
    expect(plan({ mode: "hw_tags" }, target()).problems).toEqual([
      "kasan (hw_tags) does not exist for x86_64, only for arm64",
    ]);
    expect(plan({ mode: "sw_tags" }, target({ arch: "arm64", compiler: gcc("10.2") })).problems).toEqual([
      "kasan (sw_tags) needs gcc 11 or later, and the toolchain is gcc 10.2",
    ]);
    const inline = plan({ style: "inline" }, target()).sources[0]?.requests.map(({ symbol }) => symbol);
    expect(inline).toContain("KASAN_INLINE");
    expect(inline).not.toContain("KASAN_OUTLINE");
    expect(() => plan({ mode: "magic" }, target())).toThrow(
      expect.objectContaining({ code: "E_SPEC_VALUE", hint: "one of generic, sw_tags, hw_tags" }),
    );
  });

  test("an explicit symbol that switches it off is a conflict with a name", () => {
    const explicit = new Map([["KASAN", { value: "n", origin: "config" }]]);
    expect(problems(["kasan"], target(), explicit)).toEqual(["kasan needs KASAN=y, and config sets it to n"]);
    expect(() => requireInstruments(planInstruments({ kasan: {} }, target(), explicit))).toThrow(
      expect.objectContaining({ code: "E_INSTRUMENTATION_CONFLICT" }),
    );
    expect(problems(["kasan"], target(), new Map([["SLUB", { value: "y", origin: "config" }]]))).toEqual([]);
  });

  test("an unknown name suggests the nearest", () => {
    expect(() => problems(["kassan"], target())).toThrow(
      expect.objectContaining({ code: "E_SPEC_VALUE", hint: "did you mean kasan?" }),
    );
  });
});

describe("the table", () => {
  test("symbols follow the version of the kernel", () => {
    const symbols = (version: string | undefined) =>
      planInstruments(
        { debug_info: {}, kasan: {} },
        { arch: "x86_64", ...(version !== undefined && { version }) },
      ).sources.flatMap(({ requests }) => requests);
    const has = (version: string | undefined, symbol: string) => symbols(version).find((one) => one.symbol === symbol);
    expect(has("5.10", "DEBUG_INFO")).toMatchObject({ optional: false });
    expect(has("6.1", "DEBUG_INFO")).toBeUndefined();
    expect(has("6.1", "DEBUG_INFO_DWARF_TOOLCHAIN_DEFAULT")).toMatchObject({ optional: false });
    expect(has("6.1", "SLOB")).toMatchObject({ value: "n" });
    expect(has("6.6", "SLOB")).toBeUndefined();
    // Where the version is not known, neither is missed.
    expect(has(undefined, "DEBUG_INFO")).toMatchObject({ optional: true });
    expect(has(undefined, "DEBUG_INFO_DWARF_TOOLCHAIN_DEFAULT")).toMatchObject({ optional: true });
  });

  test("exclusions go both ways, and each entry asks for something that it must have", () => {
    for (const [name, entry] of Object.entries(INSTRUMENTS)) {
      for (const other of "excludes" in entry ? entry.excludes : []) {
        const back: { readonly excludes?: readonly string[] } = INSTRUMENTS[other];
        expect(back.excludes, `${other} excludes ${name}`).toContain(name);
      }
      const required = planInstruments({ [name]: {} }, { arch: "x86_64", version: "6.6" }).sources[0]?.requests.filter(
        ({ optional }) => optional !== true,
      );
      expect(required?.length, name).toBeGreaterThan(0);
    }
  });

  test("versions are compared by number", () => {
    expect(["6.10", "6.9", "6.1.112", "v5.4-rc1", "6.1"].sort(compareVersions)).toEqual([
      "v5.4-rc1",
      "6.1",
      "6.1.112",
      "6.9",
      "6.10",
    ]);
  });
});
