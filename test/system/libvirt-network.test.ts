/** Networks on a real libvirtd, through the CLI; what is there is asked of virsh. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { startLibvirtd, type TestLibvirtd } from "../support/libvirtd.ts";
import { createWorkspace, hostOf, type Workspace } from "../support/workspace.ts";

let virt: TestLibvirtd;
let ws: Workspace;

function lab(networks: Readonly<Record<string, object>>): void {
  ws.write("lab.yaml", {
    labctl: 1,
    name: "nets",
    hosts: { kvm: hostOf(virt.host, { qemu_host: {} }) },
    networks: Object.fromEntries(Object.entries(networks).map(([name, more]) => [name, { host: "kvm", ...more }])),
  });
}

const TEST = { cidr: "192.168.150.0/24", dns: { domain: "lab.test", hosts: { mirror: "192.168.150.1" } } };

beforeAll(async () => {
  virt = await startLibvirtd();
  ws = createWorkspace();
}, 120_000);
afterAll(async () => {
  ws?.remove();
  await virt?.stop();
});

describe("networks", { timeout: 120_000 }, () => {
  test("are made, and made once", async () => {
    lab({ test: TEST });
    await ws.apply();
    const xml = await virt.virsh("net-dumpxml", "nets-test");
    expect(xml).toContain("<ip address='192.168.150.1' netmask='255.255.255.0'>");
    expect(xml).toContain("<range start='192.168.150.2' end='192.168.150.254'/>");
    expect(xml).toContain('address="network.test"');
    expect(await virt.virsh("net-info", "nets-test")).toMatch(/Active: +yes\s+Persistent: +yes\s+Autostart: +yes/);
    expect(await ws.pending()).toEqual({});
  });

  test("names and fixed addresses change while it runs", async () => {
    const bridge = /Bridge: +(\S+)/.exec(await virt.virsh("net-info", "nets-test"))?.[1] ?? "";
    const index = await virt.run("cat", `/sys/class/net/${bridge}/ifindex`);
    lab({
      test: {
        ...TEST,
        dns: { domain: "lab.test", hosts: { mirror: "192.168.150.2", cache: "192.168.150.2" } },
        hosts: { board: { mac: "52:54:00:00:00:01", address: "192.168.150.20" } },
      },
    });
    await ws.apply();
    const xml = await virt.virsh("net-dumpxml", "nets-test");
    expect(xml).toContain("<host mac='52:54:00:00:00:01' name='board' ip='192.168.150.20'/>");
    expect(xml).toContain("<hostname>cache</hostname>");
    expect(await virt.run("cat", `/sys/class/net/${bridge}/ifindex`)).toBe(index);
    expect(await ws.pending()).toEqual({});
    lab({ test: TEST });
    await ws.apply();
    expect(await virt.virsh("net-dumpxml", "--inactive", "nets-test")).not.toContain("board");
    expect(await virt.virsh("net-dumpxml", "nets-test")).not.toContain("board");
    expect(await ws.pending()).toEqual({});
  });

  test("another range restarts it", async () => {
    lab({ test: { ...TEST, cidr: "192.168.151.0/24", dns: true } });
    const plan = await ws.plan([], 2);
    expect(plan.actions.find((one) => one.address === "network.test")).toMatchObject({
      action: "update",
      changes: expect.arrayContaining([expect.objectContaining({ path: "cidr", effect: "restart" })]),
    });
    await ws.apply();
    expect(await virt.virsh("net-dumpxml", "nets-test")).toContain("address='192.168.151.1'");
    lab({ test: TEST });
    await ws.apply();
    expect(await ws.pending()).toEqual({});
  });

  const drifts: Readonly<Record<string, readonly [string, () => Promise<unknown>]>> = {
    "that was stopped": ["update running", () => virt.virsh("net-destroy", "nets-test")],
    "that does not start by itself": ["update autostart", () => virt.virsh("net-autostart", "nets-test", "--disable")],
    "with another name in it": [
      "update dns.hosts.rogue",
      () =>
        virt.virsh(
          "net-update",
          "nets-test",
          "add",
          "dns-host",
          "<host ip='192.168.150.9'><hostname>rogue</hostname></host>",
          "--live",
          "--config",
        ),
    ],
    "that runs otherwise than it is defined": [
      "update outdated",
      () =>
        virt.virsh(
          "net-update",
          "nets-test",
          "add",
          "dns-host",
          "<host ip='192.168.150.9'><hostname>rogue</hostname></host>",
          "--live",
        ),
    ],
    "that was taken away": [
      "create",
      async () => {
        await virt.virsh("net-destroy", "nets-test");
        await virt.virsh("net-undefine", "nets-test");
      },
    ],
  };
  for (const [what, [named, change]] of Object.entries(drifts)) {
    test(`one ${what} is named, and mended`, async () => {
      await change();
      expect(await ws.pending()).toEqual({ "network.test": named });
      await ws.apply();
      expect(await ws.pending()).toEqual({});
      expect(await virt.virsh("net-dumpxml", "nets-test")).not.toContain("rogue");
    });
  }

  test("ranges that overlap are refused before anything is touched", async () => {
    await virt.run("ip", "link", "add", "dummy7", "type", "bridge");
    await virt.run("ip", "address", "add", "10.77.0.1/16", "dev", "dummy7");
    await virt.run("ip", "link", "set", "dummy7", "up");
    for (const [cidr, by] of [
      ["10.77.3.0/24", "dummy7"],
      ["192.168.150.128/25", "network.test"],
    ] as const) {
      lab({ test: TEST, more: { cidr }, fine: { cidr: "192.168.160.0/24" } });
      const run = await ws.run(["apply", "--auto-approve"]);
      expect(run.code, run.output).toBe(3);
      expect(run.output).toContain("E_NETWORK_OVERLAP");
      expect(run.output).toContain(by);
      expect(await virt.virsh("net-list", "--all", "--name")).toBe("nets-test");
    }
    await virt.run("ip", "link", "del", "dummy7");
  });

  test("one of that name that labctl did not make is left alone", async () => {
    await virt.run("sh", "-c", "echo '<network><name>nets-theirs</name></network>' >/tmp/theirs.xml");
    await virt.virsh("net-define", "/tmp/theirs.xml");
    lab({ test: TEST, theirs: {} });
    const plan = await ws.plan([], 6);
    expect(plan.actions.find((one) => one.address === "network.theirs")).toMatchObject({
      action: "blocked",
      reason: { code: "not-owned" },
    });
    await virt.virsh("net-undefine", "nets-theirs");
  });

  test("libvirt that is not there: its own exit code, nothing lost, and the next apply goes on", async () => {
    lab({ test: TEST, second: { cidr: "192.168.170.0/24" } });
    await virt.kill();
    const run = await ws.run(["apply", "--auto-approve"]);
    expect(run.code, run.output).toBe(5);
    expect(run.output).toContain("libvirt");
    await virt.start();
    await ws.apply();
    expect(await ws.pending()).toEqual({});
    expect((await virt.virsh("net-list", "--name")).split("\n").sort()).toEqual(["nets-second", "nets-test"]);
  });

  test("destroy leaves nothing", async () => {
    await ws.destroy();
    expect(await virt.virsh("net-list", "--all", "--name")).toBe("");
    expect(await virt.run("sh", "-c", "ls /sys/class/net | grep -c lab- || :")).toBe("0");
  });
});
