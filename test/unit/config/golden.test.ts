import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { loadLab } from "../../../src/config/index.ts";
import { DiagnosticsError, formatDiagnostic } from "../../../src/diagnostics/index.ts";
import { kinds } from "./kinds.ts";
import { selection } from "./load.ts";

const root = fileURLToPath(new URL("../../fixtures/specs/", import.meta.url));

/** Bad specs and exactly what people are told. UPDATE_GOLDEN=1 writes anew what is expected: read the diff. */
describe("bad specs", () => {
  for (const name of readdirSync(root)) {
    test(name, async () => {
      const folder = join(root, name);
      const error = await loadLab(selection(folder), kinds).then(
        () => undefined,
        (thrown: unknown) => thrown,
      );
      if (!(error instanceof DiagnosticsError)) throw error ?? new Error("the spec was accepted");
      expect(error.exitCode).toBe(3);
      const said = `${error.diagnostics.map(formatDiagnostic).join("\n")}\n`;
      const expected = join(folder, "expected.txt");
      if (process.env["UPDATE_GOLDEN"] === "1" || !existsSync(expected)) writeFileSync(expected, said);
      expect(said).toBe(readFileSync(expected, "utf8"));
    });
  }
});
