import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { buildScript, type KernelBuild, type ScriptInputs } from "../../../providers/build/build-script.ts";
import { parseCapacity } from "../../../providers/build/capacity.ts";
import { parseCleaned } from "../../../providers/build/clean.ts";
import { parseJobs } from "../../../providers/build/jobs.ts";
import { buildPaths, checkedWorkdir } from "../../../providers/build/layout.ts";
import { exportLines, parseOutputs } from "../../../providers/build/runner.ts";
import { chooseRef, gitEnvironment, parseRefs } from "../../../providers/build/source-git.ts";
import { splitUrl, withoutCredentials } from "../../../providers/build/source-url.ts";
import { archOfTriplet, parseToolchains } from "../../../providers/build/toolchains.ts";
import { Sensitive } from "../../../src/index.ts";
import { digestOf, GCC, pathsOf } from "../../support/build-lab.ts";

describe("toolchains", () => {
  const text = readFileSync(new URL("../../fixtures/build/toolchains-debian12.txt", import.meta.url), "utf8");

  test("the probe's output of a Debian 12 with gcc, clang and a cross gcc", () => {
    const report = parseToolchains(text);
    expect(report?.toolchains).toHaveLength(14);
    expect(
      report?.toolchains
        .filter(({ name }) => name === "clang-14")
        .map(({ arch, hosted, llvm_tools, suffix }) => [arch, hosted, llvm_tools, suffix]),
    ).toEqual([
      ["arm64", false, true, "-14"],
      ["armv7", false, true, "-14"],
      ["riscv64", false, true, "-14"],
      ["x86_64", true, true, "-14"],
    ]);
    expect(report?.toolchains.find(({ name }) => name === "aarch64-linux-gnu-gcc-12")).toMatchObject({
      cross_compile: "aarch64-linux-gnu-",
      arch: "arm64",
      version: "12.2.0",
      available: true,
      hosted: false,
    });
    expect(report?.tools.dtc).toBe("/usr/bin/dtc");
    expect(report?.tools.pahole).toBeUndefined();
    expect(report?.headers).toEqual(["openssl/opensslv.h", "gelf.h", "gmp.h", "ncurses.h"]);
  });

  test("what was cut short is no report", () => {
    expect(parseToolchains(text.slice(0, -5))).toBeUndefined();
    expect(parseToolchains("")).toBeUndefined();
  });

  test("architectures of triplets", () => {
    expect(
      [
        "x86_64-linux-gnu",
        "x86_64-pc-linux-gnu",
        "x86_64-linux-gnux32",
        "aarch64-linux-gnu",
        "aarch64_be-none-elf",
        "arm-linux-gnueabihf",
        "armv7l-unknown-linux-gnueabihf",
        "arm-none-eabi",
        "riscv64-unknown-elf",
        "i686-linux-gnu",
      ].map(archOfTriplet),
    ).toEqual(["x86_64", "x86_64", "x32", "arm64", "aarch64_be", "armv7", "armv7", "armv7", "riscv64", "i686"]);
  });
});

test("capacity, jobs, outputs and what was cleaned are read, or nothing is", () => {
  const capacity =
    "machine\tx86_64\ncores\t2\nmemory_kib\t1024\nmemory_available_kib\t512\nload\t0.5\nactive\tabc\nactive\tdef\ndisk_total_kib\t10\ndisk_free_kib\t5\nend\n";
  expect(parseCapacity(capacity)).toEqual({
    machine: "x86_64",
    cores: 2,
    memory: 1 << 20,
    memory_available: 1 << 19,
    load: 0.5,
    active: ["abc", "def"],
    disk_total: 10_240,
    disk_free: 5120,
  });
  expect(parseCapacity(capacity.replace("cores\t2", "cores\t"))).toBeUndefined();
  expect(parseCapacity(capacity.replace("end\n", ""))).toBeUndefined();
  const jobs =
    "job\tabc\tfinished\t7\tbuild\tada\twith a tab\nresult\tend=exit\nresult\tcode=2\nresult\tlow_kib=4\nproblem\tstep\tbuild\njob\tdef\trunning\t0\twaiting\t\nend\n";
  expect(parseJobs(jobs)).toMatchObject([
    {
      digest: "abc",
      state: "finished",
      lease_age: 7,
      holder: "ada with a tab",
      result: { end: "exit", code: 2, lowest: 4096 },
      problems: [["step", "build"]],
    },
    { digest: "def", state: "running", phase: "waiting", problems: [] },
  ]);
  expect(parseJobs(jobs.replace("end\n", ""))).toBeUndefined();
  // The second as earlier versions left it on servers.
  const made = "kernel_image\tkernel\tsha\t12\t0\tbzImage\nlist\tlist\tsha\t12\t1\nrelease\t6.1.0\n";
  expect(parseOutputs(made, "/o")).toEqual({
    outputs: [
      { type: "kernel_image", name: "kernel", sha256: "sha", size: 12, path: "/o/0", file: "bzImage" },
      { type: "list", name: "list", sha256: "sha", size: 12, path: "/o/1", file: "list" },
    ],
    release: "6.1.0",
  });
  expect(parseCleaned("removed\t2\ttrees/x\nfree\t3\n")).toEqual({
    removed: [{ path: "trees/x", bytes: 2048 }],
    free: 3072,
  });
});

describe("paths", () => {
  test("the same build has the same paths; another configuration other objects in the same tree", () => {
    const of = (more: object) =>
      buildPaths({
        workdir: "/srv/build/",
        digest: digestOf("1"),
        scope: "s",
        build: "b",
        source: "u",
        configuration: "c",
        outOfTree: true,
        ...more,
      });
    const one = of({});
    expect(of({ digest: digestOf("2") })).toMatchObject({ tree: one.tree, objects: one.objects });
    expect(of({ configuration: "d" }).tree).toBe(one.tree);
    expect(of({ configuration: "d" }).objects).not.toBe(one.objects);
    expect(of({ build: "c" }).tree).not.toBe(one.tree);
    expect(of({ scope: "t" }).tree).not.toBe(one.tree);
    expect(of({ outOfTree: false }).objects).toBe(of({ outOfTree: false }).tree);
  });

  test.each(["", "/", "relative", "/a/../b", "/a/./b", "/a\nb", "//"])("%j is no work directory", (path) => {
    expect(() => checkedWorkdir(path)).toThrow(expect.objectContaining({ code: "E_SPEC_VALUE" }));
  });
});

describe("git", () => {
  const refs = parseRefs(
    [
      "a".repeat(40),
      "HEAD",
      "a".repeat(40),
      "refs/heads/main",
      "b".repeat(40),
      "refs/heads/v1",
      "c".repeat(40),
      "refs/tags/v1",
      "d".repeat(40),
      "refs/tags/v2",
      "e".repeat(40),
      "refs/tags/v2^{}",
    ]
      .reduce<string[]>(
        (lines, word, i) =>
          i % 2 === 0 ? [...lines, word] : [...lines.slice(0, -1), `${lines.at(-1) ?? ""}\t${word}`],
        [],
      )
      .join("\n"),
  );
  test("refs mean what git says they mean", () => {
    expect(chooseRef(refs, undefined, "u")).toMatchObject({ commit: "a".repeat(40), kind: "head" });
    expect(chooseRef(refs, "main", "u")).toEqual({ commit: "a".repeat(40), kind: "branch", ref: "refs/heads/main" });
    expect(chooseRef(refs, "v2", "u")).toEqual({ commit: "e".repeat(40), kind: "tag", ref: "refs/tags/v2" });
    expect(chooseRef(refs, "heads/v1", "u")).toMatchObject({ kind: "branch" });
    expect(chooseRef(refs, "bbbbbbb", "u")).toEqual({ commit: "b".repeat(40), kind: "commit" });
    expect(chooseRef(refs, "F".repeat(40), "u")).toEqual({ commit: "f".repeat(40), kind: "commit" });
    expect(() => chooseRef(refs, "v1", "u")).toThrow(
      expect.objectContaining({ code: "E_SOURCE_UNRESOLVED", hint: "write refs/tags/v1 or refs/heads/v1" }),
    );
    expect(() => chooseRef(refs, "mian", "u")).toThrow(/near: main/);
    expect(() => chooseRef(refs, "fffffff", "u")).toThrow(
      expect.objectContaining({ hint: expect.stringContaining("all 40 digits") as string }),
    );
    expect(() => chooseRef(new Map(), undefined, "u")).toThrow(
      expect.objectContaining({ code: "E_SOURCE_UNRESOLVED" }),
    );
  });

  test("credentials leave the URL, and every text", () => {
    expect(splitUrl("https://git.example/x.git")).toEqual({ url: "https://git.example/x.git" });
    expect(splitUrl("git@host:x.git")).toEqual({ url: "git@host:x.git" });
    expect(splitUrl("ssh://git@host:22/x.git")).toEqual({ url: "ssh://git@host:22/x.git" });
    expect(splitUrl("/srv/x.git")).toEqual({ url: "/srv/x.git" });
    const both = splitUrl(new Sensitive("https://us%40er:p%2Fass@git.example:8443/x.git"));
    expect(both).toMatchObject({ url: "https://git.example:8443/x.git", username: "us@er" });
    expect(both.password?.reveal()).toBe("p/ass");
    const token = splitUrl("https://sometoken@git.example/x.git");
    expect(token.url).toBe("https://git.example/x.git");
    expect(token.password?.reveal()).toBe("sometoken");
    expect(withoutCredentials("fatal: 'https://a:b@h/x' and p/ass", both)).toBe("fatal: 'https://h/x' and (sensitive)");
    expect(JSON.stringify(gitEnvironment(both))).not.toContain("p/ass");
    for (const bad of ["", "-u", "--upload-pack=x", "a\nb"])
      expect(() => splitUrl(bad)).toThrow(expect.objectContaining({ code: "E_SPEC_VALUE" }));
  });
});

describe("the script of a kernel build", () => {
  const script = (work: Partial<KernelBuild>, more: Partial<ScriptInputs> = {}): string =>
    buildScript({
      paths: pathsOf("k", digestOf("k")),
      digest: digestOf("k"),
      source: { type: "tarball", sha256: "a".repeat(64) },
      work: {
        type: "kernel",
        arch: "arm64",
        base: { defconfig: "defconfig" },
        modules: false,
        dtbs: false,
        makeArgs: [],
        ...work,
      },
      compiler: {
        ...GCC,
        name: "aarch64-linux-gnu-gcc-12",
        path: "/usr/bin/aarch64-linux-gnu-gcc-12",
        cross_compile: "aarch64-linux-gnu-",
      },
      ccache: false,
      clean: false,
      ...more,
    }).text;

  test("arguments are quoted; KCFLAGS of the user and ours are one", () => {
    const text = script({ makeArgs: ["KCFLAGS=-Wno-error -DX='1'", "A=$(reboot)"] });
    expect(text).toContain(
      String.raw`KCFLAGS='-Wno-error -DX='\''1'\'' '"-ffile-prefix-map=$tree/= -ffile-prefix-map=$obj/="`,
    );
    expect(text).toContain("'A=$(reboot)'");
    expect(text).toContain('CROSS_COMPILE="$cross" CC="$wrap"aarch64-linux-gnu-gcc-12');
  });

  test("clang with all its tools builds with LLVM=, others with CC", () => {
    const clang = {
      name: "clang-14",
      family: "clang",
      path: "/usr/bin/clang-14",
      cross_compile: "",
      suffix: "-14",
      llvm_tools: true,
    } as const;
    expect(script({}, { compiler: clang })).toContain(`LLVM='-14' CC="$wrap"clang-14`);
    expect(script({}, { compiler: { ...clang, llvm_tools: false } })).toContain(
      'CROSS_COMPILE="$cross" CC="$wrap"clang-14',
    );
    expect(script({}, { compiler: { ...clang, path: "/usr/lib/llvm-14/bin/clang", suffix: "" } })).toContain(
      "LLVM=/usr/lib/llvm-14/bin/ CC=",
    );
  });

  test("a fragment of the kernel's own goes onto a defconfig", () => {
    expect(script({ base: { defconfig: "defconfig kvm_guest.config" } })).toContain(
      "labctl_defconfig defconfig\nlabctl_defconfig kvm_guest.config",
    );
    expect(script({ base: { defconfig: "kvm_guest.config" } })).toContain(
      "labctl_defconfig defconfig\nlabctl_defconfig kvm_guest.config",
    );
  });
});

test("the environment goes as quoted exports, and what no shell takes is refused", () => {
  expect(exportLines({ A: "it's", B: new Sensitive("$x") })).toBe("export A='it'\\''s'\nexport B='$x'\n");
  for (const env of [{ "A-B": "x" }, { "1A": "x" }, { A: "a\0" }])
    expect(() => exportLines(env as Record<string, string>)).toThrow(expect.objectContaining({ code: "E_SPEC_VALUE" }));
});
