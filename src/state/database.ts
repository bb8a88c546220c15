import { type Adapter, Low } from "lowdb";
import { LabError } from "../diagnostics/index.ts";
import type { Env } from "./env.ts";
import { type FsFile, ifThere, isMissing, unlinkIfThere, writeAll, writeError } from "./fs.ts";
import { type HeldLock, lockLost } from "./lock.ts";
import type { Names } from "./names.ts";

/** lowdb's view of a file: reading gives what is there, writing replaces it durably while the lock is held. */
class LockedFile<T> implements Adapter<T> {
  readonly #env: Env;
  readonly #names: Names;
  readonly #lock: HeldLock;
  readonly #parse: (text: string) => T;
  readonly #format: (value: T) => string;

  constructor(env: Env, names: Names, lock: HeldLock, codec: Codec<T>) {
    this.#env = env;
    this.#names = names;
    this.#lock = lock;
    this.#parse = codec.parse;
    this.#format = codec.format;
  }

  async read(): Promise<T | null> {
    const data = await ifThere(this.#env.fs.readFile(this.#names.snapshot));
    return data === undefined ? null : this.#parse(data.toString());
  }

  async write(value: T): Promise<void> {
    await replaceFile(this.#env, this.#names, this.#lock, this.#format(value));
  }
}

export interface Codec<T> {
  readonly parse: (text: string) => T;
  readonly format: (value: T) => string;
}

/** A small database in one file, changed only under its lock. */
export function lockedDatabase<T>(env: Env, names: Names, lock: HeldLock, codec: Codec<T>, initial: T): Low<T> {
  return new Low(new LockedFile(env, names, lock, codec), initial);
}

/**
 * Temporary file, fsync, rename, fsync of the folder. The lock is checked between the write and the rename; should this
 * process stall just there, whoever takes the lock over removes the temporary file, and the rename fails.
 */
async function replaceFile(env: Env, names: Names, lock: HeldLock, text: string): Promise<void> {
  const temporary = names.temporary(lock.token);
  let file: FsFile | undefined;
  try {
    await lock.assertHeld();
    await unlinkIfThere(env.fs, temporary);
    file = await env.fs.open(temporary, "create");
    await writeAll(file, Buffer.from(text), 0);
    await file.datasync();
    await file.close();
    file = undefined;
    await lock.assertHeld();
    try {
      await env.fs.rename(temporary, names.snapshot);
    } catch (error) {
      if (isMissing(error)) throw lockLost(lock.info, "somebody else took it over while the snapshot was written");
      throw error;
    }
    await env.fs.syncDir(names.dir);
  } catch (error) {
    await file?.close().catch(() => undefined);
    await unlinkIfThere(env.fs, temporary).catch(() => undefined);
    throw error instanceof LabError ? error : writeError(error, names.snapshot);
  }
}
