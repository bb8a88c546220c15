import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { type ConsoleEvent, ConsoleWatcher } from "../../src/console/index.ts";

const FOLDER = new URL("../fixtures/console/", import.meta.url);
const EXPECTED = new URL("expected.json", FOLDER);

/** What is told of a recording, without the times, which are the test's own. */
function told(name: string): unknown[] {
  const events: ConsoleEvent[] = [];
  const watcher = new ConsoleWatcher({}, (event) => events.push(event));
  watcher.push(readFileSync(new URL(name, FOLDER)), 0);
  watcher.end(0);
  const list = events.map(({ kind, severity, title, lines, at }) =>
    severity === "info" ? { kind, title, offset: at.offset } : { kind, severity, title, offset: at.offset, lines },
  );
  return [{ stage: watcher.status.stage, release: watcher.status.release, boots: watcher.status.boots }, ...list];
}

const names = readdirSync(FOLDER).filter((name) => name.endsWith(".log"));
const actual = Object.fromEntries(names.sort().map((name) => [name, told(name)]));
if (process.env["UPDATE_GOLDEN"] === "1") writeFileSync(EXPECTED, `${JSON.stringify(actual, undefined, 1)}\n`);
const expected = JSON.parse(readFileSync(EXPECTED, "utf8")) as Record<string, unknown>;

describe("recorded consoles", () => {
  it("has an expectation for each recording", () => {
    expect(Object.keys(expected)).toEqual(names.sort());
  });

  for (const name of names) {
    it(`understands ${name}`, () => {
      expect(actual[name]).toEqual(expected[name]);
    });
  }
});
