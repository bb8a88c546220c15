import { and, type Expr, parseExpr, YES } from "./kconfig-expr.ts";

/** One place that defines a symbol; a symbol may have several. */
export interface Definition {
  readonly file: string;
  readonly line: number;
  readonly type?: "bool" | "tristate" | "string" | "int" | "hex";
  /** All that must hold for it: its own `depends on`, and the menus and `if` around it, each as a part. */
  readonly depends: readonly Expr[];
  /** Absent: nobody can set it; others select it, or it follows from a default. */
  readonly prompt?: { readonly when: Expr };
  readonly selects: readonly { readonly symbol: string; readonly when: Expr }[];
  readonly ranges: readonly { readonly low: string; readonly high: string; readonly when: Expr }[];
  /** Number of the choice that it belongs to. */
  readonly choice?: number;
}

export interface KconfigIndex {
  readonly definitions: ReadonlyMap<string, readonly Definition[]>;
  /** Members of each choice. */
  readonly choices: readonly (readonly string[])[];
  /** symbol -> who selects it. */
  readonly selectedBy: ReadonlyMap<string, readonly { readonly by: string; readonly when: Expr }[]>;
}

interface Frame {
  readonly what: "if" | "menu" | "choice";
  readonly depends: Expr[];
  readonly choice?: number;
}

interface Draft {
  name: string;
  file: string;
  line: number;
  type?: NonNullable<Definition["type"]>;
  depends: Expr[];
  prompt?: { when: Expr };
  selects: { symbol: string; when: Expr }[];
  ranges: { low: string; high: string; when: Expr }[];
  choice?: number;
}

const TYPES = ["bool", "tristate", "string", "int", "hex"] as const;

/**
 * Reads a kernel's Kconfig files from `Kconfig` on. `files`: path below the source -> text; what is not there is passed over.
 * Never throws: what it does not understand it leaves out, since all that it serves is explaining.
 */
export function parseKconfig(files: ReadonlyMap<string, string>, srcarch: string): KconfigIndex {
  const reader = new Reader(files, srcarch);
  reader.file("Kconfig");
  return reader.index();
}

class Reader {
  readonly #files: ReadonlyMap<string, string>;
  readonly #srcarch: string;
  readonly #definitions = new Map<string, Definition[]>();
  readonly #choices: string[][] = [];
  readonly #frames: Frame[] = [];
  readonly #seen = new Set<string>();
  #draft: Draft | undefined;

  constructor(files: ReadonlyMap<string, string>, srcarch: string) {
    this.#files = files;
    this.#srcarch = srcarch;
  }

  index(): KconfigIndex {
    const selectedBy = new Map<string, { by: string; when: Expr }[]>();
    for (const [by, definitions] of this.#definitions) {
      for (const definition of definitions) {
        for (const { symbol, when } of definition.selects) {
          const known = selectedBy.get(symbol) ?? [];
          known.push({ by, when });
          selectedBy.set(symbol, known);
        }
      }
    }
    return { definitions: this.#definitions, choices: this.#choices, selectedBy };
  }

  file(path: string): void {
    const text = this.#files.get(path);
    // A file is sourced once; a circle would never end.
    if (text === undefined || this.#seen.has(path)) return;
    this.#seen.add(path);
    const lines = text.split("\n");
    for (let i = 0; i < lines.length; i++) {
      const start = i + 1;
      let line = lines[i] ?? "";
      while (line.endsWith("\\") && i + 1 < lines.length) line = `${line.slice(0, -1)} ${lines[++i] ?? ""}`;
      const word = /^\s*(\S+)\s*(.*)$/.exec(line);
      if (word === null || (word[1] ?? "").startsWith("#")) continue;
      const [, key = "", rest = ""] = word;
      if (key === "help" || key === "---help---") i = skipHelp(lines, i);
      else this.#statement(key, rest.trim(), path, start);
    }
    this.#finish();
  }

  #statement(key: string, rest: string, file: string, line: number): void {
    switch (key) {
      case "config":
      case "menuconfig":
        this.#finish();
        this.#draft = { name: rest, file, line, depends: [], selects: [], ranges: [], ...this.#choiceOfFrame() };
        return;
      case "if":
        this.#finish();
        this.#frames.push({ what: "if", depends: [parseExpr(rest) ?? YES] });
        return;
      case "menu":
        this.#finish();
        this.#frames.push({ what: "menu", depends: [] });
        return;
      case "choice":
        this.#finish();
        this.#frames.push({ what: "choice", depends: [], choice: this.#choices.push([]) - 1 });
        return;
      case "endif":
      case "endmenu":
      case "endchoice":
        this.#finish();
        this.#frames.pop();
        return;
      case "source":
      case "osource":
        this.#finish();
        this.file(unquote(rest).replaceAll("$(SRCARCH)", this.#srcarch).replaceAll("$SRCARCH", this.#srcarch));
        return;
      case "rsource":
      case "orsource":
        this.#finish();
        this.file(`${file.slice(0, file.lastIndexOf("/") + 1)}${unquote(rest)}`);
        return;
      case "comment":
      case "mainmenu":
        this.#finish();
        return;
      default:
        this.#property(key, rest);
    }
  }

  #property(key: string, rest: string): void {
    if (key === "depends") {
      const expr = parseExpr(rest.replace(/^on\s+/, ""));
      if (expr === undefined) return;
      // Of a menu or a choice where no symbol stands open.
      (this.#draft?.depends ?? this.#frames.at(-1)?.depends ?? []).push(expr);
      return;
    }
    const draft = this.#draft;
    if (draft === undefined) return;
    if (TYPES.some((type) => type === key)) {
      draft.type = key as (typeof TYPES)[number];
      if (rest !== "" && !rest.startsWith("#")) draft.prompt = { when: promptCondition(rest) };
    } else if (key === "prompt") draft.prompt = { when: promptCondition(rest) };
    else if (key === "def_bool") draft.type = "bool";
    else if (key === "def_tristate") draft.type = "tristate";
    else if (key === "select" || key === "imply") {
      const [symbol, when] = splitIf(rest);
      if (key === "select") draft.selects.push({ symbol: symbol.trim(), when });
    } else if (key === "range") {
      const [bounds, when] = splitIf(rest);
      const [low = "", high = ""] = bounds.trim().split(/\s+/);
      draft.ranges.push({ low, high, when });
    }
  }

  #choiceOfFrame(): { choice?: number } {
    const choice = this.#frames.findLast((frame) => frame.what === "choice")?.choice;
    return choice === undefined ? {} : { choice };
  }

  #finish(): void {
    const draft = this.#draft;
    if (draft === undefined) return;
    this.#draft = undefined;
    const { name, ...rest } = draft;
    const around = this.#frames.flatMap((frame) => frame.depends);
    const known = this.#definitions.get(name) ?? [];
    known.push({ ...rest, depends: [...around, ...draft.depends].flatMap(conjuncts) });
    this.#definitions.set(name, known);
    if (draft.choice !== undefined && draft.prompt !== undefined) this.#choices[draft.choice]?.push(name);
  }
}

/** Last line of a help text: it goes on as long as lines are indented as far as its first. */
function skipHelp(lines: readonly string[], at: number): number {
  const indent = (line: string): number => {
    let width = 0;
    for (const char of line) {
      if (char === "\t") width = (Math.floor(width / 8) + 1) * 8;
      else if (char === " ") width++;
      else break;
    }
    return width;
  };
  let first: number | undefined;
  let i = at + 1;
  for (; i < lines.length; i++) {
    const line = lines[i] ?? "";
    if (line.trim() === "") continue;
    first ??= indent(line);
    if (first === 0 || indent(line) < first) break;
  }
  return i - 1;
}

function unquote(text: string): string {
  return /^["'](.*)["']/.exec(text)?.[1] ?? text;
}

/** `"text" if EXPR` */
function promptCondition(rest: string): Expr {
  const match = /^(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')\s*(?:if\s+(.*))?$/.exec(rest);
  return match?.[1] === undefined ? YES : (parseExpr(match[1]) ?? YES);
}

function splitIf(rest: string): readonly [string, Expr] {
  const match = /^(.*?)\s+if\s+(.*)$/.exec(rest);
  return match === null ? [rest, YES] : [match[1] ?? "", parseExpr(match[2] ?? "") ?? YES];
}

function conjuncts(expr: Expr): readonly Expr[] {
  return expr.op === "and" ? expr.of.flatMap(conjuncts) : [expr];
}

/** All that must hold for one definition, as one expression. */
export function dependsOf(definition: Definition): Expr {
  return and(definition.depends);
}
