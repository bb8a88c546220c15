/** Expressions of the Kconfig language (Documentation/kbuild/kconfig-language.rst in the kernel). */
export type Expr =
  | { readonly op: "symbol"; readonly name: string }
  | { readonly op: "text"; readonly text: string }
  /** `$(cc-option,...)` and the like: only kconfig itself can know. */
  | { readonly op: "macro"; readonly text: string }
  | { readonly op: "not"; readonly of: Expr }
  | { readonly op: "and" | "or"; readonly of: readonly Expr[] }
  | {
      readonly op: "compare";
      readonly how: "=" | "!=" | "<" | ">" | "<=" | ">=";
      readonly left: Expr;
      readonly right: Expr;
    };

/** 0: n, 1: m, 2: y. */
export type Tri = 0 | 1 | 2;
export const YES: Expr = { op: "text", text: "y" };

/** Reads one expression; undefined where it is none. */
export function parseExpr(text: string): Expr | undefined {
  const tokens = tokensOf(text);
  let at = 0;
  const atom = (): Expr | undefined => {
    const token = tokens[at++];
    if (token === undefined) return undefined;
    if (token === "(") {
      const inner = or();
      if (tokens[at++] !== ")") return undefined;
      return inner;
    }
    if (token === "!") {
      const of = atom();
      return of === undefined ? undefined : { op: "not", of };
    }
    const left = leafOf(token);
    const how = tokens[at];
    if (left === undefined || !isComparison(how)) return left;
    at++;
    const right = leafOf(tokens[at++] ?? "");
    return right === undefined ? undefined : { op: "compare", how, left, right };
  };
  const chain = (op: "and" | "or", sign: string, next: () => Expr | undefined): Expr | undefined => {
    const first = next();
    if (first === undefined) return undefined;
    const of = [first];
    while (tokens[at] === sign) {
      at++;
      const more = next();
      if (more === undefined) return undefined;
      of.push(more);
    }
    return of.length === 1 ? first : { op, of };
  };
  const and = (): Expr | undefined => chain("and", "&&", atom);
  const or = (): Expr | undefined => chain("or", "||", and);
  const whole = or();
  return at === tokens.length ? whole : undefined;
}

function isComparison(token: string | undefined): token is "=" | "!=" | "<" | ">" | "<=" | ">=" {
  return token !== undefined && /^(=|!=|<|>|<=|>=)$/.test(token);
}

function leafOf(token: string): Expr | undefined {
  if (/^["']/.test(token)) return { op: "text", text: token.slice(1, -1) };
  if (token.startsWith("$")) return { op: "macro", text: token };
  if (token === "y" || token === "n" || token === "m") return { op: "text", text: token };
  if (/^(0[xX][0-9a-fA-F]+|-?\d+)$/.test(token)) return { op: "text", text: token };
  return /^[\w./-]+$/.test(token) ? { op: "symbol", name: token } : undefined;
}

function tokensOf(text: string): readonly string[] {
  const tokens: string[] = [];
  let i = 0;
  while (i < text.length) {
    const char = text[i] ?? "";
    if (/\s/.test(char)) i++;
    else if (char === "#") break;
    else if (char === '"' || char === "'") {
      let end = i + 1;
      while (end < text.length && text[end] !== char) end += text[end] === "\\" ? 2 : 1;
      tokens.push(text.slice(i, end + 1));
      i = end + 1;
    } else if (char === "$" && text[i + 1] === "(") {
      let depth = 0;
      let end = i + 1;
      do {
        if (text[end] === "(") depth++;
        else if (text[end] === ")") depth--;
        end++;
      } while (depth > 0 && end < text.length);
      tokens.push(text.slice(i, end));
      i = end;
    } else {
      const match = /^(&&|\|\||!=|<=|>=|[()!=<>]|[\w./-]+)/.exec(text.slice(i));
      if (match === null) return ["?"];
      tokens.push(match[0]);
      i += match[0].length;
    }
  }
  return tokens;
}

/** The value of an expression under a configuration. Macros count as y: what cannot be known is not blamed. */
export function evaluate(expr: Expr, config: ReadonlyMap<string, string>): Tri {
  switch (expr.op) {
    case "text":
      return triOf(expr.text);
    case "macro":
      return 2;
    case "symbol":
      return triOf(config.get(expr.name) ?? "n");
    case "not":
      return (2 - evaluate(expr.of, config)) as Tri;
    case "and":
      return Math.min(...expr.of.map((one) => evaluate(one, config))) as Tri;
    case "or":
      return Math.max(...expr.of.map((one) => evaluate(one, config))) as Tri;
    case "compare":
      return compares(expr.how, valueOf(expr.left, config), valueOf(expr.right, config)) ? 2 : 0;
  }
}

function triOf(value: string): Tri {
  return value === "y" ? 2 : value === "m" ? 1 : 0;
}

function valueOf(expr: Expr, config: ReadonlyMap<string, string>): string {
  if (expr.op === "symbol") return (config.get(expr.name) ?? "n").replaceAll(/^"|"$/g, "");
  return expr.op === "text" ? expr.text : "";
}

function compares(how: string, left: string, right: string): boolean {
  if (how === "=") return left === right;
  if (how === "!=") return left !== right;
  const [a, b] = [Number(left), Number(right)];
  const order = Number.isNaN(a) || Number.isNaN(b) ? (left < right ? -1 : left > right ? 1 : 0) : a - b;
  if (how === "<") return order < 0;
  if (how === ">") return order > 0;
  return how === "<=" ? order <= 0 : order >= 0;
}

export function and(parts: readonly Expr[]): Expr {
  const real = parts.filter((part) => part !== YES);
  const [first] = real;
  return first === undefined ? YES : real.length === 1 ? first : { op: "and", of: real };
}

export function formatExpr(expr: Expr): string {
  const inner = (one: Expr): string => (one.op === "and" || one.op === "or" ? `(${formatExpr(one)})` : formatExpr(one));
  switch (expr.op) {
    case "symbol":
      return expr.name;
    case "text":
    case "macro":
      return expr.text;
    case "not":
      return `!${inner(expr.of)}`;
    case "and":
      return expr.of.map(inner).join(" && ");
    case "or":
      return expr.of.map(inner).join(" || ");
    case "compare":
      return `${formatExpr(expr.left)} ${expr.how} ${formatExpr(expr.right)}`;
  }
}
