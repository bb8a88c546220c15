import { evaluate, type Expr, formatExpr, YES } from "./kconfig-expr.ts";
import { type Definition, dependsOf, type KconfigIndex } from "./kconfig.ts";
import type { DroppedSymbol } from "./kernel-config.ts";
import { nearest } from "./text.ts";

export interface Explanation {
  readonly reason: string;
  /** What to ask for besides. */
  readonly hint?: string;
}

type Config = ReadonlyMap<string, string>;

/** How deep a chain of unmet dependencies is followed. */
const DEPTH = 5;

/** Why symbols have not survived, from the kernel's own Kconfig files and the configuration that came out. Pure. */
export function explainDropped(
  dropped: readonly DroppedSymbol[],
  config: Config,
  index: KconfigIndex,
): ReadonlyMap<string, Explanation> {
  return new Map(
    dropped.flatMap((one) => {
      const explanation = explain(one, config, index);
      return explanation === undefined ? [] : [[one.symbol, explanation] as const];
    }),
  );
}

function explain(dropped: DroppedSymbol, config: Config, index: KconfigIndex): Explanation | undefined {
  const { symbol, wanted, actual } = dropped;
  const definitions = index.definitions.get(symbol);
  if (definitions === undefined) {
    const near = nearest(symbol, index.definitions.keys(), 3);
    return {
      reason: "this kernel has no such symbol for this architecture",
      ...(near.length > 0 && { hint: `near ${symbol}: ${near.join(", ")}` }),
    };
  }
  if (wanted === "n") return selected(symbol, config, index);
  const wishes = new Map<string, string>();
  const unmet = unmetOf(symbol, definitions, config, index, wishes, DEPTH, wanted === "m" ? 1 : 2);
  if (unmet !== undefined) return { reason: unmet, ...hintOf(wishes) };
  const chosen = choiceOf(symbol, config, index);
  if (chosen !== undefined) {
    return { reason: `${chosen} is chosen in its place`, hint: `ask for ${chosen}: n` };
  }
  if (definitions.every(({ prompt }) => prompt === undefined)) {
    const by = (index.selectedBy.get(symbol) ?? []).map((one) => one.by);
    return {
      reason: `nobody can set it: it follows from others${by.length > 0 ? `, selected by ${[...new Set(by)].slice(0, 5).join(", ")}` : ""}`,
      ...(by[0] !== undefined && by.length <= 3 && { hint: `ask for ${by[0]}: y` }),
    };
  }
  const range = definitions.flatMap(({ ranges }) => ranges).find(({ when }) => evaluate(when, config) > 0);
  if (range !== undefined && actual !== "n") return { reason: `its range is ${range.low} to ${range.high}` };
  const [type] = definitions.flatMap((definition) => definition.type ?? []);
  if (type === "bool" && wanted === "m")
    return { reason: "it is no module: it can be y or n", hint: `ask for ${symbol}: y` };
  if (wanted === "y" && actual === "m") return { reason: "something that it depends on is a module" };
  if (type !== undefined && /^(string|int|hex)$/.test(type) !== !/^[ynm]$/.test(wanted)) {
    return { reason: `its type is ${type}, and ${wanted} is no value of it` };
  }
  return undefined;
}

function selected(symbol: string, config: Config, index: KconfigIndex): Explanation | undefined {
  const by = (index.selectedBy.get(symbol) ?? []).filter(
    (one) => (config.get(one.by) ?? "n") !== "n" && evaluate(one.when, config) > 0,
  );
  const names = [...new Set(by.map((one) => one.by))];
  if (names.length > 0)
    return { reason: `selected by ${names.slice(0, 5).join(", ")}`, hint: `ask for ${names[0] ?? ""}: n` };
  const definitions = index.definitions.get(symbol) ?? [];
  if (definitions.every(({ prompt }) => prompt === undefined || evaluate(prompt.when, config) === 0)) {
    return { reason: "nobody can set it: its value is a default of this kernel and architecture" };
  }
  return undefined;
}

/** What of a symbol's dependencies does not hold, in words; undefined: all of it holds. Collects what would have to be set. */
function unmetOf(
  symbol: string,
  definitions: readonly Definition[],
  config: Config,
  index: KconfigIndex,
  wishes: Map<string, string>,
  depth: number,
  least: 1 | 2 = 1,
): string | undefined {
  const settable = definitions.filter(({ prompt }) => prompt !== undefined);
  const candidates = settable.length > 0 ? settable : definitions;
  const open = candidates.some((definition) => {
    const prompt = definition.prompt?.when ?? YES;
    return Math.min(evaluate(dependsOf(definition), config), evaluate(prompt, config)) >= least;
  });
  if (open) return undefined;
  const [definition] = candidates;
  if (definition === undefined) return undefined;
  const parts = [...definition.depends, ...(definition.prompt === undefined ? [] : [definition.prompt.when])];
  const failing = parts.filter((part) => evaluate(part, config) < least);
  const words = [...new Set(failing.map((part) => unmetPart(part, config, index, wishes, depth)))];
  return words.length === 0 ? undefined : `${symbol} depends on ${words.join(" and ")}`;
}

function unmetPart(
  part: Expr,
  config: Config,
  index: KconfigIndex,
  wishes: Map<string, string>,
  depth: number,
): string {
  const leaves = cheapest(part, true, config);
  const notes = leaves.map(({ symbol, value }) => note(symbol, value, config, index, wishes, depth));
  return `${formatExpr(part)} (${[...new Set(notes)].join(", ")})`;
}

/** Says what a symbol is, and why it cannot simply be set; wishes for what would set it. */
function note(
  symbol: string,
  value: "y" | "n" | "other",
  config: Config,
  index: KconfigIndex,
  wishes: Map<string, string>,
  depth: number,
): string {
  const now = `${symbol} is ${config.get(symbol) ?? "not set"}`;
  if (value === "other" || depth === 0) return now;
  if (value === "n") {
    wishes.set(symbol, "n");
    return now;
  }
  const definitions = index.definitions.get(symbol);
  if (definitions === undefined) return `${now}, and not of this architecture`;
  const chosen = choiceOf(symbol, config, index);
  if (chosen !== undefined) {
    wishes.set(symbol, "y");
    wishes.set(chosen, "n");
    return `${now}, ${chosen} is chosen in its place`;
  }
  // Said once is enough.
  if (wishes.has(symbol)) return now;
  if (definitions.every(({ prompt }) => prompt === undefined))
    return `${now}: ${follows(symbol, config, index, wishes)}`;
  wishes.set(symbol, "y");
  const deeper = unmetOf(symbol, definitions, config, index, wishes, depth - 1);
  return deeper === undefined ? now : `${now}: ${deeper}`;
}

/** Why a symbol that nobody can set is not there. */
function follows(symbol: string, config: Config, index: KconfigIndex, wishes: Map<string, string>): string {
  const by = index.selectedBy.get(symbol) ?? [];
  if (by.length === 0) return "this architecture, compiler or configuration does not have it";
  const almost = by.find((one) => (config.get(one.by) ?? "n") !== "n");
  if (almost !== undefined) return `${almost.by} selects it only if ${formatExpr(almost.when)}`;
  const names = [...new Set(by.map((one) => one.by))];
  const [first] = names.filter((name) => index.definitions.get(name)?.some(({ prompt }) => prompt !== undefined));
  if (first !== undefined && names.length <= 3) wishes.set(first, "y");
  return `only others select it (${names.slice(0, 3).join(", ")})`;
}

/** The other member of a symbol's choice that is set. */
function choiceOf(symbol: string, config: Config, index: KconfigIndex): string | undefined {
  for (const { choice } of index.definitions.get(symbol) ?? []) {
    if (choice === undefined) continue;
    const other = index.choices[choice]?.find((member) => member !== symbol && config.get(member) === "y");
    if (other !== undefined) return other;
  }
  return undefined;
}

interface Leaf {
  readonly symbol: string;
  readonly value: "y" | "n" | "other";
}

/** The fewest symbols that would have to be otherwise for an expression to come out as wanted. */
function cheapest(expr: Expr, wanted: boolean, config: Config): readonly Leaf[] {
  if (evaluate(expr, config) > 0 === wanted && !(wanted && evaluate(expr, config) === 1 && expr.op !== "symbol"))
    return [];
  switch (expr.op) {
    case "symbol":
      return [{ symbol: expr.name, value: wanted ? "y" : "n" }];
    case "not":
      return cheapest(expr.of, !wanted, config);
    case "and":
    case "or": {
      const ways = expr.of.map((one) => cheapest(one, wanted, config));
      if ((expr.op === "and") === wanted) return ways.flat();
      return [...ways].sort((a, b) => a.length - b.length)[0] ?? [];
    }
    case "compare": {
      const names = [expr.left, expr.right].flatMap((side) => (side.op === "symbol" ? [side.name] : []));
      return names.map((symbol) => ({ symbol, value: "other" }));
    }
    case "text":
    case "macro":
      return [];
  }
}

function hintOf(wishes: ReadonlyMap<string, string>): { hint?: string } {
  if (wishes.size === 0) return {};
  return { hint: `ask for ${[...wishes].map(([symbol, value]) => `${symbol}: ${value}`).join(", ")}` };
}
