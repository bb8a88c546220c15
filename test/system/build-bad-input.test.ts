/** What `labctl plan` says of builds that cannot be: each by its own code, before anything is touched. */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { cpSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Problem } from "../../src/model/index.ts";
import { createWorkspace, type Workspace } from "../support/workspace.ts";

let ws: Workspace;

const sha256 = (name: string): string =>
  createHash("sha256")
    .update(readFileSync(ws.path(name)))
    .digest("hex");
const shell = (command: string): string => execFileSync("sh", ["-ec", command], { cwd: ws.cwd, encoding: "utf8" });
const run = { run: "true", outputs: { out: "out" } };
const DEBIAN = { defconfig: "debian_defconfig" };

beforeAll(() => {
  ws = createWorkspace();
  ws.write("lab.yaml", { labctl: 1, name: "bad", hosts: { here: { connection: "local", build_server: {} } } });
  for (const file of [
    "Kconfig",
    "Makefile",
    "arch/x86/configs/x86_64_defconfig",
    "arch/arm64/configs/debian_defconfig",
  ]) {
    ws.write(`linux/${file}`, "");
  }
  ws.write("linux/arch/x86/Makefile", "PHONY += i386_defconfig\ni386_defconfig:\n");
  ws.write("hello/out", "");
  shell(`tar -cJf whole.tar.xz hello && tar -cf whole.tar hello
    cd hello && git init -q -b main && git add . && git -c user.name=t -c user.email=t@example.org commit -qm one`);
  for (const name of ["whole.tar.xz", "whole.tar"]) cpSync(ws.path(name), ws.path(`cut-${name}`));
  truncateSync(ws.path("cut-whole.tar.xz"), 100);
  truncateSync(ws.path("cut-whole.tar"), 700);
  writeFileSync(ws.path("page.tar.gz"), "<!doctype html><title>404</title>".padEnd(600));
});
afterAll(() => ws.remove());

const tarball =
  (name: string, announced = name) =>
  (): object => ({
    ...run,
    source: { tarball: `./${name}`, sha256: sha256(announced) },
  });
const git = (name: string, ref: string) => (): object => ({ ...run, source: { git: ws.path(name), ref } });
const kernel = (path: string, options: object) => (): object => ({ source: { path }, arch: "x86_64", kernel: options });

const REFUSED: readonly [what: string, build: () => object, code: string, said: RegExp][] = [
  ["a branch that is not there", git("hello", "mian"), "E_SOURCE_UNRESOLVED", /"mian" is no branch or tag.*near: main/],
  ["a repository that is not there", git("none.git", "main"), "E_SOURCE_FETCH", /cannot be read/],
  ["a repository beside the spec", () => ({ ...run, source: { git: "./hello" } }), "E_SPEC_VALUE", /another place/],
  [
    "a directory that is not there",
    () => ({ ...run, source: { path: "./none" } }),
    "E_SOURCE_FILE",
    /none cannot be read/,
  ],
  ["a cut tarball", tarball("cut-whole.tar", "whole.tar"), "E_SOURCE_TARBALL", /700 bytes.*was announced/],
  ["a cut tarball, announced as it is", tarball("cut-whole.tar"), "E_SOURCE_TARBALL", /ends in the middle of a block/],
  ["a cut xz", tarball("cut-whole.tar.xz"), "E_SOURCE_TARBALL", /ends in the middle of its xz stream/],
  ["a web page in place of a tarball", tarball("page.tar.gz"), "E_SOURCE_TARBALL", /is no tar archive/],
  ["a directory without a kernel", kernel("./hello", {}), "E_SOURCE_UNRESOLVED", /holds no Linux kernel/],
  [
    "a defconfig of another architecture",
    kernel("./linux", DEBIAN),
    "E_KCONFIG_DEFCONFIG",
    /debian_defconfig \(of arm64\)/,
  ],
  [
    "a misspelled defconfig",
    kernel("./linux", { defconfig: "x86_46_defconfig" }),
    "E_KCONFIG_DEFCONFIG",
    /near: x86_64_defconfig/,
  ],
  ["device trees where there are none", kernel("./linux", { dtbs: true }), "E_SPEC_VALUE", /no device trees/],
  [
    "KASAN with KCSAN",
    kernel("./linux", { instrumentation: ["kasan", "kcsan"] }),
    "E_INSTRUMENTATION_CONFLICT",
    /exclude/,
  ],
  [
    "a compiler that nobody has",
    () => ({ ...run, source: { path: "./hello" }, toolchain: "gcc-99" }),
    "E_TOOLCHAIN_MISSING",
    /it has no gcc-99 for x86_64 \(but .*gcc for x86_64/,
  ],
];
const pipeline = (builds: Record<string, object>): void => {
  const all = Object.entries(builds).map(([name, build]) => [name, { arch: "x86_64", ...build }]);
  ws.write("pipeline.yaml", { labctl: 1, name: "ci", builds: Object.fromEntries(all) as object });
};

describe("a plan", () => {
  let problems: readonly Problem[];
  beforeAll(async () => {
    pipeline(Object.fromEntries(REFUSED.map(([, build], i) => [`b${i}`, build()])));
    const before = ws.files();
    const plan = await ws.run(["plan", "--json"]);
    expect(plan.code, plan.output).toBe(3);
    ({ problems } = JSON.parse(plan.stdout) as { problems: readonly Problem[] });
    expect(ws.files()).toEqual(before);
  });

  test.each(REFUSED.map(([what, , code, said], i) => [what, i, code, said] as const))(
    "refuses %s",
    (_what, i, code, said) => {
      const own = problems.filter((one) => one.address === `build.b${i}`);
      expect(own).toMatchObject([{ code, hint: expect.stringMatching(/./) as string, at: { file: "pipeline.yaml" } }]);
      expect(own[0]?.message).toMatch(said);
    },
  );

  test.each([
    ["a source that cannot be reached", git("none.git", "main"), 5],
    ["a compiler that nobody has", REFUSED.at(-1)?.[1] ?? Object, 8],
  ])("says by its exit code that it is %s", async (_what, build, exit) => {
    pipeline({ one: build() as object });
    const plan = await ws.run(["plan"]);
    expect(plan.code, plan.output).toBe(exit);
  });

  test("tells all that is wrong at once, in the order of the spec, and nothing of the rest", async () => {
    pipeline({
      two: git("hello", "mian")(),
      one: tarball("page.tar.gz")(),
      three: { ...run, source: { path: "./hello" } },
    });
    const plan = await ws.run(["plan"]);
    expect(plan.code, plan.output).toBe(3);
    expect(plan.stderr).toMatch(
      /build\.two .*\n.*E_SOURCE_UNRESOLVED.*\n +hint: [^]*build\.one .*\n.*E_SOURCE_TARBALL/,
    );
    expect(plan.stderr).not.toContain("build.three");
  });

  test("takes whole tarballs, xz, and targets of an architecture's Makefile", async () => {
    const linux = kernel("./linux", { defconfig: "i386_defconfig" })();
    pipeline({ tar: tarball("whole.tar")(), xz: tarball("whole.tar.xz")(), linux });
    const plan = await ws.run(["plan"]);
    expect(plan.code, plan.output).toBe(0);
  });
});
