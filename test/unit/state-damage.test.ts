import { copyFileSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { createFileStore, type StateSession, type StateStore } from "../../src/state/index.ts";
import { lockRequest, makeRow } from "./state-helpers.ts";
import { onlyProcess } from "../property/state-model.ts";

let dir: string;
const at = (name: string): string => join(dir, name);
const storeOf = (pid: number): StateStore => createFileStore({ dir, processes: onlyProcess(pid) });

/** Kept from the garbage collector, which would close their files with a warning. */
const abandoned: StateSession[] = [];

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), "labctl-damage-"));
  const first = await storeOf(1).open("lab", lockRequest());
  for (const key of ["a", "b", "c"]) await first.put(makeRow(`host.${key}`));
  await first.close();
  // Left behind by a process that died: a journal with three records.
  const second = await storeOf(2).open("lab", lockRequest());
  abandoned.push(second);
  for (const key of ["d", "e", "f"]) await second.put(makeRow(`host.${key}`));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

function files(): Record<string, string> {
  const names = readdirSync(dir).filter((name) => !name.includes(".lock."));
  return Object.fromEntries(names.map((name) => [name, readFileSync(at(name), "latin1")]));
}

async function expectRefused(code: string, what: RegExp): Promise<void> {
  const before = files();
  await expect(storeOf(3).read("lab")).rejects.toMatchObject({ code, message: expect.stringMatching(what) });
  await expect(storeOf(3).open("lab", lockRequest())).rejects.toMatchObject({ code });
  await expect(storeOf(3).push("lab", "{}", { force: true, lock: lockRequest() })).rejects.toMatchObject({
    code: "E_STATE_DAMAGED",
  });
  expect(files()).toEqual(before);
  expect(await storeOf(3).holder("lab")).toBeUndefined();
}

async function expectRepaired(rows: readonly string[], backups: number): Promise<void> {
  const before = files();
  const dry = await storeOf(3).repair("lab", { write: false });
  expect(dry.damaged).toBe(true);
  expect(files()).toEqual(before);
  const report = await storeOf(3).repair("lab", { write: true });
  expect(report.findings).toEqual(dry.findings);
  expect(report.backups).toHaveLength(backups);
  for (const backup of report.backups) {
    const original = backup.slice(dir.length + 1).replace(/\.damaged-.*/, "");
    expect(readFileSync(backup, "latin1")).toBe(before[original]);
  }
  const view = await storeOf(4).read("lab");
  expect([...view.rows.keys()].sort()).toEqual([...rows].map((key) => `host.${key}`).sort());
  expect((await storeOf(4).repair("lab", { write: true })).damaged).toBe(false);
  const session = await storeOf(4).open("lab", lockRequest());
  await session.put(makeRow("host.z"));
  await session.close();
}

describe("damage is refused, kept, and repaired as far as it can be", () => {
  const cut = (name: string, change: (text: string) => string): void =>
    writeFileSync(at(name), change(readFileSync(at(name), "latin1")), "latin1");

  test("a bad line in the middle of a journal", async () => {
    cut("lab.journal.2.jsonl", (text) => text.replace("id-of-host.d", "id-of-host.X"));
    await expectRefused("E_STATE_DAMAGED", /lab\.journal\.2\.jsonl is damaged: line 2/);
    await expectRepaired(["a", "b", "c", "e", "f"], 1);
  });

  test("a line missing from a journal", async () => {
    cut("lab.journal.2.jsonl", (text) => text.split("\n").toSpliced(2, 1).join("\n"));
    await expectRefused("E_STATE_DAMAGED", /line 3: it has number 3 where 2 should be/);
    await expectRepaired(["a", "b", "c", "d", "f"], 1);
  });

  test("a snapshot cut short", async () => {
    cut("lab.json", (text) => text.slice(0, text.indexOf('"host.c"') + 30));
    await expectRefused("E_STATE_DAMAGED", /lab\.json is damaged: it is not valid JSON/);
    await expectRepaired(["a", "b", "d", "e", "f"], 1);
  });

  test("a snapshot with a row that makes no sense", async () => {
    cut("lab.json", (text) => text.replace('"instance_id":"id-of-host.b"', '"instance_id":7'));
    await expectRefused("E_STATE_DAMAGED", /the row "host\.b" has no kind or instance_id/);
    await expectRepaired(["a", "c", "d", "e", "f"], 1);
  });

  test("a snapshot of zeros, binary, empty", async () => {
    for (const text of ["\0\0\0\0", "\xff\xfe\x80", "", "null", "[]"]) {
      writeFileSync(at("lab.json"), text, "latin1");
      await expectRefused("E_STATE_DAMAGED", /lab\.json is damaged/);
    }
    await expectRepaired(["d", "e", "f"], 2);
  });

  test("a journal of another lineage", async () => {
    const other = mkdtempSync(join(tmpdir(), "labctl-other-"));
    try {
      const session = await createFileStore({ dir: other, processes: onlyProcess(1) }).open("lab", lockRequest());
      await session.put(makeRow("host.alien"));
      copyFileSync(join(other, "lab.journal.1.jsonl"), join(other, "copy"));
      await session.close();
      // The name and the first line have to agree for the lineage to be looked at.
      renameSync(join(other, "copy"), at("lab.journal.1.jsonl"));
      const text = readFileSync(at("lab.json"), "latin1");
      writeFileSync(at("lab.json"), text.replace(/"folded": [^\n]*/, '"folded": {"token":0,"segment":0},'), "latin1");
    } finally {
      rmSync(other, { recursive: true });
    }
    await expectRefused("E_STATE_DAMAGED", /they are of different states/);
    await expectRepaired(["a", "b", "c", "d", "e", "f"], 1);
  });

  test("a snapshot that is gone, under a journal that continues it", async () => {
    rmSync(at("lab.json"));
    await expectRefused("E_STATE_DAMAGED", /continues a snapshot with serial 1, but there is no snapshot/);
    await expectRepaired(["d", "e", "f"], 1);
  });

  test("a snapshot of a newer format is left alone, by repair too", async () => {
    cut("lab.json", (text) => text.replace('"format_version": 1', '"format_version": 99'));
    await expectRefused("E_STATE_VERSION", /has format 99/);
    await expect(storeOf(3).repair("lab", { write: true })).rejects.toMatchObject({ code: "E_STATE_VERSION" });
  });
});

describe("what is no damage", () => {
  test("a last line that was cut off, or holds zeros or garbage", async () => {
    const whole = readFileSync(at("lab.journal.2.jsonl"));
    for (const tail of ['{"sum":"0000', "\0\0\0\0\0\0", '{"sum":"00000000","seq":4}\n', "\xff\xfe"]) {
      writeFileSync(at("lab.journal.2.jsonl"), Buffer.concat([whole, Buffer.from(tail, "latin1")]));
      expect((await storeOf(3).read("lab")).rows.size).toBe(6);
      expect((await storeOf(3).repair("lab", { write: false })).damaged).toBe(false);
    }
  });

  test("a journal whose first line was cut off: nobody was told of any record in it", async () => {
    writeFileSync(at("lab.journal.9.jsonl"), '{"sum":"12');
    expect((await storeOf(3).read("lab")).rows.size).toBe(6);
  });

  test("bytes that a paused holder adds after its journal was taken over", async () => {
    const stale = readFileSync(at("lab.journal.2.jsonl"));
    const session = await storeOf(3).open("lab", lockRequest());
    expect(session.takenOver?.pid).toBe(2);
    await session.drop("host.d");
    await session.close();
    writeFileSync(at("lab.journal.2.jsonl"), stale);
    writeFileSync(at("lab.journal.2.2.jsonl"), stale);
    const view = await storeOf(4).read("lab");
    expect(view.rows.has("host.d")).toBe(false);
    await (await storeOf(4).open("lab", lockRequest())).close();
    expect(readdirSync(dir).filter((name) => name.includes("journal"))).toEqual([]);
  });
});
