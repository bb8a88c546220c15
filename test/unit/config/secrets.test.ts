import { chmod, mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { resolveSecret } from "../../../src/config/index.ts";
import { LabError } from "../../../src/diagnostics/index.ts";
import { type SecretSource, Sensitive } from "../../../src/model/index.ts";
import { inFolder } from "./load.ts";

const CANARY = "s3cr3t-c4n4ry";
const env = { PATH: process.env["PATH"], TOKEN: CANARY, EMPTY: "" };

async function outcome(source: SecretSource, root = "/", more: object = {}): Promise<string> {
  try {
    return (await resolveSecret("t", source, { root, env, ...more })).reveal();
  } catch (error) {
    if (!(error instanceof LabError)) throw error;
    const whole = `${error.code} ${error.message} ${error.hint} ${String(error.cause)} ${error.stack}`;
    expect(whole).not.toContain(CANARY);
    return error.code;
  }
}

describe("secrets", () => {
  test("from the environment", async () => {
    expect(await outcome({ env: "TOKEN" })).toBe(CANARY);
    expect(await outcome({ env: "NOPE" })).toBe("E_SECRET_UNAVAILABLE");
    expect(await outcome({ env: "EMPTY" })).toBe("E_SECRET_UNAVAILABLE");
  });

  test("from a file that only its owner can read, one newline at its end dropped", async () => {
    await inFolder(
      { "d/t": `${CANARY}\n\n`, crlf: "x\r\n", binary: new Uint8Array([0xff, 0xfe, 0x80]) },
      async (root) => {
        for (const name of ["d/t", "crlf", "binary"]) await chmod(join(root, name), 0o600);
        expect(await outcome({ file: "d/t" }, root)).toBe(`${CANARY}\n`);
        expect(await outcome({ file: "crlf" }, root)).toBe("x");
        expect(await outcome({ file: "binary" }, root)).toBe("E_SECRET_UNAVAILABLE");
        for (const mode of [0o640, 0o604, 0o620, 0o610, 0o644]) {
          await chmod(join(root, "d/t"), mode);
          expect(await outcome({ file: "d/t" }, root)).toBe("E_SECRET_PERMISSIONS");
        }
        expect(await outcome({ file: "nope" }, root)).toBe("E_SECRET_UNAVAILABLE");
        expect(await outcome({ file: "d" }, root)).toBe("E_SECRET_UNAVAILABLE");
        expect(await outcome({ file: "/dev/zero" }, root)).toBe("E_SECRET_UNAVAILABLE");
        await writeFile(join(root, "big"), "x".repeat(1024 * 1024 + 1), { mode: 0o600 });
        expect(await outcome({ file: "big" }, root)).toBe("E_SECRET_UNAVAILABLE");
      },
    );
  });

  test("below the home of whoever runs labctl", async () => {
    await inFolder({}, async (root) => {
      await mkdir(join(root, "home"));
      await writeFile(join(root, "home", "t"), CANARY, { mode: 0o600 });
      const home = { env: { HOME: join(root, "home") } };
      expect(await outcome({ file: "~/t" }, root, home)).toBe(CANARY);
    });
  });

  test("from a command, without a shell, what it complains of kept out of messages", async () => {
    expect(await outcome({ command: ["printf", "%s\n", "$(id) `id` ; $TOKEN"] })).toBe("$(id) `id` ; $TOKEN");
    expect(await outcome({ command: ["sh", "-c", 'echo "$TOKEN"'] })).toBe(CANARY);
    expect(await outcome({ command: ["sh", "-c", 'echo "$TOKEN" >&2; echo "$TOKEN"; exit 3'] })).toBe(
      "E_SECRET_UNAVAILABLE",
    );
    expect(await outcome({ command: ["true"] })).toBe("E_SECRET_UNAVAILABLE");
    expect(await outcome({ command: ["no-such-program-anywhere"] })).toBe("E_SECRET_UNAVAILABLE");
    expect(await outcome({ command: ["sh", "-c", "kill -9 $$"] })).toBe("E_SECRET_UNAVAILABLE");
    expect(await outcome({ command: ["cat", "/dev/zero"] })).toBe("E_SECRET_UNAVAILABLE");
  });

  test("a command that hangs is ended, with all that it started", async () => {
    const started = performance.now();
    const hanging = { command: ["sh", "-c", "sleep 300 & sleep 300; wait"] };
    expect(await outcome(hanging, "/", { timeout: 200 })).toBe("E_SECRET_UNAVAILABLE");
    const aborted = AbortSignal.timeout(200);
    expect(await outcome(hanging, "/", { signal: aborted })).toBe("E_CANCELLED");
    expect(performance.now() - started).toBeLessThan(10_000);
  });

  test("from a sensitive variable", async () => {
    const variables = new Map([["v", new Sensitive(CANARY)]]);
    expect(await outcome({ variable: "v" }, "/", { variables })).toBe(CANARY);
    expect(await outcome({ variable: "w" }, "/", { variables })).toBe("E_SECRET_UNAVAILABLE");
  });
});
