import type { Hold, Plain, Row } from "../model/index.ts";
import { StateData } from "./data.ts";
import type { JournalId } from "./names.ts";
import { rowProblem } from "./snapshot.ts";

export interface Salvaged {
  readonly data: StateData;
  readonly folded: JournalId | undefined;
  /** What was seen and could not be read. */
  readonly lost: readonly string[];
}

type Json = Readonly<Record<string, unknown>>;

/** What can be read of a damaged snapshot: as JSON where it still is JSON, else line by line, as it was written. */
export function salvageSnapshot(text: string): Salvaged {
  const whole = parse(text);
  const parts = isObject(whole) ? partsOfObject(whole) : partsOfLines(text);
  const data = new StateData();
  const lost = [...parts.lost];
  if (typeof parts.head["lineage"] === "string") data.lineage = parts.head["lineage"];
  if (typeof parts.head["lab"] === "string") data.lab = parts.head["lab"];
  data.serial = count(parts.head["serial"]) ?? 0;
  data.versionFloor = count(parts.head["version_floor"]) ?? 0;
  for (const [address, row] of parts.rows) {
    const why = rowProblem(address, row);
    if (why === undefined) data.rows.set(address, row as Row);
    else lost.push(`the row ${JSON.stringify(address)}, which ${why}`);
  }
  for (const [address, hold] of parts.holds) {
    if (isObject(hold) && typeof hold["who"] === "string") data.holds.set(address, hold as unknown as Hold);
    else lost.push(`the hold of ${JSON.stringify(address)}`);
  }
  data.outputs = Object.fromEntries(parts.outputs) as Readonly<Record<string, Plain>>;
  const folded = parts.head["folded"];
  const token = isObject(folded) ? count(folded["token"]) : undefined;
  const segment = isObject(folded) ? count(folded["segment"]) : undefined;
  return { data, folded: token === undefined || segment === undefined ? undefined : { token, segment }, lost };
}

interface Parts {
  readonly head: Json;
  readonly rows: readonly (readonly [string, unknown])[];
  readonly holds: readonly (readonly [string, unknown])[];
  readonly outputs: readonly (readonly [string, unknown])[];
  readonly lost: readonly string[];
}

function partsOfObject(value: Json): Parts {
  const entries = (key: string): (readonly [string, unknown])[] => {
    const part = value[key];
    return isObject(part) ? Object.entries(part) : [];
  };
  return { head: value, rows: entries("rows"), holds: entries("holds"), outputs: entries("outputs"), lost: [] };
}

/** The layout of formatSnapshot: two spaces before what is at the top, four before what is in a section. */
function partsOfLines(text: string): Parts {
  const head: Record<string, unknown> = {};
  const sections: Record<string, [string, unknown][]> = { rows: [], holds: [], outputs: [] };
  const lost: string[] = [];
  let section: string | undefined;
  for (const [i, line] of text.split("\n").entries()) {
    const top = /^ {2}"(\w+)": (.*?),?$/.exec(line);
    if (top?.[1] !== undefined && top[2] !== undefined) {
      section = top[2] === "{" ? top[1] : undefined;
      if (section === undefined) head[top[1]] = parse(top[2]);
      continue;
    }
    if (/^(?:[{}]|\s*\},?|)$/.test(line)) continue;
    const item = parse(`{${line.replace(/,$/, "")}}`);
    const list = section === undefined ? undefined : sections[section];
    if (isObject(item) && list !== undefined) list.push(...Object.entries(item));
    else lost.push(`line ${i + 1} (${line.trim().slice(0, 60)})`);
  }
  if (!text.endsWith("}\n")) lost.push("whatever stood after its last line");
  return {
    head,
    rows: sections["rows"] ?? [],
    holds: sections["holds"] ?? [],
    outputs: sections["outputs"] ?? [],
    lost,
  };
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function isObject(value: unknown): value is Json {
  return value !== null && typeof value === "object" && !Array.isArray(value);
}

function count(value: unknown): number | undefined {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0 ? value : undefined;
}
