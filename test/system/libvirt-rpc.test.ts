import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  Affect,
  AddressSource,
  DomainConsole,
  DomainDefine,
  DomainDestroy,
  DomainList,
  DomainShutdown,
  DomainStart,
  DomainStats,
  DomainXml,
  isLibvirtError,
  type Libvirt,
  type LifecycleEvent,
  openLibvirt,
  VirErr,
  VolumeCreate,
  VolumeResize,
} from "../../providers/libvirt/rpc/index.ts";
import { createMachinePool, type Machine, type MachinePool } from "../../src/transport/index.ts";
import { bootSectorDisk, GUEST_OFF, GUEST_READY } from "../support/boot-sector.ts";
import { domainXml, networkXml, poolXml, volumeXml } from "../support/libvirt-xml.ts";
import { libvirtdUnavailable, startLibvirtd, type TestLibvirtd } from "../support/libvirtd.ts";
import { failure, reads, until } from "../support/libvirt-waits.ts";

const why = libvirtdUnavailable();
if (why !== undefined) console.log(`skipping libvirt's RPC: ${why}`);

const MIB = 1 << 20;

describe.skipIf(why !== undefined)("libvirt's RPC against a real libvirtd", () => {
  let virt: TestLibvirtd;
  let pool: MachinePool;
  beforeAll(async () => {
    virt = await startLibvirtd({ name: "virt" });
    pool = createMachinePool({ env: virt.host.env });
    await virt.host.exec("base64 -d >/var/lib/libvirt/images/boot.img", bootSectorDisk().toString("base64"));
  });
  afterAll(async () => {
    await pool?.close();
    await virt?.stop();
  });

  const ways: [string, () => { machine: Machine; uri: string }][] = [
    [
      "locally",
      () => ({
        machine: pool.machine({ type: "local", address: "host.here", become: { method: "none" } }),
        uri: virt.uri,
      }),
    ],
    ["over SSH", () => ({ machine: pool.machine(virt.host.connection()), uri: "qemu:///system" })],
  ];

  describe.each(ways)("%s", (way, target) => {
    const tag = way === "locally" ? "l" : "s";
    let libvirt: Libvirt;
    beforeAll(async () => {
      const { machine, uri } = target();
      libvirt = await openLibvirt(machine, { uri });
    });
    afterAll(() => libvirt?.close());

    it("tells versions, host, capabilities and resources as virsh does", async () => {
      const said = await virt.virsh("version");
      expect(said).toContain(`Using library: libvirt ${await libvirt.libVersion()}`);
      expect(said).toContain(`Running hypervisor: QEMU ${await libvirt.version()}`);
      expect(await libvirt.type()).toBe("QEMU");
      expect(await libvirt.hostname()).toBe(await virt.virsh("hostname"));
      // Load averages and the like do not stand in it: the same text.
      expect((await libvirt.capabilities()).trim()).toBe(await virt.virsh("capabilities"));
      const about = { arch: "x86_64", machine: "q35", virttype: "qemu" };
      expect((await libvirt.domainCapabilities(about)).trim()).toBe(
        await virt.virsh("domcapabilities", "--arch", "x86_64", "--machine", "q35", "--virttype", "qemu"),
      );
      const emulator = "/usr/bin/qemu-system-x86_64";
      expect(await libvirt.domainCapabilities({ emulator })).toContain(`<path>${emulator}</path>`);

      const node = await virt.virsh("nodeinfo");
      const info = await libvirt.node.info();
      expect(node).toMatch(new RegExp(`CPU model: +${info.model}\n`));
      expect(node).toMatch(new RegExp(`CPU\\(s\\): +${info.cpus}\n`));
      expect(node).toMatch(new RegExp(`Memory size: +${info.memory} KiB`));
      const memory = await libvirt.node.memoryStats();
      expect(await virt.virsh("nodememstats")).toMatch(new RegExp(`total *: +${memory["total"]} KiB`));
      expect(Object.keys(memory).sort()).toEqual(["buffers", "cached", "free", "total"]);
      const free = await libvirt.node.freeMemory();
      const cell = Number(/Total: +(\d+) KiB/.exec(await virt.virsh("freecell"))?.[1]);
      expect(Math.abs(free / 1024 - cell)).toBeLessThan(1 << 20);
      const before = await libvirt.node.cpuStats();
      expect(Object.keys(before).sort()).toEqual(["idle", "iowait", "kernel", "user"]);
      const user = Number(/user: +(\d+)/.exec(await virt.virsh("nodecpustats"))?.[1]);
      const after = await libvirt.node.cpuStats();
      expect(user).toBeGreaterThanOrEqual(before["user"] ?? Number.NaN);
      expect(user).toBeLessThanOrEqual(after["user"] ?? Number.NaN);
      expect((await libvirt.node.cpuStats({ cpu: 0 }))["idle"]).toBeLessThan(after["idle"] ?? 0);
    });

    it("defines, changes, looks up and undefines domains", async () => {
      const { domains } = libvirt;
      const name = `def-ü-${tag}`;
      expect(await domains.find(name)).toBeUndefined();
      const missing = await failure(domains.lookupByName(name));
      expect(missing.code).toBe("E_LIBVIRT");
      expect(missing.message).toContain(`no domain with matching name '${name}'`);
      expect(missing.message).toContain("VIR_ERR_NO_DOMAIN, 42");
      expect(missing.address).toBe(target().machine.address);
      expect(isLibvirtError(missing, VirErr.NO_DOMAIN)).toBe(true);
      expect(isLibvirtError(missing, VirErr.NO_NETWORK)).toBe(false);

      const domain = await domains.define(domainXml(name), { flags: DomainDefine.VALIDATE });
      expect(domain).toEqual({ name, uuid: await virt.virsh("domuuid", name), id: -1 });
      expect(await domains.find(name)).toEqual(domain);
      expect(await domains.lookupByUuid(domain.uuid)).toEqual(domain);
      expect(await domains.list()).toContainEqual(domain);
      expect(await domains.list({ flags: DomainList.ACTIVE })).not.toContainEqual(domain);
      expect((await domains.xml(domain, { flags: DomainXml.INACTIVE })).trim()).toBe(
        await virt.virsh("dumpxml", "--inactive", name),
      );
      expect(await domains.state(domain)).toMatchObject({ state: "shutoff" });
      expect(await domains.info(domain)).toEqual({
        state: "shutoff",
        maxMemory: 65_536,
        memory: 65_536,
        vcpus: 1,
        cpuTime: 0,
      });
      expect(await domains.isActive(domain)).toBe(false);
      expect(await domains.isPersistent(domain)).toBe(true);

      expect(await domains.autostart(domain)).toBe(false);
      await domains.setAutostart(domain, true);
      expect(await domains.autostart(domain)).toBe(true);
      expect(await virt.virsh("dominfo", name)).toMatch(/Autostart: +enable/);
      await domains.setAutostart(domain, false);

      await domains.setVcpus(domain, 2, { flags: Affect.CONFIG });
      expect(await domains.vcpus(domain, { flags: Affect.CONFIG })).toBe(2);
      await domains.setMemory(domain, 131_072, { flags: Affect.CONFIG | Affect.MAXIMUM });
      await domains.setMemory(domain, 98_304, { flags: Affect.CONFIG });
      const info = await virt.virsh("dominfo", name);
      expect(info).toMatch(/CPU\(s\): +2/);
      expect(info).toMatch(/Max memory: +131072 KiB/);
      expect(info).toMatch(/Used memory: +98304 KiB/);

      const urn = "urn:labctl:test";
      expect(await domains.metadata(domain, urn)).toBeUndefined();
      await domains.setMetadata(domain, urn, { key: "labctl", xml: '<owner id="7"/>' }, { flags: Affect.CONFIG });
      expect(await domains.metadata(domain, urn)).toContain('<owner id="7"/>');
      expect(await virt.virsh("metadata", name, urn, "--config")).toContain('<owner id="7"/>');
      await domains.setMetadata(domain, urn, undefined, { flags: Affect.CONFIG });
      expect(await domains.metadata(domain, urn)).toBeUndefined();

      const tablet = "<input type='tablet' bus='usb'/>";
      await domains.attachDevice(domain, tablet, { flags: Affect.CONFIG });
      expect(await virt.virsh("dumpxml", name)).toContain("type='tablet'");
      await domains.detachDevice(domain, tablet, { flags: Affect.CONFIG });
      expect(await virt.virsh("dumpxml", name)).not.toContain("type='tablet'");

      const refused = await failure(domains.define(domainXml(`no-${tag}`).replace(/<name>.*<\/name>/, "")));
      expect(refused.message).toContain("name");
      expect(isLibvirtError(refused, VirErr.NO_NAME)).toBe(true);
      await domains.undefine(domain);
      expect(await domains.find(name)).toBeUndefined();
      expect(await virt.virsh("list", "--all", "--name")).not.toContain(name);
    });

    it("boots, watches, changes live, pauses, restarts, shuts down and kills a machine, with its console", async () => {
      const { domains, events } = libvirt;
      const name = `run-${tag}`;
      const disk = `/var/lib/libvirt/images/${name}.img`;
      const iso = `/var/lib/libvirt/images/${name}.iso`;
      await virt.run("cp", "/var/lib/libvirt/images/boot.img", disk);
      await virt.run("truncate", "-s", "1M", iso);
      const cdrom = (source: string): string =>
        `<disk type='file' device='cdrom'>${source}<target dev='hdc' bus='ide'/><readonly/></disk>`;
      const domain = await domains.define(domainXml(name, { disk, devices: cdrom("") }));
      const seen: LifecycleEvent[] = [];
      const others: LifecycleEvent[] = [];
      const restarts: string[] = [];
      const all = await events.lifecycle((event) => seen.push(event));
      const stray = await domains.define(domainXml(`stray-${tag}`));
      const one = await events.lifecycle((event) => others.push(event), { domain: stray });
      const restarted = await events.reboot((event) => restarts.push(event.domain.name));

      const paused = await domains.create(domain, { flags: DomainStart.PAUSED });
      expect(paused.id).toBe(Number(await virt.virsh("domid", name)));
      expect(await domains.state(paused)).toMatchObject({ state: "paused" });
      expect(await domains.list({ flags: DomainList.ACTIVE })).toContainEqual(paused);
      expect(await domains.isActive(paused)).toBe(true);

      // From the first byte, since it has not begun to run.
      const console = await domains.openConsole(paused, { flags: DomainConsole.FORCE | DomainConsole.SAFE });
      const printed = reads(console);
      const busy = await failure(domains.openConsole(paused, { flags: DomainConsole.SAFE }));
      expect(isLibvirtError(busy, VirErr.OPERATION_FAILED)).toBe(true);
      expect(busy.message).toContain("Active console session exists for this domain");

      await domains.resume(paused);
      await printed.contain(GUEST_READY);
      console.write("hello, guest");
      await printed.contain("hello, guest");

      await domains.suspend(paused);
      expect(await virt.virsh("domstate", name)).toBe("paused");
      await domains.resume(paused);
      expect(await virt.virsh("domstate", name)).toBe("running");

      expect(await domains.vcpus(paused, { flags: Affect.LIVE })).toBe(1);
      await domains.setVcpus(paused, 2, { flags: Affect.LIVE });
      expect(await virt.virsh("vcpucount", name, "--current", "--live")).toBe("2");
      await domains.setMemory(paused, 49_152, { flags: Affect.LIVE });
      expect(await virt.virsh("dumpxml", name)).toContain("<currentMemory unit='KiB'>");

      const spare = "<disk type='file' device='disk'><driver name='qemu' type='raw'/>";
      const usb = `${spare}<source file='${iso}'/><target dev='sda' bus='usb'/></disk>`;
      await domains.attachDevice(paused, usb, { flags: Affect.LIVE });
      expect(await virt.virsh("domblklist", name)).toMatch(new RegExp(`sda +${iso}`));
      await domains.detachDevice(paused, usb, { flags: Affect.LIVE });
      await until(async () => !(await virt.virsh("domblklist", name)).includes("sda"));
      await domains.updateDevice(paused, cdrom(`<source file='${iso}'/>`), { flags: Affect.LIVE });
      expect(await virt.virsh("domblklist", name)).toMatch(new RegExp(`hdc +${iso}`));

      await domains.blockResize(paused, "vda", 2 * MIB);
      const { capacity } = await domains.blockInfo(paused, "vda");
      expect(capacity).toBe(2 * MIB);
      expect(JSON.parse(await virt.run("qemu-img", "info", "-U", "--output=json", disk))).toMatchObject({
        "virtual-size": 2 * MIB,
      });

      const info = await domains.info(paused);
      expect(info).toMatchObject({ state: "running", maxMemory: 65_536, vcpus: 2 });
      expect(info.cpuTime).toBeGreaterThan(0);

      await domains.reset(paused);
      await printed.contain(GUEST_READY, 2);
      expect(restarts).toContain(name);
      await domains.reboot(paused);
      // The guest switches itself off, and libvirt starts it anew.
      await printed.contain(GUEST_OFF);
      await printed.contain(GUEST_READY, 3);
      await domains.shutdown(paused, { flags: DomainShutdown.ACPI_POWER_BTN });
      // What it prints last may be lost with the terminal that QEMU closes.
      await until(async () => (await domains.state(domain)).state === "shutoff");
      await printed.ended;

      const again = await domains.create(domain);
      await domains.destroy(again, { flags: DomainDestroy.GRACEFUL });
      expect(await virt.virsh("domstate", name)).toBe("shut off");
      const down = await failure(domains.destroy(again));
      expect(isLibvirtError(down, VirErr.OPERATION_INVALID)).toBe(true);
      await domains.undefine(domain);

      await until(() => Promise.resolve(seen.some(({ event }) => event === "undefined")));
      const own = seen.filter((event) => event.domain.name === name);
      expect(own.every((event) => event.domain.uuid === domain.uuid)).toBe(true);
      expect(own.map(({ event }) => event)).toEqual(
        expect.arrayContaining(["started", "suspended", "resumed", "shutdown", "stopped", "undefined"]),
      );
      expect(own.filter(({ event }) => event === "stopped").map(({ stopped }) => stopped)).toEqual([
        "shutdown",
        "destroyed",
      ]);
      expect(others).toEqual([]);
      await domains.setAutostart(stray, false);
      await all.close();
      const before = seen.length;
      await domains.undefine(stray);
      await until(() => Promise.resolve(others.length === 1));
      expect(others[0]).toMatchObject({ event: "undefined", domain: { name: `stray-${tag}` } });
      await one.close();
      await restarted.close();
      expect(seen).toHaveLength(before);
    });

    it("runs transient domains, and gives stats of all in bulk", async () => {
      const { domains } = libvirt;
      const name = `bulk-${tag}`;
      const running = await domains.createXml(domainXml(name), { flags: DomainStart.PAUSED });
      const defined = await domains.define(domainXml(`${name}-off`));
      expect(await domains.isPersistent(running)).toBe(false);
      const records = await domains.stats(0);
      expect(records.map((record) => record.domain.name).sort()).toEqual(
        (await virt.virsh("list", "--all", "--name")).split("\n").filter(Boolean).sort(),
      );
      const stats = records.find((record) => record.domain.name === name)?.stats ?? {};
      const said = Object.fromEntries(
        (await virt.virsh("domstats", name))
          .split("\n")
          .map((line) => line.trim().split("="))
          .filter((pair) => pair.length === 2),
      ) as Record<string, string>;
      expect(Object.keys(stats).sort()).toEqual(Object.keys(said).sort());
      for (const key of ["state.state", "state.reason", "balloon.maximum", "vcpu.current", "vcpu.maximum"]) {
        expect(String(stats[key])).toBe(said[key]);
      }
      const [only, ...more] = await domains.stats(DomainStats.STATE, { domains: [defined] });
      expect(more).toEqual([]);
      expect(only).toEqual({ domain: defined, stats: { "state.state": 5, "state.reason": 0 } });
      const active = await domains.stats(DomainStats.BALLOON, { flags: DomainList.ACTIVE });
      expect(active.map((record) => record.domain.name)).toEqual([name]);
      await domains.destroy(running);
      expect(await domains.find(name)).toBeUndefined();
      await domains.undefine(defined);
    });

    it("defines, starts, describes and removes networks, and tells their leases", async () => {
      const { networks, domains } = libvirt;
      const name = `net-${tag}`;
      const bridge = `vb-${tag}`;
      expect(await networks.find(name)).toBeUndefined();
      const network = await networks.define(networkXml(name, bridge, tag === "l" ? 150 : 151));
      expect(network).toEqual({ name, uuid: await virt.virsh("net-uuid", name) });
      expect(await networks.lookupByUuid(network.uuid)).toEqual(network);
      expect(await networks.list()).toEqual([network]);
      expect(await networks.isActive(network)).toBe(false);
      await networks.create(network);
      expect(await networks.isActive(network)).toBe(true);
      expect(await networks.isPersistent(network)).toBe(true);
      expect(await networks.bridgeName(network)).toBe(bridge);
      expect((await networks.xml(network)).trim()).toBe(await virt.virsh("net-dumpxml", name));
      expect((await networks.xml(network, { inactive: true })).trim()).toBe(
        await virt.virsh("net-dumpxml", "--inactive", name),
      );
      await networks.setAutostart(network, true);
      expect(await networks.autostart(network)).toBe(true);
      expect(await virt.virsh("net-info", name)).toMatch(/Autostart: +yes/);

      // What dnsmasq tells libvirt of each lease: this goes through its own helper, as a real client's would.
      const mac = "52:54:00:00:00:07";
      const address = `192.168.${tag === "l" ? 150 : 151}.7`;
      expect(await networks.leases(network)).toEqual([]);
      await virt.host.exec(
        `DNSMASQ_INTERFACE=${bridge} DNSMASQ_LEASE_EXPIRES=4102444800 /usr/lib/libvirt/libvirt_leaseshelper add ${mac} ${address} guest7`,
      );
      expect(await networks.leases(network)).toEqual([
        {
          iface: bridge,
          expires: 4_102_444_800,
          family: "ipv4",
          mac,
          address,
          prefix: 24,
          hostname: "guest7",
          clientId: undefined,
        },
      ]);
      expect(await virt.virsh("net-dhcp-leases", name)).toContain(`${mac}`);
      expect(await networks.leases(network, { mac: "52:54:00:00:00:08" })).toEqual([]);
      expect(await networks.leases(network, { mac })).toHaveLength(1);

      const nic = `<interface type='network'><mac address='${mac}'/><source network='${name}'/></interface>`;
      const guest = await domains.createXml(domainXml(`nic-${tag}`, { devices: nic }), { flags: DomainStart.PAUSED });
      const [found] = await domains.interfaceAddresses(guest, AddressSource.LEASE);
      expect(found).toEqual({
        name: expect.stringMatching(/^vnet\d+$/) as string,
        mac,
        addresses: [{ family: "ipv4", address, prefix: 24 }],
      });
      expect(await virt.virsh("domifaddr", guest.name)).toContain(`${address}/24`);
      await domains.destroy(guest);

      await networks.destroy(network);
      await networks.undefine(network);
      expect(await networks.find(name)).toBeUndefined();
      const gone = await failure(networks.create(network));
      expect(isLibvirtError(gone, VirErr.NO_NETWORK)).toBe(true);
    });

    it("makes, describes, grows, copies and removes pools and volumes", async () => {
      const { pools, volumes } = libvirt;
      const name = `pool-${tag}`;
      const path = `/srv/${name}`;
      expect(await pools.find(name)).toBeUndefined();
      const own = await pools.define(poolXml(name, path));
      expect(own).toEqual({ name, uuid: await virt.virsh("pool-uuid", name) });
      expect(await pools.lookupByUuid(own.uuid)).toEqual(own);
      expect(await pools.list()).toEqual([own]);
      expect(await pools.info(own)).toMatchObject({ state: "inactive" });
      await pools.build(own);
      expect(await pools.isActive(own)).toBe(false);
      await pools.create(own);
      expect(await pools.isActive(own)).toBe(true);
      const { state, capacity, allocation, available } = await pools.info(own);
      expect(state).toBe("running");
      expect(await virt.virsh("pool-info", "--bytes", name)).toMatch(new RegExp(`Capacity: +${capacity}\n`));
      expect(capacity).toBe(allocation + available);
      expect((await pools.xml(own)).trim()).toBe(await virt.virsh("pool-dumpxml", name));
      await pools.setAutostart(own, true);
      expect(await pools.autostart(own)).toBe(true);
      expect(await virt.virsh("pool-info", name)).toMatch(/Autostart: +yes/);

      const raw = await volumes.create(own, volumeXml("disk.raw", 3 * MIB));
      expect(raw).toEqual({ pool: name, name: "disk.raw", key: `${path}/disk.raw` });
      const qcow = await volumes.create(own, volumeXml("disk.qcow2", 40 * MIB, "qcow2"));
      expect(await volumes.list(own)).toEqual(expect.arrayContaining([raw, qcow]));
      expect(await volumes.path(raw)).toBe(`${path}/disk.raw`);
      expect(await volumes.lookupByName(own, "disk.raw")).toEqual(raw);
      expect(await volumes.lookupByPath(`${path}/disk.raw`)).toEqual(raw);
      expect(await pools.lookupByVolume(raw)).toEqual(own);
      expect(await volumes.find(own, "nothing")).toBeUndefined();
      expect(await volumes.info(raw)).toEqual({ type: "file", capacity: 3 * MIB, allocation: 0 });
      const timeless = (xml: string): string => xml.replace(/<timestamps>.*<\/timestamps>/s, "").trim();
      expect(timeless(await volumes.xml(qcow))).toBe(
        timeless(await virt.virsh("vol-dumpxml", "--pool", name, "disk.qcow2")),
      );
      const image = async (file: string): Promise<Record<string, unknown>> =>
        JSON.parse(await virt.run("qemu-img", "info", "--output=json", `${path}/${file}`)) as Record<string, unknown>;
      expect(await image("disk.qcow2")).toMatchObject({ format: "qcow2", "virtual-size": 40 * MIB });
      await volumes.resize(qcow, 80 * MIB);
      expect(await image("disk.qcow2")).toMatchObject({ "virtual-size": 80 * MIB });
      expect((await volumes.info(qcow)).capacity).toBe(80 * MIB);
      const shrunk = await failure(volumes.resize(raw, MIB));
      expect(isLibvirtError(shrunk, VirErr.INVALID_ARG)).toBe(true);
      await volumes.resize(raw, MIB, { flags: VolumeResize.SHRINK });
      expect(await image("disk.raw")).toMatchObject({ format: "raw", "virtual-size": MIB });
      const thick = await volumes.create(own, volumeXml("thick.qcow2", 40 * MIB, "qcow2"), {
        flags: VolumeCreate.PREALLOC_METADATA,
      });
      expect((await image("thick.qcow2"))["virtual-size"]).toBe(40 * MIB);
      // Room for all of it is laid out already, if only as a hole.
      expect(Number(await virt.run("stat", "-c", "%s", thick.key))).toBeGreaterThan(40 * MIB);
      const copy = await volumes.createFrom(own, volumeXml("copy.qcow2", 80 * MIB, "qcow2"), qcow);
      expect(await image("copy.qcow2")).toMatchObject({ format: "qcow2", "virtual-size": 80 * MIB });

      await virt.run("truncate", "-s", "5M", `${path}/found.raw`);
      expect(await volumes.find(own, "found.raw")).toBeUndefined();
      await pools.refresh(own);
      const found = await volumes.lookupByName(own, "found.raw");
      const twice = await failure(volumes.create(own, volumeXml("disk.raw", MIB)));
      expect(isLibvirtError(twice, VirErr.STORAGE_VOL_EXIST)).toBe(true);

      for (const volume of [raw, qcow, thick, copy, found]) await volumes.delete(volume);
      expect(await volumes.list(own)).toEqual([]);
      expect(await virt.run("ls", path)).toBe("");
      await pools.destroy(own);
      await pools.delete(own);
      await pools.undefine(own);
      expect(await pools.find(name)).toBeUndefined();
      expect((await virt.host.exec(`test -e ${path}`)).code).toBe(1);
    });

    it("answers 1,000 calls made at once, each with its own answer", async () => {
      const { domains } = libvirt;
      const defined = await Promise.all(
        Array.from({ length: 10 }, (_, i) => domains.define(domainXml(`many-${tag}-${i}`))),
      );
      const answers = await Promise.all(
        Array.from({ length: 1000 }, (_, i) => domains.lookupByName(`many-${tag}-${i % 20}`).catch(() => undefined)),
      );
      for (const [i, answer] of answers.entries()) expect(answer).toEqual(defined[i % 20]);
      await Promise.all(defined.map((domain) => domains.undefine(domain)));
    });
  });
});
