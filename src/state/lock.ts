import { setTimeout as sleep } from "node:timers/promises";
import { LabError } from "../diagnostics/index.ts";
import type { LockInfo } from "../model/index.ts";
import type { Env } from "./env.ts";
import { errorCode, type FsFile, ifThere, isMissing, randomTag, unlinkIfThere, writeAll, writeError } from "./fs.ts";
import type { Liveness } from "./identity.ts";
import { formatLock, listFiles, readTop, RELEASE_AT, RELEASE_BYTES, summarize, type TopLock } from "./lockfile.ts";
import type { Names } from "./names.ts";
import type { LockRequest } from "./port.ts";

/**
 * The lock of one scope, or of the table of leases. A lock is a file whose name carries a number, the fencing token;
 * the holder is who made the highest. It is made complete under another name and then linked to its own, which only
 * one contender can do for each number: there is no moment in which a dead holder's lock is taken by two.
 */
export class HeldLock {
  readonly info: LockInfo;
  /** The dead holder whose lock was taken over, if that happened. */
  readonly takenOver: LockInfo | undefined;
  readonly #env: Env;
  readonly #names: Names;
  readonly #file: FsFile;
  readonly #identity: string;
  readonly #heartbeat: NodeJS.Timeout;
  #lost = false;
  /** The check that begins at the end of this turn of the event loop, shared by all who ask in it. */
  #checking: Promise<boolean> | undefined;
  #released: Promise<void> | undefined;

  constructor(
    env: Env,
    names: Names,
    claim: { file: FsFile; identity: string; info: LockInfo; takenOver: LockInfo | undefined },
  ) {
    this.#env = env;
    this.#names = names;
    this.#file = claim.file;
    this.#identity = claim.identity;
    this.info = claim.info;
    this.takenOver = claim.takenOver;
    // Only the time of the open file is touched: a holder that slept through a takeover brings no name back by this.
    this.#heartbeat = setInterval(() => void this.#renew(), Math.max(10, env.leaseTtl / 4));
    this.#heartbeat.unref();
  }

  get token(): number {
    return this.info.token;
  }

  /**
   * Rejects with E_STATE_LOCK_LOST where a higher lock exists or this one is gone. Costs two stat calls, which begin after
   * it was asked for, for all who ask before they do.
   */
  async assertHeld(): Promise<void> {
    if (this.#released !== undefined) throw lockLost(this.info, "it was released");
    if (!this.#lost) {
      this.#checking ??= Promise.resolve().then(() => {
        this.#checking = undefined;
        return this.#isFenced();
      });
      if (await this.#checking) this.#lost = true;
    }
    if (this.#lost) throw lockLost(this.info, "somebody else took it over");
  }

  /** Tokens are given without gaps from the highest on, and removed in ascending order, so the next one tells. */
  async #isFenced(): Promise<boolean> {
    try {
      if ((await ifThere(this.#env.fs.stat(this.#names.lock(this.token + 1)))) !== undefined) return true;
      const own = await ifThere(this.#env.fs.stat(this.#names.lock(this.token)));
      return own === undefined || `${own.dev}:${own.ino}` !== this.#identity;
    } catch (error) {
      throw writeError(error, "the state (its lock cannot be checked)");
    }
  }

  async #renew(): Promise<void> {
    try {
      await this.#file.touch(this.#env.now().getTime() / 1000);
    } catch {
      // Whoever watches the lease from elsewhere sees it lapse; the next check of the lock says so here.
      this.#lost ||= await this.#isFenced().catch(() => false);
    }
  }

  /** Marks the lock as released; the file stays, so that tokens go on growing. Never rejects for being fenced. */
  release(): Promise<void> {
    this.#released ??= this.#release();
    return this.#released;
  }

  async #release(): Promise<void> {
    clearInterval(this.#heartbeat);
    try {
      await writeAll(this.#file, RELEASE_BYTES, RELEASE_AT);
    } catch (error) {
      throw writeError(error, "the state (its lock cannot be released)");
    } finally {
      await this.#file.close();
    }
  }
}

export function lockLost(info: LockInfo, why: string): LabError {
  return new LabError("E_STATE_LOCK_LOST", `lost the lock of the state (held since ${info.since}): ${why}`, {
    hint: "nothing more was written; see `labctl state list` and run again when the other holder is done",
  });
}

/** Takes the lock, waiting for a live holder as long as the request says. `least`: the lowest token that will do. */
export async function acquireLock(env: Env, names: Names, request: LockRequest, least = 1): Promise<HeldLock> {
  try {
    await makeFolder(env, names.dir);
    return await contend(env, names, request, least);
  } catch (error) {
    throw writeError(error, `the state in ${names.dir}`);
  }
}

async function contend(env: Env, names: Names, request: LockRequest, least: number): Promise<HeldLock> {
  const begin = env.monotonic();
  const watch = new LeaseWatch(env);
  let told = false;
  let lost = 0;
  for (let round = 0; ; round++) {
    checkAborted(request.signal);
    const top = await readTop(env, names);
    const verdict = top === undefined || top.released ? "free" : watch.judge(top);
    if (verdict === "free" || verdict === "dead") {
      const dead = verdict === "dead" ? top?.info : undefined;
      const lock = await claim(env, names, request, { after: top?.token, least, takenOver: dead });
      if (lock !== undefined) return lock;
    }
    const left = request.timeout - (env.monotonic() - begin);
    if (top !== undefined && verdict !== "free" && verdict !== "dead") {
      if (left <= 0) throw locked(top.info, request.timeout);
      if (!told) request.onWaiting?.(top.info);
      told = true;
      await sleep(Math.max(1, Math.min(left, 25 * 2 ** Math.min(round, 3))), undefined, {
        ...(request.signal && { signal: request.signal }),
      }).catch(() => undefined);
    } else if (++lost > 1000) {
      throw new LabError("E_STATE_LOCKED", "too many processes contend for the state", { retryable: true });
    }
  }
}

/** Takes the lock away from whoever has it, and lets go of it: the old holder is fenced. */
export async function breakLock(env: Env, names: Names, holder: string): Promise<LockInfo | undefined> {
  for (let round = 0; round < 1000; round++) {
    const top = await readTop(env, names);
    if (top === undefined || top.released) return undefined;
    const request: LockRequest = { holder, purpose: "unlock", timeout: 0 };
    try {
      const lock = await claim(env, names, request, { after: top.token, least: 1, takenOver: top.info });
      if (lock === undefined) continue;
      await lock.release();
      return top.info;
    } catch (error) {
      throw writeError(error, `the state in ${names.dir}`);
    }
  }
  throw new LabError("E_STATE_LOCKED", "too many processes contend for the state", { retryable: true });
}

/** Who holds the lock; undefined where nobody does, or its holder is known to be dead. */
export async function currentHolder(env: Env, names: Names): Promise<LockInfo | undefined> {
  const top = await readTop(env, names);
  if (top === undefined || top.released) return undefined;
  return env.processes.liveness(top.info) === "dead" ? undefined : top.info;
}

/**
 * Judges holders on other machines, whose pids say nothing here. Clocks of two machines differ and jump, so no time in
 * the file is believed: a lease has lapsed when it was watched for a whole period, by the clock that never jumps, and
 * was not renewed.
 */
class LeaseWatch {
  readonly #env: Env;
  #seen: { readonly beat: string; readonly at: number } | undefined;

  constructor(env: Env) {
    this.#env = env;
  }

  judge(top: TopLock): Liveness {
    const known = this.#env.processes.liveness(top.info);
    if (known !== "unknown") return known;
    const at = this.#env.monotonic();
    const beat = `${top.token}:${top.beat}`;
    if (this.#seen?.beat !== beat) this.#seen = { beat, at };
    return at - this.#seen.at >= this.#env.leaseTtl ? "dead" : "unknown";
  }
}

interface Claim {
  /** The lock that was judged to be free to take; undefined: none was there. */
  readonly after: number | undefined;
  readonly least: number;
  readonly takenOver: LockInfo | undefined;
}

/** Makes the next lock file after the one that was judged. Undefined where somebody else was faster. */
async function claim(
  env: Env,
  names: Names,
  request: LockRequest,
  { after, least, takenOver }: Claim,
): Promise<HeldLock | undefined> {
  const { highest, top } = summarize(await listFiles(env, names));
  // What was judged is the lock before: a later one may have a live holder.
  if (top !== after) return undefined;
  // Journals carry tokens too: should lock files have been removed by hand, theirs are not given again.
  const own = Math.max(least, highest + 1);
  const at = env.now();
  const info: LockInfo = {
    token: own,
    holder: request.holder,
    purpose: request.purpose,
    since: at.toISOString(),
    lease_until: at.getTime() + env.leaseTtl,
    ...env.processes.self,
  };
  const temporary = names.lockTemporary(own, randomTag());
  const file = await env.fs.open(temporary, "create");
  let kept = false;
  try {
    await writeAll(file, Buffer.from(formatLock(info)), 0);
    await file.datasync();
    try {
      await env.fs.link(temporary, names.lock(own));
    } catch (error) {
      // Somebody has this number, or cleaned up with a higher one.
      if (errorCode(error) === "EEXIST" || isMissing(error)) return undefined;
      throw error;
    }
    await unlinkIfThere(env.fs, temporary);
    const files = await listFiles(env, names);
    if (summarize(files).top !== own) {
      await unlinkIfThere(env.fs, names.lock(own));
      return undefined;
    }
    const stat = await file.stat();
    // Ascending, and before the state is read: a stalled holder's snapshot can be renamed into place no more.
    for (const old of files) {
      const spent = old.is === "lock-temporary" ? old.token <= own : old.is !== "journal" && old.token < own;
      if (spent) await unlinkIfThere(env.fs, names.path(old.name));
    }
    kept = true;
    return new HeldLock(env, names, { file, identity: `${stat.dev}:${stat.ino}`, info, takenOver });
  } finally {
    if (!kept) {
      await file.close();
      await unlinkIfThere(env.fs, temporary);
    }
  }
}

function locked(holder: LockInfo, waited: number): LabError {
  const after = waited > 0 ? `, and still is after ${Math.round(waited / 100) / 10} s` : "";
  return new LabError(
    "E_STATE_LOCKED",
    `the state is locked by ${holder.holder} (pid ${holder.pid} on ${holder.host}) since ${holder.since}, for: ${holder.purpose}${after}`,
    {
      retryable: true,
      hint: "wait for it with `--lock-timeout 5m`; if that process is surely gone, take the lock away with `labctl state unlock`",
    },
  );
}

export function checkAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new LabError("E_CANCELLED", "cancelled while waiting for the state's lock");
}

/** Makes the folder, and the names of new folders durable. */
async function makeFolder(env: Env, dir: string): Promise<void> {
  const made = await env.fs.mkdir(dir);
  if (!made) return;
  for (let at = dir, up = parentOf(at); up !== at; at = up, up = parentOf(at)) {
    await env.fs.syncDir(up).catch(() => undefined);
    if (at.length < 2) break;
  }
}

function parentOf(path: string): string {
  const cut = path.lastIndexOf("/");
  return cut <= 0 ? "/" : path.slice(0, cut);
}
