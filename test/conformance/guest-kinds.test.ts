/** What only a whole machine can show: systemd, kernel modules, NFS, and starting anew. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { host } from "../../providers/host/host.ts";
import { module } from "../../providers/host/module.ts";
import { mount } from "../../providers/host/mount.ts";
import { service } from "../../providers/host/service.ts";
import type { Kind, Machine } from "../../src/index.ts";
import { conformance, type ConformanceCase, KindDriver, type World } from "../../src/testing/index.ts";
import { createMachinePool } from "../../src/transport/index.ts";
import { BUILD_MS, type Guest, guestUnavailable, startGuest } from "../support/guest.ts";

const UNITS = String.raw`set -e
unit() { cat >"/etc/systemd/system/$1"; }
unit labsvc.service <<'X'
[Service]
ExecStart=/bin/sleep infinity
[Install]
WantedBy=multi-user.target
X
unit lab.dotted.service <<'X'
[Service]
ExecStart=/bin/sleep infinity
[Install]
WantedBy=multi-user.target
X
unit 'labmany@.service' <<'X'
[Service]
ExecStart=/bin/sleep 9%i
[Install]
WantedBy=multi-user.target
X
unit labends.service <<'X'
[Service]
ExecStart=/bin/sh -c 'sleep 0.2; echo no licence >&2; exit 3'
X
unit labloops.service <<'X'
[Service]
ExecStart=/bin/false
Restart=always
RestartSec=600
X
unit labfails.service <<'X'
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/false
X
unit labsock.socket <<'X'
[Socket]
ListenStream=/run/labsock
Accept=yes
[Install]
WantedBy=sockets.target
X
unit 'labsock@.service' <<'X'
[Service]
ExecStart=/bin/cat
StandardInput=socket
X
systemctl daemon-reload
systemctl start nfs-server
mkdir -p /srv/nfs`;

const why = guestUnavailable();
/** Longest that one check may take, in milliseconds: each reading of all units costs an emulated processor a second or more. */
const SLOW = 300_000;
let guest: Guest;
let ssh: Machine;
let pool: ReturnType<typeof createMachinePool>;
let world: World;

const inside = (script: string) => async (): Promise<string> => await guest.sh(script);
const doing = (script: string) => async (): Promise<void> => {
  await guest.sh(script);
};

// Each step only where it is needed: all that systemd has to read again takes seconds on an emulated processor.
const NFS =
  "! grep -q ' /srv/nfs ' /proc/self/mounts || umount -f /srv/nfs; ! grep -q nfs /etc/fstab || { sed -i '/nfs/d' /etc/fstab; systemctl daemon-reload; }";
const SERVICE =
  "systemctl stop labsvc; [ ! -e /etc/systemd/system/multi-user.target.wants/labsvc.service ] && [ ! -e /run/systemd/system/multi-user.target.wants/labsvc.service ] || systemctl -q disable labsvc; systemctl reset-failed labsvc 2>/dev/null || :";
const MODULE = "rm -f /etc/mod*/labctl-*; [ ! -d /sys/module/vhost ] || modprobe -r vhost";
const FSTAB_LINE = "127.0.0.1:/srv/export /srv/nfs nfs ro,vers=4.2,timeo=100 0 0";

const cases: readonly (readonly [Kind, ConformanceCase])[] = [
  [
    service,
    {
      name: "a service of systemd",
      key: "labsvc",
      desired: { name: "labsvc", enabled: true, running: true },
      changed: { name: "labsvc", enabled: false, running: false },
      setup: doing(SERVICE),
      teardown: doing(SERVICE),
      snapshot: inside("systemctl is-active labsvc; systemctl is-enabled labsvc; true"),
      tamper: {
        running: doing("systemctl kill -s KILL labsvc; while systemctl -q is-active labsvc; do sleep 0.1; done"),
        enabled: doing("systemctl -q disable labsvc; systemctl -q enable --runtime labsvc"),
      },
      interruptions: 3,
    },
  ],
  [
    module,
    {
      name: "a module with parameters that the kernel shows",
      key: "vhost",
      desired: { name: "vhost", options: { max_mem_regions: 128, max_iotlb_entries: 1024 } },
      changed: { name: "vhost", options: { max_mem_regions: 96 }, persist: false },
      setup: doing(MODULE),
      teardown: doing(MODULE),
      snapshot: inside(
        "cat /sys/module/vhost/initstate /sys/module/vhost/parameters/* 2>&1; cat /etc/mod*/labctl-* 2>/dev/null; true",
      ),
      tamper: {
        loaded: doing("modprobe -r vhost"),
        options: doing(
          "modprobe -r vhost; modprobe vhost_iotlb; insmod $(modinfo -n vhost) max_mem_regions=50 max_iotlb_entries=1024",
        ),
        persist: doing("rm /etc/modules-load.d/labctl-vhost.conf"),
      },
      interruptions: 2,
    },
  ],
  [
    mount,
    {
      name: "an NFS export",
      key: "/srv/nfs",
      desired: {
        path: "/srv/nfs",
        source: "127.0.0.1:/srv/export",
        type: "nfs",
        options: ["ro", "vers=4.2", "timeo=100"],
      },
      changed: {
        path: "/srv/nfs",
        source: "127.0.0.1:/srv/export",
        type: "nfs",
        options: ["vers=4.2", "soft", "timeo=50"],
      },
      setup: doing(NFS),
      teardown: doing(NFS),
      snapshot: inside(
        "grep ' /srv/nfs ' /proc/self/mounts; cat /etc/fstab; ls /srv/nfs; systemctl show -p What srv-nfs.mount",
      ),
      tamper: {
        mounted: doing("umount /srv/nfs"),
        options: doing("mount -o remount,rw /srv/nfs"),
        persist: doing("sed -i 's/timeo=100/timeo=200/' /etc/fstab"),
        source: doing("umount /srv/nfs; mount -t nfs -o ro,vers=4.2,timeo=100 127.0.0.1:/srv/export/deep /srv/nfs"),
      },
      interruptions: 2,
    },
  ],
];

describe.skipIf(why !== undefined)("host kinds on a whole Debian machine", () => {
  beforeAll(async () => {
    guest = await startGuest();
    pool = createMachinePool({ env: guest.env });
    ssh = pool.machine(guest.connection());
    world = { machine: () => ssh, parent: "host.guest", root: mkdtempSync(join(tmpdir(), "labctl-conf-")) };
    await guest.sh(UNITS);
  }, BUILD_MS + 240_000);
  afterAll(async () => {
    await pool?.close();
    await guest?.stop();
    if (world !== undefined) rmSync(world.root, { recursive: true, force: true });
  });

  for (const [kind, testCase] of cases) {
    // Only the names matter here: the world is there when the checks run.
    const blank = { machine: () => ssh, root: "/", parent: "host.guest" };
    for (const [i, check] of conformance(kind, blank, testCase).entries()) {
      test(
        check.name,
        async () => {
          await conformance(kind, world, testCase)[i]?.run();
        },
        SLOW,
      );
    }
  }

  test("host: what it says of itself", async () => {
    const reading = await new KindDriver(host, { machine: () => ssh, root: world.root }, "guest").read({
      name: "guest",
    });
    expect(reading).toMatchObject({
      is: "present",
      value: {
        arch: "x86_64",
        cores: 2,
        hostname: "guest",
        distribution: "debian",
        distribution_version: "12",
        init: "systemd",
        virtualization: "qemu",
        kvm: "no",
        nested_virt: "no",
        boot_id: (await guest.sh("cat /proc/sys/kernel/random/boot_id")).trim(),
        kernel: (await guest.sh("uname -r")).trim(),
      },
    });
    expect((await guest.sh("systemd-detect-virt")).trim()).toBe("qemu");
  });

  describe("service", { timeout: SLOW }, () => {
    const apply = (name: string, more: object = { running: true }): Promise<unknown> =>
      new KindDriver(service, world, name).apply({ name, ...more });

    test("one that ends right after its start has not been started", async () => {
      await expect(apply("labends")).rejects.toMatchObject({
        code: "E_MISMATCH",
        hint: expect.stringContaining("ended again"),
      });
    });
    test("one that systemd starts again and again does not run", async () => {
      await expect(apply("labloops")).rejects.toMatchObject({ code: "E_MISMATCH" });
      expect(await guest.sh("systemctl show -p ActiveState -p SubState labloops")).toContain("auto-restart");
      expect(await new KindDriver(service, world, "labloops").plan({ name: "labloops", running: true })).toMatchObject([
        { path: "running", before: false },
      ]);
      await guest.sh("systemctl stop labloops");
    });
    test("one that fails to start is an error that says where to look", async () => {
      await expect(apply("labfails")).rejects.toMatchObject({
        code: "E_COMMAND_FAILED",
        hint: expect.stringContaining("journalctl -u labfails"),
      });
      await guest.sh("systemctl reset-failed labfails");
    });
    test("a masked unit is named as such, and stays masked", async () => {
      await guest.sh("systemctl -q mask cron");
      await expect(apply("cron", { enabled: true, running: true })).rejects.toMatchObject({
        message: expect.stringContaining("masked"),
        hint: expect.stringContaining("systemctl unmask cron"),
      });
      const off = new KindDriver(service, world, "cron");
      expect(await off.plan({ name: "cron", enabled: false, running: false })).toEqual([]);
      expect(await guest.sh("systemctl is-enabled cron || :")).toBe("masked\n");
      await guest.sh("systemctl -q unmask cron");
    });
    test("a static unit cannot be enabled, and says so", async () => {
      await expect(apply("labends", { enabled: true })).rejects.toMatchObject({
        code: "E_MISMATCH",
        hint: expect.stringContaining("static"),
      });
    });
    test("a unit that is not there is absent, and named by apply", async () => {
      expect(await new KindDriver(service, world, "nosuch").plan({ name: "nosuch", running: true })).toBeUndefined();
      await expect(apply("nosuch")).rejects.toMatchObject({ code: "E_MISMATCH", message: /no service nosuch/ });
    });
    test.each(["lab.dotted", "labmany@1", "labmany@2.service"])(
      "%s is found and driven by the same name",
      async (name) => {
        const driver = new KindDriver(service, world, name);
        const wish = { name, enabled: true, running: true };
        await driver.apply(wish);
        expect(await driver.plan(wish)).toEqual([]);
        expect(await guest.sh(`systemctl is-active '${name.replace(/\.service$/, "")}.service'`)).toBe("active\n");
        await driver.destroy(wish);
        expect(await driver.plan({ name, enabled: false, running: false })).toEqual([]);
      },
    );
    test("a socket is driven as the service that it starts is not", async () => {
      const wish = { name: "labsock.socket", enabled: true, running: true };
      const driver = new KindDriver(service, world, "labsock.socket");
      await driver.apply(wish);
      expect(await guest.sh("systemctl is-active labsock.socket; systemctl is-enabled labsock.socket")).toBe(
        "active\nenabled\n",
      );
      await guest.sh("systemctl stop labsock.socket");
      expect(await driver.plan(wish)).toEqual([{ path: "running", before: false, after: true }]);
      await driver.destroy(wish);
    });
    test("a unit file that changed since systemd read it is read before the restart", async () => {
      const driver = new KindDriver(service, world, "labsvc");
      await driver.apply({ name: "labsvc", running: true, restart_on: ["a"] });
      await guest.sh("sed -i 's/sleep infinity/sleep 12345/' /etc/systemd/system/labsvc.service");
      await driver.apply({ name: "labsvc", running: true, restart_on: ["b"] });
      expect(await guest.sh("pgrep -fx '/bin/sleep 12345' | wc -l")).toBe("1\n");
      await driver.destroy({ name: "labsvc", running: true, restart_on: ["b"] });
    });
  });

  describe("module", { timeout: SLOW }, () => {
    const driver = (name: string): KindDriver => new KindDriver(module, world, name);
    test("one that is built in is there, and is not unloaded", async () => {
      const ext4 = driver("ext4");
      expect(await ext4.apply({ name: "ext4" })).toMatchObject({ loaded: true, builtin: true });
      expect(await ext4.plan({ name: "ext4" })).toEqual([]);
      await ext4.destroy({ name: "ext4" });
      expect(ext4.log).toEqual([]);
      expect(await guest.sh("ls /etc/modules-load.d /etc/modprobe.d | grep labctl || :")).toBe("");
    });
    test("one whose name the kernel spells otherwise is found by both", async () => {
      const mapper = driver("dm-mod");
      await mapper.apply({ name: "dm-mod" });
      expect(await mapper.plan({ name: "dm-mod" })).toEqual([]);
      await guest.sh("rmmod dm_mod");
      expect(await mapper.plan({ name: "dm-mod" })).toEqual([{ path: "loaded", before: false, after: true }]);
      await mapper.apply({ name: "dm-mod" });
      await mapper.destroy({ name: "dm-mod" });
      expect(await guest.sh("ls -d /sys/module/dm_mod /etc/mod*/labctl-* 2>/dev/null || echo gone")).toBe("gone\n");
    });
    test("one that this kernel does not have is said to be missing", async () => {
      expect(await driver("nosuchmod").plan({ name: "nosuchmod" })).toBeUndefined();
      await expect(driver("nosuchmod").apply({ name: "nosuchmod", persist: false })).rejects.toMatchObject({
        code: "E_MISMATCH",
        message: expect.stringContaining("no module nosuchmod"),
      });
    });
    test("one that is in use keeps its options until the next start, and that is an error", async () => {
      await driver("brd").apply({ name: "brd", options: { rd_nr: 1, rd_size: 8192 }, persist: false });
      await guest.sh("setsid sleep 600 </dev/ram0 >/dev/null 2>&1 & echo $! >/run/holder; sleep 0.2");
      await expect(
        driver("brd").apply({ name: "brd", options: { rd_nr: 2, rd_size: 8192 }, persist: false }),
      ).rejects.toMatchObject({ code: "E_MISMATCH", message: expect.stringContaining("in use") });
      expect(await guest.sh("cat /etc/modprobe.d/labctl-brd.conf; cat /sys/module/brd/parameters/rd_nr")).toContain(
        "rd_nr=2",
      );
      await guest.sh("kill $(cat /run/holder); sleep 0.2");
      const now = driver("brd");
      await now.apply({ name: "brd", options: { rd_nr: 2, rd_size: 8192 }, persist: false });
      expect(await guest.sh("cat /sys/module/brd/parameters/rd_nr; modprobe -r brd; rm -f /etc/mod*/labctl-*")).toBe(
        "2\n",
      );
    });
    test("switches and texts read back as they were asked for", async () => {
      const wish = { name: "null_blk", options: { blocking: true, nr_devices: 0, gb: 0x10 }, persist: false };
      const blk = driver("null_blk");
      expect(await blk.apply(wish)).toMatchObject({
        loaded: true,
        options: { blocking: "Y", nr_devices: "0", gb: "16" },
      });
      expect(await blk.plan(wish)).toEqual([]);
      await blk.destroy(wish);
      expect(await guest.sh("ls -d /sys/module/null_blk 2>/dev/null || echo gone")).toBe("gone\n");
    });
    test("a parameter that the module does not have is refused, not passed over", async () => {
      await expect(
        driver("brd").apply({ name: "brd", options: { rd_number: 2 }, persist: false }),
      ).rejects.toMatchObject({ code: "E_MISMATCH", message: expect.stringContaining("rd_number") });
      expect(await guest.sh("ls -d /sys/module/brd /etc/modprobe.d/labctl-* 2>/dev/null || echo untouched")).toBe(
        "untouched\n",
      );
    });
  });

  describe("mount", { timeout: SLOW }, () => {
    test("a server that is away keeps no plan from being made", async () => {
      const wish = {
        path: "/srv/nfs",
        source: "127.0.0.1:/srv/export",
        type: "nfs",
        options: ["vers=4.2"],
        persist: false,
      };
      const driver = new KindDriver(mount, world, "/srv/nfs");
      await driver.apply(wish);
      await guest.sh("rpc.nfsd 0");
      try {
        const started = performance.now();
        expect(await driver.plan(wish)).toEqual([]);
        expect(performance.now() - started).toBeLessThan(15_000);
      } finally {
        await guest.sh("rpc.nfsd 2; timeout 60 ls /srv/nfs");
      }
      await driver.destroy(wish);
    });
    test("systemd knows of the line at once", async () => {
      const wish = {
        path: "/srv/nfs",
        source: "127.0.0.1:/srv/export",
        type: "nfs",
        options: ["ro", "vers=4.2", "timeo=100"],
      };
      const driver = new KindDriver(mount, world, "/srv/nfs");
      await driver.apply(wish);
      expect(
        await guest.sh("tail -n 1 /etc/fstab; systemctl show -p NeedDaemonReload -p FragmentPath srv-nfs.mount"),
      ).toBe(`${FSTAB_LINE}\nFragmentPath=/run/systemd/generator/srv-nfs.mount\nNeedDaemonReload=no\n`);
      await driver.destroy(wish);
      expect(await guest.sh("ls /run/systemd/generator/srv-nfs.mount 2>/dev/null || echo gone")).toBe("gone\n");
    });
    test("an export that is not there is an error at once, with the server's word", async () => {
      await expect(
        new KindDriver(mount, world, "/srv/nfs").apply({
          path: "/srv/nfs",
          source: "127.0.0.1:/srv/nowhere",
          type: "nfs",
          options: ["vers=4.2"],
          persist: false,
        }),
      ).rejects.toMatchObject({ message: expect.stringMatching(/No such file|access denied/i) });
    });
  });
});
