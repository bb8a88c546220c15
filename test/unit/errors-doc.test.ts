import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { CODES, exitCodeOf } from "../../src/diagnostics/index.ts";

const page = readFileSync(new URL("../../docs/errors.md", import.meta.url), "utf8");

describe("docs/errors.md", () => {
  it("has a section for each code of the registry, in its order, and no other", () => {
    const sections = [...page.matchAll(/^## (\S+)$/gm)].map((match) => match[1]);
    expect(sections).toEqual(Object.keys(CODES));
  });

  it("gives each code's title and exit code, and says what to do", () => {
    for (const [code, { exit, title }] of Object.entries(CODES)) {
      const section = page.split(`\n## ${code}\n`)[1]?.split("\n## ")[0] ?? "";
      expect(section.toLowerCase()).toContain(`*${title.toLowerCase()}* (exit ${exit}).`);
      expect(section.trim().length - title.length).toBeGreaterThan(40);
    }
  });
});

describe("exit codes", () => {
  it("the smallest but 0 to 2 wins", () => {
    expect(exitCodeOf([])).toBe(0);
    expect(exitCodeOf(["E_INTERNAL"])).toBe(1);
    expect(exitCodeOf(["E_INTERNAL", "E_CANCELLED"])).toBe(130);
    expect(exitCodeOf(["E_COMMAND_FAILED", "E_CONNECT"])).toBe(5);
  });
});
