import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { LabError } from "../diagnostics/index.ts";
import { changeFile, list, makeFolder, removeUnlessUsed, replaceFile, steadyName, withSteady } from "./files.ts";
import { type Layout, SHA256 } from "./layout.ts";
import { BUILD_STATUSES, type BuildRecord } from "./types.ts";

/** Records of builds: one JSON document each, replaced as a whole. */
export class Records {
  readonly #layout: Layout;

  constructor(layout: Layout) {
    this.#layout = layout;
  }

  async save(record: BuildRecord): Promise<void> {
    await makeFolder(this.#layout.builds);
    await replaceFile(this.#layout.build(record.id), format(record), this.#layout.temporary);
  }

  /** @throws LabError E_ARTIFACT_STORE where the record is damaged */
  async get(id: string): Promise<BuildRecord | undefined> {
    const path = this.#layout.build(id);
    const text = await withSteady(path, (at) => readFile(at, "utf8"));
    if (text === undefined) return undefined;
    const record = parse(text, id);
    if (record === undefined) throw damaged([path]);
    return record;
  }

  /** `change` may run several times. Undefined: there is no such record. */
  async update(id: string, change: (record: BuildRecord) => BuildRecord): Promise<BuildRecord | undefined> {
    const path = this.#layout.build(id);
    let last: BuildRecord | undefined;
    const there = await changeFile(
      path,
      (text) => {
        const record = parse(text, id);
        if (record === undefined) throw damaged([path]);
        last = change(record);
        return format(last);
      },
      this.#layout.temporary,
    );
    return there ? last : undefined;
  }

  /** All of them, by id; and the files that are none. */
  async all(): Promise<{ readonly records: readonly BuildRecord[]; readonly damaged: readonly string[] }> {
    const records: BuildRecord[] = [];
    const wrong: string[] = [];
    // A file that is just being exchanged stands under another name for a moment, and one listing can miss both.
    const names = [...(await list(this.#layout.builds)), ...(await list(this.#layout.builds))].map(steadyName);
    for (const name of [...new Set(names)].sort()) {
      const id = /^([0-9a-f]{64})\.json$/.exec(name)?.[1];
      if (id === undefined) continue;
      const text = await withSteady(join(this.#layout.builds, name), (at) => readFile(at, "utf8"));
      if (text === undefined) continue;
      const record = parse(text, id);
      if (record === undefined) wrong.push(join(this.#layout.builds, name));
      else records.push(record);
    }
    return { records, damaged: wrong };
  }

  /** Removes it unless it is another one by now. */
  async remove(record: BuildRecord): Promise<boolean> {
    const text = format(record);
    return removeUnlessUsed(this.#layout.build(record.id), async (path) => (await readFile(path, "utf8")) === text);
  }
}

export function damaged(paths: readonly string[]): LabError {
  return new LabError("E_ARTIFACT_STORE", `damaged build records: ${paths.join(", ")}`, {
    hint: "move them out of the store; their builds are made again when they are needed",
  });
}

function format(record: BuildRecord): string {
  return `${JSON.stringify({ version: 1, ...record }, undefined, 1)}\n`;
}

function parse(text: string, id: string): BuildRecord | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (typeof value !== "object" || value === null) return undefined;
  const { version, ...rest } = value as Record<string, unknown>;
  const words = ["name", "arch", "created_at"].every((key) => typeof rest[key] === "string");
  if (version !== 1 || rest["id"] !== id || !words) return undefined;
  if (!BUILD_STATUSES.some((status) => status === rest["status"])) return undefined;
  const { artifacts, inputs } = rest;
  if (typeof artifacts !== "object" || artifacts === null || typeof inputs !== "object") return undefined;
  for (const one of Object.values(artifacts as Record<string, unknown>)) {
    const sha256: unknown = typeof one === "object" && one !== null && "sha256" in one ? one.sha256 : undefined;
    if (typeof sha256 !== "string" || !SHA256.test(sha256)) return undefined;
  }
  if (rest["known_as"] !== undefined && !areAliases(rest["known_as"])) return undefined;
  // All that lookups and retention rest on was looked at; the rest is shown.
  return rest as unknown as BuildRecord;
}

function areAliases(value: unknown): boolean {
  return (
    Array.isArray(value) &&
    value.every((one: unknown) => {
      if (typeof one !== "object" || one === null) return false;
      const { name, branch, at } = one as Record<string, unknown>;
      return typeof name === "string" && typeof at === "string" && ["string", "undefined"].includes(typeof branch);
    })
  );
}
