/** A whole machine that starts anew, as asked or by losing its power in the middle of an apply. */
import { randomBytes } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createMachinePool } from "../../src/transport/index.ts";
import { BUILD_MS, type Guest, guestUnavailable, startGuest } from "../support/guest.ts";
import { createWorkspace, type Workspace } from "../support/workspace.ts";

const KEYS = ["a", "b"].map((letter) => `ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI${letter.repeat(43)} ${letter}@lab`) as [
  string,
  string,
];

const UNIT = `cat >/etc/systemd/system/labsvc.service <<'X'
[Service]
ExecStart=/bin/sleep infinity
[Install]
WantedBy=multi-user.target
X
systemctl daemon-reload
systemctl -q enable --now nfs-server`;

/** What is in files that labctl writes, a line each: a name and a digest, or `-` where it is not there. */
const LOOK = `for f in /srv/app/big.bin /srv/app/conf-1 /srv/app/conf-2 /etc/fstab /home/ci/.ssh/authorized_keys \\
  /etc/sysctl.d/60-labctl-vm.swappiness.conf /etc/modules-load.d/labctl-vhost.conf /etc/modprobe.d/labctl-vhost.conf; do
  if [ -e "$f" ]; then set -- $(sha256sum <"$f"); echo "$f $1"; else echo "$f -"; fi
done`;

const LEFTOVERS = `find / -xdev \\( -name '.labctl-*' -o -name '*.labctl-new' \\) 2>/dev/null`;

describe.skipIf(guestUnavailable() !== undefined)("a machine that starts anew", () => {
  let guest: Guest;
  let lab: Workspace;

  const write = (generation: number): void => {
    const odd = generation % 2;
    lab.write("lab.yaml", {
      labctl: 1,
      name: "power",
      defaults: {
        timeouts: { connect: "20s", command: "60s" },
        retry: { attempts: 2, delay: "100ms", max_delay: "400ms" },
      },
      hosts: {
        guest: guest.host({
          directories: { "/srv/app": { mode: odd ? "0750" : "0755" } },
          files: {
            "/srv/app/big.bin": { source: `./big-${odd}.bin`, mode: "0640" },
            "/srv/app/conf-1": { content: `conf 1 of ${odd}\n` },
            "/srv/app/conf-2": { content: `conf 2 of ${odd}\n`.repeat(500) },
          },
          users: { ci: { comment: `generation ${odd}`, authorized_keys: [KEYS[odd] ?? ""] } },
          sysctl: { "vm.swappiness": { value: 20 + odd } },
          modules: { vhost: { options: { max_mem_regions: 100 + odd } } },
          mounts: {
            "/srv/nfs": {
              source: "127.0.0.1:/srv/export",
              type: "nfs",
              options: ["vers=4.2", ...(odd ? ["ro"] : ["rw"]), "x-systemd.requires=nfs-server.service"],
            },
            "/srv/scratch": { source: "scratch", type: "tmpfs", options: [odd ? "size=4m" : "size=8m"] },
            "/srv/bound": { source: "/srv/export", type: "none", options: ["bind", "ro"] },
          },
          services: { labsvc: { enabled: true, running: true, restart_on: [String(odd)] } },
        }),
      },
    });
  };
  const look = async (): Promise<string[]> => (await guest.sh(LOOK)).trim().split("\n");
  /** What is in the files after a full apply of each generation: of each file only these two are whole. */
  const whole: (string[] | undefined)[] = [];
  const apply = async (generation: number): Promise<void> => {
    write(generation);
    await lab.apply();
    whole[generation] = await look();
  };

  beforeAll(async () => {
    guest = await startGuest();
    lab = createWorkspace();
    for (const name of ["big-0.bin", "big-1.bin"]) lab.write(name, randomBytes(768 << 10).toString("base64"));
    await guest.sh(UNIT);
    await apply(0);
  }, BUILD_MS + 240_000);
  afterAll(async () => {
    await guest?.stop();
    lab?.remove();
  });

  test("a restart keeps what was asked for: services, mounts, modules and settings; another boot id", async () => {
    expect(await lab.pending()).toEqual({});
    const pool = createMachinePool({ env: guest.env });
    try {
      const before = (await guest.sh("cat /proc/sys/kernel/random/boot_id")).trim();
      const { boot_id } = await pool.machine(guest.connection()).reboot({ timeout: 110_000 });
      expect(boot_id).not.toBe(before);
      expect((await guest.sh("cat /proc/sys/kernel/random/boot_id")).trim()).toBe(boot_id);
    } finally {
      await pool.close();
    }
    await guest.sh("systemctl is-system-running --wait || systemctl --failed");
    expect(await lab.pending()).toEqual({});
    expect(
      await guest.sh(
        "systemctl is-active labsvc srv-nfs.mount srv-scratch.mount srv-bound.mount; cat /proc/sys/vm/swappiness /sys/module/vhost/parameters/max_mem_regions; cat /srv/nfs/file",
      ),
    ).toBe("active\nactive\nactive\nactive\n20\n100\nexported\n");
  }, 300_000);

  test("what was done is whole after a power failure", async () => {
    await apply(1);
    const done = whole[1] ?? [];
    expect(done.join("\n")).not.toContain(" -");
    // Names would be on the disk within five seconds (ext4's commit), contents within thirty: that is too late for who was told "done".
    await guest.powerFailure();
    await guest.boot();
    expect(await look()).toEqual(done);
    await guest.sh("systemctl is-system-running --wait || systemctl --failed");
    expect(await lab.pending()).toEqual({});
  }, 300_000);

  test("power that fails in the middle of an apply leaves no file half-written, and the next apply converges", async () => {
    if (whole[1] === undefined) await apply(1);
    const moments = [
      { address: 'host.guest/file["/srv/app/big.bin"]', after: 150 },
      { address: 'host.guest/mount["/srv/nfs"]', after: 100 },
    ];
    for (const [i, moment] of moments.entries()) {
      const generation = i % 2;
      write(generation);
      const run = lab.spawn(["apply", "--auto-approve", "--json"], { timeout: 110_000 });
      const begun = await run.event((event) => event.type === "action.started" && event.address === moment.address);
      expect(begun, run.stderr).toBeDefined();
      await new Promise((resolve) => setTimeout(resolve, moment.after));
      await guest.powerFailure();
      const { code } = await run.done;
      // It began, and some of it failed; it says so by itself, within its own time limits.
      expect(code).toBe(6);
      await guest.boot();
      for (const [n, line] of (await look()).entries()) {
        expect([whole[0]?.[n], whole[1]?.[n]], `after the cut in ${moment.address}`).toContain(line);
      }
      await guest.sh("systemctl is-system-running --wait || systemctl --failed");
      await lab.apply();
      expect(await lab.pending()).toEqual({});
      expect(await look()).toEqual(whole[generation]);
      expect(await guest.sh(LEFTOVERS)).toBe("");
    }
  }, 600_000);
});
