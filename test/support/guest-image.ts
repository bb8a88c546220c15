/**
 * The disk and the kernel of {@link startGuest}'s machine: a small Debian with systemd, made from Debian's own packages. Built once a
 * recipe, in about a minute, and kept below node_modules/.cache.
 */
import { execFile, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { isAlive } from "./sshd-network.ts";

const run = promisify(execFile);

const CACHE = join(import.meta.dirname, "../../node_modules/.cache/labctl-guest");

/** Longest that making the image may take, in milliseconds. */
export const BUILD_MS = 8 * 60_000;

const PACKAGES = [
  "systemd-sysv",
  "udev",
  "dbus",
  "openssh-server",
  "sudo",
  "passwd",
  "kmod",
  "iproute2",
  "procps",
  "nfs-kernel-server",
  "nfs-common",
  "cron",
  "busybox-static",
  "cpio",
];

/** Modules of the kernel that must be there before the disk and the network are. */
const EARLY = ["virtio_pci", "virtio_blk", "virtio_net", "virtio_rng"];

/**
 * The first process of the kernel: loads drivers, gives the network card its address (QEMU's user network), and hands over. The file
 * system does not make up for programs that rename without fsync, so that a power failure shows them.
 */
const EARLY_INIT = `#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /root
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs dev /dev
while read -r path; do /bin/busybox insmod "$path"; done </modules
/bin/busybox ip link set lo up
/bin/busybox ip link set eth0 up
/bin/busybox ip addr add 10.0.2.15/24 dev eth0
/bin/busybox ip route add default via 10.0.2.2
n=0
while [ ! -e /dev/vda ] && [ $n -lt 100 ]; do /bin/busybox sleep 0.1; n=$((n + 1)); done
/bin/busybox mount -t ext4 -o rw,noauto_da_alloc /dev/vda /root || exec /bin/busybox sh
exec /bin/busybox switch_root /root /sbin/init
`;

/** Runs in the finished tree, with its path as $1. What only takes time on a slow processor is left out. */
const CUSTOMIZE = `set -e
root=$1
out=$2
chroot "$root" passwd -d root >/dev/null
chroot "$root" useradd -m -s /bin/sh lab
echo 'lab ALL=(ALL:ALL) NOPASSWD: ALL' >"$root/etc/sudoers.d/lab"
for home in root home/lab; do
  mkdir -p -m 700 "$root/$home/.ssh"
  cp "$out/id_test.pub" "$root/$home/.ssh/authorized_keys"
  chmod 600 "$root/$home/.ssh/authorized_keys"
done
chroot "$root" chown -R lab:lab /home/lab/.ssh
rm -f "$root"/etc/ssh/ssh_host_*
cp "$out/ssh_host_ed25519_key" "$out/ssh_host_ed25519_key.pub" "$root/etc/ssh/"
printf 'PermitRootLogin prohibit-password\\nUseDNS no\\nHostKey /etc/ssh/ssh_host_ed25519_key\\n' >"$root/etc/ssh/sshd_config.d/test.conf"
echo guest >"$root/etc/hostname"
printf '127.0.0.1 localhost guest\\n' >"$root/etc/hosts"
printf '/dev/vda / ext4 noauto_da_alloc 0 0\\n' >"$root/etc/fstab"
mkdir -p "$root/srv/export/deep"
echo exported >"$root/srv/export/file"
echo '/srv/export 127.0.0.1(rw,no_subtree_check,no_root_squash,fsid=1)' >"$root/etc/exports"
mkdir -p "$root/etc/nfs.conf.d"
printf '[nfsd]\\nvers3=n\\ngrace-time=10\\nlease-time=10\\n[mountd]\\nmanage-gids=n\\n' >"$root/etc/nfs.conf.d/test.conf"
for unit in systemd-timesyncd apt-daily.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap systemd-pstore fstrim.timer \\
  getty@tty1 serial-getty@ttyS0 systemd-update-utmp systemd-random-seed systemd-machine-id-commit systemd-logind \\
  dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount \\
  sys-fs-fuse-connections.mount modprobe@loop modprobe@drm modprobe@dm_mod modprobe@fuse modprobe@configfs modprobe@efi_pstore \\
  systemd-binfmt proc-sys-fs-binfmt_misc.automount nfs-blkmap rpcbind.socket rpcbind systemd-journal-flush; do
  case $unit in *.*) ;; *) unit=$unit.service ;; esac
  ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
mkdir -p "$root/etc/systemd/system-generators"
for generator in "$root"/lib/systemd/system-generators/*; do
  case $generator in *fstab-generator|*sysv-generator) continue ;; esac
  ln -s /dev/null "$root/etc/systemd/system-generators/\${generator##*/}"
done
chroot "$root" systemctl -q disable nfs-kernel-server nfs-client.target cron 2>/dev/null || :
chroot "$root" systemd-machine-id-setup >/dev/null
`;

/** Makes the kernel's files and the small file system that it starts from. $1: the tree, $2: where to. */
const KERNEL = `set -e
root=$1
out=$2
version=$(ls "$root/lib/modules")
depmod -b "$root" "$version" 2>/dev/null || chroot "$root" depmod "$version"
cp "$root/boot/vmlinuz-$version" "$out/vmlinuz"
early=$(mktemp -d)
mkdir -p "$early/bin"
cp "$root/bin/busybox" "$early/bin/"
: >"$early/modules"
for name in ${EARLY.join(" ")}; do
  chroot "$root" modprobe -S "$version" --show-depends "$name"
done | sed -n 's/^insmod //p' | awk '!seen[$1]++ { print $1 }' | while read -r path; do
  cp "$root$path" "$early/"
  echo "/\${path##*/}" >>"$early/modules"
done
cat >"$early/init"
chmod 755 "$early/init"
mkdir "$root/early"
cp -a "$early/." "$root/early/"
chroot "$root" sh -c 'cd /early && find . | cpio -o -H newc --quiet' >"$out/initrd"
rm -rf "$root/early" "$early" "$root"/boot/*
`;

/** Names the kernel's package, takes it apart in the tree: its scripts would make an initramfs for machines of every kind. */
const FETCH_KERNEL = `export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
cd "$1"
name=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \\(linux-image-[0-9].*\\)/\\1/p' | head -n 1)
apt-get -q download "$name"
dpkg-deb --fsys-tarfile ./"$name"_*.deb | tar -x --keep-directory-symlink
rm -f ./"$name"_*.deb`;

/** Where its parts are: `key` is a private key that root and `lab` accept, `hostKeyFile` the public key that sshd shows. */
interface GuestImage {
  readonly disk: string;
  readonly kernel: string;
  readonly initrd: string;
  readonly key: string;
  readonly hostKeyFile: string;
}

function imageAt(folder: string): GuestImage {
  return {
    disk: join(folder, "disk.img"),
    kernel: join(folder, "vmlinuz"),
    initrd: join(folder, "initrd"),
    key: join(folder, "id_test"),
    hostKeyFile: join(folder, "ssh_host_ed25519_key.pub"),
  };
}

/** The folder of the image, made where there is none yet. */
export async function guestImage(): Promise<GuestImage> {
  const recipe = JSON.stringify([PACKAGES, EARLY, EARLY_INIT, CUSTOMIZE, KERNEL, FETCH_KERNEL, MMDEBSTRAP]);
  const folder = join(CACHE, createHash("sha256").update(recipe).digest("hex").slice(0, 16));
  while (!existsSync(folder)) {
    // Another file's tests may be at it: it is made once.
    if (existsSync(CACHE) && readdirSync(CACHE).some(isBuild)) await sleep(500);
    else await build(folder);
  }
  return imageAt(folder);
}

const MMDEBSTRAP = [
  "--quiet",
  "--variant=essential",
  "--components=main",
  "--mode=root",
  "--format=directory",
  "--architectures=amd64",
  `--include=${PACKAGES.join(",")}`,
  `--aptopt=Apt::Install-Recommends "false"`,
  `--aptopt=Acquire::Languages "none"`,
  "--dpkgopt=force-unsafe-io",
  "--dpkgopt=path-exclude=/usr/share/doc/*",
  "--dpkgopt=path-exclude=/usr/share/man/*",
  "--dpkgopt=path-exclude=/usr/share/locale/*",
];

/** A folder of somebody who is making an image now. */
function isBuild(name: string): boolean {
  const pid = /^new-(\d+)$/.exec(name)?.[1];
  return pid !== undefined && isAlive(Number(pid));
}

async function build(folder: string): Promise<void> {
  mkdirSync(CACHE, { recursive: true });
  // Images of older recipes, and what a build that was killed left.
  for (const name of readdirSync(CACHE))
    if (!isBuild(name)) rmSync(join(CACHE, name), { recursive: true, force: true });
  const out = join(CACHE, `new-${process.pid}`);
  mkdirSync(out);
  // Unpacking thousands of small files is several times quicker where none of them is forced to a disk.
  const tree = mkdtempSync(join(existsSync("/dev/shm") ? "/dev/shm" : tmpdir(), "labctl-guest-"));
  const timeout = BUILD_MS;
  try {
    await run("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-C", "labctl-guest", "-f", join(out, "id_test")]);
    await run("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-C", "guest", "-f", join(out, "ssh_host_ed25519_key")]);
    const root = join(tree, "root");
    await run("mmdebstrap", [...MMDEBSTRAP, `--customize-hook=${FETCH_KERNEL}`, "bookworm", root], {
      timeout,
      maxBuffer: 16 << 20,
    });
    await run("sh", ["-c", CUSTOMIZE, "sh", root, out], { timeout });
    writeFileSync(join(tree, "init"), EARLY_INIT);
    await run("sh", ["-c", `exec <"$3"; ${KERNEL}`, "sh", root, out, join(tree, "init")], { timeout });
    const disk = join(out, "disk.img");
    // No lazy work left for the guest's slow processor, and no checks that depend on the date.
    await run("mkfs.ext4", ["-q", "-d", root, "-E", "lazy_itable_init=0,lazy_journal_init=0", disk, "1500M"], {
      timeout,
    });
    // Somebody else may have made the same meanwhile.
    if (!existsSync(folder)) renameSync(out, folder);
  } finally {
    rmSync(out, { recursive: true, force: true });
    rmSync(tree, { recursive: true, force: true });
  }
}

const TOOLS: Readonly<Record<string, string>> = {
  mmdebstrap: "mmdebstrap",
  "qemu-system-x86_64": "qemu-system-x86",
  "qemu-img": "qemu-utils",
  "mkfs.ext4": "e2fsprogs",
  ssh: "openssh-client",
  setpriv: "util-linux",
};

/** Why a guest cannot be had here; undefined where it can. */
export function guestUnavailable(): string | undefined {
  if (process.platform !== "linux" || process.arch !== "x64") return "the guest is an x86-64 machine under Linux";
  if (process.getuid?.() !== 0) return "making the guest's disk needs root";
  const missing = Object.keys(TOOLS).filter(
    (tool) => spawnSync("sh", ["-c", `PATH=$PATH:/usr/sbin:/sbin command -v ${tool}`]).status !== 0,
  );
  if (missing.length > 0) return `the guest needs the packages ${missing.map((tool) => TOOLS[tool]).join(", ")}`;
  return undefined;
}
