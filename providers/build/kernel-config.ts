import { LabError } from "../../src/index.ts";

/** One symbol of a kernel's configuration as somebody wants it; names without `CONFIG_`. */
export interface SymbolRequest {
  readonly symbol: string;
  /** As in a .config: `y`, `m`, `n`, a number, `"text"`. */
  readonly value: string;
  /** Not missed where it does not survive. */
  readonly optional?: boolean;
}

/** Requests of one place, in their order. `origin` is for people: `configs/lab.config`, `config`, `instrumentation kasan`. */
export interface ConfigSource {
  readonly origin: string;
  readonly requests: readonly (SymbolRequest & { readonly line?: number })[];
}

export interface MergedRequest extends SymbolRequest {
  /** Where the value that won was asked for, with its line where it has one. */
  readonly origin: string;
}

export interface MergedConfig {
  /** By symbol, in the order of the last request for each. */
  readonly requests: ReadonlyMap<string, MergedRequest>;
  /** Text to append to a .config. */
  readonly fragment: string;
  /** `SYMBOL<TAB>VALUE<TAB>required|optional` lines. */
  readonly table: string;
  /** Symbols that two places want differently: the later one has won. */
  readonly overridden: readonly {
    readonly symbol: string;
    readonly lost: MergedRequest;
    readonly won: MergedRequest;
  }[];
}

const SYMBOL = /^[A-Za-z0-9_]+$/;

/**
 * A value of a spec's `config:` map as a .config has it. YAML's `true` and `false` are y and n; text that is neither a
 * tristate nor a number is quoted. Throws E_SPEC_VALUE for a name that no symbol can have.
 */
export function configValue(symbol: string, value: string | number | boolean): SymbolRequest {
  const name = symbol.replace(/^CONFIG_/, "");
  if (!SYMBOL.test(name)) {
    throw new LabError("E_SPEC_VALUE", `${JSON.stringify(symbol)} is no name of a kernel configuration symbol`, {
      hint: "names have letters, digits and underscores; write KASAN, not CONFIG_KASAN=y",
    });
  }
  if (typeof value === "boolean") return { symbol: name, value: value ? "y" : "n" };
  if (typeof value === "number") {
    if (Number.isSafeInteger(value)) return { symbol: name, value: String(value) };
    throw new LabError("E_SPEC_VALUE", `${name}: ${value} is no whole number`, { hint: "write text in quotes" });
  }
  if (/^([ynm]|-?\d+|0[xX][0-9a-fA-F]+|"(?:[^"\\]|\\.)*")$/s.test(value)) return { symbol: name, value };
  if (/[\r\n\0]/.test(value)) {
    throw new LabError("E_SPEC_VALUE", `${name}: a configuration value cannot hold a line break`);
  }
  return { symbol: name, value: `"${value.replaceAll(/[\\"]/g, String.raw`\$&`)}"` };
}

/** A spec's `config:` map as a source. */
export function configSource(
  origin: string,
  config: Readonly<Record<string, string | number | boolean>>,
): ConfigSource {
  return { origin, requests: Object.entries(config).map(([symbol, value]) => configValue(symbol, value)) };
}

/**
 * Reads a fragment (or a whole .config). Throws E_KCONFIG_SYNTAX with all lines that Kconfig would pass over.
 */
export function parseFragment(origin: string, text: string): ConfigSource {
  const requests: (SymbolRequest & { line: number })[] = [];
  const wrong: string[] = [];
  for (const [i, raw] of text.split("\n").entries()) {
    const line = raw.trim();
    if (line === "") continue;
    const unset = /^# CONFIG_([A-Za-z0-9_]+) is not set$/.exec(line);
    if (unset !== null) {
      requests.push({ symbol: unset[1] ?? "", value: "n", line: i + 1 });
      continue;
    }
    if (line.startsWith("#")) continue;
    const set = /^CONFIG_([A-Za-z0-9_]+)=(.*)$/.exec(line);
    const value = set?.[2]?.trim() ?? "";
    if (set === null || !/^([ynm]|-?\d+|0[xX][0-9a-fA-F]+|"(?:[^"\\]|\\.)*"|)$/.test(value)) {
      wrong.push(`line ${i + 1}: ${line.slice(0, 80)}`);
      continue;
    }
    requests.push({ symbol: set[1] ?? "", value: value === "" ? "n" : value, line: i + 1 });
  }
  if (wrong.length > 0) {
    throw new LabError(
      "E_KCONFIG_SYNTAX",
      `${origin}: ${wrong.slice(0, 5).join("; ")}${wrong.length > 5 ? `; and ${wrong.length - 5} more` : ""}`,
      {
        hint: 'lines are CONFIG_NAME=y, CONFIG_NAME=m, CONFIG_NAME="text", CONFIG_NAME=12, or `# CONFIG_NAME is not set`',
      },
    );
  }
  return { origin, requests };
}

/** Lays sources over each other, later ones winning. Pure; keeps who asked for what. */
export function mergeConfig(sources: readonly ConfigSource[]): MergedConfig {
  const requests = new Map<string, MergedRequest>();
  const overridden: { symbol: string; lost: MergedRequest; won: MergedRequest }[] = [];
  for (const source of sources) {
    for (const { line, ...request } of source.requests) {
      const won: MergedRequest = {
        ...request,
        origin: line === undefined ? source.origin : `${source.origin}:${line}`,
      };
      const before = requests.get(request.symbol);
      if (before !== undefined) {
        // What is only wished for never takes away what is wanted.
        if (won.optional === true && before.optional !== true) continue;
        if (before.value !== won.value && before.optional !== true)
          overridden.push({ symbol: request.symbol, lost: before, won });
        requests.delete(request.symbol);
      }
      requests.set(request.symbol, won);
    }
  }
  const all = [...requests.values()];
  return {
    requests,
    overridden,
    fragment: all.map(({ symbol, value }) => configLine(symbol, value)).join(""),
    table: all
      .map(({ symbol, value, optional }) => `${symbol}\t${value}\t${optional === true ? "optional" : "required"}\n`)
      .join(""),
  };
}

function configLine(symbol: string, value: string): string {
  return value === "n" ? `# CONFIG_${symbol} is not set\n` : `CONFIG_${symbol}=${value}\n`;
}

/** A .config as data: symbol -> value; what is not set is absent. */
export function parseConfig(text: string): ReadonlyMap<string, string> {
  const values = new Map<string, string>();
  for (const line of text.split("\n")) {
    const match = /^CONFIG_([A-Za-z0-9_]+)=(.*)$/.exec(line.trimEnd());
    if (match !== null) values.set(match[1] ?? "", match[2] ?? "");
  }
  return values;
}

export interface DroppedSymbol {
  readonly symbol: string;
  readonly wanted: string;
  /** `n` where it is not set. */
  readonly actual: string;
  readonly origin: string;
}

/**
 * True where a final value is not what was asked for. A module that became built in is met; absence is `n`, and an
 * empty text too. build-script.ts has the same rule in awk; a test holds the two equal.
 */
export function unsatisfied(wanted: string, actual: string | undefined): boolean {
  const found = actual ?? "n";
  if (found.toLowerCase() === wanted.toLowerCase()) return false;
  if (wanted === "m" && found === "y") return false;
  return !(wanted === '""' && found === "n");
}

/** The requests that did not survive olddefconfig, but for optional ones. */
export function verifyConfig(merged: MergedConfig, final: ReadonlyMap<string, string>): readonly DroppedSymbol[] {
  return [...merged.requests.values()].flatMap(({ symbol, value, origin, optional }) =>
    optional !== true && unsatisfied(value, final.get(symbol))
      ? [{ symbol, wanted: value, actual: final.get(symbol) ?? "n", origin }]
      : [],
  );
}

/** E_KCONFIG_DROPPED, naming each symbol, who asked for it, what it is now, and why where that is known. */
export function droppedError(
  dropped: readonly DroppedSymbol[],
  why: ReadonlyMap<string, { readonly reason: string; readonly hint?: string }> = new Map(),
): LabError {
  const lines = dropped.map(({ symbol, wanted, actual, origin }) => {
    const reason = why.get(symbol)?.reason;
    return `${symbol}=${wanted} (asked for by ${origin}) is ${actual === "n" ? "not set" : actual}${reason === undefined ? "" : `: ${reason}`}`;
  });
  const hints = [...new Set(dropped.flatMap(({ symbol }) => why.get(symbol)?.hint ?? []))];
  return new LabError("E_KCONFIG_DROPPED", lines.join("\n"), {
    hint: hints.length > 0 ? hints.join("; ") : "see `depends on` of these symbols in the kernel's Kconfig files",
  });
}

/** E_KCONFIG_DEFCONFIG; `names`: the configurations that the architecture has. */
export function defconfigError(
  name: string,
  arch: string,
  names: readonly string[],
  near: readonly string[],
): LabError {
  return new LabError(
    "E_KCONFIG_DEFCONFIG",
    `this kernel has no ${name} for ${arch}${near.length > 0 ? `; near: ${near.join(", ")}` : ""}`,
    {
      hint: `there are ${["defconfig", "tinyconfig", "allnoconfig", ...names.slice(0, 12)].join(", ")}${names.length > 12 ? ", ..." : ""}`,
    },
  );
}
