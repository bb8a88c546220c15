import { distance } from "fastest-levenshtein";
import { type Code, codeFrame, type Diagnostic, LabError, sortDiagnostics } from "../diagnostics/index.ts";
import type { SourceRange } from "../model/index.ts";
import { type Place, rangeOf } from "./node.ts";

/** More findings than anybody reads; a generated file of nonsense must not cost minutes. */
const MOST = 500;
const MOST_FRAMES = 200;
/** Characters of one message: names in it may be of any length. */
const LONGEST = 500;
const MOST_CANDIDATES = 2000;

interface Finding {
  readonly severity: "error" | "warning";
  readonly code: Code;
  readonly message: string;
  readonly hint: string | undefined;
  readonly place: Place | undefined;
  readonly at: SourceRange | undefined;
}

/** Collects what is wrong with a spec. Each mistake is kept once, however many instances of a resource show it. */
export class Problems {
  readonly #findings = new Map<string, Finding>();
  #left = 0;

  /** True once more was found than is kept: what only makes messages better is not worth its time any more. */
  get full(): boolean {
    return this.#findings.size >= MOST;
  }

  get size(): number {
    return this.#findings.size;
  }

  error(code: Code, message: string, at: Place | SourceRange | undefined, hint?: string): void {
    this.#add("error", code, message, at, hint);
  }

  warn(code: Code, message: string, at: Place | SourceRange | undefined, hint?: string): void {
    this.#add("warning", code, message, at, hint);
  }

  /** Takes over an error of reading a file; anything else is a defect and is thrown on. */
  take(error: unknown, at?: Place): void {
    if (!(error instanceof LabError)) throw error;
    this.#add("error", error.code, error.message, at ?? error.at, error.hint);
  }

  get hasErrors(): boolean {
    for (const finding of this.#findings.values()) if (finding.severity === "error") return true;
    return false;
  }

  #add(
    severity: "error" | "warning",
    code: Code,
    message: string,
    where: Place | SourceRange | undefined,
    hint: string | undefined,
  ): void {
    const place = where !== undefined && "source" in where ? where : undefined;
    const at = where !== undefined && !("source" in where) ? where : undefined;
    const spot = place ? `${place.source.path}:${place.start}` : at ? `${at.file}:${at.line}:${at.column}` : "";
    const text = message.length > LONGEST ? `${message.slice(0, LONGEST)}...` : message;
    const key = `${code} ${spot} ${text}`;
    if (this.#findings.has(key)) return;
    if (this.#findings.size >= MOST) this.#left += 1;
    else this.#findings.set(key, { severity, code, message: text, hint: hint?.slice(0, 2 * LONGEST), place, at });
  }

  /** Sorted, with places and code frames. */
  diagnostics(): Diagnostic[] {
    const frames = new Map<Diagnostic, Place>();
    const list = [...this.#findings.values()].map((finding): Diagnostic => {
      const at = finding.place === undefined ? finding.at : rangeOf(finding.place);
      const diagnostic: Diagnostic = {
        severity: finding.severity,
        code: finding.code,
        message: finding.message,
        ...(finding.hint !== undefined && { hint: finding.hint }),
        ...(at !== undefined && { at }),
      };
      if (finding.place !== undefined) frames.set(diagnostic, finding.place);
      return diagnostic;
    });
    const sorted = sortDiagnostics(list).map((diagnostic, i) => {
      const place = frames.get(diagnostic);
      if (place === undefined || diagnostic.at === undefined || i >= MOST_FRAMES) return diagnostic;
      return { ...diagnostic, frame: codeFrame(place.source.lines, diagnostic.at) };
    });
    if (this.#left > 0) {
      const last = sorted.at(-1)?.at;
      sorted.push({
        severity: "error",
        code: "E_SPEC_MORE",
        message: `and ${this.#left} more problems, which are not listed`,
        hint: "mend these, and validate again",
        // Beside the last one, so that it stays the last one however the list is sorted.
        ...(last !== undefined && { at: last }),
      });
    }
    return sorted;
  }

  /** `did you mean "x"?`, or undefined where nothing is near. */
  suggest(word: string, candidates: Iterable<string>): string | undefined {
    if (this.#findings.size > MOST_FRAMES) return undefined;
    return didYouMean(word, candidates);
  }
}

/** The nearest candidate, as a hint; undefined where none is near enough to be a slip of the finger. */
export function didYouMean(word: string, candidates: Iterable<string>): string | undefined {
  if (word.length < 3 || word.length > 200) return undefined;
  let best: string | undefined;
  // Two for short words: swapped letters count twice.
  let least = (word.length < 4 ? 1 : Math.max(2, Math.floor(word.length * 0.4))) + 0.5;
  let seen = 0;
  for (const candidate of candidates) {
    if (++seen > MOST_CANDIDATES) break;
    if (candidate === word || Math.abs(candidate.length - word.length) > least) continue;
    const cost = distance(word.toLowerCase(), candidate.toLowerCase()) + (candidate[0] === word[0] ? 0 : 0.25);
    if (cost < least) [best, least] = [candidate, cost];
  }
  return best === undefined ? undefined : `did you mean "${best}"?`;
}
