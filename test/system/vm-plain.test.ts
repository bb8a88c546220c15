/** Machines on a host without libvirt, through the CLI: labctl starts QEMU itself, and Debian's kernel really boots. */
import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { BUTTON, CD, VIRTIO, VIRTIO_NET } from "../support/guest-modules.ts";
import { busyboxInitramfs, debianKernel } from "../support/kernels.ts";
import { startMachine, type TestMachine } from "../support/sshd.ts";
import { createWorkspace, hostOf, type Workspace } from "../support/workspace.ts";

const MODULES = [
  ...VIRTIO,
  "drivers/block/virtio_blk.ko",
  ...VIRTIO_NET,
  "drivers/virtio/virtio_balloon.ko",
  ...CD,
  ...BUTTON,
];

/**
 * Says that it is up and what it found; whoever comes to its port 22 is led on to the sshd of its host; the power button ends
 * it, as it ends a system with systemd.
 */
const INIT = `#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for module in ${MODULES.join(" ")}; do [ ! -e /modules/$module ] || insmod /modules/$module; done
mkdir /seed && mount -t iso9660 -o ro /dev/$(cd /sys/block; grep -l labctl-cidata */serial | cut -d/ -f1) /seed && cat /seed/user-data
for disk in /sys/block/vd*; do echo "labctl-test: disk $(basename $disk) $(cat $disk/size)"; done
ip link set eth0 up && ip address add 10.0.2.15/24 dev eth0
nc -ll -p 22 -e nc 10.0.2.2 22 &
until netstat -ltn | grep -q :22; do sleep 0.1; done
for button in /dev/input/event*; do (head -c 1 $button >/dev/null && { echo "labctl-test: told to stop"; poweroff -f; }) & done
echo "labctl-test: memory $(awk '/MemTotal/ {print int($2/1024)}' /proc/meminfo) MiB"
echo "labctl-test: up $(uname -r)"
while :; do sleep 60; done
`;

const VMS = "/var/lib/labctl/vms";
const MIB = 1024 ** 2;

let host: TestMachine;
let ws: Workspace;
let boot: { readonly kernel: string; readonly initrd: string; readonly cmdline: string };
let release: string;

function lab(vm: object = {}, more: object = {}, qemu: object = {}): void {
  ws.write("lab.yaml", {
    labctl: 1,
    name: "plain",
    hosts: { box: hostOf(host, { qemu_host: { libvirt: false, ...qemu } }) },
    vms: {
      one: {
        host: "box",
        memory: { size: "192MiB", max: "256MiB" },
        disks: [{ image: "./base.qcow2" }, { size: "8MiB" }],
        networks: [{ user: true }],
        cloud_init: { user_data: "#cloud-config\n# seed of one\n" },
        boot,
        ssh: { user: "lab", key: host.keyPath, host_key: "accept-new", known_hosts: "./guests" },
        ...vm,
      },
    },
    ...more,
  });
}

async function inside(command: string): Promise<string> {
  const { stdout, stderr, code } = await host.exec(command);
  if (code !== 0) throw new Error(`${command}: ${code}: ${stderr}`);
  return stdout.trim();
}

/** Process ids of all QEMUs of the host. */
const qemus = (): Promise<string> => inside("pgrep -x qemu-system-x86 | tr '\\n' ' '; true");
/** Folders of machines; none where nothing was ever made. */
const machines = async (): Promise<string[]> =>
  (await inside(`ls -A ${VMS} 2>/dev/null; true`)).split("\n").filter(Boolean);
const folder = async (): Promise<string> => `${VMS}/${await inside(`ls ${VMS}`)}`;
const file = async (name: string): Promise<string> => host.root(`${await folder()}/${name}`);
const consoleLog = async (name = "console.log"): Promise<string> =>
  readFileSync(await file(name), "utf8").replaceAll("\r", "");

async function booted(): Promise<void> {
  await expect.poll(() => consoleLog(), { timeout: 90_000, interval: 500 }).toContain(`labctl-test: up ${release}`);
}

/** Edits the definition as somebody with an editor would. */
async function edit(
  change: (whole: { owner: Record<string, string>; model: Record<string, unknown> }) => void,
): Promise<void> {
  const path = await file("machine.json");
  const whole = JSON.parse(readFileSync(path, "utf8")) as Parameters<typeof change>[0];
  change(whole);
  writeFileSync(path, JSON.stringify(whole));
}

beforeAll(async () => {
  const kernel = await debianKernel("x86_64");
  const there = new Set(readdirSync(join(kernel.modules, "kernel"), { recursive: true, encoding: "utf8" }));
  const files = MODULES.filter((path) => there.has(path)).map(
    (path) => [`modules/${path}`, readFileSync(join(kernel.modules, "kernel", path))] as const,
  );
  const initrd = await busyboxInitramfs({ init: INIT, files: Object.fromEntries(files) });
  release = kernel.release;
  boot = { kernel: kernel.image, initrd, cmdline: "console=ttyS0 panic=0" };
  // Where it opens but does not work, asking takes its time.
  host = await startMachine({ setup: "umount /dev/kvm 2>/dev/null; rm -f /dev/kvm; rm -rf /var/lib/labctl" });
  ws = createWorkspace();
  execFileSync("qemu-img", ["create", "-q", "-f", "qcow2", ws.path("base.qcow2"), "16M"]);
}, 300_000);
afterAll(async () => {
  ws?.remove();
  await host?.stop();
});

describe("machines without libvirt", { timeout: 240_000 }, () => {
  test("boot, outlive labctl and its connection, and are made once", async () => {
    lab();
    expect(await ws.pending()).toMatchObject({ "vm.one": "create" });
    await ws.apply();
    expect(await qemus()).toMatch(/^\d+$/);
    expect(await inside("pgrep -c -x sshd")).toBe("1");
    await booted();
    const log = await consoleLog();
    expect(log).toContain("# seed of one");
    expect(log).toContain(`labctl-test: disk vda ${(16 * MIB) / 512}`);
    expect(log).toContain(`labctl-test: disk vdb ${(8 * MIB) / 512}`);
    expect(await inside(`qemu-img info -U ${await folder()}/vda.qcow2`)).toMatch(
      /backing file: .*\/image-[0-9a-f]{64}\.qcow2/,
    );
    expect(await inside(`stat -c %a ${await folder()} ${await folder()}/machine.json`)).toBe("700\n600");
    const [pid, before] = [await qemus(), await inside(`sha256sum ${await folder()}/machine.json`)];
    expect(await ws.pending()).toEqual({});
    await ws.apply();
    expect([await qemus(), await inside(`sha256sum ${await folder()}/machine.json`)]).toEqual([pid, before]);
  });

  test("are shown as they are, with their host", async () => {
    const shown = await ws.run(["vm", "list", "--json"]);
    expect(JSON.parse(shown.stdout)).toMatchObject([
      { address: "vm.one", status: "running", host: "host.box", domain: "plain-one", cpus: 1, drift: [] },
    ]);
    const state = await ws.run(["state", "show", "host.box/qemu_host", "--json"]);
    const { observed } = JSON.parse(state.stdout) as { observed: Record<string, unknown> };
    expect(observed).toMatchObject({
      hypervisor: expect.stringMatching(/^\d+\.\d+\.\d+$/),
      arch: "x86_64",
      kvm: false,
    });
    expect(observed["arches"]).toContain("x86_64");
    expect(observed).not.toHaveProperty("libvirt");
  });

  test("are logged in to through a port of their host that QEMU forwards", async () => {
    // This guest runs no sshd: it leads on to its host's, which tells that the way went through it.
    const exec = await ws.run(["exec", "one", "--", "sh", "-c", "echo $SSH_CONNECTION"]);
    expect(exec.code, exec.output).toBe(0);
    expect(exec.stdout).toMatch(/^127\.0\.0\.1 \d+ 127\.0\.0\.1 22\n$/);
    expect(ws.files().get("guests")).toMatch(/^\[127\.0\.0\.1\]:(2\d|3[01])\d{3} /);
  });

  test("memory and larger disks change while they run", async () => {
    const pid = await qemus();
    lab({ memory: { size: "224MiB", max: "256MiB" }, disks: [{ image: "./base.qcow2" }, { size: "12MiB" }] });
    expect(await ws.pending()).toEqual({ "vm.one": "update memory.size, disks.1.size" });
    await ws.apply();
    expect(await qemus()).toBe(pid);
    expect(await inside(`qemu-img info -U ${await folder()}/vdb.qcow2`)).toContain("12 MiB");
    expect(await ws.pending()).toEqual({});
  });

  test("QEMU that was killed is missed, and started again; the console's record before stays", async () => {
    await inside("kill -9 $(pgrep -x qemu-system-x86); while pgrep -x qemu-system-x86; do sleep 0.1; done");
    expect(await ws.pending()).toEqual({ "vm.one": "update running" });
    expect((await ws.run(["vm", "show", "one"])).stdout).toMatch(/status +off/);
    await ws.apply();
    expect(await qemus()).toMatch(/^\d+$/);
    expect(await consoleLog("console.log.1")).toContain("labctl-test: up");
    await booted();
    expect(await ws.pending()).toEqual({});
  });

  test("a process number proves nothing: another program that has it is no machine, and is left alone", async () => {
    await inside("kill -9 $(pgrep -x qemu-system-x86); while pgrep -x qemu-system-x86; do sleep 0.1; done");
    await inside(`setsid sleep 7777 >/dev/null 2>&1 & echo $! >${await folder()}/pid`);
    expect(await ws.pending()).toEqual({ "vm.one": "update running" });
    await ws.apply();
    expect(await inside("pgrep -f 'sleep 777[7]'")).toMatch(/^\d+$/);
    await inside("pkill -f 'sleep 777[7]'");
    await booted();
  });

  test("what was changed behind labctl's back is named, exactly", async () => {
    await edit(({ model }) => {
      model["rng"] = false;
      model["boot"] = { ...(model["boot"] as object), cmdline: "console=ttyS0 other" };
    });
    const pid = await qemus();
    expect(await ws.pending()).toEqual({ "vm.one": "update boot.cmdline, rng" });
    // Only what it will start with is wrong: that is put right, and the machine goes on.
    await ws.apply();
    expect(await qemus()).toBe(pid);
    expect(await ws.pending()).toEqual({});

    const qmp = `${await folder()}/qmp`;
    await inside(
      `printf '%s\\n' '{"execute":"qmp_capabilities"}' '{"execute":"stop"}' | timeout 5 socat -t 2 - UNIX-CONNECT:${qmp}`,
    );
    expect(await ws.pending()).toEqual({ "vm.one": "update running" });
    await ws.apply();
    expect(await qemus()).toBe(pid);

    // Another QEMU in its place, with other memory, under the same uuid.
    await inside(
      `q=$(pgrep -x qemu-system-x86); tr '\\0' '\\n' </proc/$q/cmdline | sed 's/^size=256M$/size=320M/; s/mac=52:54:../mac=52:54:ff/; /^-S$/d' >/tmp/argv
kill -9 $q; while pgrep -x qemu-system-x86 >/dev/null; do sleep 0.1; done; rm -f ${await folder()}/qmp ${await folder()}/console
tr '\\n' '\\0' </tmp/argv | xargs -0 setsid`,
    );
    expect(await ws.pending()).toEqual({ "vm.one": "update memory.max, networks.0.mac" });
    await ws.apply();
    expect(await ws.pending()).toEqual({});
    await booted();

    await inside(
      `mv ${await folder()}/vdb.qcow2 ${await folder()}/away; qemu-img create -q -f qcow2 ${await folder()}/vdb.qcow2 4M`,
    );
    expect(await ws.pending()).toEqual({ "vm.one": "update disks.1.source, disks.1.size" });
    await inside(`mv ${await folder()}/away ${await folder()}/vdb.qcow2`);
    expect(await ws.pending()).toEqual({});
  });

  test("one that does not answer is out of reach, and nothing is begun on it", async () => {
    await inside("kill -STOP $(pgrep -x qemu-system-x86)");
    const plan = await ws.run(["plan"]);
    await inside("kill -CONT $(pgrep -x qemu-system-x86)");
    expect(plan.code, plan.output).toBe(5);
    expect(plan.output).toMatch(/its QEMU on host\.box runs \(process \d+\) and does not answer/);
    expect(await ws.pending()).toEqual({});
  });

  test("one that still starts is waited for", async () => {
    lab();
    await ws.apply();
    const qmp = `${await folder()}/qmp`;
    await inside(`mv ${qmp} ${qmp}.later; (sleep 3; mv ${qmp}.later ${qmp}) >/dev/null 2>&1 &`);
    expect(await ws.pending()).toEqual({});
  });

  test("what cannot change live restarts them: the guest is told to stop first", async () => {
    lab({ memory: "320MiB", disks: [{ image: "./base.qcow2" }, { size: "12MiB" }] });
    const action = (await ws.plan([], 2)).actions.find((one) => one.address === "vm.one");
    expect(action?.changes.find((one) => one.path === "memory.max")?.effect).toBe("restart");
    await ws.apply();
    expect(await consoleLog("console.log.1")).toContain("labctl-test: told to stop");
    await booted();
    expect(await consoleLog()).toMatch(/labctl-test: memory 2[6-9]\d MiB/);
    expect(await ws.pending()).toEqual({});
  });

  test("somebody else's folder is left alone", async () => {
    const pid = await qemus();
    await edit(({ owner }) => {
      owner["instance_id"] = "another";
    });
    for (const [code, ...command] of [
      [5, "plan"],
      [6, "destroy", "--auto-approve"],
    ] as const) {
      const run = await ws.run(command);
      expect(run.code, run.output).toBe(code);
      expect(run.output).toContain("labctl did not make it here");
    }
    expect(await qemus()).toBe(pid);
    const own = (await folder()).split("/").pop() ?? "";
    await edit(({ owner }) => {
      owner["instance_id"] = own;
    });
    expect(await ws.pending()).not.toHaveProperty(["vm.one"]);
  });

  test("destroy leaves no process and no file", async () => {
    await ws.destroy();
    expect(await qemus()).toBe("");
    expect(await machines()).toEqual([]);
  });

  test("labctl killed anywhere in an apply: the next one converges on one QEMU, and destroy on none", async () => {
    lab();
    const started = performance.now();
    await ws.apply();
    const whole = performance.now() - started;
    await ws.destroy();
    expect(await qemus()).toBe("");
    for (const share of [0.35, 0.5, 0.65, 0.8, 0.9]) {
      const child = ws.spawn(["apply", "--auto-approve"]);
      await new Promise((resolve) => setTimeout(resolve, whole * share));
      child.kill("SIGKILL");
      await child.done;
      await ws.apply();
      expect(await qemus()).toMatch(/^\d+$/);
      expect(await machines()).toHaveLength(1);
      expect(await ws.pending()).toEqual({});
      const ending = ws.spawn(["destroy", "--auto-approve"]);
      await new Promise((resolve) => setTimeout(resolve, whole * share));
      ending.kill("SIGKILL");
      await ending.done;
      await ws.destroy();
      expect(await qemus()).toBe("");
      expect(await machines()).toEqual([]);
    }
  });

  test.each([
    [
      "a volume",
      { disks: [{ volume: "base" }] },
      { volumes: { base: { host: "box", size: "8MiB" } } },
      8,
      "has no libvirt",
    ],
    [
      "a network",
      { networks: ["test"] },
      { networks: { test: { host: "box", cidr: "192.168.150.0/24" } } },
      8,
      "has no libvirt",
    ],
    ["what libvirt would start", { autostart: true }, {}, 8, "`autostart`: nobody there would start it"],
    [
      "a network that is none of the lab's",
      { networks: [{ bridge: "br0", link: false }] },
      {},
      8,
      "cables that are out",
    ],
    ["more memory than the host has", { memory: "4000GiB" }, {}, 8, "3.9 TiB of memory are asked for"],
    ["a processor that QEMU has not", { cpus: { count: 1, model: "z80" } }, {}, 8, "processors of the model z80"],
    ["a machine type that QEMU has not", { machine: "pc-q35-99.9" }, {}, 8, "the machine type pc-q35-99.9"],
  ])("a plan refuses %s, by name", async (what, vm, more, code, text) => {
    lab(vm, more);
    if (what === "a network that is none of the lab's") {
      const alone = await ws.run(["plan"]);
      expect(alone.code, alone.output).toBe(3);
      expect(alone.output).toContain("a bridge without libvirt");
    }
    const run = await ws.run(["plan", "--experimental"]);
    expect(run.output).toContain(text);
    expect(run.code, run.output).toBe(code);
    expect(await machines()).toEqual([]);
  });

  test("a login that is not root has its machines below its home, and they are its own", async () => {
    lab({ memory: "128MiB" });
    const spec = JSON.parse(readFileSync(ws.path("lab.yaml"), "utf8")) as { hosts: { box: object } };
    ws.write("lab.yaml", { ...spec, hosts: { box: { ...spec.hosts.box, sudo: false } } });
    await ws.apply();
    expect(await machines()).toEqual([]);
    expect(await inside("ls /home/lab/.local/state/labctl/vms/*/machine.json")).toMatch(/machine\.json$/);
    expect(await inside("ps -o user= -p $(pgrep -x qemu-system-x86)")).toBe("lab");
    expect(await ws.pending()).toEqual({});
    const kill = "kill -9 $(pgrep -x qemu-system-x86); while pgrep -x qemu-system-x86 >/dev/null; do sleep 0.1; done";
    await inside(kill);
    expect(await ws.pending()).toEqual({ "vm.one": "update running" });
    await ws.apply();
    await inside(kill);
    await ws.destroy();
    expect(await inside("find /home/lab/.local/state/labctl/vms -mindepth 1")).toBe("");
  });

  test("a host takes as many as it says, and no environment", async () => {
    lab({}, {}, { max_vms: 1 });
    const spec = JSON.parse(readFileSync(ws.path("lab.yaml"), "utf8")) as { vms: Record<string, object> };
    ws.write("lab.yaml", {
      ...spec,
      vms: { ...spec.vms, two: { host: "box", memory: "64MiB", boot, running: false } },
    });
    const both = await ws.run(["apply", "--auto-approve", "--no-wait"]);
    expect(both.output).toContain("E_BUSY");
    expect(await machines()).toHaveLength(1);
    await ws.destroy();
    expect(await qemus()).toBe("");

    lab({ running: false });
    ws.write("pipeline.yaml", {
      labctl: 1,
      name: "p",
      environments: {
        smoke: { vm: { requires: { arch: "x86_64" } }, boot: { kernel: boot.kernel, initrd: boot.initrd } },
      },
    });
    const plan = await ws.run(["plan"]);
    expect(plan.code, plan.output).toBe(8);
    expect(plan.output).toContain("it has no libvirt, which is needed for environments");
  });
});
