import { existsSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openLibvirt } from "../../providers/libvirt/rpc/index.ts";
import { createMachinePool, type Machine, type MachinePool } from "../../src/transport/index.ts";
import { failure } from "../support/libvirt-waits.ts";
import { domainXml } from "../support/libvirt-xml.ts";
import { LIBVIRT_SOCKET, libvirtdUnavailable, startLibvirtd, type TestLibvirtd } from "../support/libvirtd.ts";

const why = libvirtdUnavailable();
if (why !== undefined) console.log(`skipping ways to libvirt: ${why}`);

const NO_ROOT = { become: { method: "none" } } as const;

describe.skipIf(why !== undefined)("ways to libvirt over SSH", () => {
  let open: TestLibvirtd;
  let closed: TestLibvirtd;
  let pool: MachinePool;
  beforeAll(async () => {
    // One lets the group in, as Debian does; the other asks polkit, forwards nothing, and has no polkit.
    [open, closed] = await Promise.all([
      startLibvirtd({
        name: "grouped",
        users: { lab: { sudo: "nopasswd" }, guest: { sudo: "nopasswd" } },
        allowed: ["lab"],
      }),
      startLibvirtd({
        name: "polkit",
        sshdConfig: ["AllowStreamLocalForwarding no"],
        libvirtdConf: ['auth_unix_rw = "polkit"', 'unix_sock_rw_perms = "0777"'],
      }),
    ]);
    pool = createMachinePool({ env: open.host.env });
  });
  afterAll(async () => {
    await pool?.close();
    await open?.stop();
    await closed?.stop();
  });

  const hostname = async (machine: Machine, uri = "qemu:///system"): Promise<string> => {
    const libvirt = await openLibvirt(machine, { uri });
    try {
      return await libvirt.hostname();
    } finally {
      await libvirt.close();
    }
  };

  it("uses the login's own rights where these are enough", async () => {
    expect(await hostname(pool.machine(open.host.connection(NO_ROOT)))).toBe("grouped");
    expect(await hostname(pool.machine(open.host.connection({ user: "root" })))).toBe("grouped");
  });

  it("becomes root where the login may not, and only where that is allowed", async () => {
    expect(await hostname(pool.machine(open.host.connection({ user: "guest" })))).toBe("grouped");
    const refused = await failure(hostname(pool.machine(open.host.connection({ user: "guest", ...NO_ROOT }))));
    expect(refused).toMatchObject({ code: "E_LIBVIRT", address: "host.grouped" });
    expect(refused.message).toMatch(/permission denied/i);
    expect(refused.hint).toContain("group libvirt");
  });

  it("needs no forwarding, and asks polkit only where it cannot be root", async () => {
    expect(await hostname(pool.machine(closed.host.connection()))).toBe("polkit");
    const refused = await failure(hostname(pool.machine(closed.host.connection(NO_ROOT))));
    expect(refused.code).toBe("E_LIBVIRT");
    // libvirtd asked polkit over D-Bus, which is not there.
    expect(refused.message).toMatch(/VIR_ERR_(AUTH_\w+|SYSTEM_ERROR|DBUS_SERVICE|INTERNAL_ERROR)/);
  });

  it("speaks with the daemon of a session, and with a socket at any path", async () => {
    const machine = pool.machine(open.host.connection(NO_ROOT));
    const none = await failure(openLibvirt(machine, { uri: "qemu:///session" }));
    expect(none).toMatchObject({ code: "E_LIBVIRT", retryable: true });
    expect(none.hint).toContain("virsh -c qemu:///session");
    await open.host.exec(
      "mkdir -p /run/user/$(id -u lab); chown lab /run/user/$(id -u lab); su lab -c 'XDG_RUNTIME_DIR=/run/user/$(id -u) libvirtd -d'",
    );
    const session = await openLibvirt(machine, { uri: "qemu:///session" });
    await session.domains.define(domainXml("mine"));
    expect((await session.domains.list()).map((domain) => domain.name)).toEqual(["mine"]);
    const system = await openLibvirt(machine, { uri: `qemu:///system?socket=${LIBVIRT_SOCKET}` });
    expect(await system.domains.list()).toEqual([]);
    await session.close();
    await system.close();
  });

  it("prefers the modular daemon's socket", async () => {
    await open.host.exec("mv /run/libvirt/libvirt-sock /run/libvirt/virtqemud-sock");
    try {
      expect(await hostname(pool.machine(open.host.connection(NO_ROOT)))).toBe("grouped");
    } finally {
      await open.host.exec("mv /run/libvirt/virtqemud-sock /run/libvirt/libvirt-sock");
    }
  });

  it("opens LXC's driver, or says that the host has none", async () => {
    const machine = pool.machine(open.host.connection(NO_ROOT));
    if (existsSync("/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_lxc.so")) {
      const lxc = await openLibvirt(machine, { uri: "lxc:///system" });
      expect(await lxc.type()).toBe("LXC");
      await lxc.close();
    } else {
      const missing = await failure(openLibvirt(machine, { uri: "lxc:///system" }));
      expect(missing.code).toBe("E_LIBVIRT");
      expect(missing.message).toContain("lxc:///system");
    }
  });

  it("says that there is no libvirt, and refuses URIs of elsewhere", async () => {
    const machine = pool.machine(open.host.connection(NO_ROOT));
    for (const uri of ["qemu+ssh://other/system", "xen:///system", "lxc:///session", "qemu:///", ""]) {
      expect(await failure(openLibvirt(machine, { uri }))).toMatchObject({ code: "E_LIBVIRT", retryable: false });
    }
    await open.shutdown();
    const absent = await failure(openLibvirt(machine));
    expect(absent).toMatchObject({ code: "E_LIBVIRT", retryable: true, address: "host.grouped" });
    expect(absent.message).toContain("no daemon listens for qemu:///system");
    expect(absent.hint).toContain("systemctl start libvirtd.socket");
    await open.start();
    expect(await hostname(machine)).toBe("grouped");
  });

  it("says E_DISCONNECTED's reason where SSH broke, and comes back", async () => {
    const own = createMachinePool({ env: open.host.env });
    try {
      const machine = own.machine(open.host.connection(NO_ROOT));
      const libvirt = await openLibvirt(machine);
      await open.freeze();
      const calls = [failure(libvirt.hostname()), failure(libvirt.libVersion())];
      await open.host.cut();
      await open.thaw();
      const [first, second] = await Promise.all(calls);
      expect(first).toBe(second);
      expect(first).toMatchObject({ code: "E_LIBVIRT", retryable: true });
      expect(first?.cause).toMatchObject({ code: "E_DISCONNECTED" });
      expect(await hostname(machine)).toBe("grouped");
    } finally {
      await own.close();
    }
  });
});
