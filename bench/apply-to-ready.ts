// From `labctl apply` to a machine that is up, as people wait for it, against the same kernel and initial RAM disk in a QEMU that is
// started by hand: Debian's kernel, a busybox that says so as soon as it runs. One real libvirtd and sshd, all on this one box, in turn.
import { copyFileSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { busyboxInitramfs, debianKernel } from "../test/support/kernels.ts";
import { libvirtdUnavailable, startLibvirtd, type TestLibvirtd } from "../test/support/libvirtd.ts";
import { hostOf } from "../test/support/workspace.ts";
import { inTurn, LABCTL, type Line, median, mustTime, ratio, type Report, type Timing } from "./measure.ts";

const ROUNDS = 5;
const TARGET = 1.1;
const MARKER = "bench: up";
/** Seconds until it is up, after the kernel: a busybox that has nothing to do, and as long as a small distribution takes. */
const USER_SPACE = [0, 15];
const initOf = (seconds: number): string =>
  `#!/bin/sh\nmount -t devtmpfs dev /dev\nsleep ${seconds}\necho '${MARKER}'\nwhile :; do sleep 1000; done\n`;
const CMDLINE = "console=ttyS0 panic=0";
const MEMORY = 256;

export async function benchApplyToReady(): Promise<Report> {
  const why = libvirtdUnavailable();
  if (why !== undefined) return { lines: [], skipped: [`apply-to-ready: ${why}`] };
  const folder = mkdtempSync(join(tmpdir(), "labctl-bench-ready-"));
  const [virt, kernel] = await Promise.all([startLibvirtd({ name: "bench" }), debianKernel("x86_64")]);
  try {
    const lab = { labctl: 1, name: "bench", hosts: { metal: hostOf(virt.host, { qemu_host: {} }) } };
    writeFileSync(join(folder, "lab.yaml"), JSON.stringify(lab));
    const labctl = (...args: string[]): Promise<Timing> =>
      mustTime([process.execPath, LABCTL, ...args, "--auto-approve"], {
        cwd: folder,
        env: { ...process.env, HOME: folder, NO_COLOR: "1" },
      });
    await labctl("apply", "-f", "lab.yaml");
    const lines: Line[] = [];
    let accel = "";
    for (const seconds of USER_SPACE) {
      const initrd = await busyboxInitramfs({ init: initOf(seconds) });
      const vm = { memory: `${MEMORY}MiB`, machine: "q35" };
      const boot = { kernel: kernel.image, initrd, cmdline: CMDLINE, ready: { marker: MARKER } };
      const pipeline = { labctl: 1, name: "ci", environments: { one: { vm, boot } } };
      writeFileSync(join(folder, "pipeline.yaml"), JSON.stringify(pipeline));
      const apply = async (): Promise<Timing> => {
        const timing = await labctl("apply", "-f", "pipeline.yaml");
        accel = /<domain type='kvm'/.test(await virt.virsh("dumpxml", "bench-ci-one")) ? "kvm" : "tcg";
        await labctl("destroy", "-f", "pipeline.yaml");
        return timing;
      };
      // Also for what the other one then runs with.
      await apply();
      // By hand it is known where all of it is, and on the machine that it is for.
      copyFileSync(kernel.image, virt.host.root("/srv/bench-kernel"));
      copyFileSync(initrd, virt.host.root("/srv/bench-initrd"));
      lines.push(...compare(seconds, await inTurn(ROUNDS, { hand: () => byHand(virt, accel), apply })));
    }
    return { lines, notes: [`${accel}, kernel ${kernel.release}`] };
  } finally {
    await virt.stop();
    rmSync(folder, { recursive: true, force: true });
  }
}

function compare(user: number, found: Readonly<Record<"hand" | "apply", readonly Timing[]>>): readonly Line[] {
  const value = ratio(found.apply, found.hand);
  const seconds = (timings: readonly Timing[]): number => median(timings.map((one) => one.wall)) / 1000;
  const over = median(found.apply.map((one, i) => one.wall - (found.hand[i]?.wall ?? Number.NaN))) / 1000;
  const what = `${user} s of user space`;
  return [
    { what: `QEMU by hand, until it is up (${what})`, value: seconds(found.hand), unit: "s" },
    { what: `labctl apply, until it is verified (${what})`, value: seconds(found.apply), unit: "s" },
    { what: `what labctl takes on top (${what})`, value: over, unit: "s" },
    {
      what: `labctl apply / QEMU by hand (${what})`,
      value,
      unit: "x",
      target: `<= ${TARGET}`,
      reached: value <= TARGET,
    },
  ];
}

async function byHand(virt: TestLibvirtd, accel: string): Promise<Timing> {
  const script = `qemu-system-x86_64 -nodefaults -no-user-config -display none -machine q35,accel=${accel} -m ${MEMORY} \
    -kernel /srv/bench-kernel -initrd /srv/bench-initrd -append '${CMDLINE}' -serial stdio </dev/null 2>&1 |
    { while read -r line; do case $line in *'${MARKER}'*) echo up; break;; esac; done; pkill -x qemu-system-x86; }`;
  const started = performance.now();
  const { stdout } = await virt.host.exec(script);
  const wall = performance.now() - started;
  if (!stdout.includes("up")) throw new Error(`it did not come up by hand: ${stdout.slice(-1000)}`);
  return { wall, cpu: 0, code: 0, output: "" };
}
