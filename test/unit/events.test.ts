import { execFile } from "node:child_process";
import { appendFile, mkdir, mkdtemp, readdir, readFile, rm, stat, truncate, writeFile } from "node:fs/promises";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { Redactor } from "../../src/diagnostics/index.ts";
import {
  createEventBus,
  findRun,
  listRuns,
  logFileName,
  newRunId,
  readEvents,
  readRun,
  redactDeep,
  runFiles,
  RunRecorder,
  stateOf,
} from "../../src/events/index.ts";
import type { EventBus } from "../../src/events/port.ts";
import type { EventBody, LabEvent, RunSummary } from "../../src/model/index.ts";
import { action, plan } from "../golden/streams.ts";

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), "labctl-events-"));
});
afterEach(async () => {
  await rm(dir, { recursive: true, force: true });
});

const NOW = new Date("2026-11-23T01:02:03.456Z");
const ID = "20261123T010203Z-0a0b0c";
const summary: RunSummary = {
  command: "apply",
  result: "ok",
  exit_code: 0,
  duration_ms: 10,
  results: { ok: 1 },
  problems: [],
  manual_steps: [],
};
const line = (message: string, address?: string): EventBody => ({
  type: "log.line",
  level: "info",
  component: "test",
  message,
  ...(address !== undefined && { address }),
});

function bus(run = ID, redact: (text: string) => string = (text) => text): EventBus {
  return createEventBus({ run, redact, now: () => NOW });
}

function meta(id = ID, pid = process.pid) {
  return {
    id,
    command: "apply",
    argv: ["apply"],
    who: "ada",
    host: hostname(),
    pid,
    lab: "lab",
    started_at: NOW.toISOString(),
  };
}

async function all(id = ID): Promise<LabEvent[]> {
  const events: LabEvent[] = [];
  for await (const event of readEvents(dir, id)) events.push(event);
  return events;
}

describe("the bus", () => {
  test("numbers events from 1 and stamps them", () => {
    const one = bus();
    const seen: LabEvent[] = [];
    one.on((event) => seen.push(event));
    one.emit(line("a"));
    one.emit(line("b"));
    expect(seen.map(({ run, seq, at }) => [run, seq, at])).toEqual([
      [ID, 1, NOW.toISOString()],
      [ID, 2, NOW.toISOString()],
    ]);
  });

  test("what one listener throws reaches neither the others nor the emitter", () => {
    const errors: unknown[] = [];
    const one = createEventBus({
      run: ID,
      redact: (text) => text,
      now: () => NOW,
      onListenerError: (e) => errors.push(e),
    });
    const seen: number[] = [];
    one.on(() => {
      throw new Error("broken");
    });
    const off = one.on((event) => seen.push(event.seq));
    one.emit(line("a"));
    one.emit(line("b"));
    off();
    one.emit(line("c"));
    expect(seen).toEqual([1, 2]);
    expect(errors).toHaveLength(1);
  });

  test("a listener that emits does not put events out of order for the others", () => {
    const one = bus();
    const seen: number[] = [];
    one.on((event) => {
      if (event.seq === 1) one.emit(line("from inside"));
    });
    one.on((event) => seen.push(event.seq));
    one.emit(line("first"));
    expect(seen).toEqual([1, 2]);
  });

  test("redacts every string of every event, keys included, before anybody sees it", () => {
    const redactor = new Redactor();
    redactor.add("c4n4ry");
    fc.assert(
      fc.property(fc.jsonValue(), fc.nat(5), (value, depth) => {
        let hidden: unknown = { "is c4n4ry": [value, "has c4n4ry in it"] };
        for (let i = 0; i < depth; i++) hidden = { deep: [hidden] };
        const out = redactDeep(hidden, (text) => redactor.redact(text));
        expect(JSON.stringify(out)).not.toContain("c4n4ry");
      }),
      { numRuns: 200 },
    );
  });
});

describe("a recorded run", () => {
  test("can be read back: record, events, plan, logs; all for its owner alone", async () => {
    const one = bus();
    const seen: LabEvent[] = [];
    one.on((event) => seen.push(event));
    const recorder = new RunRecorder(one);
    one.emit(line("before the start"));
    await recorder.start(dir, meta());
    expect(stateOf(await readRun(dir, ID))).toBe("running");
    one.emit({ type: "plan.made", plan: plan([action({ address: "host.a", action: "create" })]) });
    one.emit(line("one", 'host.a/file["/x"]'));
    one.emit(line("two\nthree", 'host.a/file["/x"]'));
    one.emit({ type: "run.finished", summary });
    await recorder.finish(summary, NOW);
    expect(await all()).toEqual(seen);
    expect(await readRun(dir, ID)).toEqual({ format_version: 1, ...meta(), finished_at: NOW.toISOString(), summary });
    const files = runFiles(dir, ID);
    const log = join(files.logs, logFileName('host.a/file["/x"]'));
    expect(await readFile(log, "utf8")).toContain("one\n");
    for (const path of [files.record, files.events, files.plan, log]) {
      expect((await stat(path)).mode & 0o777).toBe(0o600);
    }
    expect((await stat(files.dir)).mode & 0o777).toBe(0o700);
    expect((await readdir(files.dir)).filter((name) => name.endsWith(".tmp"))).toEqual([]);
  });

  test("events are on disk soon, without an end", async () => {
    const one = bus();
    const recorder = new RunRecorder(one);
    await recorder.start(dir, meta());
    one.emit(line("early"));
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(await all()).toHaveLength(1);
    await recorder.finish(summary, NOW);
  });

  test("every prefix of the events' bytes reads as a prefix of the events", async () => {
    const one = bus();
    const recorder = new RunRecorder(one);
    await recorder.start(dir, meta());
    for (let i = 0; i < 5; i++) one.emit(line(`größe ${i}`));
    await recorder.finish(summary, NOW);
    const whole = await all();
    const path = runFiles(dir, ID).events;
    const size = (await stat(path)).size;
    for (let length = size; length >= 0; length--) {
      await truncate(path, length);
      const found = await all();
      expect(found).toEqual(whole.slice(0, found.length));
      expect(found.length).toBeGreaterThanOrEqual(Math.floor((length / size) * 5) - 1);
    }
  });

  test("lines that a full disk cut in the middle are passed over, the others are read", async () => {
    const one = bus();
    const recorder = new RunRecorder(one);
    await recorder.start(dir, meta());
    one.emit(line("a"));
    await recorder.flush();
    await appendFile(runFiles(dir, ID).events, '{"type":"log.li\n');
    one.emit(line("b"));
    await recorder.finish(summary, NOW);
    expect((await all()).map((event) => event.seq)).toEqual([1, 2]);
  });

  test("nothing that goes wrong while recording fails the run; it warns once", async () => {
    await writeFile(join(dir, "runs"), "a file where the folder should be");
    const one = bus();
    const warnings: LabEvent[] = [];
    one.on((event) => {
      if (event.type === "warning.raised") warnings.push(event);
    });
    const recorder = new RunRecorder(one);
    await recorder.start(dir, meta());
    one.emit(line("a"));
    await recorder.flush();
    one.emit(line("b"));
    await recorder.finish(summary, NOW);
    expect(warnings).toHaveLength(1);
  });

  test("a full disk is warned about once and the run goes on", async () => {
    // /dev/full answers every write with ENOSPC, as a full disk does: full(4).
    const one = bus();
    const warnings: string[] = [];
    one.on((event) => {
      if (event.type === "warning.raised") warnings.push(event.problem.code);
    });
    const recorder = new RunRecorder(one);
    await recorder.start(dir, meta());
    await rm(runFiles(dir, ID).events, { force: true });
    await promisify(execFile)("ln", ["-s", "/dev/full", runFiles(dir, ID).events]);
    for (let i = 0; i < 3; i++) {
      one.emit(line("a"));
      await recorder.flush();
    }
    await recorder.finish(summary, NOW);
    expect(warnings).toEqual(["E_DISK_FULL"]);
    expect(stateOf(await readRun(dir, ID))).toBe("ok");
  });

  test("a run without an end whose process is dead was interrupted", async () => {
    const child = promisify(execFile)(process.execPath, ["-e", "0"]);
    const pid = child.child.pid ?? 0;
    await child;
    const recorder = new RunRecorder(bus());
    await recorder.start(dir, meta(ID, pid));
    expect(stateOf(await readRun(dir, ID))).toBe("interrupted");
    expect(stateOf({ ...(await readRun(dir, ID)), host: "elsewhere" })).toBe("running");
    await recorder.finish(summary, NOW);
  });
});

describe("runs", () => {
  async function record(id: string, end: boolean, pid = process.pid, keep?: number): Promise<void> {
    const recorder = new RunRecorder(bus(id));
    await recorder.start(dir, meta(id, pid), keep);
    if (end) await recorder.finish(summary, NOW);
  }

  test("ids sort by time", () => {
    fc.assert(
      fc.property(
        fc.date({ min: new Date(0), max: new Date("2999-01-01"), noInvalidDate: true }),
        fc.nat(1e12),
        (at, later) => {
          const after = new Date(at.getTime() + 1000 + later);
          expect(newRunId(at) < newRunId(after) || after.getUTCFullYear() > 9999).toBe(true);
        },
      ),
      { numRuns: 200 },
    );
  });

  test("are listed newest first, found by the beginning of an id, and `last`", async () => {
    for (const day of ["21", "23", "22"]) await record(`202611${day}T010203Z-00000a`, true);
    await mkdir(join(dir, "runs", "not-a-run"));
    expect((await listRuns(dir)).map((run) => run.id.slice(6, 8))).toEqual(["23", "22", "21"]);
    expect((await listRuns(dir, 1)).map((run) => run.id.slice(6, 8))).toEqual(["23"]);
    expect((await findRun(dir, "last"))?.id).toContain("20261123");
    expect((await findRun(dir, "20261122"))?.id).toContain("20261122");
    expect(await findRun(dir, "202611")).toBeUndefined();
    expect(await findRun(dir, "../../etc")).toBeUndefined();
    await expect(readRun(dir, "../x")).rejects.toMatchObject({ code: "E_STATE_NOT_FOUND" });
    expect(await listRuns(join(dir, "nowhere"))).toEqual([]);
  });

  test("the oldest beyond the limit go when a new one starts, but not those that still run", async () => {
    await record("20261101T000000Z-00000a", false);
    for (const day of ["02", "03", "04", "05"]) await record(`202611${day}T000000Z-00000a`, true);
    await record("20261106T000000Z-00000a", true, process.pid, 3);
    expect((await listRuns(dir)).map((run) => run.id.slice(6, 8))).toEqual(["06", "05", "04", "01"]);
  });

  test("no two addresses share a log file, and any file system takes the names", () => {
    const address = fc.oneof(
      fc.string({ unit: "binary", minLength: 1, maxLength: 300 }),
      fc.constantFrom("a/b", "a+b", "a%2Fb", "..", "a*"),
    );
    fc.assert(
      fc.property(address, address, (a, b) => {
        const [left, right] = [logFileName(a), logFileName(b)];
        expect(Buffer.byteLength(left)).toBeLessThanOrEqual(200);
        expect(left).toMatch(/^[^/\0]+\.log$/);
        if (a !== b) expect(left).not.toBe(right);
      }),
      { numRuns: 500 },
    );
  });
});
