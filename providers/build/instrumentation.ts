import { LabError } from "../../src/index.ts";
import {
  type Instrument,
  type InstrumentName,
  INSTRUMENTS,
  type RuntimeProbe,
  type When,
} from "./instrumentation-table.ts";
import type { ConfigSource } from "./kernel-config.ts";
import { nearest } from "./text.ts";

/** What a kernel is built for, as far as it is known when a plan is made. */
export interface KernelTarget {
  readonly arch: string;
  /** `6.1`, `6.1.112`, `6.12-rc3`; absent where it is not known yet. */
  readonly version?: string;
  readonly compiler?: { readonly family: "gcc" | "clang"; readonly version: string };
}

export interface InstrumentOptions {
  readonly mode?: string;
  readonly style?: string;
}
export type WantedInstruments = Readonly<Record<string, InstrumentOptions>>;

export interface InstrumentPlan {
  /** One for each instrument, in the order of their names. */
  readonly sources: readonly ConfigSource[];
  /** For the kernel's command line. */
  readonly params: readonly string[];
  readonly probes: readonly (RuntimeProbe & { readonly instrument: InstrumentName })[];
  /** Why they cannot be had, all reasons; empty: they can. */
  readonly problems: readonly string[];
}

export function isInstrument(name: string): name is InstrumentName {
  return Object.hasOwn(INSTRUMENTS, name);
}

/** The list form of a spec as the map form. */
export function instrumentMap(wanted: readonly string[] | WantedInstruments): WantedInstruments {
  return Array.isArray(wanted)
    ? Object.fromEntries((wanted as readonly string[]).map((name) => [name, {}]))
    : (wanted as WantedInstruments);
}

/**
 * What the wanted instruments mean for a kernel. Pure. `explicit`: symbols that the spec's own `config:` or fragments set; one that
 * switches off what an instrument cannot do without is a problem. Throws E_SPEC_VALUE for a name or mode that is not known.
 */
export function planInstruments(
  wanted: WantedInstruments,
  target: KernelTarget,
  explicit: ReadonlyMap<string, { readonly value: string; readonly origin: string }> = new Map(),
): InstrumentPlan {
  const problems: string[] = [];
  const sources: ConfigSource[] = [];
  const params: string[] = [];
  const probes: (RuntimeProbe & { readonly instrument: InstrumentName })[] = [];
  const names = Object.keys(wanted).sort();
  for (const name of names) {
    const known = instrumentOf(name);
    const options = optionsOf(name, known, wanted[name] ?? {});
    problems.push(...supportProblems(name, known, options, target), ...exclusions(name, known, names));
    const entries = known.symbols.filter((entry) => holds(entry, options, target) !== "no");
    for (const entry of entries) {
      const set = explicit.get(entry.symbol);
      if (set !== undefined && entry.optional !== true && contradicts(entry.value, set.value)) {
        problems.push(`${name} needs ${entry.symbol}=${entry.value}, and ${set.origin} sets it to ${set.value}`);
      }
    }
    sources.push({
      origin: `instrumentation ${name}`,
      requests: entries.map((entry) => ({
        symbol: entry.symbol,
        value: entry.value,
        // Where the version is not known, what only some versions have is not missed.
        optional: entry.optional === true || holds(entry, options, target) === "maybe",
      })),
    });
    params.push(
      ...(known.params ?? []).filter((param) => holds(param, options, target) !== "no").map(({ text }) => text),
    );
    probes.push(
      ...known.probes
        .filter((probe) => holds(probe, options, target) !== "no")
        .map((probe) => ({ ...(probe as RuntimeProbe), instrument: name as InstrumentName })),
    );
  }
  return { sources, params: [...new Set(params)], probes, problems: [...new Set(problems)] };
}

/** Throws E_INSTRUMENTATION_CONFLICT with all reasons where there are any. */
export function requireInstruments(plan: InstrumentPlan): InstrumentPlan {
  const [first, ...more] = plan.problems;
  if (first === undefined) return plan;
  throw new LabError("E_INSTRUMENTATION_CONFLICT", [first, ...more].join("; "), {
    hint: "build them as separate builds (`matrix:` makes that short), or change the architecture, source or toolchain",
  });
}

function instrumentOf(name: string): Instrument {
  if (isInstrument(name)) return INSTRUMENTS[name];
  const near = nearest(name, Object.keys(INSTRUMENTS), 1);
  throw new LabError("E_SPEC_VALUE", `there is no instrumentation ${JSON.stringify(name)}`, {
    hint: near.length > 0 ? `did you mean ${near.join("")}?` : `known: ${Object.keys(INSTRUMENTS).join(", ")}`,
  });
}

function optionsOf(name: string, known: Instrument, given: InstrumentOptions): InstrumentOptions {
  const pick = (what: "mode" | "style", values: readonly string[] | undefined): string | undefined => {
    const value = given[what];
    if (value === undefined) return values?.[0];
    if (values?.includes(value) === true) return value;
    throw new LabError("E_SPEC_VALUE", `${name} has no ${what} ${JSON.stringify(value)}`, {
      hint: values === undefined ? `${name} takes no \`${what}\`` : `one of ${values.join(", ")}`,
    });
  };
  const mode = pick("mode", known.modes);
  const style = pick("style", known.styles);
  return { ...(mode !== undefined && { mode }), ...(style !== undefined && { style }) };
}

function holds(when: When, options: InstrumentOptions, target: KernelTarget): "yes" | "no" | "maybe" {
  if (when.mode !== undefined && when.mode !== options.mode) return "no";
  if (when.style !== undefined && when.style !== options.style) return "no";
  if (when.arch !== undefined && !when.arch.some((arch) => arch === target.arch)) return "no";
  if (when.since === undefined && when.before === undefined) return "yes";
  if (target.version === undefined) return "maybe";
  if (when.since !== undefined && compareVersions(target.version, when.since) < 0) return "no";
  if (when.before !== undefined && compareVersions(target.version, when.before) >= 0) return "no";
  return "yes";
}

function supportProblems(
  name: string,
  known: Instrument,
  options: InstrumentOptions,
  target: KernelTarget,
): readonly string[] {
  const label = options.mode !== undefined && options.mode !== known.modes?.[0] ? `${name} (${options.mode})` : name;
  const problems: string[] = [];
  const support = known.support?.find(({ mode }) => mode === undefined || mode === options.mode);
  if (support !== undefined) {
    const archs: Readonly<Record<string, string>> = support.archs;
    const first = archs[target.arch];
    if (first === undefined && ["x86_64", "arm64", "armv7", "riscv64"].includes(target.arch)) {
      // Later kernels bring more: only what is known to lack it is refused.
      if (!LATER.has(`${name}/${target.arch}`)) {
        problems.push(`${label} does not exist for ${target.arch}, only for ${Object.keys(archs).join(", ")}`);
      }
    } else if (first !== undefined && target.version !== undefined && compareVersions(target.version, first) < 0) {
      problems.push(`${label} exists for ${target.arch} from ${first} on, and this kernel is ${target.version}`);
    }
  }
  const compilers = known.compilers?.find(({ mode }) => mode === undefined || mode === options.mode);
  if (compilers !== undefined && target.compiler !== undefined) {
    const { family, version } = target.compiler;
    const first = compilers[family];
    if (first === undefined) {
      const other = family === "gcc" ? "clang" : "gcc";
      problems.push(`${label} needs ${other} ${compilers[other] ?? ""} or later, and the toolchain is ${family}`);
    } else if (version !== "" && compareVersions(version, first) < 0) {
      problems.push(`${label} needs ${family} ${first} or later, and the toolchain is ${family} ${version}`);
    }
  }
  return problems;
}

/** Architectures that got it in a version that the table does not know for sure: left to the kernel's own answer. */
const LATER: ReadonlySet<string> = new Set(["ubsan/riscv64", "ubsan/armv7"]);

function exclusions(name: string, known: Instrument, names: readonly string[]): readonly string[] {
  return (known.excludes ?? [])
    .filter((other) => names.includes(other))
    .map(
      (other) =>
        `${[name, other].sort().join(" and ")} exclude each other: both need the kernel's memory accesses for themselves`,
    );
}

function contradicts(wanted: string, set: string): boolean {
  if (wanted === "y") return set === "n" || set === "m";
  return wanted === "n" ? set === "y" || set === "m" : wanted !== set;
}

/** `6.1-rc3` counts as 6.1. Numbers are compared one by one; what is missing counts as 0. */
export function compareVersions(a: string, b: string): number {
  const [left, right] = [a, b].map((text) => (/^\D*(\d+(?:\.\d+)*)/.exec(text)?.[1] ?? "0").split(".").map(Number));
  for (let i = 0; i < Math.max(left?.length ?? 0, right?.length ?? 0); i++) {
    const difference = (left?.[i] ?? 0) - (right?.[i] ?? 0);
    if (difference !== 0) return Math.sign(difference);
  }
  return 0;
}
