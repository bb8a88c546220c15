import { LabError } from "../diagnostics/index.ts";
import type { Scope } from "../model/index.ts";
import { applyRecord, newLineage, StateData } from "./data.ts";
import type { Env } from "./env.ts";
import { isMissing, unlinkIfThere, writeError } from "./fs.ts";
import {
  gapProblem,
  headerProblem,
  type JournalEnd,
  NOTHING_FOLDED,
  type RawJournal,
  type RawState,
  readRaw,
  tooNew,
} from "./load.ts";
import { acquireLock } from "./lock.ts";
import { compareIds, type JournalId, type Names } from "./names.ts";
import type { RepairReport } from "./port.ts";
import { salvageSnapshot } from "./salvage.ts";
import { dataOf, parseSnapshot, writeSnapshot } from "./snapshot.ts";

interface Recovery {
  readonly data: StateData;
  readonly findings: string[];
  readonly lost: string[];
  /** Files that are damaged or do not belong, and are kept beside. */
  readonly aside: string[];
  readonly journals: readonly RawJournal[];
  readonly folded: JournalId;
}

/** Says what is wrong with the files of a scope; with `write`, keeps them beside and writes the best that is in them. */
export async function repairFiles(env: Env, names: Names, scope: Scope, write: boolean): Promise<RepairReport> {
  const seen = recover(names, scope, await readRaw(env, names));
  if (!write || seen.findings.length === 0) return report(seen, []);
  const request = { holder: "labctl state repair", purpose: "repair", timeout: 0 };
  let least = 1;
  for (;;) {
    const lock = await acquireLock(env, names, request, least);
    try {
      const found = recover(names, scope, await readRaw(env, names));
      if (found.findings.length === 0) return report(found, []);
      if (found.folded.token < lock.token) {
        const backups = await setAside(env, found.aside);
        const { data } = found;
        if (data.lineage === "") data.lineage = newLineage();
        const folded = { token: lock.token, segment: 0 };
        await writeSnapshot(env, names, lock, { scope, data, serial: data.serial + 1, folded });
        for (const journal of found.journals) await unlinkIfThere(env.fs, journal.path);
        return report(found, backups);
      }
      least = found.folded.token + 1;
    } catch (error) {
      throw error instanceof LabError ? error : writeError(error, `the state in ${names.dir}`);
    } finally {
      await lock.release();
    }
  }
}

function report(recovery: Recovery, backups: readonly string[]): RepairReport {
  const { findings, lost, data } = recovery;
  return { damaged: findings.length > 0, findings, kept: { rows: data.rows.size }, lost, backups };
}

/** Hard links: they need no space, and the damaged bytes are never without a name. */
async function setAside(env: Env, paths: readonly string[]): Promise<string[]> {
  const stamp = env.now().toISOString().replaceAll(/[:.]/g, "-");
  const backups: string[] = [];
  for (const path of paths) {
    for (let n = 0; ; n++) {
      const backup = `${path}.damaged-${stamp}${n === 0 ? "" : `-${n}`}`;
      try {
        await env.fs.link(path, backup);
        backups.push(backup);
        break;
      } catch (error) {
        if (isMissing(error)) break;
        if (n >= 100 || !(error instanceof Error && "code" in error && error.code === "EEXIST")) throw error;
      }
    }
  }
  return backups;
}

function recover(names: Names, scope: Scope, raw: RawState): Recovery {
  const findings: string[] = [];
  const lost: string[] = [];
  const aside: string[] = [];
  let data = new StateData();
  let folded: JournalId = NOTHING_FOLDED;
  if (raw.text !== undefined) {
    const parsed = parseSnapshot(raw.text);
    if (parsed.is === "newer") throw tooNew(names.snapshot, parsed.format);
    if (parsed.is === "good") {
      data = dataOf(parsed.snapshot);
      folded = parsed.snapshot.folded ?? NOTHING_FOLDED;
      if (parsed.snapshot.scope !== scope) {
        findings.push(`${names.snapshot}: it is of the scope ${parsed.snapshot.scope}`);
        aside.push(names.snapshot);
      }
    } else {
      findings.push(`${names.snapshot}: ${parsed.why}`);
      aside.push(names.snapshot);
      const salvaged = salvageSnapshot(raw.text);
      data = salvaged.data;
      folded = salvaged.folded ?? NOTHING_FOLDED;
      lost.push(...salvaged.lost.map((what) => `${names.snapshot}: ${what}`));
    }
  }
  let end: JournalEnd = { ...folded, next: undefined };
  for (const journal of raw.journals) {
    if (compareIds(journal, folded) <= 0) continue;
    const { header, records, damage } = journal.parsed;
    if (damage.length === 0 && records.length === 0) continue;
    const problems = damage.map(({ line, why }) => `line ${line}: ${why}`);
    lost.push(...damage.map(({ line }) => `${journal.path}: line ${line}`));
    const misfit = header && headerProblem(header, journal, scope, data, raw.text !== undefined);
    const foreign = header !== undefined && data.lineage !== "" && header.lineage !== data.lineage;
    const gap = header && misfit === undefined ? gapProblem(header, end) : undefined;
    for (const why of [misfit, gap]) if (why !== undefined) problems.push(why);
    findings.push(...problems.map((why) => `${journal.path}: ${why}`));
    if (problems.length > 0) aside.push(journal.path);
    if (foreign || (header !== undefined && (header.scope !== scope || header.journal > 1))) {
      lost.push(`${journal.path}: all of its ${records.length} records, which are not this state's`);
      continue;
    }
    if (header !== undefined) {
      if (data.lineage === "") data.lineage = header.lineage;
      data.serial = Math.max(data.serial, header.base_serial);
    }
    for (const record of records) {
      try {
        applyRecord(data, record);
      } catch {
        lost.push(`${journal.path}: record ${record.seq}`);
      }
    }
    const last = records.at(-1);
    end = { token: journal.token, segment: journal.segment, next: last === undefined ? undefined : last.seq + 1 };
  }
  return { data, findings, lost, aside, journals: raw.journals, folded };
}
