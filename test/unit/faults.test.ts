import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";

interface Fault {
  readonly name: string;
  readonly file: string;
  readonly old: string;
}

const faults = JSON.parse(readFileSync("test/faults.json", "utf8")) as readonly Fault[];

/** What `npm run test:faults` would find out after half an hour: a fault whose place has moved. */
describe("the faults of test/faults.json", () => {
  test.each(faults)("$name: its text stands once", (fault) => {
    expect(readFileSync(fault.file, "utf8").split(fault.old).length - 1).toBe(1);
  });

  test("have names of their own", () => {
    expect(new Set(faults.map(({ name }) => name)).size).toBe(faults.length);
  });
});
