import { execFileSync } from "node:child_process";
import { afterAll, beforeAll, expect, test } from "vitest";
import { capacityScript, parseCapacity } from "../../providers/build/capacity.ts";
import { parseToolchains, type ToolchainReport, toolchainsScript } from "../../providers/build/toolchains.ts";
import type { Machine } from "../../src/index.ts";
import { createMachinePool, type ResettablePool } from "../../src/transport/index.ts";
import { WORKDIR } from "../support/build-lab.ts";
import { startMachine, type TestMachine } from "../support/sshd.ts";

let host: TestMachine;
let pool: ResettablePool;
let machine: Machine;

/** Compilers that lie: one that does not run, one that compiles nothing, one that targets something else than its name says. */
const LIARS = `
mkdir -p ${WORKDIR}/sub /opt/liar/bin /opt/odd/bin
printf '#!/bin/sh\\nexit 1\\n' >/opt/liar/bin/riscv64-linux-gnu-gcc-99
printf '#!/bin/sh\\ncase $1 in -dumpmachine) echo mips-linux-gnu;; -dumpfullversion) echo 1.2.3;; esac\\n' >/opt/liar/bin/arm-none-eabi-gcc
printf '#!/bin/sh\\nexec /usr/bin/gcc "$@"\\n' >/opt/odd/bin/aarch64-odd-linux-gnu-gcc
chmod +x /opt/*/bin/*; ln -s /usr/bin/ccache /opt/odd/bin/gcc-98
`;

beforeAll(async () => {
  host = await startMachine({ name: "builder", setup: LIARS });
  pool = createMachinePool({ env: host.env });
  machine = pool.machine(host.connection());
});
afterAll(async () => {
  await pool.close();
  await host.stop();
});

async function probe(): Promise<ToolchainReport> {
  const result = await machine.probe(toolchainsScript(), { root: false });
  const report = parseToolchains(result.stdout.toString("utf8"));
  if (report === undefined) throw new Error(`${result.stdout.toString()}\n${result.stderr.toString()}`);
  return report;
}

test("one round trip finds the compilers of a machine, tried and told by what they target", async () => {
  const { toolchains, tools, headers } = await probe();
  const find = (name: string, arch?: string) =>
    toolchains.find((one) => one.name === name && (arch === undefined || one.arch === arch));
  const version = execFileSync("gcc", ["-dumpfullversion"], { encoding: "utf8" }).trim();
  expect(find("gcc")).toEqual({
    name: "gcc",
    family: "gcc",
    version,
    machine: "x86_64-linux-gnu",
    arch: "x86_64",
    path: "/usr/bin/gcc",
    cross_compile: "",
    suffix: "",
    available: true,
    hosted: true,
    llvm_tools: false,
  });
  expect(find("x86_64-linux-gnu-gcc")).toMatchObject({
    arch: "x86_64",
    cross_compile: "x86_64-linux-gnu-",
    available: true,
  });
  expect(find("aarch64-linux-gnu-gcc")).toMatchObject({
    machine: "aarch64-linux-gnu",
    arch: "arm64",
    cross_compile: "aarch64-linux-gnu-",
    available: true,
  });
  expect(tools).toMatchObject({ make: "/usr/bin/make", git: "/usr/bin/git", flock: "/usr/bin/flock" });
  for (const [header, file] of [
    ["gelf.h", "/usr/include/gelf.h"],
    ["ncurses.h", "/usr/include/ncurses.h"],
  ] as const) {
    const there = (await host.exec(`test -e ${file}`)).code === 0;
    expect(headers.includes(header)).toBe(there);
  }
  // Nothing is left of the trial.
  expect((await host.exec("ls -A /tmp")).stdout).toBe("");
});

test("a compiler that lies is found out", async () => {
  const { toolchains } = await probe();
  expect(toolchains.find(({ name }) => name === "riscv64-linux-gnu-gcc-99")).toMatchObject({
    available: false,
    hosted: false,
    version: "",
  });
  expect(toolchains.find(({ name }) => name === "arm-none-eabi-gcc")).toMatchObject({
    arch: "mips",
    available: false,
    why: "it says nothing",
  });
  expect(toolchains.find(({ name }) => name === "aarch64-odd-linux-gnu-gcc")).toMatchObject({
    arch: "x86_64",
    available: true,
    cross_compile: "aarch64-odd-linux-gnu-",
  });
  // ccache under the name of a compiler is none.
  expect(toolchains.some(({ name }) => name === "gcc-98")).toBe(false);
});

test("capacity is what the machine says of itself", async () => {
  const one = async (workdir: string) =>
    parseCapacity((await machine.probe(capacityScript(workdir), { root: false })).stdout.toString("utf8"));
  const capacity = await one(WORKDIR);
  expect(capacity).toMatchObject({
    machine: "x86_64",
    cores: Number((await host.exec("nproc")).stdout),
    memory: Number((await host.exec("awk '/MemTotal/ { print $2 }' /proc/meminfo")).stdout) * 1024,
    disk_total: Number((await host.exec(`df -Pk ${WORKDIR} | awk 'END { print $2 }'`)).stdout) * 1024,
    active: [],
  });
  // A directory that is not there yet counts for where it would be.
  expect((await one(`${WORKDIR}/none/yet`))?.disk_total).toBe(capacity?.disk_total);
});
