/**
 * Real kernels from Debian's linux-source package. Takes minutes and half a gigabyte: `npm run test:kernel`.
 * LABCTL_LINUX_SOURCE names a linux-source-*.tar.xz that is there already.
 */
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { KernelBuild } from "../../providers/build/build-script.ts";
import type { BuildRequest, BuildSource } from "../../providers/build/build-types.ts";
import { instrumentMap, planInstruments, requireInstruments } from "../../providers/build/instrumentation.ts";
import { INSTRUMENTS } from "../../providers/build/instrumentation-table.ts";
import { kconfigFiles } from "../../providers/build/kconfig-server.ts";
import { parseKconfig } from "../../providers/build/kconfig.ts";
import { configSource, type MergedConfig, mergeConfig } from "../../providers/build/kernel-config.ts";
import { buildPaths } from "../../providers/build/layout.ts";
import { scanDirectory, sha256File } from "../../providers/build/source-directory.ts";
import type { Machine } from "../../src/index.ts";
import { createMachinePool, type ResettablePool } from "../../src/transport/index.ts";
import { digestOf, GCC, watch, WORKDIR } from "../support/build-lab.ts";
import { linuxSource } from "../support/linux-source.ts";
import { startMachine, type TestMachine } from "../support/sshd.ts";

const MINUTE = 60_000;

describe("a kernel from Debian's source", () => {
  let host: TestMachine;
  let pool: ResettablePool;
  let machine: Machine;
  let folder: string;
  let tarball: string;
  let source: BuildSource;

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), "labctl-kernel-"));
    tarball = linuxSource(folder);
    host = await startMachine({ name: "builder", setup: `mkdir -p ${WORKDIR}; chown lab ${WORKDIR}` });
    pool = createMachinePool({ env: host.env });
    machine = pool.machine(host.connection());
    source = { type: "tarball", source: { from: tarball, sha256: await sha256File(tarball) } };
  }, 10 * MINUTE);
  afterAll(async () => {
    await pool.close();
    await host.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  const kernel = (more: Partial<KernelBuild> = {}): KernelBuild => ({
    type: "kernel",
    arch: "x86_64",
    base: { defconfig: "tinyconfig" },
    modules: false,
    dtbs: false,
    makeArgs: [],
    ...more,
  });
  const request = (version: string, work: KernelBuild, config: MergedConfig, from = source): BuildRequest => {
    const digest = digestOf(`kernel ${version}`);
    return {
      digest,
      paths: buildPaths({
        workdir: WORKDIR,
        digest,
        scope: "test",
        build: "build.kernel",
        source: from.type,
        configuration: config.table,
        outOfTree: true,
      }),
      source: from,
      work,
      config,
      compiler: GCC,
      holder: "a test",
      ccache: false,
    };
  };

  test("a defconfig that is not there is told with those that come near", { timeout: 10 * MINUTE }, async () => {
    const { outcome } = await watch(
      machine,
      request("defconfig", kernel({ base: { defconfig: "x86_46_defconfig" } }), mergeConfig([])),
    );
    expect(outcome).toMatchObject({ is: "failed", error: { code: "E_KCONFIG_DEFCONFIG" } });
    if (outcome.is === "failed") expect(outcome.error.message).toContain("x86_64_defconfig");
    // A name of another architecture says whose it is.
    const other = await watch(
      machine,
      request("arch", kernel({ base: { defconfig: "multi_v7_defconfig" } }), mergeConfig([])),
    );
    if (other.outcome.is === "failed") expect(other.outcome.error.message).toContain("multi_v7_defconfig (of arm)");
    expect(other.outcome).toMatchObject({ is: "failed", error: { code: "E_KCONFIG_DEFCONFIG" } });
  });

  test("symbols that do not survive olddefconfig are told with who asked, and why", {
    timeout: 10 * MINUTE,
  }, async () => {
    const config = mergeConfig([
      configSource("config", { KASAN: "y", LKDTM: "y", E1000: "y", NO_SUCH_THING: "y", PRINTK: "y" }),
    ]);
    const { outcome, log } = await watch(machine, request("dropped", kernel(), config));
    expect(outcome).toMatchObject({ is: "failed", error: { code: "E_KCONFIG_DROPPED", address: "host.builder" } });
    if (outcome.is !== "failed") return;
    const lines = outcome.error.message.split("\n");
    expect(lines).toHaveLength(4);
    expect(lines[0]).toMatch(/^KASAN=y \(asked for by config\) is not set: .*SLOB is chosen in its place/);
    expect(lines[1]).toMatch(/^LKDTM=y .*RUNTIME_TESTING_MENU/);
    expect(lines[2]).toMatch(/^E1000=y .*NETDEVICES.*NET is not set/);
    expect(lines[3]).toContain("no such symbol");
    expect(outcome.error.hint).toMatch(/SLOB: n/);
    expect(outcome.error.hint).toMatch(/RUNTIME_TESTING_MENU: y/);
    expect(log).toContain("did not survive");
  });

  test("the table of instrumentation names symbols that this kernel has", { timeout: 10 * MINUTE }, async () => {
    const { tree } = request("dropped", kernel(), mergeConfig([])).paths;
    for (const [arch, srcarch] of [
      ["x86_64", "x86"],
      ["arm64", "arm64"],
    ] as const) {
      const index = parseKconfig(await kconfigFiles(machine, tree, srcarch), srcarch);
      expect(index.definitions.size).toBeGreaterThan(10_000);
      for (const name of Object.keys(INSTRUMENTS)) {
        const plan = planInstruments(
          { [name]: {} },
          { arch, version: "6.1", compiler: { family: name === "kmsan" ? "clang" : "gcc", version: "14" } },
        );
        if (plan.problems.length > 0) continue;
        for (const { symbol, optional } of plan.sources.flatMap(({ requests }) => requests)) {
          if (optional !== true) expect(index.definitions.has(symbol), `${name}: ${symbol} on ${arch}`).toBe(true);
        }
      }
    }
  });

  test("all instrumentation that goes together survives, and the kernel builds once", {
    timeout: 60 * MINUTE,
  }, async () => {
    const names = [
      "kasan",
      "lockdep",
      "kmemleak",
      "gcov",
      "ftrace",
      "lkdtm",
      "kunit",
      "fault_injection",
      "page_owner",
      "debug_objects",
      "hung_task",
      "softlockup",
      "slub_debug",
    ];
    const plan = requireInstruments(
      planInstruments(instrumentMap(names), {
        arch: "x86_64",
        version: "6.1",
        compiler: { family: "gcc", version: "12.2.0" },
      }),
    );
    const merged = mergeConfig([...plan.sources, configSource("config", { PRINTK: "y", TTY: "y" })]);
    // All of it is configured, and nothing compiled: the step after is made to fail at once.
    const configured = await watch(
      machine,
      request("all", kernel({ makeArgs: ["KBUILD_CFLAGS_KERNEL=-fno-such-thing"] }), merged),
    );
    expect(configured.outcome).toMatchObject({ is: "failed", error: { code: "E_BUILD_FAILED" } });
    expect(configured.phases).toContain("build");

    const small = mergeConfig([
      configSource("config", {
        PRINTK: "y",
        TTY: "y",
        SERIAL_8250: "y",
        SERIAL_8250_CONSOLE: "y",
        MODULES: "y",
        CRC7: "m",
      }),
    ]);
    const first = await watch(machine, request("small", kernel({ modules: true }), small));
    if (first.outcome.is !== "completed") throw first.outcome.error;
    const output = (name: string) => {
      const found =
        first.outcome.is === "completed" ? first.outcome.outputs.find((one) => one.name === name) : undefined;
      if (found === undefined) throw new Error(`no ${name}`);
      return found;
    };
    expect(first.outcome.release).toMatch(/^6\.1\./);
    // The header of a bzImage (Documentation/x86/boot.rst in the kernel).
    expect(readFileSync(host.root(output("kernel_image").path)).toString("latin1", 0x202, 0x206)).toBe("HdrS");
    expect((await host.exec(`strings ${output("vmlinux").path} | grep '^Linux version'`)).stdout).toContain(
      `labctl@${request("small", kernel(), small).digest.slice(0, 16)}`,
    );
    expect((await host.exec(`tar -tf ${output("modules").path}`)).stdout).toMatch(
      /lib\/modules\/6\.1\.\d+.*\/crc7\.ko/,
    );
    // Another digest of the same inputs: nothing but the version is compiled, from the same objects.
    const again = await watch(machine, request("small-2", kernel({ modules: true }), small));
    if (again.outcome.is !== "completed") throw again.outcome.error;
    const compiled = (log: string): number => [...log.matchAll(/^ {2}CC(?: \[M\])? +\S/gm)].length;
    expect(compiled(again.log)).toBeLessThan(10);
    expect(compiled(first.log)).toBeGreaterThan(300);
  });

  test("a line of a directory's source costs one object", { timeout: 60 * MINUTE }, async () => {
    const root = join(folder, "linux");
    execFileSync("mkdir", [root]);
    execFileSync("tar", ["-xf", tarball, "-C", root, "--strip-components=1"]);
    const config = mergeConfig([]);
    const build = async (version: string) =>
      await watch(machine, request(version, kernel(), config, { type: "directory", scan: await scanDirectory(root) }));
    const first = await build("dir-1");
    if (first.outcome.is !== "completed") throw first.outcome.error;
    const file = join(root, "lib/string.c");
    writeFileSync(
      file,
      readFileSync(file, "utf8").replace("EXPORT_SYMBOL(strcmp);", "EXPORT_SYMBOL(strcmp);\nint labctl_was_here = 1;"),
    );
    const second = await build("dir-2");
    if (second.outcome.is !== "completed") throw second.outcome.error;
    const objects = [...second.log.matchAll(/^ {2}CC\s+(\S+\.o)$/gm)].map((match) => match[1] ?? "");
    expect(objects.filter((name) => name.startsWith("lib/"))).toEqual(["lib/string.o"]);
    // The version, which holds the build's name, and what x86 makes of it for its boot code.
    expect(objects.length).toBeLessThan(8);
    expect(first.outcome.steps).toBeGreaterThan(20 * objects.length);
    // The source was not written to.
    expect(
      (
        await host.exec(
          `cd ${request("dir-2", kernel(), config, { type: "directory", scan: await scanDirectory(root) }).paths.tree} && find . -name '*.o' | head`,
        )
      ).stdout,
    ).toBe("");
  });
});
