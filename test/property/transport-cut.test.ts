import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { encodeScript, fullScript, WRAPPER } from "../../src/transport/wire.ts";

const NONCE = "0123456789abcdef01234567";
// Where a cut script is run after all, its first word may be any program: only what the wrapper needs is there.
let programs: string;
beforeAll(() => {
  programs = mkdtempSync(join(tmpdir(), "labctl-cut-"));
  symlinkSync("/bin/cat", join(programs, "cat"));
});
afterAll(() => rmSync(programs, { recursive: true, force: true }));

describe.each(["/bin/dash", "/bin/bash"])("property: a script that is cut off on its way is not run (%s)", (shell) => {
  it("at any byte, with and without data behind it", () => {
    const script = fullScript({ script: "echo RAN\necho RAN again", env: { A: "x y" } });
    for (const hasStdin of [false, true]) {
      const whole = encodeScript(NONCE, script, hasStdin);
      for (let length = 0; length <= whole.length; length++) {
        const input = whole.subarray(0, length);
        const { stdout } = spawnSync(shell, ["-c", WRAPPER], { input, env: { PATH: programs }, timeout: 5000 });
        expect(stdout.includes("RAN"), `${length} of ${whole.length} bytes`).toBe(length === whole.length);
      }
    }
  });
});
