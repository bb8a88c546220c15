import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { command } from "../../providers/host/command.ts";
import { directory } from "../../providers/host/directory.ts";
import { file } from "../../providers/host/file.ts";
import { host } from "../../providers/host/host.ts";
import { mount } from "../../providers/host/mount.ts";
import { packageKind } from "../../providers/host/package.ts";
import { service } from "../../providers/host/service.ts";
import { sysctl } from "../../providers/host/sysctl.ts";
import { user } from "../../providers/host/user.ts";
import type { Kind } from "../../src/index.ts";
import { conformance, type ConformanceCase, countingMachine, KindDriver } from "../../src/testing/index.ts";
import { machinesUnavailable } from "../support/sshd.ts";
import { type HostWorld, hostWorld, REPOSITORY } from "./host-machine.ts";

const why = machinesUnavailable();
const KEY_A = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa a@lab";
const KEY_B = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb b@lab";
const KEY_C = 'command="echo hi" ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICcccccccccccccccccccccccccccccccccccccccc c@lab';

let world: HostWorld;
/** Runs as root inside, past labctl; its output is what a snapshot compares. */
const inside = (script: string) => async (): Promise<string> => await world.sh(script);
const doing = (script: string) => async (): Promise<void> => {
  await world.sh(script);
};

const cases: readonly (readonly [Kind, ConformanceCase])[] = [
  [
    file,
    {
      name: "a file that was there before",
      key: "/etc/lab test.conf",
      desired: {
        path: "/etc/lab test.conf",
        content: "wanted $(id)\n",
        mode: "0640",
        owner: "nobody",
        group: "daemon",
      },
      changed: { path: "/etc/lab test.conf", content: "other\n", mode: "0600", owner: "daemon", group: "daemon" },
      setup: doing(
        "printf 'before\\n' >'/etc/lab test.conf'; chown lab:lab '/etc/lab test.conf'; chmod 0604 '/etc/lab test.conf'",
      ),
      teardown: doing("rm -f '/etc/lab test.conf'"),
      snapshot: inside(
        "cat '/etc/lab test.conf'; stat -c '%a %U %G' '/etc/lab test.conf'; ls -A /etc | grep -c labctl- || :",
      ),
      tamper: {
        content: doing("printf 'tampered\\n' >'/etc/lab test.conf'"),
        mode: doing("chmod 0777 '/etc/lab test.conf'"),
        owner: doing("chown root '/etc/lab test.conf'"),
        group: doing("chgrp root '/etc/lab test.conf'"),
        type: doing("ln -sf /etc/passwd '/etc/lab test.conf'"),
      },
    },
  ],
  [
    file,
    {
      name: "a link that was there before",
      key: "/srv/link",
      desired: { path: "/srv/link", content: "now a file\n" },
      setup: doing("ln -sfn /etc/hostname /srv/link"),
      teardown: doing("rm -f /srv/link"),
      snapshot: inside("stat -c %F /srv/link; readlink /srv/link || cat /srv/link"),
      tamper: { content: doing("echo x >/srv/link") },
    },
  ],
  [
    directory,
    {
      name: "a directory",
      key: "/srv/lab dir",
      desired: { path: "/srv/lab dir", mode: "2750", owner: "daemon", group: "daemon" },
      changed: { path: "/srv/lab dir", mode: "0755", owner: "root", group: "root" },
      teardown: doing("rm -rf '/srv/lab dir'"),
      snapshot: inside("stat -c '%a %U %G %F' '/srv/lab dir' 2>/dev/null || echo none"),
      tamper: {
        mode: doing("chmod 0700 '/srv/lab dir'"),
        owner: doing("chown root '/srv/lab dir'; chmod 2750 '/srv/lab dir'"),
        group: doing("chgrp root '/srv/lab dir'; chmod 2750 '/srv/lab dir'"),
      },
    },
  ],
  [
    user,
    {
      name: "a user that labctl makes",
      key: "builder",
      desired: {
        name: "builder",
        groups: ["games"],
        shell: "/bin/sh",
        comment: "builds",
        authorized_keys: [KEY_A],
        remove_home: true,
      },
      changed: {
        name: "builder",
        groups: ["games", "audio"],
        shell: "/bin/bash",
        comment: "b",
        authorized_keys: [KEY_B],
      },
      teardown: doing("userdel -r builder 2>/dev/null; rm -rf /home/builder; true"),
      snapshot: inside(
        "getent passwd builder; id -Gn builder 2>/dev/null; cat /home/builder/.ssh/authorized_keys 2>/dev/null; true",
      ),
      tamper: {
        groups: doing("gpasswd -d builder games"),
        shell: doing("usermod -s /bin/dash builder"),
        comment: doing("usermod -c other builder"),
        authorized_keys: doing("printf '' >/home/builder/.ssh/authorized_keys"),
      },
    },
  ],
  [
    user,
    {
      name: "a user that was there before, with keys of its own",
      key: "old",
      desired: { name: "old", groups: ["games"], authorized_keys: [KEY_A] },
      changed: { name: "old", groups: ["audio"], authorized_keys: [KEY_B, KEY_A] },
      setup: doing(
        `useradd -m -s /bin/sh -G video old; mkdir -m 700 /home/old/.ssh; printf '# mine\\n%s\\n' '${KEY_C}' >/home/old/.ssh/authorized_keys; chown -R old:old /home/old/.ssh`,
      ),
      teardown: doing("userdel -r old 2>/dev/null; rm -rf /home/old; true"),
      snapshot: inside(
        "getent passwd old; id -Gn old | tr ' ' '\\n' | sort; cat /home/old/.ssh/authorized_keys; stat -c '%a %U' /home/old/.ssh",
      ),
      tamper: {
        authorized_keys: doing(`printf '%s\\n' '${KEY_C}' >/home/old/.ssh/authorized_keys`),
      },
    },
  ],
  [
    sysctl,
    {
      name: "a setting",
      key: "net.ipv4.ip_default_ttl",
      desired: { key: "net.ipv4.ip_default_ttl", value: 77 },
      changed: { key: "net.ipv4.ip_default_ttl", value: "78", persist: false },
      setup: doing("echo 64 >/proc/sys/net/ipv4/ip_default_ttl"),
      teardown: doing("rm -f /etc/sysctl.d/60-labctl-*"),
      snapshot: inside("cat /proc/sys/net/ipv4/ip_default_ttl; cat /etc/sysctl.d/60-labctl-* 2>/dev/null; true"),
      tamper: {
        value: doing("echo 70 >/proc/sys/net/ipv4/ip_default_ttl"),
        persist: doing("rm /etc/sysctl.d/60-labctl-*"),
      },
    },
  ],
  [
    mount,
    {
      name: "a tmpfs",
      key: "/srv/tmp fs",
      desired: { path: "/srv/tmp fs", source: "scratch", type: "tmpfs", options: ["size=8m", "nosuid", "mode=0750"] },
      changed: { path: "/srv/tmp fs", source: "scratch", type: "tmpfs", options: ["size=16m", "ro"] },
      setup: doing("mkdir -p '/srv/tmp fs'; printf '# table\\nproc /proc  proc defaults 0 0\\n' >/etc/fstab"),
      teardown: doing("umount '/srv/tmp fs' 2>/dev/null; true"),
      snapshot: inside("grep '/srv/tmp' /proc/self/mounts; cat /etc/fstab"),
      tamper: {
        mounted: doing("umount '/srv/tmp fs'"),
        options: doing("mount -o remount,size=32m '/srv/tmp fs'"),
        persist: doing("printf '# table\\nproc /proc  proc defaults 0 0\\n' >/etc/fstab"),
        source: doing("umount '/srv/tmp fs'; mount -t tmpfs -o size=8m,nosuid,mode=0750 other '/srv/tmp fs'"),
      },
    },
  ],
  [
    mount,
    {
      name: "a bind mount",
      key: "/srv/bound",
      desired: { path: "/srv/bound", source: "/etc/apt", type: "none", options: ["bind", "ro"], persist: false },
      setup: doing("mkdir -p /srv/bound"),
      teardown: doing("umount /srv/bound 2>/dev/null; true"),
      snapshot: inside("ls /srv/bound; grep -c ' /srv/bound ' /proc/self/mounts || :"),
      tamper: { options: doing("mount -o remount,bind,rw /srv/bound") },
    },
  ],
  [
    command,
    {
      name: "a command with its undo",
      key: "warm",
      desired: {
        name: "warm",
        run: 'mkdir -p /srv/cache && printf %s "$VALUE" >/srv/cache/warm',
        unless: 'test "$(cat /srv/cache/warm)" = "$VALUE"',
        env: { VALUE: "it's $(hostile) `value`" },
        undo: "rm -rf /srv/cache",
      },
      teardown: doing("rm -rf /srv/cache"),
      snapshot: inside("cat /srv/cache/warm 2>/dev/null || echo none"),
      tamper: {},
    },
  ],
  [
    packageKind,
    {
      name: "a package",
      key: "labtest-one",
      desired: { name: "labtest-one", version: "1.0" },
      changed: { name: "labtest-one", version: "2.0", hold: true },
      setup: doing(
        "apt-mark unhold labtest-one >/dev/null 2>&1; dpkg --purge labtest-two labtest-one >/dev/null 2>&1; true",
      ),
      teardown: doing(
        "apt-mark unhold labtest-one >/dev/null 2>&1; dpkg --purge labtest-two labtest-one >/dev/null 2>&1; true",
      ),
      snapshot: inside("cat /usr/share/labtest-one/version 2>/dev/null || echo none"),
      tamper: { version: doing("dpkg -i /srv/repo/labtest-one_2.0_all.deb") },
      interruptions: 6,
    },
  ],
  [
    service,
    {
      name: "a service of plain scripts",
      key: "cron",
      desired: { name: "cron", enabled: true, running: true },
      changed: { name: "cron", enabled: false, running: false },
      setup: doing("/etc/init.d/cron stop >/dev/null 2>&1; update-rc.d cron disable >/dev/null 2>&1; true"),
      teardown: doing("/etc/init.d/cron stop >/dev/null 2>&1; true"),
      snapshot: inside(
        "/etc/init.d/cron status >/dev/null 2>&1 && echo running || echo stopped; ls /etc/rc2.d | grep cron",
      ),
      tamper: {
        running: doing("/etc/init.d/cron stop"),
        enabled: doing("update-rc.d cron disable"),
      },
      interruptions: 4,
    },
  ],
];

describe.skipIf(why !== undefined)("host kinds on a real machine over SSH", () => {
  beforeAll(async () => {
    world = await hostWorld({ name: "conf" });
    await world.sh(REPOSITORY);
  });
  afterAll(async () => {
    await world.close();
  });

  for (const [kind, testCase] of cases) {
    // Only the names matter here: the world is there when the checks run.
    const blank = { machine: () => world.ssh, root: "/", parent: "host.conf" };
    for (const [i, check] of conformance(kind, blank, testCase).entries()) {
      test(check.name, async () => {
        await conformance(kind, world, testCase)[i]?.run();
      });
    }
  }

  test("host: facts, and one probe reads all kinds of a host in one round trip", async () => {
    const reading = await new KindDriver(host, { machine: () => world.ssh, root: world.root }, "conf").read({
      name: "conf",
    });
    expect(reading).toMatchObject({
      is: "present",
      value: { address: world.test.address, hostname: "conf", package_manager: "apt" },
    });
  });

  test("package: all in one run, and a bad one does not fail the others", async () => {
    const machine = countingMachine(world.ssh);
    const names = ["labtest-one", "labtest-two", "labtest-broken", "labtest-onf"];
    const drivers = names.map((name) => new KindDriver(packageKind, { ...world, machine: () => machine }, name));
    const items = await Promise.all(drivers.map((driver, i) => driver.item({ name: names[i] ?? "" })));
    const context = drivers[0]?.context();
    if (context === undefined) throw new Error("no driver");
    const outcomes = await packageKind.reconcileMany?.(
      context,
      items.map((item) => ({ ...item, observed: undefined })),
    );
    const codes = drivers.map((driver) => {
      const outcome = outcomes?.get(driver.address);
      return outcome !== undefined && "error" in outcome ? (outcome.error as { code?: string }).code : "ok";
    });
    expect(codes).toEqual(["ok", "ok", "E_PACKAGE", "E_PACKAGE"]);
    const unknown = outcomes?.get(drivers[3]?.address ?? "");
    expect(unknown).toMatchObject({ error: { hint: expect.stringContaining("labtest-one") } });
    const needed = new KindDriver(packageKind, world, "labtest-one");
    await needed.destroy({ name: "labtest-one" });
    expect(needed.log).toMatchObject([{ level: "warn", message: expect.stringContaining("labtest-two") }]);
    await world.sh("dpkg --purge labtest-two labtest-one");
  });

  test("package: an installation that was cut off is finished first", async () => {
    await world.sh("dpkg --unpack /srv/repo/labtest-one_1.0_all.deb");
    const driver = new KindDriver(packageKind, world, "labtest-two");
    expect(await new KindDriver(packageKind, world, "labtest-one").plan({ name: "labtest-one" })).toEqual([
      { path: "installed", before: false, after: true },
    ]);
    await driver.apply({ name: "labtest-two" });
    expect(await world.sh("dpkg -s labtest-one | grep ^Status")).toContain("install ok installed");
    await world.sh("dpkg --purge labtest-two labtest-one");
  });

  test("package: one that dpkg was killed unpacking is installed again", async () => {
    await world.sh("apt-get update >/dev/null; apt-get -y install labtest-one=1.0 >/dev/null");
    await world.sh(
      "sed -i '/^Package: labtest-one$/,/^$/s/^Status: .*/Status: install reinstreq half-installed/' /var/lib/dpkg/status",
    );
    await new KindDriver(packageKind, world, "labtest-one").apply({ name: "labtest-one", version: "1.0" });
    expect(await world.sh("dpkg -s labtest-one | grep ^Status")).toContain("install ok installed");
    await world.sh("dpkg --purge labtest-one");
  });

  test("command: a failure tells exit code and last lines; a secret in env shows nowhere", async () => {
    const driver = new KindDriver(command, world, "bad");
    driver.sensitive = new Set(["env.TOKEN"]);
    const wish = {
      name: "bad",
      run: "echo one; echo two >&2; exit 7",
      creates: "/nonexistent",
      env: { TOKEN: "canary-8731" },
    };
    await expect(driver.apply(wish)).rejects.toMatchObject({
      code: "E_COMMAND_FAILED",
      message: expect.stringMatching(/exit code 7.*two/s),
    });
    const slow = driver.apply({ ...wish, run: "sleep 1; exit 7" }).catch(() => undefined);
    await new Promise((resolve) => setTimeout(resolve, 500));
    expect(await world.sh("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")).not.toContain("canary-8731");
    await slow;
  });

  test("command: a script runs by its interpreter, and what it did must hold", async () => {
    writeFileSync(join(world.root, "s.sh"), '#!/bin/bash\n[[ $A == "x y" ]] && echo "$A" >/srv/by-script\n');
    const driver = new KindDriver(command, world, "script");
    await driver.apply({ name: "script", script: "s.sh", creates: "/srv/by-script", env: { A: "x y" } });
    expect(await world.sh("cat /srv/by-script; ls /var/lib/labctl 2>/dev/null | grep run- || :")).toBe("x y\n");
    const lying = new KindDriver(command, world, "lying").apply({ name: "lying", run: "true", creates: "/srv/never" });
    await expect(lying).rejects.toMatchObject({ code: "E_MISMATCH" });
  });

  test("service: what is not there is named, and a change of restart_on restarts it", async () => {
    await expect(
      new KindDriver(service, world, "nosuch").apply({ name: "nosuch", running: true }),
    ).rejects.toMatchObject({ code: "E_MISMATCH" });
    const driver = new KindDriver(service, world, "cron");
    await driver.apply({ name: "cron", running: true, restart_on: ["a"] });
    const pid = await world.sh("cat /run/crond.pid");
    expect(await driver.plan({ name: "cron", running: true, restart_on: ["b"] })).toMatchObject([
      { path: "restart_on", effect: "restart" },
    ]);
    await driver.apply({ name: "cron", running: true, restart_on: ["b"] });
    expect(await world.sh("cat /run/crond.pid")).not.toBe(pid);
    expect(await driver.plan({ name: "cron", running: true, restart_on: ["b"] })).toEqual([]);
    await world.sh("/etc/init.d/cron stop");
  });
});
