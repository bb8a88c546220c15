import { sh, ShellText, shJoin } from "../../src/index.ts";
import { KVM_PERL, KVM_PYTHON } from "./kvm.ts";

/** What a machine says of itself. Sizes in bytes. */
export type Facts = {
  readonly arch: string;
  readonly cores: number;
  readonly memory: number;
  readonly disk_total: number;
  readonly disk_free: number;
  readonly kernel: string;
  readonly hostname: string;
  readonly distribution: string;
  readonly distribution_version: string;
  readonly init: "systemd" | "openrc" | "none";
  readonly package_manager: "apt" | "dnf" | "apk" | "other";
  readonly virtualization: string;
  readonly kvm: "yes" | "no" | "unknown";
  readonly nested_virt: "yes" | "no" | "unknown";
  readonly boot_id: string;
  readonly uptime: number;
};

/** Prints `key=value` lines. Few processes: this runs on every host at every plan. */
export function factsScript(): ShellText {
  return shJoin([
    new ShellText(String.raw`labctl_fact() { printf '%s=%s\n' "$1" "$2"; }
labctl_first() { labctl_v=; [ ! -r "$1" ] || IFS= read -r labctl_v <"$1" || :; }
set -- $(uname -r -m)
labctl_fact kernel "$1"
labctl_fact machine "$2"
labctl_machine=$2
labctl_first /proc/sys/kernel/hostname; labctl_fact hostname "$labctl_v"
labctl_first /proc/sys/kernel/random/boot_id; labctl_fact boot_id "$labctl_v"
labctl_first /proc/uptime; labctl_fact uptime "${"$"}{labctl_v%% *}"
labctl_v=$(nproc 2>/dev/null) || labctl_v=$(getconf _NPROCESSORS_ONLN 2>/dev/null); labctl_fact cores "$labctl_v"
while read -r labctl_k labctl_v labctl_x; do
  case $labctl_k in MemTotal:) labctl_fact memory_kib "$labctl_v"; break ;; esac
done </proc/meminfo
labctl_v=$(df -Pk / 2>/dev/null)
set -- ${"$"}{labctl_v##*"
"}
labctl_fact disk_total_kib "$2"
labctl_fact disk_free_kib "$4"
for labctl_f in /etc/os-release /usr/lib/os-release; do
  if [ -r "$labctl_f" ]; then
    while IFS= read -r labctl_v || [ -n "$labctl_v" ]; do
      case $labctl_v in ID=*|VERSION_ID=*) printf 'os:%s\n' "$labctl_v" ;; esac
    done <"$labctl_f"
    break
  fi
done
if [ -d /run/systemd/system ]; then labctl_fact init systemd
elif [ -d /run/openrc ]; then labctl_fact init openrc
else labctl_fact init none; fi
for labctl_p in apt-get dnf apk; do
  if command -v $labctl_p >/dev/null 2>&1; then labctl_fact package_manager $labctl_p; break; fi
done
if [ -f /.dockerenv ]; then labctl_fact virtualization docker
elif [ -f /run/.containerenv ]; then labctl_fact virtualization podman
elif [ -r /proc/xen/capabilities ]; then labctl_fact virtualization xen
else
  labctl_first /sys/class/dmi/id/sys_vendor; labctl_vendor=$labctl_v
  labctl_first /sys/class/dmi/id/product_name
  labctl_fact dmi "$labctl_vendor $labctl_v"
  if grep -q '^flags.* hypervisor' /proc/cpuinfo 2>/dev/null; then labctl_fact hypervisor yes; fi
fi
for labctl_f in /sys/module/kvm_intel/parameters/nested /sys/module/kvm_amd/parameters/nested; do
  labctl_first "$labctl_f"
  [ -z "$labctl_v" ] || labctl_fact nested "$labctl_v"
done`),
    sh`if [ ! -e /dev/kvm ]; then labctl_fact kvm no
elif [ "$labctl_machine" != x86_64 ]; then labctl_fact kvm unknown
elif command -v perl >/dev/null 2>&1; then labctl_fact kvm "$(perl -e ${KVM_PERL} 2>/dev/null)"
elif command -v python3 >/dev/null 2>&1; then labctl_fact kvm "$(python3 -c ${KVM_PYTHON} 2>/dev/null)"
else labctl_fact kvm unknown; fi`,
  ]);
}

const ARCHITECTURES: Readonly<Record<string, string>> = {
  x86_64: "x86_64",
  amd64: "x86_64",
  aarch64: "arm64",
  arm64: "arm64",
  armv7l: "armv7",
  armv8l: "armv7",
  riscv64: "riscv64",
};

/** The lab's name for what `uname -m` prints. */
export function archName(machine: string): string {
  return ARCHITECTURES[machine] ?? machine;
}

const MANAGERS: Readonly<Record<string, Facts["package_manager"]>> = { "apt-get": "apt", dnf: "dnf", apk: "apk" };

/** Facts from the lines of {@link factsScript}; undefined where it did not run. */
export function parseFacts(lines: readonly string[]): Facts | undefined {
  const values = new Map<string, string>();
  for (const line of lines) {
    const match = /^(os:)?([A-Za-z_]+)=(.*)$/.exec(line);
    if (match !== null && !values.has(match[2] ?? "")) values.set(match[2] ?? "", match[3] ?? "");
  }
  const kernel = values.get("kernel");
  const machine = values.get("machine");
  if (kernel === undefined || machine === undefined || machine === "") return undefined;
  const number = (key: string): number => {
    const value = Number.parseFloat(values.get(key) ?? "");
    return Number.isFinite(value) ? value : 0;
  };
  const kvm = trilean(values.get("kvm"));
  return {
    arch: archName(machine),
    cores: number("cores"),
    memory: number("memory_kib") * 1024,
    disk_total: number("disk_total_kib") * 1024,
    disk_free: number("disk_free_kib") * 1024,
    kernel,
    hostname: values.get("hostname") ?? "",
    distribution: unquote(values.get("ID") ?? "unknown"),
    distribution_version: unquote(values.get("VERSION_ID") ?? ""),
    init: initName(values.get("init")),
    package_manager: MANAGERS[values.get("package_manager") ?? ""] ?? "other",
    virtualization: virtualization(values),
    kvm,
    nested_virt: nested(kvm, values.get("nested")),
    boot_id: values.get("boot_id") ?? "",
    uptime: Math.floor(number("uptime")),
  };
}

/** os-release values are shell words: quotes may stand around them. */
function unquote(value: string): string {
  const match = /^(["'])(.*)\1$/.exec(value.trim());
  return (match?.[2] ?? value.trim()).replaceAll(/\\(["'$`\\])/g, "$1");
}

function initName(value: string | undefined): Facts["init"] {
  return value === "systemd" || value === "openrc" ? value : "none";
}

/** `denied` and silence are not an answer: this login cannot tell. */
function trilean(value: string | undefined): "yes" | "no" | "unknown" {
  return value === "yes" || value === "no" ? value : "unknown";
}

function nested(kvm: Facts["kvm"], parameter: string | undefined): Facts["nested_virt"] {
  if (kvm !== "yes") return kvm;
  if (parameter === undefined) return "unknown";
  return /^[Yy1]/.test(parameter) ? "yes" : "no";
}

const VENDORS: readonly (readonly [RegExp, string])[] = [
  [/KVM/i, "kvm"],
  [/QEMU/i, "qemu"],
  [/VMware/i, "vmware"],
  [/VirtualBox|innotek/i, "virtualbox"],
  [/Microsoft.*Virtual/i, "hyperv"],
  [/Amazon EC2/i, "amazon"],
  [/Google/i, "google"],
  [/Xen/i, "xen"],
  [/Parallels/i, "parallels"],
  [/Bochs/i, "bochs"],
];

function virtualization(values: ReadonlyMap<string, string>): string {
  const said = values.get("virtualization");
  if (said !== undefined) return said;
  const dmi = values.get("dmi") ?? "";
  const known = VENDORS.find(([pattern]) => pattern.test(dmi));
  if (known !== undefined) return known[1];
  return values.get("hypervisor") === "yes" ? "other" : "none";
}
