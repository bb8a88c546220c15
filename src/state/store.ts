import { resolve } from "node:path";
import { LabError } from "../diagnostics/index.ts";
import { canonicalText, type LockInfo, type Plain, type Row, type Scope, type Snapshot } from "../model/index.ts";
import { newLineage, type StateData } from "./data.ts";
import { type Env, type EnvOptions, makeEnv } from "./env.ts";
import { ifThere, readError, unlinkIfThere } from "./fs.ts";
import { assemble, type LoadedState, loadUnlocked, readRaw, tooNew } from "./load.ts";
import { acquireLock, breakLock, currentHolder, type HeldLock } from "./lock.ts";
import { listScopes, type Names, scopeNames } from "./names.ts";
import type { LockRequest, RepairReport, StateSession, StateStore, StateView } from "./port.ts";
import { repairFiles } from "./repair.ts";
import { FileSession } from "./session.ts";
import { dataOf, formatSnapshot, makeSnapshot, parseSnapshot, writeSnapshot } from "./snapshot.ts";

export interface FileStoreOptions extends EnvOptions {
  /** Folder of the state. Made, readable by its owner alone, when something is first written. */
  readonly dir: string;
}

/** The state in a local folder: for each scope a snapshot, journals beside it, and a lock. */
export function createFileStore(options: FileStoreOptions): StateStore {
  return new FileStore(resolve(options.dir), makeEnv(options));
}

class FileStore implements StateStore {
  readonly #dir: string;
  readonly #env: Env;

  constructor(dir: string, env: Env) {
    this.#dir = dir;
    this.#env = env;
  }

  async read(scope: Scope): Promise<StateView> {
    const { data } = await loadUnlocked(this.#env, this.#names(scope), scope);
    return {
      scope,
      lineage: data.lineage,
      serial: data.serial,
      lab: data.lab,
      rows: data.rows,
      outputs: data.outputs,
      holds: data.holds,
    };
  }

  async scopes(): Promise<readonly Scope[]> {
    try {
      return await listScopes(this.#dir);
    } catch (error) {
      throw readError(error, `the state in ${this.#dir}`);
    }
  }

  async open(scope: Scope, request: LockRequest): Promise<StateSession> {
    const opened = await this.#lockAndLoad(scope, request);
    return this.#begin(scope, opened);
  }

  async holder(scope: Scope): Promise<LockInfo | undefined> {
    const names = this.#names(scope);
    try {
      return await currentHolder(this.#env, names);
    } catch (error) {
      throw readError(error, `the state in ${names.dir}`);
    }
  }

  async unlock(scope: Scope): Promise<LockInfo | undefined> {
    return breakLock(this.#env, this.#names(scope), "labctl state unlock");
  }

  async pull(scope: Scope): Promise<string> {
    const names = this.#names(scope);
    const { data } = await loadUnlocked(this.#env, names, scope);
    if (data.lineage === "") {
      throw new LabError("E_STATE_NOT_FOUND", `there is no state of the scope ${scope} in ${names.dir}`, {
        hint: "`labctl apply` makes one",
      });
    }
    return formatSnapshot(makeSnapshot(scope, data, this.#env.version));
  }

  async push(scope: Scope, text: string, options: { force: boolean; lock: LockRequest }): Promise<void> {
    const pushed = parsePushed(scope, text);
    const { lock, loaded } = await this.#lockAndLoad(scope, options.lock);
    try {
      const current = loaded.data;
      if (!options.force) refusePush(current, pushed);
      const data = succeed(current, pushed);
      const serial = Math.max(current.serial, pushed.serial) + 1;
      const folded = { token: lock.token, segment: 0 };
      await writeSnapshot(this.#env, this.#names(scope), lock, { scope, data, serial, folded });
    } finally {
      await lock.release();
    }
  }

  async repair(scope: Scope, options: { write: boolean }): Promise<RepairReport> {
    return repairFiles(this.#env, this.#names(scope), scope, options.write);
  }

  #names(scope: Scope): Names {
    return scopeNames(this.#dir, scope);
  }

  async #lockAndLoad(scope: Scope, request: LockRequest): Promise<{ lock: HeldLock; loaded: LoadedState }> {
    const names = this.#names(scope);
    let least = 1;
    for (;;) {
      const lock = await acquireLock(this.#env, names, request, least);
      try {
        const loaded = assemble(names, scope, await readRaw(this.#env, names));
        if (loaded.folded.token < lock.token) {
          await this.#seal(names, scope, lock, loaded);
          return { lock, loaded };
        }
        // The lock files were removed by hand: journals with a token that a snapshot contains would be ignored.
        least = loaded.folded.token + 1;
      } catch (error) {
        await lock.release().catch(() => undefined);
        throw error;
      }
      await lock.release();
    }
  }

  /**
   * Folds what an earlier holder left, and so seals it: from then on the snapshot stands for all journals with lower
   * tokens, and bytes that a paused holder adds to one of them are ignored.
   */
  async #seal(names: Names, scope: Scope, lock: HeldLock, loaded: LoadedState): Promise<void> {
    if (loaded.replayed > 0) {
      const serial = loaded.data.serial + 1;
      const folded = { token: lock.token, segment: 0 };
      await writeSnapshot(this.#env, names, lock, { scope, data: loaded.data, serial, folded });
      loaded.data.serial = serial;
    }
    await lock.assertHeld();
    for (const journal of loaded.journals) await unlinkIfThere(this.#env.fs, journal.path);
  }

  async #begin(scope: Scope, opened: { lock: HeldLock; loaded: LoadedState }): Promise<FileSession> {
    const { lock, loaded } = opened;
    const names = this.#names(scope);
    const { data } = loaded;
    if (data.lineage === "") data.lineage = newLineage();
    try {
      const size = (await ifThere(this.#env.fs.stat(names.snapshot)))?.size ?? 0;
      return await FileSession.create({ env: this.#env, names, scope, lock, data, snapshotBytes: size });
    } catch (error) {
      await lock.release().catch(() => undefined);
      throw error;
    }
  }
}

function parsePushed(scope: Scope, text: string): Snapshot {
  const parsed = parseSnapshot(text);
  if (parsed.is === "newer") throw tooNew("the snapshot that is pushed", parsed.format);
  const why = parsed.is === "damaged" ? parsed.why : otherScope(scope, parsed.snapshot);
  if (parsed.is === "damaged" || why !== undefined) {
    throw new LabError("E_STATE_DAMAGED", `what is pushed is not a snapshot of ${scope}: ${why}`, {
      hint: "nothing was changed; start from what `labctl state pull` gives",
    });
  }
  return parsed.snapshot;
}

function otherScope(scope: Scope, snapshot: Snapshot): string | undefined {
  return snapshot.scope === scope ? undefined : `it is of the scope ${snapshot.scope}`;
}

function refusePush(current: StateData, pushed: Snapshot): void {
  if (current.lineage !== "" && pushed.lineage !== current.lineage) {
    throw new LabError(
      "E_STATE_LINEAGE",
      `what is pushed has the lineage ${pushed.lineage}, the state has ${current.lineage}: they are of different labs`,
      { hint: "nothing was changed; with --force the state is replaced all the same" },
    );
  }
  if (pushed.serial < current.serial) {
    throw new LabError(
      "E_STATE_CONFLICT",
      `what is pushed has serial ${pushed.serial}, the state has gone on to ${current.serial}`,
      { hint: "nothing was changed; pull again and repeat the edit, or replace the state with --force" },
    );
  }
}

/** The pushed state, with versions such that no saved plan takes a row that changed for the one that it read. */
function succeed(current: StateData, pushed: Snapshot): StateData {
  const data = dataOf(pushed);
  const floor = Math.max(current.versionFloor, data.versionFloor);
  for (const [address, row] of data.rows) {
    const before = current.rows.get(address);
    if (before !== undefined && sameRow(before, row)) continue;
    const used = before?.version ?? floor;
    if (row.version <= used) data.rows.set(address, { ...row, version: used + 1 });
  }
  const gone = [...current.rows.values()].filter((row) => !data.rows.has(row.address));
  data.versionFloor = gone.reduce((max, row) => Math.max(max, row.version), floor);
  return data;
}

function sameRow(a: Row, b: Row): boolean {
  return canonicalText(a as unknown as Plain) === canonicalText(b as unknown as Plain);
}
