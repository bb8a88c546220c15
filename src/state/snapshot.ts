import { type Hold, type Plain, type Row, type Scope, type Snapshot, STATE_FORMAT } from "../model/index.ts";
import { StateData } from "./data.ts";
import { lockedDatabase } from "./database.ts";
import type { Env } from "./env.ts";
import type { HeldLock } from "./lock.ts";
import type { JournalId, Names } from "./names.ts";

/** Readable, and quick for large states: one row a line, so that a diff of two snapshots names the rows that differ. */
export function formatSnapshot(snapshot: Snapshot): string {
  const head = [
    `"format_version": ${snapshot.format_version}`,
    `"labctl": ${JSON.stringify(snapshot.labctl)}`,
    `"lineage": ${JSON.stringify(snapshot.lineage)}`,
    `"scope": ${JSON.stringify(snapshot.scope)}`,
    ...(snapshot.lab === undefined ? [] : [`"lab": ${JSON.stringify(snapshot.lab)}`]),
    `"serial": ${snapshot.serial}`,
    ...(snapshot.folded === undefined ? [] : [`"folded": ${JSON.stringify(snapshot.folded)}`]),
    ...(snapshot.version_floor === undefined ? [] : [`"version_floor": ${snapshot.version_floor}`]),
    `"outputs": ${lines(snapshot.outputs)}`,
    `"holds": ${lines(snapshot.holds)}`,
    `"rows": ${lines(snapshot.rows)}`,
  ];
  return `{\n  ${head.join(",\n  ")}\n}\n`;
}

function lines(map: Readonly<Record<string, unknown>>): string {
  const items = Object.entries(map)
    .sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0))
    .map(([key, value]) => `    ${JSON.stringify(key)}: ${JSON.stringify(value)}`);
  return items.length === 0 ? "{}" : `{\n${items.join(",\n")}\n  }`;
}

export function makeSnapshot(scope: Scope, data: StateData, version: string, folded?: JournalId): Snapshot {
  return {
    format_version: STATE_FORMAT,
    labctl: version,
    lineage: data.lineage,
    scope,
    ...(data.lab !== undefined && { lab: data.lab }),
    serial: data.serial,
    ...(folded && { folded: { token: folded.token, segment: folded.segment } }),
    ...(data.versionFloor > 0 && { version_floor: data.versionFloor }),
    outputs: data.outputs,
    holds: Object.fromEntries(data.holds),
    rows: Object.fromEntries(data.rows),
  };
}

export type ParsedSnapshot =
  | { readonly is: "good"; readonly snapshot: Snapshot }
  | { readonly is: "newer"; readonly format: number }
  | { readonly is: "damaged"; readonly why: string };

export function parseSnapshot(text: string): ParsedSnapshot {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    return { is: "damaged", why: `it is not valid JSON (${error instanceof Error ? error.message : String(error)})` };
  }
  if (!isRecord(value)) return { is: "damaged", why: "it is not a JSON object" };
  const format = value["format_version"];
  if (typeof format === "number" && format > STATE_FORMAT) return { is: "newer", format };
  const why = shapeProblem(value);
  return why === undefined ? { is: "good", snapshot: value as unknown as Snapshot } : { is: "damaged", why };
}

function shapeProblem(value: Readonly<Record<string, unknown>>): string | undefined {
  if (value["format_version"] !== STATE_FORMAT) return `format_version is ${JSON.stringify(value["format_version"])}`;
  if (typeof value["lineage"] !== "string" || value["lineage"] === "") return "it has no lineage";
  if (typeof value["scope"] !== "string") return "it has no scope";
  if (value["lab"] !== undefined && typeof value["lab"] !== "string") return "its lab is not a name";
  if (!isCount(value["serial"])) return "its serial is not a number";
  for (const key of ["rows", "outputs", "holds"]) if (!isRecord(value[key])) return `\`${key}\` is not an object`;
  const floor = value["version_floor"];
  if (floor !== undefined && !isCount(floor)) return "its version_floor is not a number";
  const folded = value["folded"];
  if (folded !== undefined && !(isRecord(folded) && isCount(folded["token"]) && isCount(folded["segment"]))) {
    return "`folded` does not name a journal";
  }
  for (const [address, row] of Object.entries(value["rows"] as object)) {
    const why = rowProblem(address, row);
    if (why !== undefined) return `the row ${JSON.stringify(address)} ${why}`;
  }
  return undefined;
}

const STATUSES: readonly unknown[] = ["ok", "interrupted", "failed", "tainted"] satisfies Row["status"][];

/** What is wrong with a row, or undefined. */
export function rowProblem(address: string, row: unknown): string | undefined {
  if (!isRecord(row)) return "is not an object";
  if (row["address"] !== address) return "carries another address";
  if (typeof row["kind"] !== "string" || typeof row["instance_id"] !== "string") return "has no kind or instance_id";
  if (!isCount(row["version"])) return "has no version";
  if (!STATUSES.includes(row["status"])) return "has an unknown status";
  if (!Array.isArray(row["depends"])) return "has no list of dependencies";
  return undefined;
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return value !== null && typeof value === "object" && !Array.isArray(value);
}

function isCount(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}

export function dataOf(snapshot: Snapshot): StateData {
  const data = new StateData();
  data.lineage = snapshot.lineage;
  data.lab = snapshot.lab;
  data.serial = snapshot.serial;
  data.versionFloor = snapshot.version_floor ?? 0;
  for (const [address, row] of Object.entries<Row>(snapshot.rows)) data.rows.set(address, row);
  data.outputs = snapshot.outputs as Readonly<Record<string, Plain>>;
  for (const [address, hold] of Object.entries<Hold>(snapshot.holds)) data.holds.set(address, hold);
  return data;
}

/** Replaces the snapshot, durably; gives its length in bytes. Whatever `folded` and older journals hold is in it. */
export async function writeSnapshot(
  env: Env,
  names: Names,
  lock: HeldLock,
  content: { readonly scope: Scope; readonly data: StateData; readonly serial: number; readonly folded: JournalId },
): Promise<number> {
  const snapshot = {
    ...makeSnapshot(content.scope, content.data, env.version, content.folded),
    serial: content.serial,
  };
  let bytes = 0;
  const codec = {
    parse: (text: string): Snapshot => JSON.parse(text) as Snapshot,
    format: (value: Snapshot): string => {
      const text = formatSnapshot(value);
      bytes = Buffer.byteLength(text);
      return text;
    },
  };
  await lockedDatabase(env, names, lock, codec, snapshot).write();
  return bytes;
}
