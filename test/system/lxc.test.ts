/** Containers (LXC) on a real libvirtd: their programs really run; what is there is asked of virsh and of the programs themselves. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { startLibvirtd, type TestLibvirtd } from "../support/libvirtd.ts";
import { createWorkspace, hostOf, type Workspace } from "../support/workspace.ts";

/** libvirt puts containers into control groups; machines of tests have none mounted. */
const CGROUPS = `mount -t tmpfs cgroup /sys/fs/cgroup
for one in $(awk '$4 == 1 && $2 > 0 { print $1 }' /proc/cgroups); do
  mkdir /sys/fs/cgroup/$one; mount -t cgroup -o $one cgroup /sys/fs/cgroup/$one || rmdir /sys/fs/cgroup/$one
done
[ -e /sys/fs/cgroup/memory ] || { umount /sys/fs/cgroup; mount -t cgroup2 cgroup /sys/fs/cgroup; }`;

/** Says in its share that it is up, and which address it was given. */
const INIT = `#!/bin/sh
PATH=/bin; export PATH
[ ! -e /sys/class/net/eth0 ] || { ip link set eth0 up; udhcpc -i eth0 -n -q -s /given >/dev/null 2>&1; }
echo "up $(hostname) $*" >>/data/log
trap "exit 0" TERM; sleep 100000 & wait`;
const GIVEN = `#!/bin/sh
[ "$1" != bound ] || echo "$ip" >/data/address`;
const ROOT = `mkdir -p /srv/box/bin /srv/box/sbin /srv/box/proc /srv/box/sys /srv/box/dev /srv/box/data /srv/data
cp /bin/busybox /srv/box/bin && /bin/busybox --install -s /srv/box/bin
for one in /srv/box/bin/*; do [ ! -L "$one" ] || ln -sf busybox "$one"; done
printf '%s\\n' '${INIT}' >/srv/box/sbin/init; printf '%s\\n' '${GIVEN}' >/srv/box/given; chmod 755 /srv/box/sbin/init /srv/box/given`;

let virt: TestLibvirtd;
let ws: Workspace;

function lab(box: object | undefined, more: object = {}, hosts: object = {}): void {
  const common = {
    host: "kvm",
    type: "container",
    memory: "64MiB",
    networks: [{ network: "test", address: "10.77.0.9" }],
  };
  const container = { root: "/srv/box", args: ["first"] };
  const shares = [{ source: "/srv/data", target: "/data" }];
  ws.write("lab.yaml", {
    labctl: 1,
    name: "boxes",
    hosts: { kvm: hostOf(virt.host, { qemu_host: {} }), ...hosts },
    networks: { test: { host: "kvm", cidr: "10.77.0.0/24" } },
    vms: { ...(box && { box: { ...common, container, shares, ...box } }), ...more },
  });
}

const lxc = (...args: readonly string[]): Promise<string> => virt.run("virsh", "-q", "-c", "lxc:///system", ...args);

let started = 0;

/** The lines that its programs wrote, one for each start: now there is another one, and no more. */
async function startedOnce(): Promise<string> {
  started += 1;
  const lines = await starts(started);
  expect(lines).toHaveLength(started);
  return lines.at(-1) ?? "";
}

async function starts(count: number): Promise<readonly string[]> {
  for (let tries = 0; ; tries++) {
    const lines = (await virt.host.exec("cat /srv/data/log 2>/dev/null")).stdout
      .split("\n")
      .filter((line) => line !== "");
    if (lines.length >= count || tries > 100) return lines;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

beforeAll(async () => {
  virt = await startLibvirtd({ setup: `${CGROUPS}\n${ROOT}` });
  ws = createWorkspace();
}, 120_000);
afterAll(async () => {
  ws?.remove();
  await virt?.stop();
});

/** One that is up as the spec says, from wherever the test before left it. */
async function running(): Promise<void> {
  lab({});
  const fresh = (await virt.host.exec("virsh -q -c lxc:///system list --name")).stdout.trim() === "";
  await ws.apply();
  if (fresh) await startedOnce();
}

describe("containers", { timeout: 120_000 }, () => {
  test("start beside virtual machines of the same host, with their share, their card and their address", async () => {
    lab({}, { plain: { host: "kvm", memory: "64MiB", running: false } });
    await ws.apply();
    expect(await lxc("list", "--name")).toBe("boxes-box");
    expect(await virt.virsh("list", "--all", "--name")).toBe("boxes-plain");
    expect(await startedOnce()).toMatch(/^up \S+ first$/);
    expect(await virt.run("cat", "/srv/data/address")).toBe("10.77.0.9");
    expect(await lxc("dominfo", "boxes-box")).toMatch(/Max memory: +65536 KiB/);
    expect(await ws.pending()).toEqual({});
    lab({});
    await ws.apply();
    expect(await virt.virsh("list", "--all", "--name")).toBe("");
  });

  test("what happens behind labctl's back is named, and mended", async () => {
    await running();
    await lxc("destroy", "boxes-box");
    expect(await ws.pending()).toEqual({ "vm.box": "update running" });
    await ws.apply();
    await startedOnce();
    await lxc("setmem", "boxes-box", "32768", "--live");
    expect(await ws.pending()).toEqual({ "vm.box": "update memory.size" });
    await ws.apply();
    expect(await ws.pending()).toEqual({});
    expect(await starts(started)).toHaveLength(started);
    await lxc("destroy", "boxes-box");
    await lxc("undefine", "boxes-box");
    expect(await ws.pending()).toEqual({ "vm.box": expect.stringMatching(/^create/) });
    await ws.apply();
    await startedOnce();
  });

  test("other arguments start it anew, and the plan says so", async () => {
    await running();
    lab({ container: { root: "/srv/box", args: ["second"] } });
    const plan = await ws.plan([], 2);
    const action = plan.actions.find((one) => one.address === "vm.box");
    expect(action?.changes.map((one) => [one.path, one.effect])).toEqual([["container.args", "restart"]]);
    await ws.apply();
    expect(await startedOnce()).toMatch(/ second$/);
    expect(await ws.pending()).toEqual({});
  });

  test("what a container cannot have is refused before anything is touched", async () => {
    for (const [part, value] of [
      ["disks", [{ size: "1MiB" }]],
      ["firmware", "uefi"],
      ["console", { log: "/x" }],
    ] as const) {
      lab({ [part]: value });
      const run = await ws.run(["plan"]);
      expect(run.code, run.output).toBe(3);
      expect(run.output).toContain(`a container has no ${part}`);
    }
    expect(await lxc("list", "--name")).toBe("boxes-box");
  });

  test("one that becomes a virtual machine is made anew by the other driver", async () => {
    await running();
    lab(undefined, { box: { host: "kvm", memory: "64MiB", running: false } });
    const plan = await ws.plan([], 2);
    expect(plan.actions.find((one) => one.address === "vm.box")?.action).toBe("replace");
    await ws.apply();
    expect(await lxc("list", "--all", "--name")).toBe("");
    expect(await virt.virsh("list", "--all", "--name")).toBe("boxes-box");
    lab({});
    await ws.apply();
    expect(await virt.virsh("list", "--all", "--name")).toBe("");
  });

  test("a host whose libvirt has no driver for them is told with what it lacks", async () => {
    const bare = await startLibvirtd({
      name: "bare",
      setup: "rm /usr/lib/*/libvirt/connection-driver/libvirt_driver_lxc.so",
    });
    try {
      const other = { host: "bare", type: "container", memory: "64MiB", container: { root: "/srv/box" } };
      lab({}, { other }, { bare: hostOf(bare.host, { qemu_host: {} }) });
      const run = await ws.run(["plan"]);
      expect(run.code, run.output).toBe(8);
      expect(run.output).toContain("libvirt-daemon-driver-lxc");
    } finally {
      lab({});
      await bare.stop();
    }
  });

  test("destroy leaves its directories, and nothing else", async () => {
    await ws.destroy();
    expect(await lxc("list", "--all", "--name")).toBe("");
    expect(await virt.run("ls", "/srv/box/sbin")).toBe("init");
    expect((await virt.host.exec("pgrep -x libvirt_lxc")).stdout).toBe("");
  });
});
