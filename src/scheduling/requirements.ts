import { coerce, satisfies, validRange } from "semver";
import { type Amounts, formatSize, parseSize, type Plain, SIZE_PATTERN } from "../model/index.ts";
import type { Schema } from "../provider/index.ts";
import { AMOUNTS, amountText, isPlace, nounOf } from "./amounts.ts";

/** What is asked of a machine. Sizes in bytes. */
export interface Requirements {
  readonly arch?: string;
  readonly cpus?: number;
  readonly memory?: number;
  readonly disk?: number;
  readonly kvm?: boolean;
  readonly nested_virt?: boolean;
  readonly toolchain?: string;
  /** Any of these. */
  readonly board_types?: readonly string[];
  /** All of these. */
  readonly peripherals?: readonly string[];
  /** This one, or a range: `>=2026.04`. */
  readonly firmware_version?: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly group?: string;
  /** Names of hosts, the best first: taken where they fit, and left where they do not. */
  readonly prefer?: readonly string[];
}

export type MachineStatus = "online" | "offline" | "degraded" | "maintenance" | "unknown";

/** A machine that something could be put on. */
export interface Candidate {
  readonly address: string;
  /** As users call it: `builder-1`. */
  readonly name: string;
  readonly status: MachineStatus;
  /** Why it is not online: what was said when it was put into maintenance, the error when it was looked at. */
  readonly why?: string;
  /** Taken out of the lab: waiting for it does not help. */
  readonly decommissioned?: boolean;
  readonly arch: string;
  /** Other architectures that it serves, by emulation or by cross-compilers. */
  readonly also?: readonly string[];
  readonly total: Amounts;
  /** Reserved by labctl, whether it is in use yet or not. */
  readonly reserved: Amounts;
  /** In use as measured, whoever uses it. */
  readonly used?: Amounts;
  /** How busy its processors are, 0 to 1 and above: counts for which is less used, and keeps nothing away. */
  readonly load?: number;
  /** Share of what it has, above which nothing new comes: 0.85. Absent: all of it may go. */
  readonly max_utilization?: number;
  /** Bytes of disk that must stay free. */
  readonly min_free_disk?: number;
  /** With `warn` a disk that is low keeps nothing away. */
  readonly on_low_disk?: "refuse" | "warn";
  readonly kvm?: boolean;
  readonly nested_virt?: boolean;
  readonly labels?: Readonly<Record<string, string>>;
  readonly group?: string;
  readonly board_type?: string;
  readonly peripherals?: readonly string[];
  readonly firmware_version?: string;
  readonly toolchains?: readonly { readonly name: string; readonly arch: string; readonly version: string }[];
  /** What else keeps this request away from it, found by whoever looked. */
  readonly against?: readonly Unmet[];
  /** Milliseconds since the epoch at which something there is expected to end. */
  readonly next_free?: number;
}

/** Why a machine does not do. `permanent`: waiting does not help. */
export interface Unmet {
  readonly what: string;
  readonly text: string;
  readonly permanent: boolean;
}

/** True of what is over when others are done: not of a machine that is away, in maintenance, or full of files. Pure. */
export function passes({ what }: Unmet): boolean {
  return what !== "status" && what !== "disk";
}

/** Everything that keeps a machine from being chosen, in one go. Pure. */
export function unmet(wanted: Requirements, machine: Candidate): readonly Unmet[] {
  return [...lacking(wanted, machine), ...(machine.against ?? []), ...unfit(machine), ...taken(wanted, machine)];
}

/** What it will never be, as it is. */
function lacking(wanted: Requirements, machine: Candidate): Unmet[] {
  const out: Unmet[] = [];
  const never = (what: string, text: string): void => void out.push({ what, text, permanent: true });
  const { arch } = wanted;
  if (arch !== undefined && machine.arch !== arch && machine.also?.includes(arch) !== true)
    never("arch", `it is ${machine.arch}, not ${arch}`);
  if (wanted.toolchain !== undefined && !hasToolchain(machine, wanted.toolchain, arch)) {
    const there = (machine.toolchains ?? []).map((one) => `${one.name} for ${one.arch}`);
    const target = arch === undefined ? "" : ` for ${arch}`;
    never(
      "toolchain",
      `it has no ${wanted.toolchain}${target}${there.length === 0 ? "" : ` (but ${there.join(", ")})`}`,
    );
  }
  for (const key of ["cpus", "memory", "disk"] as const) {
    const [asked, has] = [wanted[key], machine.total[key]];
    if (asked !== undefined && has !== undefined && asked > has)
      never(key, `it has ${amountText(key, has)}, and ${amountText(key, asked)} are asked for`);
  }
  if (wanted.kvm === true && machine.kvm !== true) never("kvm", "KVM does not work there");
  if (wanted.nested_virt === true && machine.nested_virt !== true)
    never("nested_virt", "nested virtualization does not work there");
  out.push(...lackingBoard(wanted, machine));
  for (const [name, value] of Object.entries(wanted.labels ?? {})) {
    const has = Object.hasOwn(machine.labels ?? {}, name) ? machine.labels?.[name] : undefined;
    if (has !== value)
      never("labels", has === undefined ? `it has no label ${name}` : `its label ${name} is ${has}, not ${value}`);
  }
  if (wanted.group !== undefined && machine.group !== wanted.group)
    never("group", machine.group === undefined ? "it is in no group" : `it is in the group ${machine.group}`);
  return out;
}

function lackingBoard(wanted: Requirements, machine: Candidate): Unmet[] {
  const out: Unmet[] = [];
  const never = (what: string, text: string): void => void out.push({ what, text, permanent: true });
  const { board_types: types, firmware_version: version } = wanted;
  if (types !== undefined && !(machine.board_type !== undefined && types.includes(machine.board_type)))
    never(
      "board_types",
      machine.board_type === undefined
        ? "it is not a board"
        : `it is of the type ${machine.board_type}, not ${types.join(" or ")}`,
    );
  const absent = (wanted.peripherals ?? []).filter((one) => machine.peripherals?.includes(one) !== true);
  if (absent.length > 0) never("peripherals", `it has no ${absent.join(", ")}`);
  if (version !== undefined && !meetsVersion(machine.firmware_version, version)) {
    const has = machine.firmware_version;
    never(
      "firmware_version",
      has === undefined ? "nobody knows the version of its firmware" : `its firmware is ${has}, not ${version}`,
    );
  }
  return out;
}

/** The same text, or a version within a range. Firmware is numbered in many ways: `2026.07` counts as 2026.7.0. */
function meetsVersion(has: string | undefined, wanted: string): boolean {
  if (has === undefined || has === wanted) return has === wanted;
  if (!/^[<>=^~]/.test(wanted)) return false;
  const plain = (text: string): string => text.replace(/(?<=^|[.\s<>=^~v])0+(?=\d)/g, "");
  const range = validRange(plain(wanted));
  const version = coerce(plain(has));
  return range !== null && version !== null && satisfies(version, range);
}

function hasToolchain(machine: Candidate, name: string, arch: string | undefined): boolean {
  return (machine.toolchains ?? []).some((one) => one.name === name && (arch === undefined || one.arch === arch));
}

/** Its state at this moment. */
function unfit(machine: Candidate): Unmet[] {
  if (machine.decommissioned === true) {
    return [{ what: "status", text: machine.why ?? "it is decommissioned", permanent: true }];
  }
  if (machine.status === "online") return [];
  const why = machine.why === undefined ? "" : `: ${machine.why}`;
  const text = machine.status === "maintenance" ? `it is in maintenance${why}` : `it is ${machine.status}${why}`;
  return [{ what: "status", text, permanent: false }];
}

/** What others have of it. */
function taken(wanted: Requirements, machine: Candidate): Unmet[] {
  const out: Unmet[] = [];
  const not = (what: string, text: string): void => void out.push({ what, text, permanent: false });
  for (const key of AMOUNTS) {
    const total = machine.total[key];
    if (total === undefined) continue;
    const asked = isPlace(key) ? 1 : (wanted[key] ?? 0);
    const busy = inUse(machine, key);
    const share = machine.max_utilization ?? 1;
    // Of memory the share counts with what is asked for. Processors are few, and shared: one of two is half of them.
    const limit = key === "memory" ? total * share : total;
    if (asked > total) continue;
    if (asked > limit) {
      const all = amountText(key, total);
      const text = `above ${percent(share)} of its ${all} nothing new comes, and ${amountText(key, asked)} are asked for`;
      out.push({ what: key, text, permanent: true });
    } else if (busy + asked > limit && asked > 0) {
      not(key, fullText(key, busy, total, asked, machine.max_utilization));
    } else if ((key === "memory" || key === "cpus") && busy > total * share) {
      not(key, `${percent(busy / total)} of its ${nounOf(key)} are in use, more than ${percent(share)}`);
    }
  }
  if (isLow(machine) && machine.on_low_disk !== "warn") {
    const { disk } = free(machine);
    not(
      "disk",
      `it has ${formatSize(disk ?? 0)} of disk left, and ${formatSize(machine.min_free_disk ?? 0)} must stay free`,
    );
  }
  return out;
}

/** True where less disk is free than must stay free. */
export function isLow(machine: Candidate): boolean {
  const { disk } = free(machine);
  return machine.min_free_disk !== undefined && disk !== undefined && disk < machine.min_free_disk;
}

/** What is left of each amount that the machine counts. */
export function free(machine: Candidate): Amounts {
  const out: { -readonly [K in keyof Amounts]: Amounts[K] } = {};
  for (const key of AMOUNTS) {
    const total = machine.total[key];
    if (total !== undefined) out[key] = Math.max(0, total - inUse(machine, key));
  }
  return out;
}

/** Reserved or measured, whichever is more: what is reserved may not be in use yet, and others use machines too. */
function inUse(machine: Candidate, key: keyof Amounts): number {
  return Math.max(machine.reserved[key] ?? 0, machine.used?.[key] ?? 0);
}

/** The fullest of its amounts once the request is there: 0 empty, 1 full. Pure. */
export function utilization(wanted: Requirements, machine: Candidate): number {
  const shares = AMOUNTS.map((key) => {
    const total = machine.total[key];
    if (total === undefined || total <= 0) return 0;
    return (inUse(machine, key) + (isPlace(key) ? 1 : (wanted[key] ?? 0))) / total;
  });
  return Math.max(...shares, Math.min(1, machine.load ?? 0));
}

function fullText(key: keyof Amounts, busy: number, total: number, asked: number, share: number | undefined): string {
  if (isPlace(key))
    return total === 1 ? `its only ${nounOf(key, 1)} is taken` : `all of its ${amountText(key, total)} are taken`;
  const limit = share === undefined || key !== "memory" ? "" : `, and above ${percent(share)} nothing new comes`;
  return `${amountText(key, busy)} of ${amountText(key, total)} are in use, ${amountText(key, asked)} more are asked for${limit}`;
}

function percent(share: number): string {
  return `${Math.round(share * 100)}%`;
}

const SIZE: Schema = { type: "string", pattern: SIZE_PATTERN, "x-labctl": { unit: "size" } };

/** `requires:`, wherever it stands. */
export const REQUIRES_SCHEMA = {
  type: "object",
  description: "What is asked of the machine. labctl selects among all that meet it.",
  properties: {
    arch: {
      type: "string",
      enum: ["x86_64", "arm64", "armv7", "riscv64"],
      description: "Its architecture, or one that it serves by emulation.",
    },
    cpus: { type: "integer", minimum: 1, description: "Processors.", examples: [2] },
    memory: { ...SIZE, description: "Memory.", examples: ["4GiB"] },
    disk: { ...SIZE, description: "Disk space.", examples: ["10GiB"] },
    kvm: { type: "boolean", description: "KVM must work there, found out by using it.", examples: [true] },
    nested_virt: { type: "boolean", description: "Machines there must be able to run machines.", examples: [true] },
    toolchain: { type: "string", description: "A compiler by name.", examples: ["gcc-12"] },
    board_types: {
      type: "array",
      items: { type: "string" },
      description: "A board of any of these types.",
      examples: [["raspberry_pi_4"]],
    },
    peripherals: {
      type: "array",
      items: { type: "string" },
      description: "What the board must have, all of it.",
      examples: [["wifi"]],
    },
    firmware_version: {
      type: "string",
      minLength: 1,
      description: "Version of the board's firmware, or a range of versions.",
      examples: ["2026.07", ">=2026.04"],
    },
    labels: {
      type: "object",
      additionalProperties: { type: "string" },
      description: "Labels with their values.",
      examples: [{ site: "berlin" }],
    },
    group: { type: "string", description: "The group that it is in.", examples: ["builders"] },
    prefer: {
      type: "array",
      items: { type: "string" },
      description: "Names of hosts, the best first: taken where they fit.",
      examples: [["builder-1"]],
    },
  },
  additionalProperties: false,
} as const satisfies Schema;

/** A checked `requires:` as data. */
export function readRequirements(value: Readonly<Record<string, Plain>> | undefined): Requirements {
  const { memory, disk, ...rest } = value ?? {};
  const [memoryBytes, diskBytes] = [sizeOf(memory), sizeOf(disk)];
  return {
    ...(rest as Requirements),
    ...(memoryBytes !== undefined && { memory: memoryBytes }),
    ...(diskBytes !== undefined && { disk: diskBytes }),
  };
}

function sizeOf(value: Plain | undefined): number | undefined {
  return typeof value === "string" ? parseSize(value) : typeof value === "number" ? value : undefined;
}
