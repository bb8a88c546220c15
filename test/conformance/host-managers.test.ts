/** Package and service managers that this Debian is not run by, and that Debian has: dnf with rpm, OpenRC. */
import { execFileSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { host } from "../../providers/host/host.ts";
import { packageKind } from "../../providers/host/package.ts";
import { service } from "../../providers/host/service.ts";
import { user } from "../../providers/host/user.ts";
import type { Kind } from "../../src/index.ts";
import { conformance, type ConformanceCase, KindDriver } from "../../src/testing/index.ts";
import { machinesUnavailable } from "../support/sshd.ts";
import { type HostWorld, hostWorld } from "./host-machine.ts";

/** Makes rpms and a repository of them, and takes apt away, so that dnf is what manages packages. */
const RPMS = String.raw`set -e
cd /
rm -f /usr/bin/apt-get
rm -rf /var/lib/rpm /etc/yum.repos.d /root/.rpmdb
mkdir -p /srv/repo /etc/rpm /var/lib/rpm /etc/yum.repos.d
# Debian keeps rpm's database in the home of whoever calls it; systems of rpm keep it here.
echo '%_dbpath /var/lib/rpm' >/etc/rpm/macros.labtest
mkdir -p /etc/dnf/vars; echo 1 >/etc/dnf/vars/releasever
cat >/usr/local/bin/make-rpm <<'X'
#!/bin/sh
# name version further-lines
t=$(mktemp -d)
mkdir -p "$t/root/usr/share/$1"
echo "$2" >"$t/root/usr/share/$1/version"
printf 'Name: %s\nVersion: %s\nRelease: 1\nSummary: test\nLicense: none\nBuildArch: noarch\n%b\n%%description\ntest\n%%files\n/usr/share/%s\n' \
  "$1" "$2" "$3" "$1" >"$t/p.spec"
rpmbuild --quiet -bb --define "_rpmdir /srv/repo" --define "_topdir $t/top" --buildroot "$t/root" "$t/p.spec" && rm -rf "$t"
X
chmod 755 /usr/local/bin/make-rpm
make-rpm labtest-one 1.0 'Provides: labtest-thing'
make-rpm labtest-one 2.0 'Provides: labtest-thing'
make-rpm labtest-two 1.0 'Requires: labtest-thing'
make-rpm labtest-epoch 1.0 'Epoch: 3'
make-rpm labtest-broken 1.0 'Requires: labtest-nowhere'
createrepo_c -q /srv/repo
printf '[lab]\nname=lab\nbaseurl=file:///srv/repo\ngpgcheck=0\nskip_if_unavailable=0\n' >/etc/yum.repos.d/lab.repo`;

const why = machinesUnavailable();
let world: HostWorld;
const inside = (script: string) => async (): Promise<string> => await world.sh(`cd /; ${script}`);
const doing = (script: string) => async (): Promise<void> => {
  await world.sh(`cd /; ${script}`);
};

function suite(kind: Kind, name: string, testCase: ConformanceCase): void {
  // Only the names matter here: the world is there when the checks run.
  const blank = { machine: () => world.ssh, root: "/", parent: `host.${name}` };
  for (const [i, check] of conformance(kind, blank, testCase).entries()) {
    test(check.name, async () => {
      await conformance(kind, world, testCase)[i]?.run();
    });
  }
}

describe.skipIf(why !== undefined)("packages through dnf", () => {
  beforeAll(async () => {
    world = await hostWorld({ name: "dnf" });
    await world.sh(RPMS);
  });
  afterAll(async () => {
    await world.close();
  });
  const clean = doing("rpm -qa 'labtest-*' | xargs -r rpm -e --nodeps >/dev/null 2>&1");

  suite(packageKind, "dnf", {
    name: "an rpm",
    key: "labtest-one",
    desired: { name: "labtest-one", version: "1.0-1" },
    changed: { name: "labtest-one", version: "2.0-1" },
    setup: clean,
    teardown: clean,
    snapshot: inside("rpm -qa; cat /usr/share/labtest-one/version 2>/dev/null || echo none"),
    tamper: { version: doing("rpm -U --force /srv/repo/noarch/labtest-one-2.0-1.noarch.rpm") },
    interruptions: 6,
  });

  test("the host says that it is dnf's", async () => {
    const reading = await new KindDriver(host, { machine: () => world.ssh, root: world.root }, "dnf").read({
      name: "dnf",
    });
    expect(reading).toMatchObject({ is: "present", value: { package_manager: "dnf" } });
  });

  test("all in one run, and a bad one does not fail the others", async () => {
    const names = ["labtest-one", "labtest-two", "labtest-broken", "labtest-onf", "labtest-epoch"];
    const drivers = names.map((name) => new KindDriver(packageKind, world, name));
    const items = await Promise.all(drivers.map((driver, i) => driver.item({ name: names[i] ?? "" })));
    const context = drivers[0]?.context();
    if (context === undefined) throw new Error("no driver");
    const outcomes = await packageKind.reconcileMany?.(
      context,
      items.map((item) => ({ ...item, observed: undefined })),
    );
    const said = drivers.map((driver) => {
      const outcome = outcomes?.get(driver.address);
      return outcome !== undefined && "error" in outcome ? (outcome.error as { code?: string }).code : "ok";
    });
    expect(said).toEqual(["ok", "ok", "E_PACKAGE", "E_PACKAGE", "ok"]);
    expect(outcomes?.get(drivers[3]?.address ?? "")).toMatchObject({
      error: { hint: expect.stringContaining("labtest-one") },
    });
    expect(outcomes?.get(drivers[4]?.address ?? "")).toMatchObject({ ok: { version: "3:1.0-1" } });
    expect(await drivers[4]?.plan({ name: "labtest-epoch", version: "3:1.0-*" })).toEqual([]);
    await clean();
  });

  test("what something else needs stays, also where it is needed by another name", async () => {
    await new KindDriver(packageKind, world, "labtest-two").apply({ name: "labtest-two" });
    const needed = new KindDriver(packageKind, world, "labtest-one");
    await needed.destroy({ name: "labtest-one" });
    expect(needed.log).toMatchObject([{ level: "warn", message: expect.stringContaining("labtest-two") }]);
    expect(await world.sh("cd /; rpm -qa | sort")).toBe("labtest-one-2.0-1.noarch\nlabtest-two-1.0-1.noarch\n");
    await clean();
  });

  test("a version that is not there is named; one that appeared since the lists were read is found", async () => {
    const driver = new KindDriver(packageKind, world, "labtest-one");
    await expect(driver.apply({ name: "labtest-one", version: "9.9-1" })).rejects.toMatchObject({
      code: "E_PACKAGE",
      message: expect.stringMatching(/labtest-one 9\.9-1 cannot be found/),
    });
    await world.sh("cd /; make-rpm labtest-new 1.0 '' && createrepo_c -q /srv/repo");
    const fresh = new KindDriver(packageKind, world, "labtest-new");
    expect(await fresh.apply({ name: "labtest-new" })).toMatchObject({ installed: true, version: "1.0-1" });
    await fresh.destroy({ name: "labtest-new" });
    expect(await fresh.plan({ name: "labtest-new" })).toBeUndefined();
    await clean();
  });

  test("a repository that is broken or away is said to be, and is worth another try", async () => {
    await world.sh("mv /srv/repo /srv/away; dnf -q clean all");
    try {
      await expect(
        new KindDriver(packageKind, world, "labtest-one").apply({ name: "labtest-one" }),
      ).rejects.toMatchObject({ code: "E_PACKAGE", retryable: true, message: expect.stringContaining("lab") });
      await world.sh("mkdir -p /srv/repo/repodata; echo '<nonsense' >/srv/repo/repodata/repomd.xml");
      await expect(
        new KindDriver(packageKind, world, "labtest-one").apply({ name: "labtest-one" }),
      ).rejects.toMatchObject({ code: "E_PACKAGE" });
    } finally {
      await world.sh("rm -rf /srv/repo; mv /srv/away /srv/repo; dnf -q clean all");
    }
    await new KindDriver(packageKind, world, "labtest-one").apply({ name: "labtest-one" });
    await clean();
  });

  test("an upgrade that was cut off is finished: of two versions the older goes", async () => {
    const driver = new KindDriver(packageKind, world, "labtest-one");
    await driver.apply({ name: "labtest-one", version: "1.0-1" });
    await world.sh("cd /; rpm -i --force /srv/repo/noarch/labtest-one-2.0-1.noarch.rpm; rpm -q labtest-one | wc -l");
    expect(await driver.plan({ name: "labtest-one", version: "2.0-1" })).toEqual([
      { path: "installed", before: false, after: true },
    ]);
    await driver.apply({ name: "labtest-one", version: "2.0-1" });
    expect(await world.sh("cd /; rpm -q labtest-one; cat /usr/share/labtest-one/version")).toBe(
      "labtest-one-2.0-1.noarch\n2.0\n",
    );
    await world.sh("cd /; rpm -i --force /srv/repo/noarch/labtest-one-1.0-1.noarch.rpm");
    await driver.destroy({ name: "labtest-one" });
    expect(await driver.plan({ name: "labtest-one" })).toBeUndefined();
    await clean();
  });

  test("hold is refused rather than passed over", async () => {
    await expect(
      new KindDriver(packageKind, world, "labtest-one").apply({ name: "labtest-one", hold: true }),
    ).rejects.toMatchObject({ code: "E_PACKAGE", message: expect.stringContaining("apt only") });
    await clean();
  });
});

describe.skipIf(why !== undefined)("ways that have no evidence", () => {
  beforeAll(async () => {
    world = await hostWorld({ name: "bare", setup: "rm -f /usr/bin/apt-get /usr/bin/dnf /usr/bin/dnf5" });
  });
  afterAll(async () => {
    await world.close();
  });
  const refusal = (what: string): object => ({
    code: "E_EXPERIMENTAL",
    message: `${what} on host.bare: this way is experimental`,
  });

  test.each([
    [
      "apk",
      "packages through apk",
      "printf '#!/bin/sh\\necho changed >/srv/changed\\n' >/usr/local/bin/apk; mkdir -p /lib/apk/db; : >/lib/apk/db/installed",
    ],
    [
      "dnf 5",
      "packages through dnf 5",
      "printf '#!/bin/sh\\necho changed >/srv/changed\\n' >/usr/local/bin/dnf5; ln -sf dnf5 /usr/local/bin/dnf",
    ],
  ])("%s is refused at plan time and by apply, unless --experimental", async (_name, what, setup) => {
    await world.sh(`${setup}; chmod 755 /usr/local/bin/*`);
    const driver = new KindDriver(packageKind, world, "bc");
    await expect(driver.plan({ name: "bc" })).rejects.toMatchObject(refusal(what));
    const item = { ...(await driver.item({ name: "bc" })), observed: undefined };
    await expect(packageKind.reconcile(driver.context(), item)).rejects.toMatchObject(refusal(what));
    expect(await world.sh("ls /srv/changed 2>/dev/null || :")).toBe("");
    driver.experimental = true;
    expect(await driver.plan({ name: "bc" })).toBeUndefined();
    await world.sh("rm -f /usr/local/bin/apk /usr/local/bin/dnf*");
  });

  test("accounts without the shadow tools", async () => {
    const driver = new KindDriver(user, world, "ci");
    expect(await driver.plan({ name: "ci" })).toBeUndefined();
    await world.sh(
      "rm -f /usr/sbin/useradd; command -v adduser || { printf '#!/bin/sh\\n' >/usr/sbin/adduser; chmod 755 /usr/sbin/adduser; }",
    );
    await expect(driver.plan({ name: "ci" })).rejects.toMatchObject(refusal("users through busybox's adduser"));
    driver.experimental = true;
    expect(await driver.plan({ name: "ci" })).toBeUndefined();
  });
});

/** Debian's OpenRC, taken apart: to install it would take this machine's own way of starting from it. */
function openrcPackages(): string {
  const cache = join(import.meta.dirname, "../../node_modules/.cache");
  const folder = join(cache, "labctl-openrc");
  if (existsSync(folder)) return folder;
  mkdirSync(cache, { recursive: true });
  const fresh = mkdtempSync(join(cache, "openrc-"));
  const apt = (...args: string[]): unknown =>
    execFileSync("apt-get", ["-q", "-o", "APT::Sandbox::User=root", ...args], { cwd: fresh, stdio: "pipe" });
  const names = ["openrc", "librc1", "libeinfo1"];
  try {
    apt("download", ...names);
  } catch {
    apt("update");
    apt("download", ...names);
  }
  renameSync(fresh, folder);
  return folder;
}

const OPENRC = String.raw`set -e
cd /
for p in /var/tmp/*.deb; do dpkg-deb --fsys-tarfile "$p" | tar -x --keep-directory-symlink -C /; done
ldconfig
: >/etc/insserv.conf
rm -f /etc/init.d/*cgroups
cat >/etc/init.d/labsvc <<'X'
#!/sbin/openrc-run
command=/bin/sleep
command_args=86400
command_background=yes
pidfile=/run/labsvc.pid
status() {
  [ -e $pidfile ] && kill -0 "$(cat $pidfile)" 2>/dev/null && { einfo started; return 0; }
  einfo stopped
  return 3
}
X
cat >/etc/init.d/labbad <<'X'
#!/sbin/openrc-run
start() { eerror "it has no licence"; return 1; }
X
chmod 755 /etc/init.d/labsvc /etc/init.d/labbad
openrc sysinit >/dev/null 2>&1; openrc boot >/dev/null 2>&1; openrc default >/dev/null 2>&1`;

describe.skipIf(why !== undefined)("services through OpenRC", () => {
  beforeAll(async () => {
    world = await hostWorld({ name: "rc" });
    const folder = openrcPackages();
    for (const name of readdirSync(folder)) copyFileSync(join(folder, name), world.test.root(`/var/tmp/${name}`));
    await world.sh(OPENRC);
  });
  afterAll(async () => {
    await world.close();
  });
  const reset = doing("rc-service labsvc stop >/dev/null 2>&1; rc-update --all del labsvc >/dev/null 2>&1; true");

  suite(service, "rc", {
    name: "a service of OpenRC",
    key: "labsvc",
    desired: { name: "labsvc", enabled: true, running: true },
    changed: { name: "labsvc", enabled: false, running: false },
    setup: reset,
    teardown: reset,
    snapshot: inside("rc-update show -a 2>/dev/null | grep labsvc; rc-service labsvc status >/dev/null 2>&1; echo $?"),
    tamper: {
      running: doing("rc-service labsvc stop"),
      enabled: doing("rc-update del labsvc default"),
    },
    interruptions: 6,
  });

  test("what died by itself does not run, and is started again", async () => {
    const driver = new KindDriver(service, world, "labsvc");
    const wish = { name: "labsvc", running: true };
    await driver.apply(wish);
    await world.sh("kill -9 $(cat /run/labsvc.pid); ls /run/openrc/started/labsvc");
    expect(await driver.plan(wish)).toEqual([{ path: "running", before: false, after: true }]);
    expect(await driver.apply(wish)).toMatchObject({ running: true, manager: "openrc" });
    await world.sh("kill -0 $(cat /run/labsvc.pid)");
    await reset();
  });

  test("a service that refuses to start fails with what it said; one that is not there is absent", async () => {
    await expect(
      new KindDriver(service, world, "labbad").apply({ name: "labbad", running: true }),
    ).rejects.toMatchObject({ code: "E_COMMAND_FAILED", message: expect.stringContaining("it has no licence") });
    expect(await new KindDriver(service, world, "nosuch").plan({ name: "nosuch", running: true })).toBeUndefined();
  });

  test("a change of restart_on restarts it, once", async () => {
    const driver = new KindDriver(service, world, "labsvc");
    await driver.apply({ name: "labsvc", running: true, restart_on: ["a"] });
    const pid = await world.sh("cat /run/labsvc.pid");
    await driver.apply({ name: "labsvc", running: true, restart_on: ["b"] });
    const next = await world.sh("cat /run/labsvc.pid");
    expect(next).not.toBe(pid);
    expect(await driver.plan({ name: "labsvc", running: true, restart_on: ["b"] })).toEqual([]);
    await driver.apply({ name: "labsvc", running: true, restart_on: ["b"] });
    expect(await world.sh("cat /run/labsvc.pid")).toBe(next);
    await reset();
  });
});
