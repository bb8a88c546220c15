import { Excerpt } from "./excerpt.ts";
import { type ConsoleLine, type KernelText, kernelTexts, LineSplitter } from "./lines.ts";
import { BUILD_ID, LINUX_VERSION, PROMPTS, QUICK, type Rule, RULES } from "./rules.ts";
import type { ConsoleEvent, ConsoleKind, ConsoleOptions, ConsoleSeverity, ConsoleStatus } from "./types.ts";

const DEFAULT_SETTLE = 700;
const DEFAULT_LOOP = 3;
/** Lines kept for whoever asks what was said last. */
const TAIL = 20;
const MOST_TITLE = 300;
/** Events of one kind that are not fatal, for each boot: a driver that warns in a loop says nothing new. */
const MOST_OF_A_KIND = 50;
/** Kernel seconds after which a line is no longer part of a report. */
const REPORT_GAP = 2;
const STEPS: readonly ConsoleKind[] = [
  "no-boot",
  "restart",
  "power-off",
  "init",
  "initramfs",
  "firmware",
  "bootloader",
];
/** Panics that only say that something before was bad enough. */
const CONSEQUENCE =
  /not syncing: (?:Fatal exception|Oops|kernel: panic_on_warn|panic_on_warn|softlockup|hung_task|RCU Stall|Hard LOCKUP|UBSAN|KASAN|kernel stack overflow|BUG!)|exitcode=0x000000[0-7]?[1-9a-f]$|panic_on_warn set|panic_on_oops set/;

interface Open {
  readonly rule: Rule;
  readonly title: string;
  readonly offset: number;
  readonly ms: number;
  readonly caller: string | undefined;
  readonly excerpt: Excerpt;
  readonly before: readonly string[];
  /** Kernel seconds of its last line. */
  time: number | undefined;
}

/**
 * Reads a serial console from its first byte and says what happened. Pure: bytes and times in, events out; holds a line, a
 * report and the last lines, however much is pushed. How the bytes were cut into chunks changes no event.
 */
export class ConsoleWatcher {
  readonly #emit: (event: ConsoleEvent) => void;
  readonly #markers: readonly string[];
  readonly #patterns: readonly RegExp[];
  readonly #silence: number | undefined;
  readonly #settle: number;
  readonly #loop: number;
  readonly #splitter: LineSplitter;
  readonly #tail: string[] = [];
  readonly #counts = new Map<ConsoleKind, number>();
  #ms = 0;
  #last: number | undefined;
  #silent = false;
  #open: Open | undefined;
  /** The last defect of this boot. */
  #defect: { readonly title: string; readonly lines: readonly string[]; readonly time: number | undefined } | undefined;
  #stamped: boolean | undefined;
  #panicked = false;
  #promptAt = -1;
  #markerAt = -1;
  #banner: string | undefined;
  #starts = { firmware: 0, kernel: 0 };
  #stage: ConsoleStatus["stage"] = "nothing";
  #release: string | undefined;
  #builder: string | undefined;
  #version: string | undefined;
  #buildId: string | undefined;
  #boots = 0;

  constructor(options: ConsoleOptions, emit: (event: ConsoleEvent) => void) {
    this.#emit = emit;
    const markers = options.markers ?? [];
    this.#markers = markers.filter((one): one is string => typeof one === "string" && one !== "");
    this.#patterns = markers
      .filter((one) => one instanceof RegExp)
      .map((one) => new RegExp(one.source, one.flags.replace(/[gy]/g, "")));
    this.#silence = options.silence;
    this.#settle = options.settle ?? DEFAULT_SETTLE;
    this.#loop = Math.max(2, options.loop ?? DEFAULT_LOOP);
    const lastBytes = new Set(this.#markers.map((one) => Buffer.from(one).at(-1)));
    const SPACE = 0x20;
    this.#splitter = new LineSplitter({
      line: (line) => this.#line(line),
      partial: (line) => this.#partial(line),
      // `login: `, `=> `, `# `: a space after one of these; or where a marker may end.
      pausesAt: (byte, before) => (byte === SPACE && ENDERS.has(before)) || lastBytes.has(byte),
    });
  }

  /** `ms` is any clock that only grows. Never throws, whatever the bytes. */
  push(chunk: Uint8Array, ms: number): void {
    if (chunk.length === 0) return;
    this.#ms = ms;
    this.#last = ms;
    this.#silent = false;
    this.#splitter.push(chunk);
  }

  /** Time passes: completes a report that nothing followed, notices silence. Call it a few times a second. */
  tick(ms: number): void {
    this.#ms = ms;
    this.#last ??= ms;
    const quiet = ms - this.#last;
    if (this.#open !== undefined && quiet >= this.#settle) this.#close();
    if (this.#silence === undefined || this.#silent || quiet < this.#silence) return;
    this.#silent = true;
    const seconds = Math.round(quiet / 100) / 10;
    const title =
      this.#splitter.offset === 0
        ? `nothing was ever printed on the console, for ${seconds} s`
        : `nothing more was printed on the console for ${seconds} s`;
    this.#event("silence", "error", title, this.tail(8), this.#splitter.offset);
  }

  /** No more bytes will come. */
  end(ms: number): void {
    this.#ms = ms;
    this.#splitter.flush();
    this.#close();
  }

  /** The last lines, cleaned, the unfinished one included. */
  tail(count = TAIL): readonly string[] {
    const pending = this.#splitter.pending().trimEnd().slice(0, MOST_TITLE);
    return [...this.#tail, ...(pending === "" ? [] : [pending])].slice(-count);
  }

  get status(): ConsoleStatus {
    return {
      stage: this.#stage,
      release: this.#release,
      builder: this.#builder,
      version: this.#version,
      buildId: this.#buildId,
      boots: this.#boots,
      bytes: this.#splitter.offset,
    };
  }

  #partial(line: ConsoleLine): void {
    if (this.#markerAt !== line.offset && this.#markers.some((marker) => line.text.endsWith(marker)))
      this.#marker(line);
    if (this.#promptAt === line.offset) return;
    const prompt = PROMPTS.find(({ match }) => match.test(line.text));
    if (prompt === undefined) return;
    this.#promptAt = line.offset;
    if (prompt.kind === "login") this.#reached();
    this.#event(prompt.kind, "info", line.text.trim(), [line.text.trim()], line.offset);
  }

  #marker(line: ConsoleLine): void {
    this.#markerAt = line.offset;
    this.#reached();
    this.#event("marker", "info", line.text.trim(), [line.text.trim()], line.offset);
  }

  #reached(): void {
    this.#stage = "up";
    this.#starts = { firmware: 0, kernel: 0 };
  }

  #line(line: ConsoleLine): boolean {
    const text = line.text.trimEnd();
    if (text !== "") {
      this.#tail.push(text.slice(0, MOST_TITLE));
      if (this.#tail.length > TAIL) this.#tail.shift();
    }
    let recognised = false;
    if (this.#markerAt !== line.offset && this.#isMarked(text)) {
      this.#marker(line);
      recognised = true;
    }
    for (const part of kernelTexts(line.text)) {
      if (this.#part(part, line.offset)) recognised = true;
    }
    return recognised;
  }

  #isMarked(text: string): boolean {
    return (
      this.#markers.some((marker) => text.includes(marker)) || this.#patterns.some((pattern) => pattern.test(text))
    );
  }

  #part(part: KernelText, offset: number): boolean {
    const own = this.#stamped !== true || part.time !== undefined;
    if (own && this.#isStart(part, offset)) return true;
    const rule = QUICK.test(part.text) ? this.#ruleFor(part, own) : undefined;
    const open = this.#open;
    if (rule === undefined) {
      if (open !== undefined && own) this.#continue(open, part);
      return false;
    }
    if (open !== undefined && belongs(open, rule.rule)) {
      this.#continue(open, part);
      return true;
    }
    if (rule.rule.report) {
      this.#close();
      this.#begin(rule.rule, rule.title, part, offset);
    } else this.#step(rule.rule, rule.title, offset);
    return true;
  }

  #ruleFor(part: KernelText, own: boolean): { readonly rule: Rule; readonly title: string } | undefined {
    for (const rule of RULES) {
      if (rule.kernel && !own) continue;
      const match = rule.match.exec(part.text);
      if (match === null) continue;
      // A machine that has panicked says more, and none of it is news.
      if (this.#panicked && rule.kernel && !STEPS.includes(rule.kind)) return undefined;
      const title = (rule.title?.(match, part.text) ?? match[0]).trim().slice(0, MOST_TITLE);
      return { rule, title };
    }
    return undefined;
  }

  #isStart(part: KernelText, offset: number): boolean {
    const match = part.text.length < 12 ? null : LINUX_VERSION.exec(part.text);
    // A program that prints /proc/version later is no new kernel.
    if (match === null || match.index > 0) return false;
    this.#close();
    this.#newBoot();
    this.#stage = "kernel";
    this.#stamped = part.time !== undefined;
    this.#release = match[1];
    this.#builder = /^\((\S+@\S+?)\)/.exec(match[2] ?? "")?.[1];
    const at = match[2]?.indexOf("#") ?? -1;
    this.#version = at < 0 ? undefined : match[2]?.slice(at).trim();
    this.#boots += 1;
    this.#starts.kernel += 1;
    this.#starts.firmware = 0;
    this.#event("kernel", "info", `Linux version ${match[1] ?? ""}`, [part.text.slice(0, MOST_TITLE)], offset);
    this.#loops(this.#starts.kernel, "kernel", offset);
    return true;
  }

  #newBoot(): void {
    this.#panicked = false;
    this.#counts.clear();
    this.#defect = undefined;
    this.#stamped = undefined;
  }

  #loops(starts: number, what: string, offset: number): void {
    if (starts !== this.#loop) return;
    const defect = this.#tail.slice(-8);
    this.#event(
      "reboot-loop",
      "fatal",
      `it starts again and again: ${starts} starts of the ${what}, and never up`,
      defect,
      offset,
    );
  }

  #step(rule: Rule, title: string, offset: number): void {
    if (rule.kind === "firmware" || rule.kind === "bootloader") {
      this.#close();
      this.#newBoot();
      this.#banner ??= title;
      this.#stage = rule.kind;
      if (this.#banner === title) this.#starts.firmware += 1;
    } else if (rule.kind === "init" && this.#stage !== "up") this.#stage = "init";
    this.#event(rule.kind, rule.severity, title, [title], offset);
    if (this.#banner === title) this.#loops(this.#starts.firmware, rule.kind, offset);
  }

  #begin(rule: Rule, title: string, part: KernelText, offset: number): void {
    const fatal = rule.severity === "fatal";
    const cause = fatal && this.#defect !== undefined && CONSEQUENCE.test(part.text) ? this.#defect : undefined;
    const excerpt = new Excerpt();
    const open: Open = {
      rule,
      title: cause === undefined ? title : `${cause.title} (then: ${title})`.slice(0, MOST_TITLE),
      offset,
      ms: this.#ms,
      caller: part.caller,
      excerpt,
      before: cause?.lines ?? [],
      time: part.time,
    };
    this.#open = open;
    if (fatal) this.#panicked = true;
    this.#continue(open, part);
  }

  #continue(open: Open, part: KernelText): void {
    // Two processors that print at once: each line says who it is from.
    if (open.caller !== undefined && part.caller !== undefined && part.caller !== open.caller) return;
    if (open.time !== undefined && part.time !== undefined && part.time - open.time > REPORT_GAP) {
      this.#close();
      return;
    }
    if (part.time !== undefined) open.time = part.time;
    this.#buildId ??= BUILD_ID.exec(part.text)?.[1];
    if (open.excerpt.add(part.text)) this.#close();
  }

  #close(): void {
    const open = this.#open;
    if (open === undefined) return;
    this.#open = undefined;
    const lines = open.excerpt.lines();
    const where = placeIn(lines);
    const title = where === undefined || open.title.includes(where) ? open.title : `${open.title} in ${where}`;
    if (open.rule.severity !== "fatal") this.#defect = { title, lines, time: open.time };
    const all = open.before.length === 0 ? lines : [...open.before, ...lines.slice(0, 2)];
    this.#event(open.rule.kind, open.rule.severity, title, all, open.offset, open.ms);
  }

  #event(
    kind: ConsoleKind,
    severity: ConsoleSeverity,
    title: string,
    lines: readonly string[],
    offset: number,
    ms = this.#ms,
  ): void {
    const count = (this.#counts.get(kind) ?? 0) + 1;
    this.#counts.set(kind, count);
    if (severity !== "fatal" && count > MOST_OF_A_KIND) return;
    const cut = (text: string): string => text.slice(0, MOST_TITLE);
    this.#emit({ kind, severity, title: cut(title), lines: lines.map(cut), at: { offset, ms } });
  }
}

const ENDERS = new Set([">", ":", "#", "$"].map((character) => character.charCodeAt(0)));

/** The second and third header of one defect: "BUG: kernel NULL pointer dereference" goes on with "Oops: 0002 [#1]". */
function belongs(open: Open, rule: Rule): boolean {
  return open.rule.kind === rule.kind && (rule.kind === "oops" || (rule.kind === "oom" && !rule.report));
}

const PLACES = [
  /^RIP: [0-9a-f]{4}:([\w.$]+)\+0x/,
  /^pc : ([\w.$]+)\+0x/,
  /^epc ?: ([\w.$]+)\+0x/,
  /^PC is at ([\w.$]+)\+0x/,
  /^EIP: ([\w.$]+)\+0x/,
];

/** The function in which it happened, where the report names one. */
function placeIn(lines: readonly string[]): string | undefined {
  for (const line of lines) {
    for (const place of PLACES) {
      const name = place.exec(line)?.[1];
      if (name !== undefined) return name;
    }
  }
  return undefined;
}
