import type { Candidate } from "./complete.ts";

export interface BashLine {
  /** Words as the shell will see them, the last one as far as it was typed. */
  readonly words: readonly string[];
  /** The last word as it stands on the line, quotes and backslashes included. */
  readonly raw: string;
  /** The quote that is still open at the end. */
  readonly quote: "" | "'" | '"';
}

/** Splits a command line as bash does, as far as completion needs: blanks, quotes, backslashes. */
export function splitBashLine(line: string): BashLine {
  const words: string[] = [];
  let word = "";
  let raw = "";
  let begun = false;
  let quote: BashLine["quote"] = "";
  for (let i = 0; i < line.length; i++) {
    const char = line.charAt(i);
    if (quote === "" && /[ \t]/.test(char)) {
      if (begun) words.push(word);
      [word, raw, begun] = ["", "", false];
      continue;
    }
    begun = true;
    raw += char;
    if (quote === "'") {
      if (char === "'") quote = "";
      else word += char;
    } else if (char === "\\" && (quote === "" || /["\\$`]/.test(line.charAt(i + 1)))) {
      i += 1;
      word += line.charAt(i);
      raw += line.charAt(i);
    } else if (char === '"') quote = quote === '"' ? "" : '"';
    else if (char === "'" && quote === "") quote = "'";
    else word += char;
  }
  return { words: [...words, word], raw, quote };
}

/**
 * Candidates as bash puts them in place of `current`, which is what it took for the word: everything after the last
 * word break. Inside an open quote bash inserts them as they are and closes the quote itself.
 */
export function bashReplies(line: BashLine, current: string, candidates: readonly Candidate[]): string[] {
  const kept = line.raw.endsWith(current) ? line.raw.slice(0, line.raw.length - current.length) : "";
  return candidates.map(({ value }) => {
    if (value.startsWith(":")) return value;
    if (line.quote !== "") return line.raw.startsWith(line.quote) ? inQuotes(value, line.quote) : value;
    const escaped = value.replaceAll(/[^A-Za-z0-9_./:=@%+,-]/g, String.raw`\$&`);
    return kept !== "" && escaped.startsWith(kept) ? escaped.slice(kept.length) : escaped;
  });
}

function inQuotes(value: string, quote: "'" | '"'): string {
  return quote === "'" ? value.replaceAll("'", String.raw`'\''`) : value.replaceAll(/["\\$`]/g, String.raw`\$&`);
}
