import { spawnSync } from "node:child_process";
import fc from "fast-check";
import { expect, test } from "vitest";
import { Keeper } from "../../src/transport/keeper.ts";
import { probeScript, splitProbes } from "../../src/transport/probe.ts";
import { LOOP } from "../../src/transport/shared-shell.ts";
import { newNonce, StartFilter } from "../../src/transport/wire.ts";

const bytes = fc.uint8Array({ maxLength: 200 }).map((list) => Buffer.from(list));

test("property: no content of one probe can pass for another's", () => {
  fc.assert(
    fc.property(
      fc.array(fc.record({ out: bytes, err: bytes, code: fc.integer({ min: 0, max: 255 }) }), {
        minLength: 1,
        maxLength: 6,
      }),
      (pieces) => {
        const mark = newNonce();
        const octal = (data: Buffer): string =>
          [...data].map((byte) => `\\${byte.toString(8).padStart(3, "0")}`).join("");
        const script = probeScript(
          pieces.map((piece) => `printf '${octal(piece.out)}'; printf '${octal(piece.err)}' >&2; exit ${piece.code}`),
          mark,
        );
        const ran = spawnSync("sh", ["-c", script]);
        const whole = {
          code: ran.status ?? undefined,
          signal: undefined,
          stdout: ran.stdout,
          stderr: ran.stderr,
          truncated: false,
          duration_ms: 1,
        };
        const results = splitProbes(whole, mark, pieces.length);
        expect(results.map((one) => [one.code, one.stdout.toString("hex"), one.stderr.toString("hex")])).toEqual(
          pieces.map((piece) => [piece.code, piece.out.toString("hex"), piece.err.toString("hex")]),
        );
        // What was cut short gives only the pieces that are whole.
        const cut = splitProbes(
          { ...whole, stdout: ran.stdout.subarray(0, ran.stdout.length - 1) },
          mark,
          pieces.length,
        );
        expect(cut).toHaveLength(pieces.length - 1);
      },
    ),
    { numRuns: 150 },
  );
});

test("property: the start marker is found however the bytes are cut", () => {
  fc.assert(
    fc.property(bytes, bytes, fc.array(fc.integer({ min: 1, max: 40 }), { maxLength: 20 }), (noise, content, cuts) => {
      const nonce = newNonce();
      const filter = new StartFilter(nonce);
      let rest = Buffer.concat([noise, Buffer.from(`${nonce} 4711\n`), content]);
      const seen: Buffer[] = [];
      for (const size of [...cuts, 1 << 20]) {
        const own = filter.push(rest.subarray(0, size));
        if (own) seen.push(own);
        rest = rest.subarray(size);
      }
      expect(filter.pid).toBe(4711);
      expect(Buffer.concat(seen).equals(content)).toBe(true);
    }),
    { numRuns: 300 },
  );
});

test("property: the keeper keeps the ends, never more than its limit, and says when it dropped", () => {
  fc.assert(
    fc.property(fc.array(bytes, { maxLength: 20 }), fc.integer({ min: 0, max: 600 }), (chunks, limit) => {
      const keeper = new Keeper(limit);
      for (const chunk of chunks) keeper.push(chunk);
      const all = Buffer.concat(chunks);
      const kept = keeper.result();
      expect(kept.length).toBe(Math.min(all.length, limit));
      expect(keeper.truncated).toBe(all.length > limit);
      const head = Math.min(kept.length, Math.ceil(limit / 2));
      expect(kept.subarray(0, head).equals(all.subarray(0, head))).toBe(true);
      const tail = kept.length - head;
      expect(kept.subarray(head).equals(all.subarray(all.length - tail))).toBe(true);
    }),
    { numRuns: 500 },
  );
});

test("property: in a shell that scripts share, one that was cut off runs not at all", () => {
  const shells = ["dash", "bash", "busybox"].filter((name) => spawnSync(name, ["-c", "true"]).error === undefined);
  const argv = (shell: string): string[] => (shell === "busybox" ? ["sh", "-c", LOOP] : ["-c", LOOP]);
  const lines = fc.array(fc.constantFrom("echo ran", "echo more; X=1", "# a remark", "", "(exit 3)"), { maxLength: 4 });
  fc.assert(
    fc.property(fc.constantFrom(...shells), lines, fc.nat(), (shell, script, where) => {
      const frame = (text: string): string => {
        const mark = newNonce();
        const whole = `${text}\n#${mark}`;
        return `${mark} ${Buffer.byteLength(whole)}\n${whole}`;
      };
      const last = frame(["echo begun é", ...script].join("\n"));
      const cut = where % (Buffer.byteLength(last) + 1);
      const given = Buffer.from(last).subarray(0, cut);
      const ran = spawnSync(shell, argv(shell), { input: given });
      const whole = cut === Buffer.byteLength(last);
      expect(ran.stdout.includes("begun"), given.toString()).toBe(whole);
      if (!whole) expect([0, 125]).toContain(ran.status);
    }),
    { numRuns: 150 },
  );
});
