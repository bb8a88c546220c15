/** Machines whose host labctl selects, on two real libvirtds: where they go, that they stay, and what becomes of those whose host changes. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { startLibvirtd, type TestLibvirtd } from "../support/libvirtd.ts";
import { createWorkspace, hostOf, type Workspace } from "../support/workspace.ts";

const ROLES = ["one", "two"] as const;
let hosts: Readonly<Record<(typeof ROLES)[number], TestLibvirtd>>;
let ws: Workspace;

interface Parts {
  readonly vms?: object;
  readonly volumes?: object;
  readonly networks?: object;
  readonly qemu?: object;
}

function lab({ vms = {}, volumes = {}, networks = {}, qemu = {} }: Parts): void {
  const labels = { one: { site: "berlin" }, two: { site: "munich" } };
  ws.write("lab.yaml", {
    labctl: 1,
    name: "farm",
    defaults: { timeouts: { connect: "2s" }, retry: { attempts: 1, delay: "50ms" } },
    hosts: Object.fromEntries(
      ROLES.map((role) => [role, hostOf(hosts[role].host, { labels: labels[role], qemu_host: qemu })]),
    ),
    networks,
    volumes,
    vms,
  });
}

/** Off: a machine without a system does not hear that it is to shut down, which would be waited for each time. */
const SMALL = { memory: "64MiB", running: false };
/** Its firmware finds nothing to boot, and it runs. */
const RUNNING = { ...SMALL, running: true };
const there = async (role: (typeof ROLES)[number]): Promise<string> =>
  await hosts[role].virsh("list", "--all", "--name");
const leased = async (): Promise<string[]> =>
  (JSON.parse((await ws.run(["leases", "--json"])).stdout) as { leases: { resource: string }[] }).leases
    .map(({ resource }) => resource)
    .filter((resource) => resource.startsWith("host."));

beforeAll(async () => {
  const [one, two] = await Promise.all([startLibvirtd({ name: "one" }), startLibvirtd({ name: "two" })]);
  hosts = { one, two };
  ws = createWorkspace();
}, 120_000);
afterAll(async () => {
  ws?.remove();
  await Promise.all(ROLES.map((role) => hosts?.[role].stop()));
});

describe("machines that say what their host must have", { timeout: 120_000 }, () => {
  const munich = { box: { ...RUNNING, requires: { labels: { site: "munich" } } } };

  test("go where it is, and are there when labctl looks again", async () => {
    lab({ vms: munich });
    const plan = await ws.plan([], 2);
    expect(plan.actions.find(({ address }) => address === "vm.box")?.placement).toEqual({
      chosen: "host.two",
      machines: [
        { address: "host.two", why: expect.stringContaining("the only one that fits") as string },
        { address: "host.one", why: "its label site is berlin, not munich" },
      ],
    });
    const shown = (await ws.run(["plan"])).stdout;
    expect(shown).toMatch(/\+ +vm\.box .*\n +host: \(known after apply\) now host\.two: .*the only one that fits\n/);
    expect(shown).toContain("not host.one: its label site is berlin, not munich");
    const run = await ws.apply();
    expect(await there("two")).toBe("farm-box");
    expect(await there("one")).toBe("");
    expect(await hosts.two.virsh("domstate", "farm-box")).toBe("running");
    expect(JSON.stringify(run.events)).toMatch(/not host\.one: .*site/);
    expect(await leased()).toEqual(["host.two"]);
    expect(await ws.pending()).toEqual({});
    expect((await ws.run(["vm", "list"])).stdout).toMatch(/box.*host\.two/);
  });

  test("stay where they are, though another host would do as well", async () => {
    lab({ vms: { box: { ...RUNNING, requires: {} } } });
    // Only what is wanted of its host is put on record.
    expect(await ws.pending()).toEqual({ "vm.box": "adopt" });
    await hosts.two.virsh("destroy", "farm-box");
    expect(await ws.pending()).toEqual({ "vm.box": "update running" });
    await ws.apply();
    expect(await ws.pending()).toEqual({});
    expect(await hosts.two.virsh("domstate", "farm-box")).toBe("running");
    expect(await there("one")).toBe("");
  });

  test("on a host that is away are unknown, not gone: nothing is made twice", async () => {
    await hosts.two.host.stopSshd();
    try {
      const plan = await ws.plan([], 5);
      expect(plan.actions.find(({ address }) => address === "vm.box")?.action).toBe("blocked");
    } finally {
      await hosts.two.host.startSshd();
    }
    await ws.apply();
    expect(await there("one")).toBe("");
  });

  test("are made anew where their spec names another host, and nothing of them stays behind", async () => {
    await hosts.two.virsh("destroy", "farm-box");
    lab({ vms: { box: { ...SMALL, host: "one", disks: [{ size: "1MiB" }] } } });
    const plan = await ws.plan([], 2);
    const [action] = plan.actions.filter(({ address }) => address === "vm.box");
    expect(action?.action).toBe("replace");
    expect(action?.changes.map(({ path, before, after }) => [path, before, after])).toContainEqual([
      "host",
      "two",
      "one",
    ]);
    await ws.apply();
    expect(await there("one")).toBe("farm-box");
    expect(await there("two")).toBe("");
    expect(await leased()).toEqual(["host.one"]);
    expect(await ws.pending()).toEqual({});
    // To be told what it is on already is no change.
    lab({ vms: { box: { ...SMALL, disks: [{ size: "1MiB" }], requires: { labels: { site: "berlin" } } } } });
    expect(await ws.pending()).toEqual({ "vm.box": "adopt" });
  });

  test("so are volumes and networks", async () => {
    const parts = (host: string): Parts => ({
      volumes: { data: { host, size: "1MiB" } },
      networks: { inner: { host, cidr: "192.168.151.0/24" } },
    });
    lab(parts("one"));
    await ws.apply();
    lab(parts("two"));
    const plan = await ws.plan([], 2);
    for (const address of ["volume.data", "network.inner"]) {
      expect(plan.actions.find((one) => one.address === address)?.action, address).toBe("replace");
    }
    await ws.apply();
    const files = (role: (typeof ROLES)[number]): Promise<string> =>
      hosts[role].run("sh", "-c", "ls -A /var/lib/libvirt/images; virsh net-list --all --name");
    expect(await files("one")).not.toContain("farm");
    expect(await files("two")).toMatch(/farm-data.*farm-inner/s);
    expect(await ws.pending()).toEqual({});
  });

  test("go where their volumes and networks are; nowhere where these are apart", async () => {
    const volumes = { data: { host: "two", size: "1MiB" } };
    lab({ volumes, vms: { box: { ...SMALL, disks: [{ volume: "data" }] } } });
    await ws.apply();
    expect(await there("two")).toBe("farm-box");
    const networks = { inner: { host: "one", cidr: "192.168.151.0/24" } };
    lab({
      volumes,
      networks,
      vms: { other: { ...SMALL, requires: {}, disks: [{ volume: "data" }], networks: ["inner"] } },
    });
    const apart = await ws.run(["plan"]);
    expect(apart.code, apart.output).toBe(3);
    expect(apart.output).toContain("volume.data is on two, and network.inner on one");
    lab({ volumes, vms: { other: { ...SMALL, host: "one", disks: [{ volume: "data" }] } } });
    const far = await ws.run(["plan"]);
    expect(far.code, far.output).toBe(3);
    expect(far.output).toContain("volume.data is on two, and the machine on one");
  });

  test("that fit nowhere are refused before anything is touched, with what each host lacks", async () => {
    lab({ vms: { big: { ...SMALL, requires: { memory: "900TiB" } } } });
    const never = await ws.run(["plan"]);
    expect(never.code, never.output).toBe(8);
    expect(never.output).toMatch(/host\.one: .*\n.*host\.two: /);
  });

  test("whose host fails them are made on the next that fits", async () => {
    lab({ qemu: {} });
    await ws.apply();
    // Whichever comes first: its pool for layers cannot be written to.
    await hosts.one.run(
      "sh",
      "-c",
      "mv /var/lib/libvirt/images /var/lib/libvirt/images.away; touch /var/lib/libvirt/images",
    );
    try {
      lab({ vms: { spare: { ...SMALL, requires: { prefer: ["one"] }, disks: [{ size: "1MiB" }] } } });
      const run = await ws.apply();
      expect(JSON.stringify(run.events)).toContain("vm.spare failed on host.one: trying host.two");
      expect(await there("one")).toBe("");
      expect(await there("two")).toBe("farm-spare");
      expect(await leased()).toEqual(["host.two"]);
    } finally {
      await hosts.one.run(
        "sh",
        "-c",
        "rm -rf /var/lib/libvirt/images; mv /var/lib/libvirt/images.away /var/lib/libvirt/images",
      );
    }
  });

  test("are taken away with all that they had, also alone and when the spec says nothing of them any more", async () => {
    lab({});
    expect(await ws.pending(["--target", "vm.spare"])).toEqual({ "vm.spare": "delete" });
    await ws.destroy();
    for (const role of ROLES) expect(await there(role)).toBe("");
    expect(await leased()).toEqual([]);
  });
});
