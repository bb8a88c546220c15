import { sh, type ShellText, shJoin } from "../../src/index.ts";
import { JOB_FUNCTIONS } from "./job-script.ts";

/** What a build server has, and how much of it is in use. Sizes in bytes. */
export interface Capacity {
  /** As `uname -m` says. */
  readonly machine: string;
  readonly cores: number;
  readonly memory: number;
  /** What programs can still have without swapping. */
  readonly memory_available: number;
  /** Of the file system that holds the work directory, or would hold it. */
  readonly disk_total: number;
  readonly disk_free: number;
  /** Processes ready to run, the mean of the last minute. */
  readonly load: number;
  /** Digests of the builds whose supervisor runs there now, whoever started them. */
  readonly active: readonly string[];
}

/** Prints `key<TAB>value` lines and `end`. */
export function capacityScript(workdir: string): ShellText {
  return shJoin([
    JOB_FUNCTIONS,
    sh`labctl_w=${workdir}`,
    sh`LC_ALL=C
printf 'machine\t%s\n' "$(uname -m)"
printf 'cores\t%s\n' "$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)"
while read -r k v x; do
  case $k in MemTotal:) printf 'memory_kib\t%s\n' "$v" ;; MemAvailable:) printf 'memory_available_kib\t%s\n' "$v" ;; esac
done </proc/meminfo
read -r v x </proc/loadavg && printf 'load\t%s\n' "$v"
for j in "$labctl_w"/jobs/*/; do
  [ -d "$j" ] || continue
  if labctl_job_alive "$j"; then j=\${j%/}; printf 'active\t%s\n' "\${j##*/}"; fi
done
d=$labctl_w
while [ ! -d "$d" ]; do d=$(dirname -- "$d"); done
set -- $(df -Pk -- "$d" | tail -n 1)
printf 'disk_total_kib\t%s\ndisk_free_kib\t%s\n' "$2" "$4"
echo end`,
  ]);
}

/** Reads what {@link capacityScript} printed; undefined where a figure is missing or is no number. */
export function parseCapacity(text: string): Capacity | undefined {
  const lines = text.split("\n");
  if (!lines.includes("end")) return undefined;
  const values = new Map(lines.map((line) => [line.split("\t")[0] ?? "", line.split("\t")[1] ?? ""]));
  const number = (key: string, factor = 1): number => {
    const value = values.get(key);
    return value === undefined || value === "" ? Number.NaN : Number(value) * factor;
  };
  const capacity: Capacity = {
    machine: values.get("machine") ?? "",
    cores: number("cores"),
    memory: number("memory_kib", 1024),
    memory_available: number("memory_available_kib", 1024),
    disk_total: number("disk_total_kib", 1024),
    disk_free: number("disk_free_kib", 1024),
    load: number("load"),
    active: lines.filter((line) => line.startsWith("active\t")).map((line) => line.slice("active\t".length)),
  };
  return Object.values(capacity).some((value) => typeof value === "number" && Number.isNaN(value))
    ? undefined
    : capacity;
}
