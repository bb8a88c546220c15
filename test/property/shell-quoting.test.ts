import { spawnSync } from "node:child_process";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { quoteWord, sh, shCommand, userScript } from "../../src/transport/index.ts";
import {
  commandLine,
  commandWords,
  encodeScript,
  fullScript,
  newNonce,
  StartFilter,
} from "../../src/transport/wire.ts";

/** Shells that are installed here; dash, bash and busybox have to be for the property to mean anything. */
const shells = (
  [
    ["dash", ["dash"]],
    ["bash", ["bash"]],
    ["bash --posix", ["bash", "--posix"]],
    ["busybox", ["busybox", "sh"]],
    ["mksh", ["mksh"]],
    ["zsh", ["zsh", "--emulate", "sh"]],
  ] as const
).filter(([, [file]]) => spawnSync("sh", ["-c", `command -v ${file}`]).status === 0);

/** Any text a spec can hold: no NUL, no lone surrogates. */
const word = fc
  .oneof(
    fc.string({ unit: "grapheme", maxLength: 40 }),
    fc.string({ unit: "binary", maxLength: 40 }),
    fc
      .array(
        fc.constantFrom(
          "'",
          '"',
          "\\",
          "$(exit 9)",
          "`exit 9`",
          "\n",
          "\r",
          " ",
          "-n",
          "--",
          "*",
          "~",
          ";",
          "&",
          "|",
          "#",
          "!",
          "%s",
          "\\n",
          "\\c",
          "${x}",
          "é",
          "😀",
          "\u0081",
          "\u0088",
          "\t",
          "=",
          "<",
          ">",
        ),
        { maxLength: 8 },
      )
      .map((parts) => parts.join("")),
  )
  .map((text) => text.replaceAll("\0", "").replaceAll(/[\uD800-\uDFFF]/gu, ""));

test("the shells that labs have are here", () => {
  expect(shells.map(([name]) => name)).toEqual(expect.arrayContaining(["dash", "bash", "busybox"]));
});

describe.each(shells)("%s", (_name, [file, ...args]) => {
  const run = (script: string, input = ""): Buffer => {
    const result = spawnSync(file, [...args, "-c", script], {
      input,
      env: { PATH: process.env["PATH"] ?? "", LC_ALL: "C.UTF-8", SHLVL: "3" },
    });
    expect(result.stderr.toString()).toBe("");
    return result.stdout;
  };

  test("property: hostile names are quoted exactly", () => {
    fc.assert(
      fc.property(fc.array(word, { minLength: 1, maxLength: 6 }), (words) => {
        const expected = words.map((one) => `<${one}>`).join("");
        expect(run(sh`printf '<%s>' ${words}`.text).toString()).toBe(expected);
        expect(run(shCommand(["printf", "<%s>", ...words]).text).toString()).toBe(expected);
      }),
      { numRuns: 150 },
    );
  });

  test("property: script, environment and stdin arrive exactly through the wrapper", () => {
    fc.assert(
      fc.property(
        word,
        word,
        fc.option(fc.uint8Array({ maxLength: 500 }), { nil: undefined }),
        (value, text, stdin) => {
          const nonce = newNonce();
          const script = fullScript({
            script: sh`printf '%s\\0' "$VALUE" ${text}; cat; exit 5`.text,
            env: { VALUE: value },
            cwd: "/",
          });
          const line = commandLine(commandWords("none"));
          const result = spawnSync(
            file,
            [...args, "-c", line.replace("exec sh", `exec ${[file, ...args].join(" ")}`)],
            {
              input: Buffer.concat([encodeScript(nonce, script, stdin !== undefined), Buffer.from(stdin ?? [])]),
            },
          );
          const out = new StartFilter(nonce);
          const err = new StartFilter(nonce);
          const seen = out.push(result.stdout);
          expect(err.push(result.stderr)?.toString() ?? "").toBe("");
          expect(seen?.toString("latin1")).toBe(
            Buffer.concat([Buffer.from(`${value}\0${text}\0`), Buffer.from(stdin ?? [])]).toString("latin1"),
          );
          expect(result.status).toBe(5);
          expect(out.pid).toBeGreaterThan(1);
        },
      ),
      { numRuns: 100 },
    );
  });
});

test("the command line is constant and fit for any login shell", () => {
  for (const way of ["none", "sudo", "sudo-password"] as const) {
    const line = commandLine(commandWords(way));
    expect(line).not.toMatch(/[\n!]/);
    expect(line.split("'")).toHaveLength(3);
    expect(line.slice(line.indexOf("'"))).not.toMatch(/\\['\\]/);
  }
});

test("words that need no quotes stay readable, and a NUL byte is refused", () => {
  expect(quoteWord("/etc/x.conf")).toBe("/etc/x.conf");
  expect(quoteWord("")).toBe("''");
  expect(quoteWord("-rf")).toBe("'-rf'");
  expect(() => quoteWord("a\0b")).toThrow(TypeError);
  expect(() => fullScript({ script: "true", env: { A: "a\0b" } })).toThrow(/NUL/);
  expect(() => fullScript({ script: "true", env: { "1A": "x" } })).toThrow(/environment variable/);
  expect(userScript("echo $x").text).toBe("echo $x");
});
