/**
 * What goes wrong between a controller and a QEMU host while an environment is deployed: libvirtd stops, the link is cut in the middle
 * of an upload, labctl itself is killed. Each time the next apply converges, as virsh sees it.
 */
import { randomBytes } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { LabEvent } from "../../src/model/index.ts";
import { busyboxInitramfs, debianKernel } from "../support/kernels.ts";
import { startLibvirtd, type TestLibvirtd } from "../support/libvirtd.ts";
import type { CliResult } from "../support/cli.ts";
import { createWorkspace, hostOf, type Workspace } from "../support/workspace.ts";

const INIT = "#!/bin/sh\nmount -t devtmpfs dev /dev\necho 'lab-env: up'\nwhile :; do sleep 1000; done\n";
const PLACED = "/var/lib/libvirt/labctl/environments";
/** So large that its upload can be met half way; random, so that it is not compressed away. Bytes. */
const LARGE = 24 * 1024 * 1024;

let virt: TestLibvirtd;
let kernel: Awaited<ReturnType<typeof debianKernel>>;
let ws: Workspace;
let initrd: string;

/** What to boot: a large file that no host has seen yet. */
async function fresh(): Promise<void> {
  initrd = await busyboxInitramfs({ init: INIT, files: { "root/ballast": randomBytes(LARGE) } });
  spec();
}

function spec(boot: object = {}, more: object = {}): void {
  ws.write("pipeline.yaml", {
    labctl: 1,
    name: "ci",
    environments: {
      smoke: {
        vm: { memory: "384MiB" },
        boot: {
          kernel: kernel.image,
          initrd,
          cmdline: "console=ttyS0 panic=0",
          ready: { marker: "lab-env: up" },
          silence: "40s",
          attempts: 0,
          ...boot,
        },
        ...more,
      },
    },
  });
}

const uploading = (event: LabEvent): boolean =>
  event.type === "action.progress" && event.text === "sending the initrd" && (event.fraction ?? 0) > 0;
const stage =
  (name: string) =>
  (event: LabEvent): boolean =>
    event.type === "stage.started" && event.stage === name;
const kernelSpeaks = (event: LabEvent): boolean =>
  event.type === "action.progress" && event.text?.startsWith("Linux version") === true;

/** Applies, and does something at the first event of a sort. */
async function applyAnd(
  at: (event: LabEvent) => boolean,
  what: (kill: () => void) => Promise<void> | void,
): Promise<CliResult & { readonly codes: readonly string[] }> {
  const child = ws.spawn(["apply", "--auto-approve", "--json"], { timeout: 110_000 });
  const met = await child.event(at);
  if (met === undefined) throw new Error(`it never came so far:\n${(await child.done).output.slice(-3000)}`);
  await what(() => child.kill("SIGKILL"));
  const result = await child.done;
  const end = child.events.findLast((event) => event.type === "run.finished");
  return { ...result, codes: end?.type === "run.finished" ? end.summary.problems.map((one) => one.code) : [] };
}

const domains = (): Promise<string> => virt.virsh("list", "--all", "--name");

/** Up as others see it, with what the spec names and nothing else of it; and nothing is left to do. */
async function converges(): Promise<void> {
  await ws.apply();
  expect(await virt.virsh("list", "--name", "--state-running")).toBe("lab-ci-smoke");
  expect(await domains()).toBe("lab-ci-smoke");
  expect(await virt.run("grep", "-c", "lab-env: up", "/var/log/libvirt/qemu/lab-ci-smoke-console.log")).toBe("1");
  expect(await virt.run("pgrep", "-c", "qemu-system")).toBe("1");
  expect(await virt.run("ls", PLACED)).toMatch(/^\S+$/);
  expect(await ws.pending()).toEqual({});
}

beforeAll(async () => {
  [virt, kernel] = await Promise.all([startLibvirtd(), debianKernel("x86_64")]);
  ws = createWorkspace();
  ws.write("lab.yaml", {
    labctl: 1,
    name: "lab",
    defaults: { retry: { attempts: 2, delay: "200ms" } },
    hosts: { metal: hostOf(virt.host, { qemu_host: { max_vms: 4 } }) },
  });
  await fresh();
}, 300_000);
afterAll(async () => {
  ws?.remove();
  await virt?.stop();
});

describe("a deployment that is cut off", () => {
  test("labctl killed while it uploads, boots and verifies: one machine in the end", { timeout: 200_000 }, async () => {
    const uploaded = await applyAnd(uploading, (kill) => kill());
    expect(uploaded.signal).toBe("SIGKILL");
    expect(await domains()).toBe("");
    expect((await applyAnd(stage("boot"), (kill) => kill())).signal).toBe("SIGKILL");
    expect((await applyAnd(kernelSpeaks, (kill) => kill())).signal).toBe("SIGKILL");
    expect(await domains()).toBe("lab-ci-smoke");
    await converges();
  });

  test("sshd cut in the middle of an upload: what booted before stays until the rest is there", {
    timeout: 200_000,
  }, async () => {
    const before = await virt.virsh("domuuid", "lab-ci-smoke");
    await fresh();
    const cut = await applyAnd(uploading, async () => {
      await virt.host.stopSshd();
      await virt.host.cut();
    });
    await virt.host.startSshd();
    expect(cut.code, cut.output.slice(-2000)).toBe(6);
    expect(await virt.virsh("list", "--name", "--state-running")).toBe("lab-ci-smoke");
    await converges();
    expect(await virt.virsh("domuuid", "lab-ci-smoke")).toBe(before);
  });

  test("libvirtd stopped during the upload, and while the machine boots: named, and made good", {
    timeout: 200_000,
  }, async () => {
    await fresh();
    const early = await applyAnd(uploading, () => virt.shutdown());
    expect(early.code, early.output.slice(-2000)).toBe(6);
    expect(early.codes).toContain("E_LIBVIRT");
    await virt.start();
    const late = await applyAnd(kernelSpeaks, () => virt.shutdown());
    expect(late.code, late.output.slice(-2000)).toBe(6);
    expect(late.codes).toContain("E_LIBVIRT");
    // Domains outlive libvirtd.
    expect(await virt.run("pgrep", "-c", "qemu-system")).toBe("1");
    await virt.start();
    await converges();
  });

  test("another kernel than the one placed is refused by name", { timeout: 120_000 }, async () => {
    spec({ release: "9.9.9-lab" });
    const run = await ws.apply([], 7);
    expect(run.summary.problems[0]).toMatchObject({
      code: "E_BOOT_STALE",
      message: expect.stringContaining(`it is ${kernel.release}, and 9.9.9-lab was placed`),
    });
    expect(run.summary.problems[0]?.hint).toContain("`labctl rollback environment.smoke` goes back");
    expect(await domains()).toBe("");
    expect((await ws.run(["show", "environment.smoke"])).output).toMatch(/stopped at +failed/);
  });

  test("what is not seen to be up in time is looked for once more, marked unverified, and left running", {
    timeout: 120_000,
  }, async () => {
    spec({ ready: { marker: "lab-env: never said" }, timeout: "4s" });
    const run = await ws.apply([], 7);
    const [problem] = run.summary.problems;
    expect(problem?.code).toBe("E_BOOT_UNVERIFIED");
    expect(problem?.hint).toContain("`virsh -c qemu:///system console lab-ci-smoke`");
    expect(problem?.hint).toContain("`labctl destroy --target environment.smoke` lets it go");
    expect(run.output).toContain("looking again (retry 1)");
    expect(await virt.virsh("list", "--name", "--state-running")).toBe("lab-ci-smoke");
    expect((await ws.run(["show", "environment.smoke"])).output).toMatch(/stopped at +unverified/);
    spec();
    await converges();
    expect((await ws.run(["show", "environment.smoke"])).output).toMatch(/status: +"completed"/);
  });

  test("a console that says more than is kept of it in one piece is read whole, and taken for what it is", {
    timeout: 180_000,
  }, async () => {
    const flood = "yes 'a line that fills what is recorded of a console, and says nothing at all' | head -c";
    const init = INIT.replace(
      "echo 'lab-env: up'\n",
      `${flood} 1200000; echo 'lab-env: up'; ${flood} 1500000\necho; echo over\n`,
    );
    initrd = await busyboxInitramfs({ init });
    spec();
    await ws.apply();
    const log = "/var/log/libvirt/qemu/lab-ci-smoke-console.log";
    await expect.poll(() => virt.run("tail", "-n", "1", log), { timeout: 100_000, interval: 1000 }).toBe("over");
    expect(await virt.run("sh", "-c", `stat -c %s ${log}.0`)).toMatch(/^\d{7}$/);
    expect(await ws.pending()).toEqual({});
  });

  test("destroy takes it all away", { timeout: 120_000 }, async () => {
    await ws.destroy();
    expect(await domains()).toBe("");
    expect(await virt.run("ls", PLACED)).toBe("");
  });
});
