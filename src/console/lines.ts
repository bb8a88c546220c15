/** A line of a console, cleaned of what is only for terminals. */
export interface ConsoleLine {
  /** Of its first byte, from the start of the console. */
  readonly offset: number;
  readonly text: string;
  /** The line went on: it was longer than is kept in one piece. */
  readonly forced: boolean;
}

export interface LineSink {
  /** A whole line; true where something was recognised in it. */
  line(line: ConsoleLine): boolean;
  /** The beginning of a line whose end may be a prompt: called at each byte for which `pausesAt` is true. */
  partial(line: ConsoleLine): void;
  pausesAt(byte: number, before: number): boolean;
}

/** Longest line that is kept in one piece, and how much of it the next piece begins with. Bytes. */
const MOST = 4096;
const OVERLAP = 160;
/** An escape sequence longer than that is none. */
const MOST_ESCAPE = 64;

const ESC = 0x1b;
const BEL = 0x07;
const CR = 0x0d;
const LF = 0x0a;
const TAB = 0x09;
const BACKSPACE = 0x08;

type State = "text" | "escape" | "csi" | "string" | "string-escape" | "charset";

/**
 * Cuts bytes into lines. Works byte by byte and keeps its place between chunks, so that how the bytes were cut never
 * matters; holds at most one line.
 */
export class LineSplitter {
  readonly #sink: LineSink;
  readonly #line = Buffer.alloc(MOST);
  #length = 0;
  #state: State = "text";
  #escape = 0;
  #carriage = false;
  #start = 0;
  #offset = 0;
  #before = 0;

  constructor(sink: LineSink) {
    this.#sink = sink;
  }

  /** Bytes seen so far. */
  get offset(): number {
    return this.#offset;
  }

  push(chunk: Uint8Array): void {
    for (const byte of chunk) {
      this.#byte(byte);
      this.#offset += 1;
    }
  }

  /** What stands in an unfinished line, as a line of its own. */
  flush(): void {
    if (this.#length > 0) this.#emit(false);
  }

  /** What stands there now; the line goes on. */
  pending(): string {
    return this.#text();
  }

  #byte(byte: number): void {
    if (this.#state !== "text") {
      this.#inEscape(byte);
      return;
    }
    if (this.#carriage && byte !== LF && byte !== CR) {
      // A carriage return without a line feed: what follows overwrites the line.
      this.#carriage = false;
      if (this.#length > 0) this.#emit(false);
    }
    if (byte === LF) {
      this.#carriage = false;
      this.#emit(false);
    } else if (byte === CR) this.#carriage = true;
    else if (byte === ESC) {
      this.#state = "escape";
      this.#escape = 0;
    } else if (byte === BACKSPACE) this.#length = Math.max(0, this.#length - 1);
    else if (byte >= 0x20 || byte === TAB) this.#keep(byte);
  }

  #keep(byte: number): void {
    if (this.#length === 0) this.#start = this.#offset;
    if (this.#length === MOST) this.#split();
    this.#line[this.#length] = byte;
    this.#length += 1;
    if (this.#sink.pausesAt(byte, this.#before)) this.#sink.partial(this.#current(false));
    this.#before = byte;
  }

  /** ECMA-48: ESC [ ... final; ESC ] ... BEL or ESC \; ESC ( x; everything else is two bytes. */
  #inEscape(byte: number): void {
    this.#escape += 1;
    if (this.#escape > MOST_ESCAPE) {
      this.#state = "text";
      return;
    }
    switch (this.#state) {
      case "escape":
        if (byte === 0x5b) this.#state = "csi";
        else if (byte === 0x5d || byte === 0x50 || byte === 0x58 || byte === 0x5e || byte === 0x5f)
          this.#state = "string";
        else if (byte >= 0x20 && byte <= 0x2f) this.#state = "charset";
        else this.#leave(byte);
        return;
      case "csi":
        if (byte >= 0x40 && byte <= 0x7e) this.#state = "text";
        else if (byte < 0x20 || byte > 0x7e) this.#leave(byte);
        return;
      case "string":
        if (byte === BEL) this.#state = "text";
        else if (byte === ESC) this.#state = "string-escape";
        else if (byte === LF || byte === CR) this.#leave(byte);
        return;
      case "string-escape":
      case "charset":
        this.#leave(byte);
        return;
      case "text":
        return;
    }
  }

  /** Back to text; a control character that cut a sequence off still counts. */
  #leave(byte: number): void {
    this.#state = "text";
    if (byte === LF || byte === CR || byte === ESC) this.#byte(byte);
  }

  #split(): void {
    const recognised = this.#emit(true);
    // What straddles the cut is seen whole in the next piece, unless this one has been understood already.
    if (recognised) return;
    this.#line.copyWithin(0, MOST - OVERLAP, MOST);
    this.#length = OVERLAP;
    this.#start = this.#offset - OVERLAP;
  }

  #emit(forced: boolean): boolean {
    const line = this.#current(forced);
    this.#length = 0;
    this.#before = 0;
    this.#start = this.#offset;
    return this.#sink.line(line);
  }

  #current(forced: boolean): ConsoleLine {
    return { offset: this.#start, text: this.#text(), forced };
  }

  #text(): string {
    return this.#line.toString("utf8", 0, this.#length);
  }
}

/** A line as printk wrote it. */
export interface KernelText {
  /** Seconds since the kernel started; undefined where the line has no time stamp. */
  readonly time: number | undefined;
  /** `T1` or `C0` (CONFIG_PRINTK_CALLER): who printed. */
  readonly caller: string | undefined;
  readonly text: string;
}

const STAMP = /(?:<\d{1,3}>)?\[\s{0,8}(\d{1,7}\.\d{6})\](?:\[\s{0,8}([TC]\d{1,8})\])? ?/g;
const CALLER = /^\[\s{0,8}([TC]\d{1,8})\] ?/;

/**
 * The parts of a line, cut where a time stamp begins: what init printed without a line feed stands before the kernel's
 * text on the same line.
 */
export function kernelTexts(line: string): KernelText[] {
  const parts: KernelText[] = [];
  let from = 0;
  let time: number | undefined;
  let caller: string | undefined;
  const add = (end: number): void => {
    const text = line.slice(from, end).trimEnd();
    if (text !== "" || time !== undefined) parts.push({ time, caller, text });
  };
  for (const match of line.matchAll(STAMP)) {
    add(match.index);
    from = match.index + match[0].length;
    time = Number(match[1]);
    caller = match[2];
    const own = caller === undefined ? CALLER.exec(line.slice(from, from + 16)) : null;
    if (own !== null) {
      caller = own[1];
      from += own[0].length;
    }
  }
  add(line.length);
  return parts;
}
