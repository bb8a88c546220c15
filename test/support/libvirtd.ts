/**
 * A real libvirtd (with virtlogd, and QEMU's software emulation) for tests, inside a test machine of its own (sshd.ts):
 *
 *     const virt = await startLibvirtd({ name: "kvm1" });       // about a second
 *     virt.host.connection()                                     // over SSH: login `lab`, who may use libvirt
 *     virt.uri                                                   // from this process: qemu:///system?socket=...
 *     await virt.virsh("list", "--all")                          // what virsh there says
 *     await virt.kill(); await virt.start();                     // libvirtd alone; its domains go on
 *     await virt.stop();                                         // everything goes: domains, networks, dnsmasq, QEMU
 *
 * Each has its own file system (an overlay), process ids and network, so that tests neither meet each other nor anything of this
 * machine: a network `default` or 192.168.122.0/24 may be defined in several at once. What runs in one ends with it, also when
 * the test run is killed. The configuration is Debian's but for what namespaces cannot have (cgroups, mount namespaces of QEMU,
 * AppArmor). There is no /dev/kvm: domains are of type `qemu`.
 */
import { spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { type MachineOptions, machinesUnavailable, startMachine, type TestMachine } from "./sshd.ts";

/** What libvirtd found out about each QEMU, which takes it seconds; it looks anew by itself where a QEMU has changed. */
const CACHE = join(import.meta.dirname, "../../node_modules/.cache/labctl-libvirt");
const CAPABILITIES = "/var/cache/libvirt/qemu/capabilities";

const TOOLS: Readonly<Record<string, string>> = {
  libvirtd: "libvirt-daemon-system",
  virsh: "libvirt-clients",
  "qemu-system-x86_64": "qemu-system-x86",
  "qemu-img": "qemu-utils",
  dnsmasq: "dnsmasq-base",
};

/** Where it listens, inside the machine. */
export const LIBVIRT_SOCKET = "/run/libvirt/libvirt-sock";

/** Why libvirtd cannot be had here; undefined where it can. */
export function libvirtdUnavailable(): string | undefined {
  const why = machinesUnavailable();
  if (why !== undefined) return why;
  const missing = Object.keys(TOOLS).filter(
    (tool) => spawnSync("sh", ["-c", `PATH=$PATH:/usr/sbin:/sbin command -v ${tool}`]).status !== 0,
  );
  return missing.length === 0
    ? undefined
    : `libvirtd needs the packages ${missing.map((tool) => TOOLS[tool]).join(", ")}`;
}

export interface LibvirtdOptions extends MachineOptions {
  /** Users who are in the group libvirt; default: all (`lab`). */
  readonly allowed?: readonly string[];
  /** Lines of libvirtd.conf and qemu.conf, in place of these here or besides. */
  readonly libvirtdConf?: readonly string[];
  readonly qemuConf?: readonly string[];
  /** Do not start it yet. */
  readonly stopped?: boolean;
}

export interface TestLibvirtd {
  readonly host: TestMachine;
  /** Path under which this process reaches the socket. */
  readonly socket: string;
  /** Connect URI for this process, as root. */
  readonly uri: string;
  /** virsh inside, as root: its output, trimmed. Throws where it fails. */
  virsh(...args: string[]): Promise<string>;
  /** Any program inside, as root. */
  run(...argv: string[]): Promise<string>;
  /** Starts libvirtd and waits until it answers. */
  start(): Promise<void>;
  /** Ends libvirtd as an administrator would; domains go on. */
  shutdown(): Promise<void>;
  /** Ends libvirtd with SIGKILL; its socket's file stays. */
  kill(): Promise<void>;
  /** Lets libvirtd hang (SIGSTOP), and go on. */
  freeze(): Promise<void>;
  thaw(): Promise<void>;
  restart(): Promise<void>;
  /** Removes the machine with all that runs in it. */
  stop(): Promise<void>;
}

const quote = (word: string): string => `'${word.replaceAll("'", String.raw`'\''`)}'`;

/** Own lines, and those of the defaults that they do not set. */
function conf(own: readonly string[] = [], defaults: readonly string[]): readonly string[] {
  const key = (line: string): string => line.split("=")[0]?.trim() ?? "";
  const set = new Set(own.map(key));
  return [...defaults.filter((line) => !set.has(key(line))), ...own];
}

export async function startLibvirtd(options: LibvirtdOptions = {}): Promise<TestLibvirtd> {
  const why = libvirtdUnavailable();
  if (why !== undefined) throw new Error(why);
  const allowed = options.allowed ?? Object.keys(options.users ?? { lab: {} });
  const libvirtdConf = conf(options.libvirtdConf, [
    'unix_sock_group = "libvirt"',
    'unix_sock_ro_perms = "0777"',
    'unix_sock_rw_perms = "0770"',
    'auth_unix_rw = "none"',
  ]);
  // QEMU keeps the user libvirt-qemu, as on a real host.
  const qemuConf = conf(options.qemuConf, ['security_driver = "none"', "namespaces = [ ]", "cgroup_controllers = [ ]"]);
  const host = await startMachine({
    ...options,
    setup: [
      // Where it opens but does not work (nested, in a sandbox) libvirtd asks each QEMU about it for seconds, over and over.
      "umount /dev/kvm 2>/dev/null; rm -f /dev/kvm",
      "mkdir -p /dev/net; mknod /dev/net/tun c 10 200; chmod 666 /dev/net/tun",
      "rm -rf /etc/libvirt /var/lib/libvirt /var/log/libvirt /var/cache/libvirt",
      "mkdir -p /etc/libvirt /var/log/libvirt /var/cache/libvirt /var/lib/libvirt/images",
      `mkdir -p ${CAPABILITIES}; cp ${quote(CACHE)}/*.xml ${CAPABILITIES}/ 2>/dev/null || :`,
      `printf '%s\\n' ${libvirtdConf.map(quote).join(" ")} >/etc/libvirt/libvirtd.conf`,
      `printf '%s\\n' ${qemuConf.map(quote).join(" ")} >/etc/libvirt/qemu.conf`,
      ...allowed.map((user) => `sed -i 's/^libvirt:.*/&,${user}/; s/^\\(libvirt:.*:\\),/\\1/' /etc/group`),
      options.setup ?? ":",
    ].join("\n"),
  });
  const socket = host.root(LIBVIRT_SOCKET);
  const inside = async (command: string): Promise<string> => {
    const { stdout, stderr, code } = await host.exec(command);
    if (code !== 0) throw new Error(`${host.name}: ${command}: exit ${code}: ${stderr}${stdout}`);
    return stdout.trim();
  };
  const run = (...argv: string[]): Promise<string> => inside(argv.map(quote).join(" "));
  const PID = "$(cat /run/libvirtd.pid 2>/dev/null)";
  const gone = `i=0; while kill -0 "$p" 2>/dev/null && [ $i -lt 1000 ]; do sleep 0.01; i=$((i+1)); done`;
  const virt: TestLibvirtd = {
    host,
    socket,
    uri: `qemu:///system?socket=${socket}`,
    run,
    virsh: (...args) => run("virsh", "-q", "-c", "qemu:///system", ...args),
    // virsh comes back when all drivers are up, QEMU's capabilities included.
    async start() {
      await inside("pgrep -x virtlogd >/dev/null || virtlogd -d");
      await inside(`kill -0 ${PID} 2>/dev/null || libvirtd -d`);
      await inside(
        "i=0; until virsh -q -c qemu:///system version >/dev/null 2>&1; do i=$((i+1)); [ $i -lt 100 ] || { virsh -c qemu:///system version; exit 1; }; sleep 0.1; done",
      );
    },
    async shutdown() {
      await inside(`p=${PID}; kill "$p"; ${gone}`);
    },
    async kill() {
      await inside(`p=${PID}; kill -9 "$p"; ${gone}; rm -f /run/libvirtd.pid`);
    },
    async freeze() {
      await inside(`kill -STOP ${PID}`);
    },
    async thaw() {
      await inside(`kill -CONT ${PID}`);
    },
    async restart() {
      await virt.shutdown();
      await virt.start();
    },
    stop: () => host.stop(),
  };
  if (options.stopped !== true) {
    try {
      await virt.start();
      if (!existsSync(CACHE)) {
        const aside = `${CACHE}-${process.pid}`;
        mkdirSync(aside, { recursive: true });
        cpSync(host.root(CAPABILITIES), aside, { recursive: true });
        // Another file's machines may have been as far at the same time.
        if (existsSync(CACHE)) rmSync(aside, { recursive: true });
        else renameSync(aside, CACHE);
      }
    } catch (error) {
      const log = await host.exec(
        "tail -n 20 /var/log/libvirt/*.log /var/log/libvirt/qemu/*.log /var/log/libvirtd.log 2>/dev/null",
      );
      await host.stop();
      throw new Error(`libvirtd does not start: ${log.stdout}`, { cause: error });
    }
  }
  return virt;
}
