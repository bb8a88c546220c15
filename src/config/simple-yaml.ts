import type { Entry, MapNode, ScalarNode, SpecNode } from "./node.ts";
import type { SourceText } from "./source.ts";

/**
 * The YAML that most specs are written in, and those that programs write: block maps and lists, one entry a line; plain and
 * quoted words; flow maps and lists within a line; comments. It is read straight into nodes, ten times as fast as by way
 * of the library's lexemes, tokens and documents. Whatever else there is, and whatever is wrong, is the library's to
 * read and to explain: then nothing of this is used. That both give the same nodes, places included, is a property test.
 */
export function readSimple(source: SourceText): MapNode | undefined {
  const { text } = source;
  // Tabs and other line ends have rules of their own.
  if (/[\t\r\u0085\u2028\u2029\ufeff]/.test(text)) return undefined;
  try {
    return new Reader(source).document();
  } catch (error) {
    if (error instanceof NotSimple) return undefined;
    throw error;
  }
}

class NotSimple extends Error {}

/** How deep it nests, how long a key is and how much there is: below all limits, which are the library's way to check. */
const DEPTH = 32;
const KEY_LENGTH = 500;
const NODES = 400_000;

/** Lines without content, and the indentation of the first that has some. */
const GAP = /(?: *(?:#[^\n]*)?\n)*( *)/y;
const LINE_END = / *(?: #[^\n]*)?(?:\n|$)/y;
const KEY = /[A-Za-z0-9_/][A-Za-z0-9_./+@%=~^$();-]*/y;
const WORDS = /[A-Za-z0-9_./][A-Za-z0-9_./+@%=~^$();-]*(?: +[A-Za-z0-9_./+@%=~^$();-]+)*/y;
const DOUBLE = /"[^"\\\n]*(?:\\["\\/nt][^"\\\n]*)*"/y;
const SINGLE = /'[^'\n]*'/y;
const SPACES = / */y;
const ESCAPES: Readonly<Record<string, string>> = { n: "\n", t: "\t" };

const [SPACE, DASH, COLON, COMMA, HASH, QUOTE, DOUBLE_QUOTE] = [" ", "-", ":", ",", "#", "'", '"'].map((char) =>
  char.charCodeAt(0),
);
const [LIST_OPEN, LIST_CLOSE, MAP_OPEN, MAP_CLOSE] = ["[", "]", "{", "}"].map((char) => char.charCodeAt(0));

class Reader {
  readonly #source: SourceText;
  readonly #text: string;
  /** Where reading goes on. At the beginning of a line's content unless a line is being read. */
  #at = 0;
  /** Columns before the content at #at; -1 at the end of the text. */
  #indent = 0;
  /** The end of the last line that had content, its newline included. */
  #lineEnd = 0;
  #nodes = 0;

  constructor(source: SourceText) {
    this.#source = source;
    this.#text = source.text;
  }

  document(): MapNode {
    this.#nextLine();
    if (this.#indent !== 0) throw new NotSimple();
    const node = this.#map(0, 0);
    if (this.#more) throw new NotSimple();
    return node;
  }

  get #more(): boolean {
    return this.#indent !== -1;
  }

  /** From the end of a line to the content of the next that has some. */
  #nextLine(): void {
    const found = this.#match(GAP);
    this.#at += found.length;
    const next = this.#text.charCodeAt(this.#at);
    const column = found.length - found.lastIndexOf("\n") - 1;
    // A comment that no newline follows is the last line.
    if (next === HASH && column !== 0) throw new NotSimple();
    this.#indent = next === HASH || Number.isNaN(next) ? -1 : column;
    // Comments further right or left than what follows them count as a part of what stands before them, or do not.
    if (found.includes("#") && !remarksOn(found, Math.max(0, this.#indent))) throw new NotSimple();
  }

  #endLine(): void {
    LINE_END.lastIndex = this.#at;
    if (!LINE_END.test(this.#text)) throw new NotSimple();
    this.#at = LINE_END.lastIndex;
    this.#lineEnd = this.#at;
    this.#nextLine();
  }

  #map(indent: number, depth: number): MapNode {
    this.#enter(depth);
    const start = this.#at;
    const entries = new Map<string, Entry>();
    while (this.#indent === indent && !this.#isItem()) {
      const at = this.#key();
      if (this.#text.charCodeAt(this.#at) === SPACE) {
        this.#skipSpaces();
        if (this.#text.charCodeAt(this.#at) !== HASH && this.#text[this.#at] !== "\n") {
          this.#add(entries, at, this.#inline(depth));
          this.#endLine();
          continue;
        }
        // The space that a comment needs before it.
        this.#at -= 1;
      }
      this.#endLine();
      if (this.#indent > indent) {
        this.#add(
          entries,
          at,
          this.#isItem() ? this.#list(this.#indent, depth + 1) : this.#map(this.#indent, depth + 1),
        );
      } else if (this.#indent === indent && this.#isItem()) this.#add(entries, at, this.#list(indent, depth + 1));
      else throw new NotSimple();
    }
    if (this.#indent > indent || entries.size === 0) throw new NotSimple();
    return { type: "map", entries, source: this.#source, start, end: this.#lineEnd };
  }

  #list(indent: number, depth: number): SpecNode {
    this.#enter(depth);
    const start = this.#at;
    const items: SpecNode[] = [];
    while (this.#indent === indent && this.#isItem()) {
      const dash = this.#at;
      this.#at += 1;
      this.#skipSpaces();
      if (this.#startsKey()) {
        this.#indent = indent + this.#at - dash;
        items.push(this.#map(this.#indent, depth + 1));
      } else {
        items.push(this.#inline(depth));
        this.#endLine();
      }
    }
    if (this.#indent > indent) throw new NotSimple();
    return { type: "list", items, source: this.#source, start, end: this.#lineEnd };
  }

  #enter(depth: number): void {
    if (depth > DEPTH) throw new NotSimple();
  }

  #isItem(): boolean {
    return this.#text.charCodeAt(this.#at) === DASH && this.#text.charCodeAt(this.#at + 1) === SPACE;
  }

  /** True where a block map begins behind the dash of an item. */
  #startsKey(): boolean {
    const before = this.#at;
    const first = this.#text.charCodeAt(before);
    const pattern = first === DOUBLE_QUOTE ? DOUBLE : first === QUOTE ? SINGLE : KEY;
    pattern.lastIndex = before;
    if (!pattern.test(this.#text) || this.#text.charCodeAt(pattern.lastIndex) !== COLON) return false;
    const next = this.#text[pattern.lastIndex + 1];
    return next === " " || next === "\n" || next === undefined;
  }

  #add(entries: Map<string, Entry>, at: ScalarNode, value: SpecNode): void {
    if (entries.has(at.text)) throw new NotSimple();
    const { text: key, source, start, end } = at;
    entries.set(key, { key, at: { source, start, end }, value });
  }

  /** A key and its colon, behind which a value or the end of the line comes. */
  #key(): ScalarNode {
    const node = this.#scalar(KEY);
    if (node.end - node.start > KEY_LENGTH || this.#text.charCodeAt(this.#at) !== COLON) throw new NotSimple();
    this.#at += 1;
    const next = this.#text[this.#at];
    if (next !== " " && next !== "\n") throw new NotSimple();
    return node;
  }

  /** A value within its line. */
  #inline(depth: number): SpecNode {
    const first = this.#text.charCodeAt(this.#at);
    if (first === MAP_OPEN) return this.#flowMap(depth + 1);
    if (first === LIST_OPEN) return this.#flowList(depth + 1);
    return this.#scalar(WORDS);
  }

  #flowMap(depth: number): SpecNode {
    this.#enter(depth);
    const start = this.#at++;
    const entries = new Map<string, Entry>();
    this.#skipSpaces();
    let closed = this.#text.charCodeAt(this.#at) === MAP_CLOSE;
    if (closed) this.#at += 1;
    while (!closed) {
      const at = this.#key();
      this.#skipSpaces();
      this.#add(entries, at, this.#inline(depth));
      closed = this.#separator(MAP_CLOSE);
    }
    return { type: "map", entries, source: this.#source, start, end: this.#at };
  }

  #flowList(depth: number): SpecNode {
    this.#enter(depth);
    const start = this.#at++;
    const items: SpecNode[] = [];
    this.#skipSpaces();
    let closed = this.#text.charCodeAt(this.#at) === LIST_CLOSE;
    if (closed) this.#at += 1;
    while (!closed) {
      items.push(this.#inline(depth));
      closed = this.#separator(LIST_CLOSE);
    }
    return { type: "list", items, source: this.#source, start, end: this.#at };
  }

  /** Behind an entry: true where the collection ends. */
  #separator(close: number | undefined): boolean {
    this.#skipSpaces();
    const found = this.#text.charCodeAt(this.#at);
    this.#at += 1;
    if (found === close) return true;
    if (found !== COMMA || this.#text.charCodeAt(this.#at) !== SPACE) throw new NotSimple();
    this.#skipSpaces();
    return false;
  }

  #scalar(plain: RegExp): ScalarNode {
    if (++this.#nodes > NODES) throw new NotSimple();
    const start = this.#at;
    const first = this.#text.charCodeAt(start);
    const quoted = first === DOUBLE_QUOTE || first === QUOTE;
    const written = this.#match(first === DOUBLE_QUOTE ? DOUBLE : first === QUOTE ? SINGLE : plain);
    this.#at += written.length;
    return {
      type: "scalar",
      text: quoted ? unquoted(written) : written,
      plain: !quoted,
      source: this.#source,
      start,
      end: this.#at,
    };
  }

  #skipSpaces(): void {
    this.#at += this.#match(SPACES).length;
  }

  #match(pattern: RegExp): string {
    pattern.lastIndex = this.#at;
    const found = pattern.exec(this.#text);
    if (found === null) throw new NotSimple();
    return found[0];
  }
}

/** True where all comments of a gap begin in one column. */
function remarksOn(gap: string, indent: number): boolean {
  return gap.split("\n").every((line) => {
    const at = line.search(/\S/);
    return at === -1 || at === indent;
  });
}

function unquoted(written: string): string {
  const inner = written.slice(1, -1);
  if (written.startsWith("'") || !inner.includes("\\")) return inner;
  return inner.replaceAll(/\\(.)/g, (_, char: string) => ESCAPES[char] ?? char);
}
