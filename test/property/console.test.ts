import { readdirSync, readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type ConsoleEvent, ConsoleWatcher } from "../../src/console/index.ts";

const FOLDER = new URL("../fixtures/console/", import.meta.url);
const RECORDED = readdirSync(FOLDER)
  .filter((name) => name.endsWith(".log"))
  .map((name) => readFileSync(new URL(name, FOLDER)));

function told(chunks: readonly Uint8Array[]): readonly ConsoleEvent[] {
  const events: ConsoleEvent[] = [];
  const watcher = new ConsoleWatcher({ markers: ["labctl-marker", /up in \d+/] }, (event) => events.push(event));
  for (const chunk of chunks) watcher.push(chunk, 5);
  watcher.end(5);
  return events;
}

function cut(bytes: Buffer, places: readonly number[]): Buffer[] {
  const at = [...new Set(places.map((place) => place % (bytes.length + 1)))].sort((a, b) => a - b);
  const chunks: Buffer[] = [];
  let from = 0;
  for (const to of [...at, bytes.length]) {
    chunks.push(bytes.subarray(from, to));
    from = to;
  }
  return chunks;
}

/** Pieces that mean something to one part or another of the watcher. */
const piece = fc.oneof(
  fc.constantFrom(
    "[    1.000000] ",
    "[    9.000000][    T1] ",
    "<3>",
    "Linux version 6.1.0 (a) #1\n",
    "Kernel panic - not syncing: x",
    "BUG: KASAN: x in y",
    "WARNING: CPU: 0 PID: 1 at a.c:1 f",
    "host login: ",
    "=> ",
    "labctl-marker",
    "up in 12",
    "\r\n",
    "\n",
    "\r",
    "\b",
    "\x1b[1;31m",
    "\x1b]0;title\x07",
    "\x1b",
    "---[ end trace 0 ]---\n",
    "RIP: 0010:f+0x1/0x2\n",
  ),
  fc.string({ unit: "binary", maxLength: 12 }),
);
const text = fc.array(piece, { maxLength: 60, size: "max" }).map((pieces) => Buffer.from(pieces.join("")));
const bytes = fc.oneof(
  text,
  fc.uint8Array({ maxLength: 600, size: "max" }).map((array) => Buffer.from(array)),
  fc.constantFrom(...RECORDED),
  fc
    .tuple(text, fc.integer({ min: 3500, max: 9000 }))
    .map(([buffer, size]) => Buffer.concat([buffer, Buffer.alloc(size, "y"), buffer])),
);

describe("Console Verdicts Are Independent of Chunking", () => {
  it("any cutting of the same bytes gives the same events", () => {
    fc.assert(
      fc.property(bytes, fc.array(fc.nat(), { maxLength: 40, size: "max" }), fc.boolean(), (all, places, each) => {
        const chunks = each && all.length < 2000 ? [...all].map((byte) => Uint8Array.of(byte)) : cut(all, places);
        expect(told(chunks)).toEqual(told([all]));
      }),
      { numRuns: 400 },
    );
  });

  it("byte by byte, each recording says the same as in one piece", () => {
    for (const all of RECORDED) {
      expect(told([...all].map((byte) => Uint8Array.of(byte)))).toEqual(told([all]));
    }
  });
});

describe("Console Watcher Survives Any Input", () => {
  it("never throws, and what it tells is bounded", () => {
    fc.assert(
      fc.property(fc.array(bytes, { maxLength: 6 }), fc.array(fc.nat(5000), { maxLength: 6 }), (chunks, times) => {
        let now = 0;
        const watcher = new ConsoleWatcher({ silence: 1000, markers: ["labctl-marker"] }, (event) => {
          expect(event.lines.length).toBeLessThanOrEqual(60);
          expect(event.title.length).toBeLessThanOrEqual(400);
          for (const line of event.lines) expect(line.length).toBeLessThanOrEqual(400);
        });
        for (const [index, chunk] of chunks.entries()) {
          watcher.push(chunk, now);
          now += times[index] ?? 1;
          watcher.tick(now);
          expect(watcher.tail().length).toBeLessThanOrEqual(20);
        }
        watcher.end(now);
      }),
      { numRuns: 200 },
    );
  });

  it("grows by nothing while megabytes pass", () => {
    let events = 0;
    const watcher = new ConsoleWatcher({}, () => (events += 1));
    const noise = Buffer.alloc(
      1024 * 1024,
      "[    1.000000] WARNING: CPU: 0 PID: 1 at a.c:1 f+0x1/0x2 without any end ",
    );
    const lines = Buffer.from("[    1.000000] WARNING: CPU: 0 PID: 1 at a.c:1 f+0x1/0x2\n".repeat(4000));
    const before = process.memoryUsage().heapUsed;
    for (let round = 0; round < 20; round += 1) watcher.push(round % 2 === 0 ? noise : lines, round);
    const grown = process.memoryUsage().heapUsed - before;
    expect(grown).toBeLessThan(64 * 1024 * 1024);
    // Of a driver that warns for ever, the first fifty are enough.
    expect(events).toBe(50);
  });
});
