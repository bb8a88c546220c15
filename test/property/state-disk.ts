import { dirname } from "node:path";
import type { Fs, FsFile, FsStat } from "../../src/state/index.ts";

/** How much of what was not yet synced a crash leaves. */
export const CRASHES = [
  "kill",
  "power: nothing",
  "power: names only",
  "power: bytes only",
  "power: half",
  "power: removals first",
] as const;
export type Crash = (typeof CRASHES)[number];

interface Inode {
  readonly id: number;
  data: Buffer;
  durable: Buffer;
  mtimeMs: number;
  nlink: number;
}

type Folder = Map<string, Inode>;

/** Files at one moment, as the system shows them and as the disk has them. */
export interface Moment {
  readonly current: ReadonlyMap<string, ReadonlyMap<string, FrozenInode>>;
  readonly durable: ReadonlyMap<string, ReadonlyMap<string, FrozenInode>>;
}
type FrozenInode = Readonly<Inode>;

function failure(code: string, path: string): Error {
  return Object.assign(new Error(`${code}: ${path}`), { code });
}

/**
 * A disk in memory that keeps apart what a program wrote and what a power cut would leave of it: bytes are durable after
 * datasync, names after syncDir. `onChange` is called before and within each change, with the moment to crash at.
 */
export class Disk implements Fs {
  readonly #current = new Map<string, Folder>();
  readonly #durable = new Map<string, Folder>();
  #ids = 0;
  #clock = 1_000_000;
  onChange: ((moment: () => Moment) => void) | undefined;
  /** Throws in place of a change, or says how many bytes of a write are taken. */
  fault: ((op: string, path: string, size: number) => number | undefined) | undefined;

  static from(moment: Moment, crash: Crash): Disk {
    const disk = new Disk();
    const names = crash === "kill" || crash === "power: names only" ? moment.current : moment.durable;
    const known = new Map<FrozenInode, Inode>();
    const settle = (inode: FrozenInode): Inode => {
      const seen = known.get(inode);
      if (seen !== undefined) return seen;
      const data = surviving(inode, crash);
      const made = { id: inode.id, data, durable: data, mtimeMs: inode.mtimeMs, nlink: 1 };
      known.set(inode, made);
      return made;
    };
    for (const [dir, all] of names) {
      // File systems may remove a name for good before they add another for good.
      const left = moment.current.get(dir);
      const folder =
        crash === "power: removals first" ? new Map([...all].filter(([name]) => left?.has(name) === true)) : all;
      disk.#current.set(dir, new Map([...folder].map(([name, inode]) => [name, settle(inode)])));
      disk.#durable.set(dir, new Map([...folder].map(([name, inode]) => [name, settle(inode)])));
      for (const inode of folder.values()) disk.#ids = Math.max(disk.#ids, inode.id);
    }
    return disk;
  }

  moment(): Moment {
    // One frozen copy for each inode, so that two names of one file stay two names of one file.
    const copies = new Map<Inode, FrozenInode>();
    const freeze = (inode: Inode): FrozenInode => {
      const copy = copies.get(inode) ?? { ...inode };
      copies.set(inode, copy);
      return copy;
    };
    const freezeAll = (dirs: ReadonlyMap<string, Folder>): Map<string, Map<string, FrozenInode>> =>
      new Map(
        [...dirs].map(([dir, folder]) => [dir, new Map([...folder].map(([name, inode]) => [name, freeze(inode)]))]),
      );
    return { current: freezeAll(this.#current), durable: freezeAll(this.#durable) };
  }

  list(): string[] {
    return [...this.#current].flatMap(([dir, folder]) => [...folder.keys()].map((name) => `${dir}/${name}`));
  }
  text(path: string): string {
    return this.#find(path).data.toString();
  }
  overwrite(path: string, data: string | Buffer): void {
    const inode = this.#find(path);
    inode.data = inode.durable = Buffer.from(data);
    inode.mtimeMs = ++this.#clock;
  }

  async open(path: string, mode: "create" | "write"): Promise<FsFile> {
    if (mode === "create") {
      if (this.#folder(path).has(nameOf(path))) throw failure("EEXIST", path);
      this.#change("open", path, 0);
      const empty = Buffer.alloc(0);
      this.#folder(path).set(nameOf(path), {
        id: ++this.#ids,
        data: empty,
        durable: empty,
        mtimeMs: ++this.#clock,
        nlink: 1,
      });
    }
    return this.#handle(path, this.#find(path));
  }

  #handle(path: string, inode: Inode): FsFile {
    const put = (data: Uint8Array, position: number): void => {
      const size = Math.max(inode.data.length, position + data.length);
      const next = Buffer.alloc(size);
      inode.data.copy(next);
      next.set(data, position);
      inode.data = next;
      inode.mtimeMs = ++this.#clock;
    };
    return {
      write: async (data, position) => {
        const taken = this.fault?.("write", path, data.length) ?? data.length;
        // A journal can be cut off after each byte; of temporary files, which nobody reads, three places will do.
        const step = path.includes(".journal.") ? 1 : Math.max(1, Math.ceil(taken / 3));
        for (let size = 0; size < taken && this.onChange !== undefined; size += step) {
          this.onChange(() => this.moment());
          put(data.subarray(size, Math.min(taken, size + step)), position + size);
        }
        if (this.onChange === undefined) put(data.subarray(0, taken), position);
        this.onChange?.(() => this.moment());
        return taken;
      },
      datasync: async () => {
        this.#change("datasync", path, 0);
        inode.durable = inode.data;
      },
      truncate: async (length) => {
        this.#change("truncate", path, 0);
        inode.data = Buffer.from(inode.data.subarray(0, length));
        inode.mtimeMs = ++this.#clock;
      },
      touch: async () => {
        inode.mtimeMs = ++this.#clock;
      },
      stat: async () => statOf(inode),
      close: async () => undefined,
    };
  }

  async readFile(path: string): Promise<Buffer> {
    return Buffer.from(this.#find(path).data);
  }
  async readdir(path: string): Promise<string[]> {
    const folder = this.#current.get(path);
    if (folder === undefined) throw failure("ENOENT", path);
    return [...folder.keys()];
  }
  async stat(path: string): Promise<FsStat> {
    return statOf(this.#find(path));
  }
  async mkdir(path: string): Promise<boolean> {
    if (this.#current.has(path)) return false;
    this.#current.set(path, new Map());
    this.#durable.set(path, new Map());
    return true;
  }
  async link(from: string, to: string): Promise<void> {
    const inode = this.#find(from);
    if (this.#folder(to).has(nameOf(to))) throw failure("EEXIST", to);
    this.#change("link", to, 0);
    this.#folder(to).set(nameOf(to), inode);
    inode.nlink += 1;
  }
  async rename(from: string, to: string): Promise<void> {
    const inode = this.#find(from);
    this.#change("rename", to, 0);
    this.#folder(to).set(nameOf(to), inode);
    this.#folder(from).delete(nameOf(from));
  }
  async unlink(path: string): Promise<void> {
    const inode = this.#find(path);
    this.#change("unlink", path, 0);
    inode.nlink -= 1;
    this.#folder(path).delete(nameOf(path));
  }
  async syncDir(path: string): Promise<void> {
    this.#change("syncDir", path, 0);
    this.#durable.set(path, new Map(this.#current.get(path) ?? []));
  }

  #change(op: string, path: string, size: number): void {
    this.onChange?.(() => this.moment());
    this.fault?.(op, path, size);
  }
  #folder(path: string): Folder {
    const folder = this.#current.get(dirname(path));
    if (folder === undefined) throw failure("ENOENT", path);
    return folder;
  }
  #find(path: string): Inode {
    const inode = this.#current.get(dirname(path))?.get(nameOf(path));
    if (inode === undefined) throw failure("ENOENT", path);
    return inode;
  }
}

function surviving(inode: FrozenInode, crash: Crash): Buffer {
  switch (crash) {
    case "kill":
    case "power: bytes only":
      return inode.data;
    case "power: nothing":
    case "power: removals first":
    case "power: names only":
      return inode.durable;
    case "power: half": {
      const extra = inode.data.length - inode.durable.length;
      return extra <= 0 ? inode.durable : inode.data.subarray(0, inode.durable.length + Math.floor(extra / 2));
    }
  }
}

function nameOf(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1);
}

function statOf(inode: Inode): FsStat {
  return { dev: 1, ino: inode.id, size: inode.data.length, mtimeMs: inode.mtimeMs, nlink: inode.nlink };
}
