import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { findAccel, hostArch, startGuest } from "../../providers/qemu/index.ts";
import type { QmpEvent } from "../../src/qmp/index.ts";
import { busyboxInitramfs, debianKernel } from "../support/kernels.ts";

let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), "labctl-qemu-test-"));
});
afterAll(() => rm(dir, { recursive: true, force: true }));

describe("acceleration", () => {
  it("is found by running a guest, and remembered for this boot", async () => {
    const arch = hostArch() ?? "x86_64";
    const cache = join(dir, "cache");
    // The trial guest itself: it must run where emulation does.
    const tried = await findAccel(arch, { trial: "tcg", cache, timeout: 30_000 });
    expect(tried).toEqual({ accel: "tcg", reason: "a trial guest ran under tcg" });
    expect(await readdir(cache)).toHaveLength(1);
    const began = Date.now();
    expect(await findAccel(arch, { trial: "tcg", cache, timeout: 1 })).toEqual(tried);
    expect(Date.now() - began).toBeLessThan(200);
  });

  it("is emulation where the trial does not come to its end", async () => {
    const finding = await findAccel(hostArch() ?? "x86_64", { trial: "tcg", cache: join(dir, "other"), timeout: 1 });
    expect(finding).toMatchObject({ accel: "tcg" });
    expect(finding.reason).toContain("did not come to its end");
    expect(await findAccel("riscv64")).toMatchObject({ accel: "tcg" });
  });
});

function alive(group: number): boolean {
  try {
    return process.kill(-group, 0);
  } catch {
    return false;
  }
}

describe("a guest under QMP", () => {
  it("stands still until it is started, runs, is reset, ends; its console is recorded from the first byte", async () => {
    const { image } = await debianKernel("x86_64");
    const log = join(dir, "console,1.log");
    const console: Buffer[] = [];
    const guest = await startGuest({
      spec: {
        arch: "x86_64",
        accel: "tcg",
        cpus: 1,
        memory: 256 * 2 ** 20,
        kernel: image,
        initrd: await busyboxInitramfs({ init: "#!/bin/sh\necho labctl-test: up\nwhile :; do sleep 1000; done\n" }),
        append: "console=ttyS0 earlyprintk=serial,ttyS0,115200",
        shares: [],
        disks: [],
        name: "a,b",
      },
      ports: [{ name: "test.port", kind: "port" }],
      consoleLog: log,
      onConsole: (chunk) => console.push(chunk),
    });
    try {
      const events: QmpEvent[] = [];
      guest.qmp.onEvent((event) => events.push(event));
      expect(await guest.qmp.status()).toEqual({ status: "prelaunch", running: false });
      expect(console).toEqual([]);
      await guest.start();
      expect(await guest.qmp.status()).toEqual({ status: "running", running: true });
      for (
        const until = Date.now() + 90_000;
        Date.now() < until && !Buffer.concat(console).includes("labctl-test: up");
      ) {
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
      const seen = Buffer.concat(console);
      expect(seen.includes("labctl-test: up")).toBe(true);
      await expect(guest.qmp.execute("no-such-command")).rejects.toMatchObject({ code: "E_QEMU" });
      // It was started with -no-reboot: a reset ends it, and QEMU says why.
      await guest.qmp.reset();
      await guest.ended;
      expect(events.map(({ event }) => event)).toContain("SHUTDOWN");
      expect((await readFile(log)).toString("latin1")).toBe(Buffer.concat(console).toString("latin1"));
    } finally {
      await guest.stop();
    }
    // Dead at once; whoever reaps orphans here may take a moment.
    await expect.poll(() => alive(guest.pid), { timeout: 10_000 }).toBe(false);
  });

  it("is not begun where QEMU refuses: its own words are the error", async () => {
    const { image } = await debianKernel("x86_64");
    const failing = startGuest({
      spec: {
        arch: "x86_64",
        accel: "tcg",
        cpus: 1,
        memory: 64 * 2 ** 20,
        cpu: "no-such-cpu",
        kernel: image,
        append: "",
        shares: [],
        disks: [],
        name: "x",
      },
      ports: [],
      onConsole: () => undefined,
    });
    await expect(failing).rejects.toMatchObject({ code: "E_QEMU" });
    await expect(failing).rejects.toThrow(/no-such-cpu/);
  });

  it("is not begun where somebody cancels, and nothing is left", async () => {
    const { image } = await debianKernel("x86_64");
    const cancel = new AbortController();
    cancel.abort();
    await expect(
      startGuest({
        spec: {
          arch: "x86_64",
          accel: "tcg",
          cpus: 1,
          memory: 64 * 2 ** 20,
          kernel: image,
          append: "",
          shares: [],
          disks: [],
          name: "x",
        },
        ports: [],
        onConsole: () => undefined,
        signal: cancel.signal,
      }),
    ).rejects.toMatchObject({ code: "E_CANCELLED" });
  });
});
