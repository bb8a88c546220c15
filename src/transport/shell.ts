/**
 * Shell text that is safe to run: made only by {@link sh}, {@link shJoin} and, for what users write as scripts,
 * {@link userScript}. Ports take this type and not strings, so that nothing reaches a shell unquoted by accident.
 */
export class ShellText {
  readonly text: string;
  /** For this module and its tests; elsewhere use `sh`. */
  constructor(text: string) {
    this.text = text;
  }
  toString(): string {
    return this.text;
  }
}

/** What may stand in a template of `sh`: words are quoted, lists become several quoted words, ShellText stays as it is. */
export type ShellPart = string | number | ShellText | readonly (string | number)[];

/** One word, quoted for any POSIX shell. Single quotes leave nothing to interpret but themselves. */
export function quoteWord(word: string): string {
  if (word.includes("\0")) throw new TypeError("a shell word cannot hold a NUL byte");
  if (/^[A-Za-z0-9_@%+=:,./-]+$/.test(word) && !word.startsWith("-") && !word.startsWith("=")) return word;
  return `'${word.replaceAll("'", String.raw`'\''`)}'`;
}

/** Tagged template: sh`stat -c %a -- ${path}`. Every interpolated word is quoted. */
export function sh(strings: TemplateStringsArray, ...parts: readonly ShellPart[]): ShellText {
  // An escape that JavaScript does not know (such as a backslash before u) leaves no text at all.
  if (strings.some((piece: string | undefined) => piece === undefined)) {
    throw new TypeError(`an invalid escape in shell text: ${strings.raw.join("...")}`);
  }
  let text = strings[0] ?? "";
  for (const [i, part] of parts.entries()) text += quotePart(part) + (strings[i + 1] ?? "");
  return new ShellText(text);
}

function quotePart(part: ShellPart): string {
  if (part instanceof ShellText) return part.text;
  if (typeof part === "number") return String(part);
  if (typeof part === "string") return quoteWord(part);
  return part.map((word) => quoteWord(String(word))).join(" ");
}

/** Several pieces of shell text, one after another, by default a line each. */
export function shJoin(pieces: readonly ShellText[], separator = "\n"): ShellText {
  return new ShellText(pieces.map((piece) => piece.text).join(separator));
}

/** A command with its arguments, each quoted. */
export function shCommand(argv: readonly string[]): ShellText {
  return new ShellText(argv.map(quoteWord).join(" "));
}

/**
 * What a user wrote to be run by a shell: `run:`, `unless:`, the text of a `script:`. The loader has refused references
 * in it, so nothing of other origin is inside.
 */
export function userScript(text: string): ShellText {
  return new ShellText(text);
}
