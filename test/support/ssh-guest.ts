// A guest that runs an SSH server (dropbear on busybox): the initial RAM disk for Debian's kernel.
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { VIRTIO, VIRTIO_NET } from "./guest-modules.ts";
import { busyboxInitramfs, type DebianKernel, type InitramfsOptions } from "./kernels.ts";

const MODULES = [...VIRTIO, ...VIRTIO_NET, "drivers/char/virtio_console.ko"];

/** Mounts, modules and cards; then the lines of the caller, as process 1. */
const begin = `#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mkdir -p /dev/pts /run /var/run; mount -t devpts pts /dev/pts
for module in ${MODULES.join(" ")}; do insmod /modules/$module; done
ip link set lo up; ip link set eth0 up
`;

/** Asks the DHCP server of its network for an address. */
export const DHCP = "udhcpc -i eth0 -n -q -s /etc/udhcpc.sh";
/** Begins to let people in, with a host key that is made when it is first asked for. */
export const LET_IN = "dropbear -R -s -p 22";

export interface SshGuest {
  readonly kernel: DebianKernel;
  /** Shell lines that process 1 goes on with; it must not end. */
  readonly init: string;
  /** File with the public key that root is logged in with. */
  readonly authorized: string;
  /** Further programs of this machine, by name. */
  readonly programs?: readonly string[];
}

/** Its initial RAM disk. */
export async function sshGuest(guest: SshGuest): Promise<string> {
  const { kernel, init, authorized, programs = [] } = guest;
  const module = (path: string): Uint8Array => readFileSync(join(kernel.modules, "kernel", path));
  return busyboxInitramfs({
    init: `${begin}${init}`,
    files: {
      ...Object.assign({}, ...["dropbear", ...programs].map(program)),
      ...Object.fromEntries(MODULES.map((path) => [`modules/${path}`, module(path)])),
      "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
      "etc/udhcpc.sh": '#!/bin/sh\n[ "$1" != bound ] || ip address add "$ip/24" dev eth0\n',
      "etc/dropbear/README": "",
      "root/.ssh/authorized_keys": { data: readFileSync(authorized), mode: 0o600 },
    },
  });
}

/** A program of this machine with the libraries that it is linked to, by the paths that it looks for them under. */
function program(name: string): NonNullable<InitramfsOptions["files"]> {
  const path = execFileSync("sh", ["-c", `PATH=$PATH:/usr/sbin command -v ${name}`], { encoding: "utf8" }).trim();
  const linked = execFileSync("ldd", [path], { encoding: "utf8" });
  const libraries = [...linked.matchAll(/(\/\S+) \(0x/g)].map(([, library = ""]) => library);
  const all = [[`bin/${name}`, path] as const, ...libraries.map((one) => [one.slice(1), one] as const)];
  return Object.fromEntries(all.map(([at, from]) => [at, { data: readFileSync(from), mode: 0o755 }]));
}
