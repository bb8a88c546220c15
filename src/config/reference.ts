import { formatAddress, type Reference, type Segment } from "../model/index.ts";

/** A reference in a text, with where its `${` and its `}` stand. */
export interface FoundReference {
  readonly reference: Reference;
  readonly start: number;
  readonly end: number;
}

export interface BadReference {
  readonly message: string;
  readonly start: number;
  readonly end: number;
}

export interface ParsedText {
  readonly parts: readonly (string | FoundReference)[];
  readonly bad: readonly BadReference[];
}

/** What begins a reference: `${` and a word with a dot behind it. `${HOME}`, `${x:-y}`, `${#a}` are text. */
const BEGINS = /^\$\{(?=[A-Za-z_][A-Za-z0-9_-]*\.)/;
const ESCAPED_OR_BEGINS = /\$\$\{|\$\{(?=[A-Za-z_][A-Za-z0-9_-]*\.)|\$\{(?=\s+(?:var|secret|each)\.)/g;

export function mayHoldReference(text: string): boolean {
  return text.includes("${");
}

/** Where the first reference in a shell text begins; `$${` is an escape there too. -1: there is none. */
export function firstReference(text: string): number {
  for (const found of text.matchAll(ESCAPED_OR_BEGINS)) {
    if (found[0] === "${" && BEGINS.test(text.slice(found.index, found.index + 200))) return found.index;
  }
  return -1;
}

/** Splits a text into what is literal and references; `$${` gives `${`. */
export function parseReferences(text: string): ParsedText {
  const parts: (string | FoundReference)[] = [];
  const bad: BadReference[] = [];
  let literal = "";
  let done = 0;
  for (const match of text.matchAll(ESCAPED_OR_BEGINS)) {
    if (match.index < done) continue;
    literal += text.slice(done, match.index);
    if (match[0] === "$${") {
      literal += "${";
      done = match.index + 3;
      continue;
    }
    const reader = new Reader(text, match.index + 2);
    const reference = reader.reference();
    if (typeof reference === "string") {
      bad.push({ message: reference, start: match.index, end: Math.max(reader.at, match.index + 2) });
      literal += "${";
      done = match.index + 2;
      continue;
    }
    if (literal !== "") parts.push(literal);
    literal = "";
    parts.push({ reference, start: match.index, end: reader.at });
    done = reader.at;
  }
  literal += text.slice(done);
  if (literal !== "" || parts.length === 0) parts.push(literal);
  return { parts, bad };
}

/**
 * reference  := word key [children] { "." segment } "}"
 * key        := "." segment
 * children   := { "/" word ( "." segment | '["' text '"]' ) }
 * segment    := [A-Za-z0-9_-]+ | JSON string
 */
class Reader {
  readonly #text: string;
  at: number;
  constructor(text: string, at: number) {
    this.#text = text;
    this.at = at;
  }

  /** The reference, or what is wrong with it. */
  reference(): Reference | string {
    if (/\s/.test(this.#text[this.at] ?? "")) return "a reference has no spaces inside `${` and `}`";
    const word = this.#take(/[A-Za-z_][A-Za-z0-9_]*/y);
    if (word === undefined || !this.#skip(".")) return "a reference begins with a word and a dot";
    const key = this.#segment();
    if (key === undefined) return `after "${word}." a name is missing`;
    const segments: Segment[] = [{ kind: word, key }];
    while (this.#skip("/")) {
      const kind = this.#take(/[a-z][a-z0-9_]*/y);
      const child = kind === undefined ? undefined : this.#skip(".") ? this.#segment() : this.#bracketed();
      if (kind === undefined || child === undefined) return 'after "/" comes a kind and a key: file["/etc/x.conf"]';
      segments.push({ kind, key: child });
    }
    const path: string[] = [];
    while (this.#skip(".")) {
      const segment = this.#segment();
      if (segment === undefined) return "after a dot a name is missing";
      path.push(segment);
    }
    if (!this.#skip("}")) return "a reference is not closed with `}`";
    return segments.length === 1 ? { root: word, path: [key, ...path] } : { root: formatAddress(segments), path };
  }

  #take(pattern: RegExp): string | undefined {
    pattern.lastIndex = this.at;
    const found = pattern.exec(this.#text)?.[0];
    if (found !== undefined) this.at += found.length;
    return found;
  }

  #skip(char: string): boolean {
    if (!this.#text.startsWith(char, this.at)) return false;
    this.at += char.length;
    return true;
  }

  #segment(): string | undefined {
    return this.#take(/[A-Za-z0-9_-]+/y) ?? this.#quoted();
  }

  #quoted(): string | undefined {
    const json = this.#take(/"(?:[^"\\]|\\.)*"/y);
    if (json === undefined) return undefined;
    try {
      const value: unknown = JSON.parse(json);
      return typeof value === "string" ? value : undefined;
    } catch {
      return undefined;
    }
  }

  #bracketed(): string | undefined {
    if (!this.#skip("[")) return undefined;
    const key = this.#quoted();
    return key !== undefined && this.#skip("]") ? key : undefined;
  }
}
