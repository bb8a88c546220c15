import { readdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { LabError } from "../diagnostics/index.ts";
import { LAB_SCOPE, type Scope } from "../model/index.ts";
import { ifThere } from "./fs.ts";

/** A journal's place in time: the fencing token of its writer, and its number within that session, from 1. */
export interface JournalId {
  readonly token: number;
  readonly segment: number;
}

export function compareIds(a: JournalId, b: JournalId): number {
  return a.token - b.token || a.segment - b.segment;
}

/** Names of the files of one lockable thing: `BASE.json`, `BASE.lock.TOKEN`, `BASE.journal.TOKEN[.SEGMENT].jsonl`. */
export class Names {
  readonly dir: string;
  readonly base: string;

  constructor(dir: string, base: string) {
    this.dir = dir;
    this.base = base;
  }

  get snapshot(): string {
    return this.path(`${this.base}.json`);
  }
  temporary(token: number): string {
    return this.path(`${this.base}.json.tmp.${token}`);
  }
  lock(token: number): string {
    return this.path(`${this.base}.lock.${token}`);
  }
  lockTemporary(token: number, tag: string): string {
    return this.path(`${this.base}.lock.${token}.tmp-${tag}`);
  }
  journal(id: JournalId): string {
    return this.path(`${this.base}.journal.${id.token}${id.segment === 1 ? "" : `.${id.segment}`}.jsonl`);
  }
  path(name: string): string {
    return join(this.dir, name);
  }

  /** What a file of the folder is to this thing, or undefined where it is none of its. */
  parse(name: string): ParsedName | undefined {
    if (!name.startsWith(`${this.base}.`)) return undefined;
    const rest = name.slice(this.base.length + 1);
    const lock = /^lock\.(\d{1,15})(\.tmp-[0-9a-f]+)?$/.exec(rest);
    if (lock?.[1] !== undefined) {
      return { is: lock[2] === undefined ? "lock" : "lock-temporary", token: Number(lock[1]), segment: 0, name };
    }
    const journal = /^journal\.(\d{1,15})(?:\.(\d{1,9}))?\.jsonl$/.exec(rest);
    if (journal?.[1] !== undefined) {
      return { is: "journal", token: Number(journal[1]), segment: Number(journal[2] ?? 1), name };
    }
    const temporary = /^json\.tmp\.(\d{1,15})$/.exec(rest);
    if (temporary?.[1] !== undefined) return { is: "temporary", token: Number(temporary[1]), segment: 0, name };
    return undefined;
  }
}

export interface ParsedName extends JournalId {
  readonly is: "lock" | "lock-temporary" | "journal" | "temporary";
  readonly name: string;
}

/** Base names in the state's folder that are not scopes. */
const RESERVED = new Set(["leases"]);

/** The files of a scope. `pipeline/NAME` is a file in a folder; characters that file names cannot carry are escaped. */
export function scopeNames(dir: string, scope: Scope): Names {
  const parts = scope.split("/").map(escapePart);
  if (parts.includes("") || RESERVED.has(scope)) {
    throw new LabError("E_STATE_NOT_FOUND", `${JSON.stringify(scope)} is not a scope`, {
      hint: "scopes are `lab`, `pipeline/NAME` and `pipeline/NAME/INSTANCE`",
    });
  }
  const path = join(dir, ...parts);
  return new Names(dirname(path), parts.at(-1) ?? "");
}

/** Dots are escaped too: they separate what the names above are made of. */
function escapePart(part: string): string {
  return [...Buffer.from(part)]
    .map((byte) => {
      const char = String.fromCharCode(byte);
      return /[A-Za-z0-9_-]/.test(char) ? char : `%${byte.toString(16).toUpperCase().padStart(2, "0")}`;
    })
    .join("");
}

/** The scopes that have files below this folder: the lab's first, then by name. */
export async function listScopes(dir: string): Promise<Scope[]> {
  const found = new Set<Scope>();
  const visit = async (path: string, above: readonly string[], depth: number): Promise<void> => {
    const entries = (await ifThere(readdir(path, { withFileTypes: true }))) ?? [];
    for (const entry of entries) {
      if (entry.isDirectory()) {
        if (depth > 0 && (above.length > 0 || entry.name === "pipeline"))
          await visit(join(path, entry.name), [...above, unescapePart(entry.name)], depth - 1);
        continue;
      }
      const base = /^([A-Za-z0-9_%-]+)\.(?:json|journal\.\d+(?:\.\d+)?\.jsonl)$/.exec(entry.name)?.[1];
      if (base === undefined) continue;
      const scope = [...above, unescapePart(base)].join("/");
      if (above.length > 0 || scope === LAB_SCOPE) found.add(scope);
    }
  };
  await visit(dir, [], 2);
  return [...found].sort((a, b) => (a === LAB_SCOPE ? -1 : b === LAB_SCOPE ? 1 : a < b ? -1 : 1));
}

function unescapePart(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
