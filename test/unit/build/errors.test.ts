import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { ErrorScanner, formatCompileError, parseErrorLine, scanLog } from "../../../providers/build/compile-errors.ts";
import { type Circumstances, failureOf } from "../../../providers/build/failures.ts";
import type { Job } from "../../../providers/build/jobs.ts";
import { pathsOf, digestOf } from "../../support/build-lab.ts";

/** Logs of real tools: gcc 12.2, clang and lld 14, binutils 2.40, GNU make 4.3, dtc 1.6, cmake 3.25, ninja 1.11, Linux 6.1. */
const fixture = (name: string): string =>
  readFileSync(new URL(`../../fixtures/build/${name}.txt`, import.meta.url), "utf8");

describe("errors in real logs", () => {
  test.each<[string, readonly string[]]>([
    [
      "gcc",
      [
        "bad.c:3:16: 'undeclared' undeclared (first use in this function)",
        "bad.c:5:23: expected ';' before '}' token",
        "undef.c: undefined reference to `nowhere'",
      ],
    ],
    [
      "clang",
      [
        "bad.c:3:9: use of undeclared identifier 'undeclared'",
        "bad.c:5:23: expected ';' after return statement",
        "undef.c: undefined reference to `nowhere'",
      ],
    ],
    ["lld", ["undefined symbol: nowhere"]],
    ["header", ["miss.c:1:10: none.h: No such file or directory"]],
    ["library", ["cannot find -lnowhere: No such file or directory"]],
    ["make", ["No rule to make target 'nothere'", "m2:2: missing separator"]],
    [
      "dtc",
      [
        "bad.dts:5:2: syntax error",
        "Unable to parse input tree",
        "b2.dts:3:1: Label or path b not found",
        "Syntax error parsing input tree",
      ],
    ],
    [
      "cmake",
      [
        "/srv/src/bad.c:3:16: 'undeclared' undeclared (first use in this function)",
        "/srv/src/bad.c:5:23: expected ';' before '}' token",
      ],
    ],
    [
      "ninja",
      [
        "/srv/src/bad.c:3:16: 'undeclared' undeclared (first use in this function)",
        "/srv/src/bad.c:5:23: expected ';' before '}' token",
      ],
    ],
    ["kconfig", ["Kconfig:36: syntax error", "Kconfig:35: invalid statement"]],
    ["modpost", ["/srv/mod/m.ko: labctl_nowhere is undefined"]],
    ["full", ["final link failed: No space left on device"]],
    ["flex", ["flex: not found"]],
    ["bc", ["bc: not found"]],
  ])("%s", (name, wanted) => {
    expect(scanLog(fixture(name)).errors.map((error) => formatCompileError(error))).toEqual(wanted);
  });

  test("missing tools are named with Debian's package, a full disk as such", () => {
    expect(scanLog(fixture("flex")).missing).toEqual([{ name: "flex", package: "flex" }]);
    expect(scanLog(fixture("bc")).missing).toEqual([{ name: "bc", package: "bc" }]);
    expect(scanLog(fixture("gcc")).missing).toEqual([]);
    expect(
      scanLog("scripts/sign-file.c:25:10: fatal error: openssl/opensslv.h: No such file or directory\n").missing,
    ).toEqual([{ name: "openssl/opensslv.h", package: "libssl-dev" }]);
    expect(scanLog("make: aarch64-linux-gnu-gcc: No such file or directory\n").missing).toEqual([
      { name: "aarch64-linux-gnu-gcc", package: "gcc-aarch64-linux-gnu" },
    ]);
    expect(scanLog(fixture("full")).full).toBe(true);
    expect(scanLog(fixture("gcc")).full).toBe(false);
  });

  test("progress is what cmake and ninja say, and steps of kbuild", () => {
    expect(scanLog(fixture("cmake"))).toMatchObject({ percent: 66, steps: 2 });
    expect(scanLog(fixture("ninja")).percent).toBeCloseTo(66.7, 1);
    expect(scanLog(fixture("flex"))).toMatchObject({ percent: undefined, steps: 7 });
  });

  test("warnings and notes are no errors; colours and carriage returns do not hide one", () => {
    for (const line of [
      "x.c:1:2: warning: unused variable 'error'",
      "x.c:1:2: note: declared here",
      "  CC      error.o",
      "0 errors generated",
      "make[1]: *** [Makefile:3: x.o] Error 1",
    ]) {
      expect(scanLog(`${line}\n`).errors).toEqual([]);
    }
    expect(scanLog("\u001b[1mx.c:1:2:\u001b[0m \u001b[31merror: \u001b[0mbad\r\n").errors).toEqual([
      { tool: "compiler", message: "bad", file: "x.c", line: 1, column: 2 },
    ]);
    expect(parseErrorLine("gcc: fatal error: Killed signal terminated program cc1")).toMatchObject({
      message: "Killed signal terminated program cc1",
    });
    expect(
      parseErrorLine("gcc: internal compiler error: Segmentation fault signal terminated program cc1"),
    ).toMatchObject({ tool: "compiler" });
  });

  test("a log without end costs no memory: ten errors are kept, each once", () => {
    const scanner = new ErrorScanner();
    for (let i = 0; i < 1000; i++) scanner.push(`a.c:${i % 40}:1: error: e${i % 40}\n`);
    scanner.push("x".repeat(1 << 20));
    scanner.end();
    expect(scanner.errors).toHaveLength(10);
  });
});

describe("why a build has failed", () => {
  const paths = pathsOf("x", digestOf("x"));
  const job = (
    result: Partial<NonNullable<Job["result"]>> | undefined,
    problems: readonly (readonly string[])[] = [],
  ): Job => ({
    digest: digestOf("x"),
    state: result === undefined ? "lost" : "finished",
    lease_age: 0,
    phase: "build",
    holder: "",
    problems,
    ...(result && { result: { end: "exit", code: 2, started: 0, finished: 1, seconds: 1, ...result } }),
  });
  const known = (log: string, more: Partial<Circumstances> = {}): Circumstances => {
    const { errors, missing, full } = scanLog(log);
    return {
      address: "host.a",
      arch: "x86_64",
      paths,
      timeout: 5000,
      errors,
      missing,
      tail: log,
      full,
      cleaned: undefined,
      ...more,
    };
  };

  test.each<[string, Job, Circumstances, string, RegExp]>([
    [
      "a compile error",
      job({}),
      known(`${paths.tree}/drivers/x.c:7:1: error: bad\n`),
      "E_BUILD_FAILED",
      /^the build failed in the step build \(exit code 2\):\ndrivers\/x\.c:7:1: bad$/,
    ],
    [
      "a missing header",
      job({}),
      known("a.c:1:10: fatal error: gelf.h: No such file or directory\n"),
      "E_BUILD_TOOL",
      /gelf\.h/,
    ],
    [
      "an error beside a missing tool that is only remarked",
      job({}),
      known("sh: 1: pahole: not found\nx.c:7:1: error: bad\n"),
      "E_BUILD_FAILED",
      /x\.c:7:1: bad/,
    ],
    ["no known words", job({}), known("it broke\nsomehow\n"), "E_BUILD_FAILED", /it broke\nsomehow/],
    ["a timeout", job({ end: "timeout" }), known(""), "E_BUILD_TIMEOUT", /longer than 5 s.*in the phase build/],
    ["a lease that is over", job({ end: "lease" }), known(""), "E_BUILD_LOST", /sign of life/],
    ["no result", job(undefined), known(""), "E_BUILD_LOST", /restarted/],
    ["a full disk", job({}), known("ld: final link failed: No space left on device\n"), "E_BUILD_DISK", /full/],
    [
      "a wrong defconfig",
      job({}, [
        ["defconfig", "x86_46_defconfig"],
        ["near", "i386_defconfig"],
        ["near", "x86_64_defconfig"],
      ]),
      known(""),
      "E_KCONFIG_DEFCONFIG",
      /no x86_46_defconfig for x86_64; near: x86_64_defconfig/,
    ],
    [
      "an output that is a directory",
      job({}, [["output", "o", "out", "directory"]]),
      known(""),
      "E_BUILD_OUTPUT",
      /is a directory/,
    ],
  ])("%s", (_name, given, circumstances, code, message) => {
    const error = failureOf(given, circumstances);
    expect(error).toMatchObject({ code, address: "host.a" });
    expect(error.message).toMatch(message);
    expect(error.hint).toBeTruthy();
  });
});
