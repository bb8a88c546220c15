import {
  type Address,
  type KindContext,
  LabError,
  type Machine,
  sh,
  shJoin,
  type ShellText,
} from "../../../src/index.ts";
import { type Arch, archOf, ARCHES, qemuArch } from "../model/arch.ts";
import type { HostFacts } from "../model/facts.ts";
import { asksOfQemu, domainCapabilities, guestCapabilities, type QemuAnswers, readAnswers } from "./capabilities.ts";

/** A host without libvirt, as it is at this moment. */
export interface PlainHost {
  readonly address: Address;
  readonly machine: Machine;
  /** Absolute: below it each machine has a folder of its own, by instance id. */
  readonly root: string;
  readonly facts: HostFacts;
  /** Of the first QEMU there: `7.2.22`. */
  readonly version: string;
}

/** Where machines lie when root makes them, and when another login does (below its home). */
const ROOT_FOLDER = "/var/lib/labctl/vms";
const HOME_FOLDER = ".local/state/labctl/vms";

/**
 * What a host can run, asked of each QEMU there for which `want` has a machine. Rejects with E_QEMU where it has none, and as a
 * probe does.
 */
export async function plainHost(
  ctx: KindContext,
  host: Address,
  want: readonly { readonly arch?: Arch | undefined; readonly machine?: string | undefined }[] = [],
): Promise<PlainHost> {
  const machine = ctx.machine(host);
  const archs = new Set(want.map((one) => one.arch ?? "own"));
  const said = await machine.probe(probeScript(archs), { signal: ctx.signal });
  const seen = readProbe(said.stdout.toString("utf8"));
  const [first] = seen.qemus;
  if (first === undefined || !seen.images) {
    throw new LabError("E_QEMU_MISSING", `${host} has no ${first === undefined ? "QEMU" : "qemu-img"}`, {
      address: host,
      hint: "install it there (Debian: qemu-system-x86 or qemu-system-arm, and qemu-utils; Fedora: qemu-kvm and qemu-img), or give the host `packages:`",
    });
  }
  // What the host's facts found when they tried: they are read before anything is made there.
  const kvm = ctx.inventory.get(host)?.observed?.["kvm"] === "yes";
  const of = (arch: Arch): boolean => kvm && arch === seen.arch;
  return {
    address: host,
    machine,
    root: seen.uid === 0 ? ROOT_FOLDER : `${seen.home}/${HOME_FOLDER}`,
    version: first.answers?.version ?? first.version,
    facts: {
      host: {
        arch: seen.arch,
        cpus: seen.cpus,
        memory: seen.memory,
        pages: seen.pages,
        guests: seen.qemus.map((one) => guestCapabilities(one.arch, one.program, one.answers, of(one.arch))),
      },
      kvm,
      domains: seen.qemus.flatMap(({ arch, program, answers }) => {
        if (answers === undefined) return [];
        const asked = want.filter((each) => (each.arch ?? seen.arch) === arch).map((each) => each.machine);
        return [...new Set(asked)].map((type) => domainCapabilities(arch, program, type, answers, of(arch)));
      }),
      ...(seen.mhz > 0 && { mhz: seen.mhz }),
    },
  };
}

/** What is asked of a host; `own` stands for the architecture that it has. Changes nothing. */
function probeScript(archs: ReadonlySet<string>): ShellText {
  const asked = asksOfQemu();
  const qemus = ARCHES.map(
    (arch) => sh`
q=$(command -v ${`qemu-system-${qemuArch(arch)}`}) && {
  printf 'qemu %s %s %s\n' ${arch} "$q" "$("$q" --version | head -n 1 | sed -E 's/.*version ([0-9.]+).*/\\1/')"
  case ${[...archs].join(" ")} in *${arch}*) ask=1 ;; *own*) case ${arch}:$m in ${ownPattern(arch)}) ask=1 ;; *) ask= ;; esac ;; *) ask= ;; esac
  [ -z "$ask" ] || printf 'answers %s %s\n' ${arch} "$(printf '%s\n' ${asked} | timeout 20 "$q" -M none -nodefaults -no-user-config -display none -S -qmp stdio 2>/dev/null | base64 | tr -d '\n')"
}`,
  );
  return shJoin([
    sh`LC_ALL=C; export LC_ALL; m=$(uname -m)
printf 'uid %s\nhome %s\nmachine %s\ncpus %s\n' "$(id -u)" "$HOME" "$m" "$(nproc)"
awk '/^MemTotal:/ {print "memory", $2}' /proc/meminfo
awk -F: '/^cpu MHz/ {print "mhz", $2; exit}' /proc/cpuinfo
for p in /sys/kernel/mm/hugepages/hugepages-*kB; do [ -e "$p" ] && printf 'pages %s %s\n' "$p" "$(cat "$p/nr_hugepages")"; done
command -v qemu-img >/dev/null && echo images`,
    ...qemus,
    sh`:`,
  ]);
}

function ownPattern(arch: Arch): ShellText {
  const names: Readonly<Record<Arch, ShellText>> = {
    x86_64: sh`*:x86_64`,
    arm64: sh`*:aarch64`,
    armv7: sh`*:armv*`,
    riscv64: sh`*:riscv64`,
  };
  return names[arch];
}

interface Probed {
  readonly uid: number;
  readonly home: string;
  readonly arch: Arch | undefined;
  readonly cpus: number;
  /** Bytes. */
  readonly memory: number;
  readonly mhz: number;
  readonly images: boolean;
  readonly pages: HostFacts["host"]["pages"];
  readonly qemus: readonly {
    readonly arch: Arch;
    readonly program: string;
    readonly version: string;
    readonly answers: QemuAnswers | undefined;
  }[];
}

/** Pure. What the probe printed. */
export function readProbe(text: string): Probed {
  const lines = text.split("\n").map((line) => line.split(" "));
  const rest = (key: string): string =>
    lines
      .find(([first]) => first === key)
      ?.slice(1)
      .join(" ")
      .trim() ?? "";
  const answers = new Map(
    lines.flatMap(([key, arch = "", said = ""]) =>
      key === "answers" ? [[arch, readAnswers(Buffer.from(said, "base64").toString("utf8"))] as const] : [],
    ),
  );
  return {
    uid: Number(rest("uid")),
    home: rest("home"),
    arch: archOf(rest("machine")),
    cpus: Number(rest("cpus")),
    memory: Number(rest("memory")) * 1024,
    mhz: Math.round(Number(rest("mhz"))),
    images: lines.some(([key]) => key === "images"),
    pages: lines.flatMap(([key, path = "", count]) => {
      const size = /hugepages-(\d+)kB$/.exec(path)?.[1];
      return key === "pages" && size !== undefined ? [{ size: Number(size) * 1024, count: Number(count) }] : [];
    }),
    qemus: lines.flatMap(([key, name = "", program = "", version = ""]) => {
      const arch = archOf(name);
      return key === "qemu" && arch !== undefined ? [{ arch, program, version, answers: answers.get(arch) }] : [];
    }),
  };
}
