import { createHash } from "node:crypto";
import type { JournalRecord, Scope } from "../model/index.ts";
import type { JournalId } from "./names.ts";

export const JOURNAL_FORMAT = 1;

/** The first line of a journal. `base_serial`: the snapshot that the records follow on, or a later one. */
export interface JournalHeader extends JournalId {
  readonly journal: typeof JOURNAL_FORMAT;
  readonly labctl: string;
  readonly scope: Scope;
  readonly lineage: string;
  readonly base_serial: number;
  /** Number of the first record; the numbers go on through the segments of one session. */
  readonly first: number;
}

const SUM = '{"sum":"';
const SUM_LENGTH = 8;
const AFTER_SUM = '",';
const BODY_AT = SUM.length + SUM_LENGTH + AFTER_SUM.length;

/** One line: a JSON object that begins with the checksum (8 hex digits of SHA-256) of all that follows it. */
export function formatLine(body: object): string {
  const text = JSON.stringify(body).slice(1);
  return `${SUM}${checksum(text)}${AFTER_SUM}${text}\n`;
}

function checksum(text: string): string {
  return createHash("sha256").update(text).digest("hex").slice(0, SUM_LENGTH);
}

function parseLine(line: string): Readonly<Record<string, unknown>> | undefined {
  if (!line.startsWith(SUM)) return undefined;
  const body = line.slice(BODY_AT);
  if (line.slice(SUM.length, BODY_AT) !== `${checksum(body)}${AFTER_SUM}`) return undefined;
  try {
    return JSON.parse(`{${body}`) as Readonly<Record<string, unknown>>;
  } catch {
    return undefined;
  }
}

export type NumberedRecord = JournalRecord & { readonly seq: number };

export interface ParsedJournal {
  /** Absent where not even the first line was written to its end: then there are no records. */
  readonly header: JournalHeader | undefined;
  readonly records: readonly NumberedRecord[];
  /** Bytes of whole, good lines from the start. */
  readonly length: number;
  /** Bytes after them that are the remains of a write that was cut off: dropped. */
  readonly torn: number;
  /** Lines that are bad and not at the end: damage. */
  readonly damage: readonly { readonly line: number; readonly why: string }[];
}

/**
 * Reads a journal. A last line without its end, or with a wrong checksum, was cut off while it was written, and nobody
 * was told that it was done. A bad line with others after it is damage: records after it are given all the same, for
 * repair.
 */
export function parseJournal(data: Buffer): ParsedJournal {
  // File systems may leave zeros where data was not written before the power went.
  let end = data.length;
  while (end > 0 && data[end - 1] === 0) end--;
  const lines: { readonly text: string; readonly end: number; readonly whole: boolean }[] = [];
  for (let at = 0; at < end; ) {
    const newline = data.indexOf(10, at);
    const whole = newline >= 0 && newline < end;
    const stop = whole ? newline : end;
    lines.push({ text: data.toString("utf8", at, stop), end: stop + 1, whole });
    at = stop + 1;
  }
  const damage: { line: number; why: string }[] = [];
  const records: NumberedRecord[] = [];
  let header: JournalHeader | undefined;
  let length = 0;
  let expected: number | undefined;
  for (const [i, line] of lines.entries()) {
    const parsed = line.whole ? parseLine(line.text) : undefined;
    if (parsed === undefined) {
      if (i === lines.length - 1) break;
      damage.push({ line: i + 1, why: "its checksum does not match" });
      continue;
    }
    length = line.end;
    if (i === 0) {
      header = asHeader(parsed);
      if (header === undefined) damage.push({ line: 1, why: "it is not a journal's first line" });
      expected = header?.first;
      continue;
    }
    const record = parsed as unknown as NumberedRecord;
    if (expected !== undefined && record.seq !== expected) {
      damage.push({ line: i + 1, why: `it has number ${record.seq} where ${expected} should be` });
    }
    expected = record.seq + 1;
    records.push(record);
  }
  return { header, records, length, torn: data.length - length, damage };
}

function asHeader(parsed: Readonly<Record<string, unknown>>): JournalHeader | undefined {
  const { journal, token, segment, lineage, base_serial, first } = parsed;
  const numbers = [journal, token, segment, base_serial, first].every((value) => typeof value === "number");
  return numbers && typeof lineage === "string" ? (parsed as unknown as JournalHeader) : undefined;
}
