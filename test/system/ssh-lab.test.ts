/** examples/ssh-lab, the very lab.yaml, against three machines: the target answers to nobody but the gateway. */
import { spawnSync } from "node:child_process";
import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { machinesUnavailable, startMachine, type TestMachine } from "../support/sshd.ts";
import { createWorkspace, resultsOf, type Workspace } from "../support/workspace.ts";

const EXAMPLE = join(import.meta.dirname, "../../examples/ssh-lab");
const TOKEN = "ci-token-5f1d0a77";

/** A repository of one package, whatever the network says, and a cron that needs no init system. */
const BUILDER = String.raw`set -e
rm -rf /var/lib/labctl
dpkg --purge --force-all bc cron >/dev/null 2>&1 || true
mkdir -p /srv/repo; cd /srv/repo
d=$(mktemp -d); mkdir -p "$d/DEBIAN" "$d/usr/bin"; printf '#!/bin/sh\n' >"$d/usr/bin/bc"; chmod 755 "$d/usr/bin/bc"
printf 'Package: bc\nVersion: 9.1\nArchitecture: all\nMaintainer: test <test@example.org>\nDescription: for tests\n' >"$d/DEBIAN/control"
chmod -R u=rwX,go=rX "$d"; dpkg-deb -Znone -b "$d" bc.deb >/dev/null; rm -rf "$d"
{ dpkg-deb -f bc.deb; printf 'Filename: ./bc.deb\nSize: %s\nSHA256: %s\n' $(stat -c %s bc.deb) $(sha256sum <bc.deb | cut -d' ' -f1); } >Packages
rm -rf /etc/apt/sources.list.d /var/lib/apt/lists; mkdir -p /etc/apt/sources.list.d /var/lib/apt/lists/partial
echo 'deb [trusted=yes] file:/srv/repo ./' >/etc/apt/sources.list
apt-get update -q >/dev/null 2>&1
mkdir -p /etc/init.d /etc/security/limits.d; rm -f /etc/rc?.d/???cron
cat >/etc/init.d/cron <<'SCRIPT'
#!/bin/sh
### BEGIN INIT INFO
# Provides: cron
# Required-Start:
# Required-Stop:
# Default-Start: 2 3 4 5
# Default-Stop: 0 1 6
### END INIT INFO
p=/run/crond.pid
alive() { [ -s $p ] && kill -0 "$(cat $p)" 2>/dev/null; }
case $1 in
  start) alive || setsid sh -c 'echo $$ >/run/crond.pid; exec sleep 86400' >/dev/null 2>&1 </dev/null & sleep 0.1 ;;
  stop) alive && kill "$(cat $p)"; rm -f $p; sleep 0.1 ;;
  restart) $0 stop; $0 start ;;
  status) alive || exit 3 ;;
esac
exit 0
SCRIPT
sed -i 's/status) alive || exit 3 ;;/status) alive; exit $(( $? * 3 )) ;;/' /etc/init.d/cron
chmod 755 /etc/init.d/cron`;

/** Everything that the lab touches, as text: equal before and after, or destroy did not restore it. */
const LOOK = String.raw`cd /
for f in /etc/motd /etc/sysctl.conf /etc/sysctl.d/* /etc/security/limits.d/*; do
  [ -e "$f" ] && { stat -c '%n %a %U:%G' "$f"; sha256sum <"$f"; }
done
for f in passwd group shadow gshadow subuid subgid; do [ -e /etc/$f ] && sort /etc/$f | sed "s/^/$f /"; done
find /srv /home /var/lib/labctl -mindepth 1 -not -path '/srv/repo*' -not -path '/home/lab/*' 2>/dev/null | sort
cat /proc/sys/net/ipv4/ip_forward; ls /etc/rc?.d | grep -c '^S..cron'
dpkg-query -W -f '${"$"}{db:Status-Abbrev}${"$"}{Package}\n' bc 2>/dev/null | grep '^ii'
[ -x /etc/init.d/cron ] && { /etc/init.d/cron status; echo "cron $?"; }
find /tmp /var/tmp -mindepth 1 -name '*labctl*'; true`;

const unavailable = machinesUnavailable();
if (unavailable !== undefined) console.log(`ssh-lab: skipped: ${unavailable}`);

describe.skipIf(unavailable !== undefined)("examples/ssh-lab", () => {
  let gateway: TestMachine;
  let builder: TestMachine;
  let target: TestMachine;
  let lab: Workspace;
  let args: string[];
  const original = new Map<string, string>();
  const machines = (): TestMachine[] => [gateway, builder, target];
  const look = async (machine: TestMachine): Promise<string> => (await machine.exec(LOOK)).stdout;
  const must = async (machine: TestMachine, command: string): Promise<string> => {
    const result = await machine.exec(command);
    expect(result.code, `${command}: ${result.stderr}`).toBe(0);
    return result.stdout.trim();
  };

  beforeAll(async () => {
    [gateway, builder, target] = await Promise.all([
      startMachine({
        name: "gateway",
        setup: "rm -rf /var/lib/labctl; printf 'welcome\\n\\tto the gate' >/etc/motd; chmod 0640 /etc/motd",
      }),
      startMachine({ name: "builder-1", setup: BUILDER }),
      startMachine({ name: "target", setup: "rm -rf /var/lib/labctl" }),
    ]);
    // The target has no way back to the controller: only machines of its own network reach it.
    const controller = target.address.replace(/\.\d+$/, ".1");
    await must(target, `ip route add prohibit ${controller}/32`);
    for (const machine of machines()) original.set(machine.name, await look(machine));
    lab = createWorkspace({ copy: EXAMPLE, env: { LAB_CI_TOKEN: TOKEN } });
    rmSync(join(lab.cwd, ".labctl"), { recursive: true, force: true });
    lab.write(
      "hosts",
      machines()
        .map((machine) => readFileSync(machine.knownHostsPath, "utf8"))
        .join(""),
    );
    args = Object.entries({
      gateway: gateway.address,
      builder: builder.address,
      target: target.address,
      key: gateway.keyPath,
      known_hosts: "./hosts",
    }).flatMap(([name, value]) => ["--var", `${name}=${value}`]);
  });
  afterAll(async () => {
    lab?.remove();
    await Promise.all(machines().map((machine) => machine?.stop()));
  });

  test("a plan shows what is to come and writes nothing", async () => {
    const plan = await lab.plan(args, 2);
    expect(plan.actions.map(({ address }) => address)).toContain('host.target/file["/srv/test/where-i-am"]');
    expect(plan.actions.map(({ action }) => action)).not.toContain("blocked");
    for (const machine of machines()) expect(await look(machine), machine.name).toBe(original.get(machine.name));
    expect([...lab.files().keys()].filter((name) => name.startsWith(".labctl"))).toEqual([]);
  });

  test("applies to all three, the target through the gateway alone", async () => {
    const direct = spawnSync("bash", ["-c", `timeout 2 bash -c '</dev/tcp/${target.address}/22'`]);
    expect(direct.status, "the target must not answer to the controller").not.toBe(0);
    const run = await lab.apply(args);
    expect(new Set(Object.values(resultsOf(run.events)))).toEqual(new Set(["ok"]));
    const peers = await must(
      target,
      "sed -n 's/^Accepted publickey for lab from \\([^ ]*\\) .*/\\1/p' /var/log/sshd.log | sort -u",
    );
    expect(peers).toBe(gateway.address);
    expect(await must(target, "cat /srv/test/where-i-am")).toBe(
      `built on builder-1, reached through ${gateway.address}`,
    );
    expect(await must(target, "stat -c %s /srv/test/seed")).toBe("4096");
    expect(await must(gateway, "cat /etc/motd; cat /proc/sys/net/ipv4/ip_forward")).toContain("Managed by labctl");
    expect(await must(builder, "dpkg-query -W -f '${db:Status-Abbrev}${Version}' bc")).toBe("ii 9.1");
    expect(await must(builder, "stat -c '%a %U:%G' /srv/build /srv/build/ccache")).toBe(
      "2775 build:build\n2775 build:build",
    );
    expect(await must(builder, "cat /srv/build/.ci-token; stat -c ' %a %U' /srv/build/.ci-token")).toBe(
      `${TOKEN} 400 build`,
    );
    expect(await must(builder, "cat /srv/build/.ssh/authorized_keys")).toBe(
      readFileSync(join(EXAMPLE, "keys/ci.pub"), "utf8").trim(),
    );
    expect(await must(builder, "/etc/init.d/cron status && ls /etc/rc2.d | grep cron")).toMatch(/^S\d\dcron$/);
    const output = await lab.run(["output", "builder_kernel"]);
    expect(JSON.parse(output.stdout)).toBe(await must(builder, "uname -r"));
  });

  test("stays empty, and a second apply changes nothing", async () => {
    expect(await lab.pending(args)).toEqual({});
    const before = await Promise.all(machines().map(look));
    const again = await lab.apply(args);
    expect(new Set(Object.values(resultsOf(again.events)).filter((result) => result !== "noop"))).toEqual(new Set());
    expect(await Promise.all(machines().map(look))).toEqual(before);
  });

  const drifts: readonly [string, () => TestMachine, string, Record<string, string>][] = [
    ["file content", () => gateway, "echo hacked >>/etc/motd", { 'host.gateway/file["/etc/motd"]': "update content" }],
    [
      "sysctl value",
      () => gateway,
      "echo 0 >/proc/sys/net/ipv4/ip_forward",
      { 'host.gateway/sysctl["net.ipv4.ip_forward"]': "update value" },
    ],
    ["package removed", () => builder, "dpkg --purge bc", { "host.builder-1/package.bc": "create" }],
    [
      "file mode and owner",
      () => builder,
      "chmod 0600 /etc/security/limits.d/lab.conf; chown build /etc/security/limits.d/lab.conf",
      { 'host.builder-1/file["/etc/security/limits.d/lab.conf"]': "update mode, owner" },
    ],
    [
      "secret file content",
      () => builder,
      "echo other >/srv/build/.ci-token",
      { 'host.builder-1/file["/srv/build/.ci-token"]': "update content" },
    ],
    [
      "directory mode",
      () => builder,
      "chmod 0755 /srv/build/ccache",
      { 'host.builder-1/directory["/srv/build/ccache"]': "update mode" },
    ],
    [
      "directory group",
      () => builder,
      "chgrp root /srv/build/ccache; chmod 2775 /srv/build/ccache",
      { 'host.builder-1/directory["/srv/build/ccache"]': "update group" },
    ],
    [
      "user's comment and shell",
      () => builder,
      "usermod -c other -s /bin/false build",
      { "host.builder-1/user.build": "update shell, comment" },
    ],
    [
      "user's keys",
      () => builder,
      "echo ssh-ed25519 AAAA evil >/srv/build/.ssh/authorized_keys",
      { "host.builder-1/user.build": "update authorized_keys" },
    ],
    ["service stopped", () => builder, "/etc/init.d/cron stop", { "host.builder-1/service.cron": "update running" }],
    [
      "service disabled",
      () => builder,
      "update-rc.d cron disable 2>&1 || rm -f /etc/rc?.d/S??cron",
      { "host.builder-1/service.cron": "update enabled" },
    ],
    ["file removed", () => target, "rm /srv/test/where-i-am", { 'host.target/file["/srv/test/where-i-am"]': "create" }],
    ["a command's product", () => target, "rm /srv/test/seed", { "host.target/command.seed": "create" }],
  ];

  test("finds each change behind its back, and names exactly that one", async () => {
    for (const [what, machine, command, expected] of drifts) {
      await must(machine(), command);
      expect(await lab.pending(args), what).toEqual(expected);
      await lab.apply(args);
    }
    expect(await lab.pending(args)).toEqual({});
  });

  test("many changes at once are found together and repaired in one run", async () => {
    const once = drifts.filter(([what]) => !/group|keys|disabled/.test(what));
    for (const [, machine, command] of once) await must(machine(), command);
    expect(await lab.pending(args)).toEqual(Object.assign({}, ...once.map(([, , , expected]) => expected)));
    await lab.apply(args);
    expect(await lab.pending(args)).toEqual({});
  });

  test("host list, facts and exec see the machines, through the gateway too", async () => {
    const list = await lab.run(["host", "list", "-f", lab.cwd, ...args]);
    expect(list.code, list.output).toBe(0);
    for (const name of ["gateway", "builder-1", "target"]) expect(list.stdout).toContain(name);
    const facts = await lab.run(["host", "facts", "target", "--json", ...args]);
    expect(facts.code, facts.output).toBe(0);
    expect(facts.stdout).toContain('"target"');
    expect(facts.stdout).toContain((await must(target, "uname -r")).trim());
    const exec = await lab.run([...args, "host", "exec", "target", "--", "printf", "%s|", "a b", "$(id)", "it's"]);
    expect([exec.code, exec.stdout]).toEqual([0, "a b|$(id)|it's|"]);
    const failing = await lab.run([...args, "host", "exec", "target", "--root", "--", "sh", "-c", "id -u; exit 7"]);
    expect([failing.code, failing.stdout.trim()]).toEqual([7, "0"]);
  });

  test("the gateway goes away in the middle: what is behind it fails, the rest converges, running again finishes", async () => {
    const slow = '#!/bin/sh\\n[ "$2" = 4096 ] && { touch /tmp/seeding; sleep 20; }\\nexec /usr/bin/head "$@"\\n';
    await must(target, `rm /srv/test/seed; printf '${slow}' >/usr/local/bin/head; chmod 755 /usr/local/bin/head`);
    await must(builder, "rm /srv/build/.ccache.conf");
    const process = lab.spawn(["apply", "--auto-approve", "--json", ...args]);
    await must(target, "until [ -e /tmp/seeding ]; do sleep 0.05; done");
    await gateway.stopSshd();
    try {
      await gateway.cut();
      const { code } = await process.done;
      const finished = process.events.findLast((event) => event.type === "run.finished");
      expect(code, JSON.stringify(finished)).toBe(6);
      expect(resultsOf(process.events)).toMatchObject({
        "host.target/command.seed": "failed",
        'host.builder-1/file["/srv/build/.ccache.conf"]': "ok",
      });
      expect(finished?.type === "run.finished" && finished.summary.problems).toEqual([
        expect.objectContaining({
          code: expect.stringMatching(/^E_(CONNECT|DISCONNECTED)$/),
          address: "host.target/command.seed",
          hint: expect.stringMatching(/\w+ \w+/),
        }),
      ]);
      const plan = await lab.plan(args, 5);
      const blocked = plan.actions.filter(({ action }) => action === "blocked").map(({ address }) => address);
      expect(new Set(blocked.map((address) => address.split("/")[0]))).toEqual(
        new Set(["host.gateway", "host.target"]),
      );
    } finally {
      await gateway.startSshd();
      await must(target, "rm -f /usr/local/bin/head /tmp/seeding");
    }
    expect(await lab.pending(args)).toEqual({ "host.target/command.seed": "create" });
    await lab.apply(args);
    expect(await lab.pending(args)).toEqual({});
    expect(await must(target, "stat -c %s /srv/test/seed")).toBe("4096");
  });

  test("a host that shows another key than it had is refused and explained; the rest converges", async () => {
    await must(gateway, "echo hacked >>/etc/motd");
    await must(builder, "rm /srv/build/.ccache.conf");
    const known = readFileSync(lab.path("hosts"), "utf8");
    await builder.rotateHostKey();
    const run = await lab.apply(args, 6);
    const results = resultsOf(run.events);
    expect(results['host.gateway/file["/etc/motd"]']).toBe("ok");
    expect(results['host.builder-1/file["/srv/build/.ccache.conf"]']).toBe("blocked");
    expect(run.summary.problems[0]).toMatchObject({ code: "E_HOST_KEY_CHANGED", address: "host.builder-1" });
    expect(run.summary.problems[0]?.message).toMatch(/SHA256:[A-Za-z0-9+/]{43}/);
    expect(run.events.filter(({ type }) => type === "host.retrying")).toEqual([]);
    expect(readFileSync(lab.path("hosts"), "utf8")).toBe(known);
    const key = await must(builder, "cut -d' ' -f1,2 /etc/ssh/ssh_host_ed25519_key.pub");
    const others = known.split("\n").filter((line) => !line.startsWith(`${builder.address} `));
    lab.write("hosts", `${others.join("\n")}${builder.address} ${key}\n`);
    expect(await lab.pending(args)).toEqual({ 'host.builder-1/file["/srv/build/.ccache.conf"]': "create" });
    await lab.apply(args);
    expect(await lab.pending(args)).toEqual({});
  });

  test("destroy restores what was there before, to the byte", async () => {
    const run = await lab.destroy(args);
    expect(run.summary.manual_steps).toEqual([]);
    for (const machine of machines()) expect(await look(machine), machine.name).toBe(original.get(machine.name));
    expect(await must(gateway, "stat -c %a /etc/motd")).toBe("640");
    expect((await lab.run(["state", "list"])).stdout).not.toContain("host.");
  });
});
