import type { LockInfo } from "../model/index.ts";
import type { Env } from "./env.ts";
import { ifThere, isMissing } from "./fs.ts";
import type { Names, ParsedName } from "./names.ts";

/** How a lock file begins. Releasing overwrites the word in place, so that it needs no space on a full disk. */
const HELD = '{"released":false,';
const RELEASED_WORD = "true ";

export const RELEASE_AT = '{"released":'.length;
export const RELEASE_BYTES: Uint8Array = Buffer.from(RELEASED_WORD);

/** The lock file with the highest token: whoever made it holds the lock, unless it says that it was released. */
export interface TopLock {
  readonly token: number;
  readonly released: boolean;
  readonly info: LockInfo;
  /** Changes when the holder renews its lease. */
  readonly beat: string;
}

export function formatLock(info: LockInfo): string {
  return `${HELD}${JSON.stringify(info).slice(1)}\n`;
}

export interface LockListing {
  /** All lock files and their temporary ones, by ascending token. */
  readonly files: readonly ParsedName[];
  /** The highest token in any file's name; 0 where there is none. */
  readonly highest: number;
  /** The highest token of a lock file. */
  readonly top: number | undefined;
}

/** The files beside a lock, as two listings in a row agree on: one alone can miss names that come and go under it. */
export async function listFiles(env: Env, names: Names): Promise<readonly ParsedName[]> {
  let before: string | undefined;
  for (let tries = 0; ; tries++) {
    const entries = (await ifThere(env.fs.readdir(names.dir))) ?? [];
    const files = entries.map((name) => names.parse(name)).filter((file) => file !== undefined);
    const relevant = files.filter((file) => file.is === "lock" || file.is === "journal");
    const text = relevant
      .map((file) => file.name)
      .sort()
      .join("\n");
    if (text === before || tries >= 20) return files.sort((a, b) => a.token - b.token || a.segment - b.segment);
    before = text;
  }
}

export function summarize(files: readonly ParsedName[]): LockListing {
  const locks = files.filter((file) => file.is === "lock" || file.is === "lock-temporary");
  return {
    files: locks,
    highest: files.filter((file) => file.is !== "lock-temporary").reduce((max, file) => Math.max(max, file.token), 0),
    top: locks.findLast((file) => file.is === "lock")?.token,
  };
}

/** Reads the lock with the highest token; undefined where nobody ever held it. */
export async function readTop(env: Env, names: Names): Promise<TopLock | undefined> {
  for (;;) {
    const { top } = summarize(await listFiles(env, names));
    if (top === undefined) return undefined;
    const path = names.lock(top);
    try {
      const text = (await env.fs.readFile(path)).toString();
      const stat = await env.fs.stat(path);
      return parseLock(text, top, stat.mtimeMs, env.leaseTtl, `${stat.dev}:${stat.ino}:${stat.mtimeMs}`);
    } catch (error) {
      // A higher one came, and this one was cleaned away; the next listing has it.
      if (!isMissing(error)) throw error;
    }
  }
}

function parseLock(text: string, token: number, mtime: number, ttl: number, beat: string): TopLock {
  const parsed = parseJson(text);
  const word = (key: string): string | undefined => {
    const value = parsed?.[key];
    return typeof value === "string" ? value : undefined;
  };
  const pid = parsed?.["pid"];
  const info: LockInfo = {
    token,
    holder: word("holder") ?? "unknown (its lock file cannot be read)",
    pid: typeof pid === "number" ? pid : 0,
    host: word("host") ?? "unknown",
    purpose: word("purpose") ?? "unknown",
    since: word("since") ?? new Date(mtime).toISOString(),
    lease_until: Math.round(mtime) + ttl,
  };
  const extra: Partial<Record<(typeof IDENTITY)[number], string>> = {};
  for (const key of IDENTITY) {
    const value = word(key);
    if (value !== undefined) extra[key] = value;
  }
  return { token, released: parsed?.["released"] === true, info: { ...info, ...extra }, beat };
}

const IDENTITY = ["boot_id", "started", "machine_id", "pid_namespace"] as const;

function parseJson(text: string): Readonly<Record<string, unknown>> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return value !== null && typeof value === "object" && !Array.isArray(value)
      ? (value as Readonly<Record<string, unknown>>)
      : undefined;
  } catch {
    return undefined;
  }
}
