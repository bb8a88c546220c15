import cliTruncate from "cli-truncate";
import stringWidth from "string-width";

/**
 * What a terminal or a reader could take for something else: control characters, the escape character first of all;
 * bidirectional controls (Unicode TR36, "Trojan Source"); invisible and line-breaking format characters; lone
 * surrogates; tag characters. Joiners and variation selectors stay: scripts and emoji need them.
 */
const HOSTILE =
  /(?!\u200c|\u200d|\p{Variation_Selector})[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]/gu;

/** One line of text with nothing in it that acts on a terminal. */
export function visible(text: string): string {
  return text.replace(HOSTILE, escapeCharacter);
}

/** The same for a line of a file that is shown: a tab stays a tab, as wide as two spaces. */
export function visibleLine(text: string): string {
  return text.replaceAll("\t", "  ").replace(HOSTILE, escapeCharacter);
}

function escapeCharacter(found: string): string {
  if (found === "\n") return String.raw`\n`;
  if (found === "\r") return String.raw`\r`;
  if (found === "\t") return String.raw`\t`;
  const code = found.codePointAt(0) ?? 0;
  return code < 0x100 ? String.raw`\x${code.toString(16).padStart(2, "0")}` : String.raw`\u{${code.toString(16)}}`;
}

/** Columns that a text takes; colour sequences take none. */
export function widthOf(text: string): number {
  return stringWidth(text);
}

/** At most `width` columns; what was cut is marked. */
export function truncate(text: string, width: number): string {
  if (widthOf(text) <= width) return text;
  return cliTruncate(text, Math.max(1, width), { truncationCharacter: "…" });
}

export function padEnd(text: string, width: number): string {
  return text + " ".repeat(Math.max(0, width - widthOf(text)));
}

export function padStart(text: string, width: number): string {
  return " ".repeat(Math.max(0, width - widthOf(text))) + text;
}

export function indent(text: string, by: number): string {
  const space = " ".repeat(by);
  return text
    .split("\n")
    .map((line) => (line === "" ? line : space + line))
    .join("\n");
}

export function plural(count: number, one: string, many = `${one}s`): string {
  return `${count} ${count === 1 ? one : many}`;
}

/** A recorded time to the minute, for people. */
export function minute(iso: string): string {
  return /^\d{4}-\d\d-\d\dT\d\d:\d\d:/.test(iso) && iso.endsWith("Z")
    ? `${iso.slice(0, 10)} ${iso.slice(11, 16)}Z`
    : visible(iso);
}
