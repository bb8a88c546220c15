/**
 * From source to a booted, ready machine, on real peers: sshd, gcc, libvirtd, QEMU, Debian's kernel.
 */
import { writeFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { LabEvent } from "../../src/model/index.ts";
import { brokenInit, busyboxInitramfs, debianKernel } from "../support/kernels.ts";
import { startLibvirtd, type TestLibvirtd } from "../support/libvirtd.ts";
import { createWorkspace, type Workspace } from "../support/workspace.ts";

const INIT = `
#include <stdio.h>
#include <unistd.h>
#include <sys/utsname.h>
int main(void) {
  struct utsname u;
  uname(&u);
  printf("lab-env: up on %s\\n", u.release);
  fflush(stdout);
  for (;;) pause();
}
`;
const MAKEFILE = `initrd.cpio.gz: init
\techo init | cpio -o -H newc --quiet | gzip -n >$@
init: init.c
\tgcc -static -O1 -o $@ $<
`;

let virt: TestLibvirtd;
let kernel: Awaited<ReturnType<typeof debianKernel>>;
let ws: Workspace;

function lab(more: object = {}): void {
  const { host } = virt;
  ws.write("lab.yaml", {
    labctl: 1,
    name: "bench",
    hosts: {
      metal: {
        address: host.address,
        sudo: true,
        ssh: { user: "lab", key: host.keyPath, known_hosts: host.knownHostsPath, port: host.port },
        build_server: { workdir: "/srv/build", min_free_disk: "1MB", toolchains: [{ name: "gcc", arch: "x86_64" }] },
        qemu_host: { max_vms: 4 },
      },
    },
    ...more,
  });
}

function pipeline(boot: object = {}, more: object = {}, others: object = {}, build: object = {}): void {
  ws.write("pipeline.yaml", {
    labctl: 1,
    name: "ci",
    builds: {
      tools: {
        source: { path: "./src" },
        arch: "x86_64",
        run: "make",
        outputs: { initrd: { path: "initrd.cpio.gz", type: "initrd" } },
        ...build,
      },
    },
    environments: {
      smoke: {
        vm: { memory: "256MiB", requires: { arch: "x86_64" } },
        boot: {
          kernel: kernel.image,
          initrd: "${build.tools.initrd}",
          cmdline: "console=ttyS0 panic=0",
          ready: { marker: "lab-env: up" },
          silence: "40s",
          attempts: 0,
          ...boot,
        },
        ...more,
      },
      ...others,
    },
  });
}

const reserved = async (): Promise<unknown> =>
  (JSON.parse((await ws.run(["leases", "--json"])).stdout) as { leases: unknown }).leases;

const stages = (events: readonly LabEvent[], address: string): string[] =>
  events.flatMap((event) =>
    event.type === "stage.finished" && event.address === address ? [`${event.stage} ${event.result}`] : [],
  );

beforeAll(async () => {
  [virt, kernel] = await Promise.all([startLibvirtd(), debianKernel("x86_64")]);
  ws = createWorkspace();
  ws.write("src/init.c", INIT);
  ws.write("src/Makefile", MAKEFILE);
  lab();
}, 300_000);
afterAll(async () => {
  ws?.remove();
  await virt?.stop();
});

describe("from source to a booted, ready machine", () => {
  test("builds, stores, deploys, boots and verifies; the next apply does nothing", { timeout: 300_000 }, async () => {
    pipeline();
    const run = await ws.apply();
    expect(stages(run.events, "build.tools")).toEqual(["build completed", "collect completed"]);
    expect(stages(run.events, "environment.smoke")).toEqual([
      "allocate completed",
      "transfer completed",
      "boot completed",
      "verify completed",
    ]);
    // As others see it.
    expect(await virt.virsh("list", "--name", "--state-running")).toBe("bench-ci-smoke");
    const log = await virt.run("cat", "/var/log/libvirt/qemu/bench-ci-smoke-console.log");
    expect(log).toContain(`lab-env: up on ${kernel.release}`);
    expect(await ws.pending()).toEqual({});
  });

  test("what happens behind labctl's back is named, and mended", { timeout: 300_000 }, async () => {
    await virt.virsh("destroy", "bench-ci-smoke");
    expect(await ws.pending()).toEqual({ "environment.smoke": "update running, ready" });
    await ws.apply();
    expect(await virt.virsh("domstate", "bench-ci-smoke")).toBe("running");
    expect(await ws.pending()).toEqual({});
  });

  test("a change of the source is built, and booted; nothing else is", { timeout: 300_000 }, async () => {
    writeFileSync(ws.path("src/init.c"), INIT.replace("lab-env: up on", "lab-env: up, changed, on"));
    const run = await ws.apply();
    expect(stages(run.events, "build.tools")).toEqual(["build completed", "collect completed"]);
    const log = await virt.run("cat", "/var/log/libvirt/qemu/bench-ci-smoke-console.log");
    expect(log).toContain("lab-env: up, changed, on");
    expect(await ws.pending()).toEqual({});
  });

  test("rollback goes back to what was well before, builds nothing, and the next apply goes forward again", {
    timeout: 300_000,
  }, async () => {
    const built = await ws.run(["build", "--json"]);
    expect(built.code, built.output).toBe(0);
    expect(JSON.parse(built.stdout)).toMatchObject({
      builds: [{ address: "build.tools", result: "there", server: "host.metal", artifacts: [{ name: "initrd" }] }],
    });
    const back = await ws.run(["rollback", "environment.smoke", "--auto-approve"], { timeout: 120_000 });
    expect(back.code, back.output).toBe(0);
    expect(back.stdout).toContain("The spec is as it was");
    const console = "/var/log/libvirt/qemu/bench-ci-smoke-console.log";
    expect(await virt.run("cat", console)).toContain("lab-env: up on");
    const why = JSON.parse((await ws.run(["why", "environment.smoke", "--json"])).stdout) as object;
    expect(why).toMatchObject({ command: "rollback", result: "ok", stages: expect.arrayContaining([]) });
    expect(JSON.stringify(why)).toContain("deploying on host.metal");
    // It has no network: nobody can log in, and that is said.
    const closed = await ws.run(["exec", "smoke", "--", "true"]);
    expect(closed.code).toBe(5);
    expect(closed.stderr).toContain("has no address that anybody there knows");
    expect(await ws.pending()).toEqual({ "environment.smoke": expect.stringContaining("initrd_digest") as string });
    const run = await ws.apply();
    expect(stages(run.events, "build.tools")).toEqual([]);
    expect(await virt.run("cat", console)).toContain("lab-env: up, changed, on");
  });

  test("a kernel that panics is reported at once, with what it said, and rolled back", {
    timeout: 300_000,
  }, async () => {
    const broken = await busyboxInitramfs({ init: brokenInit("init-exits") });
    pipeline({ initrd: broken }, { on_failure: "rollback" });
    const started = Date.now();
    const run = await ws.apply([], 7);
    expect(Date.now() - started).toBeLessThan(120_000);
    const [problem] = run.summary.problems;
    expect(problem?.code).toBe("E_BOOT_CRASHED");
    expect(problem?.message).toMatch(/Attempted to kill init/);
    expect(problem?.message).toMatch(/rolled back/);
    const told = JSON.parse((await ws.run(["show", "last", "--json"])).stdout) as {
      resources: Record<string, { stages: { stage: string; result: string }[] }>;
    };
    expect(told.resources["environment.smoke"]?.stages.map(({ stage, result }) => `${stage} ${result}`)).toEqual([
      "allocate completed",
      "transfer completed",
      "boot completed",
      "verify failed",
      "rollback completed",
      "transfer completed",
      "boot completed",
      "verify completed",
    ]);
    expect(await virt.virsh("domstate", "bench-ci-smoke")).toBe("running");
    const log = await virt.run("cat", "/var/log/libvirt/qemu/bench-ci-smoke-console.log");
    expect(log).toContain("lab-env: up, changed, on");
    pipeline();
    await ws.apply();
    expect(await ws.pending()).toEqual({});
  });

  test("a machine that hangs silently is found out, and nothing is left of it", { timeout: 300_000 }, async () => {
    const silent = await busyboxInitramfs({ init: brokenInit("silent-hang") });
    pipeline({ initrd: silent, silence: "8s" });
    const run = await ws.apply([], 7);
    expect(run.summary.problems[0]?.code).toBe("E_BOOT_HUNG");
    expect(await virt.virsh("list", "--all", "--name")).toBe("");
    expect(await reserved()).toEqual([]);
    pipeline();
    await ws.apply();
    expect(await virt.virsh("domstate", "bench-ci-smoke")).toBe("running");
  });

  test("an image of another processor, and what no host has, are refused before anything is touched", async () => {
    const arm = await debianKernel("aarch64");
    pipeline({ kernel: arm.image });
    const wrong = await ws.run(["apply", "--auto-approve"]);
    expect(wrong.code, wrong.output).toBe(3);
    expect(wrong.output).toContain("E_IMAGE_ARCH");
    pipeline({}, {}, {}, { toolchain: "clang-99", arch: "riscv64" });
    const missing = await ws.run(["plan"]);
    expect(missing.code, missing.output).toBe(8);
    expect(missing.output).toContain("E_TOOLCHAIN_MISSING");
    expect(missing.output).toMatch(/host\.metal: it has no clang-99 for riscv64 \(but .*gcc for x86_64/);
    pipeline();
    expect(await ws.pending()).toEqual({});
  });

  test("a machine of another architecture boots, without a word about its console", { timeout: 200_000 }, async () => {
    const arm = await debianKernel("aarch64");
    const init =
      "#!/bin/sh\nmount -t devtmpfs dev /dev\necho lab-env: up on $(uname -m)\nwhile :; do sleep 1000; done\n";
    const boot = {
      kernel: arm.image,
      initrd: await busyboxInitramfs({ arch: "aarch64", init }),
      ready: { marker: "lab-env: up" },
      attempts: 0,
    };
    pipeline({}, {}, { arm: { vm: { arch: "arm64", memory: "256MiB" }, boot } });
    await ws.apply();
    expect(await virt.virsh("dumpxml", "bench-ci-arm")).toMatch(/arch='aarch64' machine='virt/);
    const log = await virt.run("cat", "/var/log/libvirt/qemu/bench-ci-arm-console.log");
    expect(log).toContain("lab-env: up on aarch64");
    expect(log).toContain(`Linux version ${arm.release}`);
    expect(await ws.pending()).toEqual({});
    pipeline();
    await ws.apply();
    expect(await virt.virsh("list", "--all", "--name")).toBe("bench-ci-smoke");
  });

  test("what it takes of the host and of the lab is reserved for it, and no more is given than there is", {
    timeout: 120_000,
  }, async () => {
    const holder = "bench/pipeline/ci environment.smoke";
    const memory = 256 * 2 ** 20;
    pipeline();
    await ws.apply();
    const held = await reserved();
    expect(held).toMatchObject([
      { resource: "host.metal", holder, amounts: { memory, slots: 1 } },
      { resource: "lab", holder, amounts: { cpus: 1, memory, slots: 1 } },
    ]);
    const second = { vm: { memory: "256MiB" }, boot: { kernel: kernel.image, ready: { marker: "lab-env: up" } } };
    pipeline({}, {}, { second });
    lab({ limits: { environments: 1 } });
    const full = await ws.run(["apply", "--auto-approve", "--no-wait"]);
    expect(full.code, full.output).toBe(8);
    expect(full.output).toContain("the lab uses 1 environment of the 1 environment that it may");
    lab({ limits: { memory: "200MiB" } });
    const never = await ws.run(["plan"]);
    expect(never.code, never.output).toBe(8);
    expect(never.output).toContain("the lab may use 200.0 MiB of memory in all, and 256.0 MiB of memory are asked for");
    lab();
    pipeline();
    await ws.apply();
    expect(await ws.pending()).toEqual({});
    expect(await reserved()).toEqual(held);
  });

  test("destroy takes it all away", { timeout: 120_000 }, async () => {
    await ws.destroy();
    expect(await reserved()).toEqual([]);
    expect(await virt.virsh("list", "--all", "--name")).toBe("");
    expect(await virt.run("ls", "/var/lib/libvirt/labctl/environments")).toBe("");
  });
});
