import { quoteWord } from "../../src/transport/index.ts";
import type { MachineOptions, MachineUser } from "./sshd.ts";

export interface SshdSettings extends MachineOptions {
  readonly name: string;
  readonly port: number;
  readonly users: Readonly<Record<string, MachineUser>>;
  readonly hostKeys: readonly ("ed25519" | "ecdsa" | "rsa")[];
  readonly authorizedKey: string;
}

/**
 * Process 1 of a machine. Prints its process id as seen outside, builds the file system, then runs what arrives on
 * stdin, a base64 line a script. When its owner ends, in whatever way, stdin ends and the machine with it.
 */
export const INIT = `
set -e
folder=$1
read -r pid rest </proc/self/stat
echo "$pid"
mount --make-rprivate /
mount -t tmpfs -o mode=0755 machine /mnt
mkdir /mnt/upper /mnt/work /mnt/root /mnt/keys
cp "$folder"/ssh_host_* /mnt/keys/
mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work machine /mnt/root
r=/mnt/root
mkdir -p $r/proc $r/sys $r/dev $r/run $r/tmp $r/.old
mount -t proc proc $r/proc
mount -t sysfs sysfs $r/sys 2>/dev/null || mount --rbind /sys $r/sys
mount -t tmpfs -o mode=0755 dev $r/dev
for node in null zero full random urandom tty; do touch $r/dev/$node; mount --bind /dev/$node $r/dev/$node; done
for node in kvm fuse loop-control; do [ -e /dev/$node ] && { touch $r/dev/$node; mount --bind /dev/$node $r/dev/$node; }; done
mkdir $r/dev/pts $r/dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts $r/dev/pts
ln -s pts/ptmx $r/dev/ptmx; ln -s /proc/self/fd $r/dev/fd
ln -s /proc/self/fd/0 $r/dev/stdin; ln -s /proc/self/fd/1 $r/dev/stdout; ln -s /proc/self/fd/2 $r/dev/stderr
mount -t tmpfs -o mode=1777 shm $r/dev/shm
mount -t tmpfs -o mode=0755 run $r/run
mount -t tmpfs -o mode=1777 tmp $r/tmp
mkdir $r/run/keys $r/run/lock $r/run/sshd
chmod 1777 $r/run/lock
cp /mnt/keys/* $r/run/keys/
cd $r
pivot_root . .old
exec chroot . bash -c '
cd /
umount -l /.old && rmdir /.old
unset OLDPWD SHLVL
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
while IFS= read -r line; do
  script=$(printf %s "$line" | base64 -d)
  ( eval "$script" ) </dev/null >&2
  echo "done $?"
done
'
`;

/** What makes an overlay of this machine into another one. Runs once, as root, inside. */
export function setupScript(settings: SshdSettings, address: string): string {
  const lines = [
    "set -e",
    `hostname ${settings.name}; echo ${settings.name} >/etc/hostname`,
    `printf '127.0.0.1 localhost\\n%s %s\\n' ${address.split("/")[0] ?? ""} ${settings.name} >/etc/hosts`,
    "ip link set lo up; ip link set eth0 up",
    `ip addr add ${address} dev eth0`,
    "cat /proc/sys/kernel/random/uuid >/run/boot_id; mount --bind /run/boot_id /proc/sys/kernel/random/boot_id",
    "rm -rf /etc/ssh/sshd_config.d /etc/ssh/ssh_host_* /etc/ssh/ssh_known_hosts /root/.ssh /etc/sudoers.d/*; mkdir -p /etc/ssh /etc/sudoers.d",
    "mv /run/keys/* /etc/ssh/; chmod 600 /etc/ssh/ssh_host_*_key",
    "printf 'Defaults env_reset\\nDefaults secure_path=\"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\"\\nroot ALL=(ALL:ALL) ALL\\n@includedir /etc/sudoers.d\\n' >/etc/sudoers; chmod 440 /etc/sudoers",
    ...authorize("root", "/root", settings.authorizedKey),
    "usermod -p '*' root 2>/dev/null || sed -i 's/^root:[^:]*/root:*/' /etc/shadow",
  ];
  let uid = 4200;
  for (const [name, user] of Object.entries(settings.users)) {
    uid++;
    const home = `/home/${name}`;
    const hash =
      user.password === undefined ? "'*'" : `"$(printf %s ${quoteWord(user.password)} | openssl passwd -6 -stdin)"`;
    lines.push(
      `sed -i '/^${name}:/d' /etc/passwd /etc/shadow /etc/group`,
      `echo '${name}:x:${uid}:${uid}::${home}:${user.shell ?? "/bin/sh"}' >>/etc/passwd`,
      `echo '${name}:x:${uid}:' >>/etc/group`,
      `h=${hash}; echo "${name}:$h:19000:0:99999:7:::" >>/etc/shadow`,
      `rm -rf ${home}; mkdir -p ${home}; chown ${uid}:${uid} ${home}`,
      ...(user.key === false ? [] : authorize(name, home, settings.authorizedKey)),
    );
    if (user.sudo !== undefined) {
      const rule = user.sudo === "nopasswd" ? "ALL=(ALL:ALL) NOPASSWD: ALL" : "ALL=(ALL:ALL) ALL";
      lines.push(`echo '${name} ${rule}' >/etc/sudoers.d/${name}; chmod 440 /etc/sudoers.d/${name}`);
    }
  }
  for (const [path, size] of Object.entries(settings.tmpfs ?? {})) {
    lines.push(`mkdir -p ${quoteWord(path)}; mount -t tmpfs -o mode=1777,size=${size} small ${quoteWord(path)}`);
  }
  if (settings.userCa) lines.push(`printf '%s\\n' ${settings.userCa.map(quoteWord).join(" ")} >/etc/ssh/user_ca.pub`);
  lines.push(
    `printf '%s\\n' ${sshdConfig(settings).map(quoteWord).join(" ")} >/etc/ssh/sshd_config`,
    `printf '%s\\n' ${quoteWord(REBOOT)} >/usr/local/sbin/reboot; chmod 755 /usr/local/sbin/reboot`,
    ...(settings.setup === undefined ? [] : [settings.setup]),
    "/usr/sbin/sshd -E /var/log/sshd.log",
  );
  return lines.join("\n");
}

function authorize(user: string, home: string, key: string): string[] {
  return [
    `mkdir -p ${home}/.ssh; echo ${quoteWord(key)} >${home}/.ssh/authorized_keys`,
    `chown -R $(id -u ${user}):$(id -g ${user}) ${home}/.ssh; chmod 700 ${home}/.ssh; chmod 600 ${home}/.ssh/authorized_keys`,
  ];
}

function sshdConfig(settings: SshdSettings): string[] {
  return [
    // First value wins in sshd_config.
    ...(settings.sshdConfig ?? []),
    `Port ${settings.port}`,
    ...settings.hostKeys.map((type) => `HostKey /etc/ssh/ssh_host_${type}_key`),
    "PidFile /run/sshd.pid",
    "PermitRootLogin yes",
    "PubkeyAuthentication yes",
    `PasswordAuthentication ${settings.passwordLogin ? "yes" : "no"}`,
    `KbdInteractiveAuthentication ${settings.pam ? "yes" : "no"}`,
    `UsePAM ${settings.pam ? "yes" : "no"}`,
    "UseDNS no",
    "StrictModes yes",
    "MaxStartups 500:30:1000",
    `MaxSessions ${settings.maxSessions ?? 10}`,
    "LogLevel VERBOSE",
    "PrintMotd no",
    ...(settings.userCa ? ["TrustedUserCAKeys /etc/ssh/user_ca.pub"] : []),
    ...(settings.sftp === false ? [] : ["Subsystem sftp internal-sftp"]),
  ];
}

/** Ends everything but process 1, waits a moment as firmware would, and starts anew under another boot id. */
const REBOOT = `#!/bin/sh
[ "$(id -u)" = 0 ] || { echo "must be root" >&2; exit 1; }
setsid sh -c '
trap "" HUP TERM
for p in $(ls /proc); do case $p in *[!0-9]*|1|$$) ;; *) kill -9 $p 2>/dev/null ;; esac; done
umount /proc/sys/kernel/random/boot_id
cat /proc/sys/kernel/random/uuid >/run/boot_id
mount --bind /run/boot_id /proc/sys/kernel/random/boot_id
sleep "$(cat /run/reboot_delay 2>/dev/null || echo 0.5)"
[ -e /run/reboot_never ] || /usr/sbin/sshd -E /var/log/sshd.log
' </dev/null >/dev/null 2>&1 &
`;
