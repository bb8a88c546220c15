import { setTimeout as sleep } from "node:timers/promises";
import { LabError } from "../diagnostics/index.ts";
import { type Scope, STATE_FORMAT, type Snapshot } from "../model/index.ts";
import { applyRecord, StateData } from "./data.ts";
import type { Env } from "./env.ts";
import { ifThere, isMissing, readError } from "./fs.ts";
import { type JournalHeader, type ParsedJournal, parseJournal } from "./line.ts";
import { compareIds, type JournalId, type Names, type ParsedName } from "./names.ts";
import { dataOf, parseSnapshot } from "./snapshot.ts";

/** What the files of a scope said at one moment. */
export interface RawState {
  readonly text: string | undefined;
  /** The journals beside the snapshot, oldest first. */
  readonly journals: readonly RawJournal[];
}

export interface RawJournal extends JournalId {
  readonly path: string;
  readonly parsed: ParsedJournal;
}

export interface LoadedState {
  readonly data: StateData;
  /** Records that the snapshot does not contain. */
  readonly replayed: number;
  /** Journals that are there, contained in the snapshot or not. */
  readonly journals: readonly RawJournal[];
  readonly snapshotBytes: number;
  /** The last journal that the snapshot contains. */
  readonly folded: JournalId;
}

export const NOTHING_FOLDED: JournalId = { token: 0, segment: 0 };

/**
 * Reads snapshot and journals as they belong together, without a lock: a writer removes journals only after it has
 * replaced the snapshot, so a snapshot that is still the same afterwards vouches for what was read in between.
 */
export async function readRaw(env: Env, names: Names): Promise<RawState> {
  try {
    for (let tries = 0; tries < 200; tries++) {
      const before = await snapshotMark(env, names);
      const text = (await ifThere(env.fs.readFile(names.snapshot)))?.toString();
      const entries = (await ifThere(env.fs.readdir(names.dir))) ?? [];
      const found = entries
        .map((name) => names.parse(name))
        .filter((file): file is ParsedName => file?.is === "journal")
        .sort(compareIds);
      const journals: RawJournal[] = [];
      for (const file of found) {
        const data = await ifThere(env.fs.readFile(names.path(file.name)));
        if (data === undefined) break;
        const { token, segment } = file;
        journals.push({ token, segment, path: names.path(file.name), parsed: parseJournal(data) });
      }
      if (journals.length === found.length && (await snapshotMark(env, names)) === before) return { text, journals };
      await sleep(Math.min(50, 1 + tries));
    }
  } catch (error) {
    throw readError(error, `the state in ${names.dir}`);
  }
  throw new LabError("E_STATE_READ", `the state in ${names.dir} keeps changing while it is read`, {
    retryable: true,
    hint: "run again when fewer writers are busy with it",
  });
}

async function snapshotMark(env: Env, names: Names): Promise<string> {
  try {
    const { dev, ino, size, mtimeMs } = await env.fs.stat(names.snapshot);
    return `${dev}:${ino}:${size}:${mtimeMs}`;
  } catch (error) {
    if (isMissing(error)) return "none";
    throw error;
  }
}

/** The state that the files hold; throws E_STATE_DAMAGED or E_STATE_VERSION and changes nothing. */
export function assemble(names: Names, scope: Scope, raw: RawState): LoadedState {
  const snapshot = raw.text === undefined ? undefined : goodSnapshot(names, scope, raw.text);
  const data = snapshot === undefined ? new StateData() : dataOf(snapshot);
  const folded = snapshot?.folded ?? NOTHING_FOLDED;
  let replayed = 0;
  // Where the last journal that was read ends, or where the snapshot does.
  let end: JournalEnd = { ...folded, next: undefined };
  for (const journal of raw.journals) {
    if (compareIds(journal, folded) <= 0) continue;
    const { header, records, damage } = journal.parsed;
    const [bad] = damage;
    if (bad !== undefined) throw damaged(journal.path, `line ${bad.line}: ${bad.why}`);
    // A holder that was taken over while it began a journal may leave a first line with nothing after it.
    if (header === undefined || records.length === 0) continue;
    const why = headerProblem(header, journal, scope, data, snapshot !== undefined) ?? gapProblem(header, end);
    if (why !== undefined) throw damaged(journal.path, why);
    if (data.lineage === "") data.lineage = header.lineage;
    for (const record of records) applyRecord(data, record);
    replayed += records.length;
    end = { token: journal.token, segment: journal.segment, next: header.first + records.length };
  }
  return { data, replayed, journals: raw.journals, snapshotBytes: raw.text?.length ?? 0, folded };
}

export interface JournalEnd extends JournalId {
  /** The number that the next record has to have; absent where it is not known. */
  readonly next: number | undefined;
}

/** Segments of one session follow on each other without a gap. */
export function gapProblem(header: JournalHeader, end: JournalEnd): string | undefined {
  const expected = end.token === header.token ? end.segment + 1 : 1;
  if (header.segment !== expected) return `segment ${expected} of the same session is missing`;
  if (end.token !== header.token || end.next === undefined || end.next === header.first) return undefined;
  return `its first record has number ${header.first} where ${end.next} should be: the segment before it is cut short`;
}

function goodSnapshot(names: Names, scope: Scope, text: string): Snapshot {
  const parsed = parseSnapshot(text);
  if (parsed.is === "newer") throw tooNew(names.snapshot, parsed.format);
  if (parsed.is === "damaged") throw damaged(names.snapshot, parsed.why);
  if (parsed.snapshot.scope !== scope) throw damaged(names.snapshot, `it is of the scope ${parsed.snapshot.scope}`);
  return parsed.snapshot;
}

/** What does not fit between a journal and the state before it. */
export function headerProblem(
  header: JournalHeader,
  journal: JournalId,
  scope: Scope,
  data: StateData,
  hasSnapshot: boolean,
): string | undefined {
  if (header.journal > 1) return `it has the format ${header.journal}, which this labctl does not know`;
  if (header.token !== journal.token || header.segment !== journal.segment) return "its name and its first line differ";
  if (header.scope !== scope) return `it is of the scope ${header.scope}`;
  if (data.lineage !== "" && header.lineage !== data.lineage) {
    return `its lineage is ${header.lineage}, the state's is ${data.lineage}: they are of different states`;
  }
  if (header.base_serial > data.serial) {
    const what = hasSnapshot ? `the snapshot has serial ${data.serial}` : "there is no snapshot";
    return `it continues a snapshot with serial ${header.base_serial}, but ${what}`;
  }
  return undefined;
}

export function damaged(path: string, why: string): LabError {
  return new LabError("E_STATE_DAMAGED", `${path} is damaged: ${why}`, {
    hint: "nothing was changed; `labctl state repair` says what can be recovered, or put a backup in its place",
  });
}

export function tooNew(path: string, format: number): LabError {
  return new LabError(
    "E_STATE_VERSION",
    `${path} has format ${format}, and this labctl knows formats up to ${STATE_FORMAT}`,
    { hint: "use the labctl version that wrote it, or a later one" },
  );
}

/** Reads and assembles without a lock. What looks damaged may be a file that changed under the reader: look again. */
export async function loadUnlocked(env: Env, names: Names, scope: Scope): Promise<LoadedState> {
  for (let tries = 0; ; tries++) {
    const raw = await readRaw(env, names);
    try {
      return assemble(names, scope, raw);
    } catch (error) {
      if (tries >= 4 || !(error instanceof LabError) || error.code !== "E_STATE_DAMAGED") throw error;
      await sleep(20);
    }
  }
}
