import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import type { LabEvent } from "../../src/model/index.ts";
import { type CrashLab, startCrashLab, summaryOf } from "../support/cli-lab.ts";
import type { CliProcess } from "../support/cli.ts";
import { machinesUnavailable } from "../support/sshd.ts";

const APPLY = ["apply", "--auto-approve", "--json"];
/** Enough to take a moment, without what makes the tests slow. */
const PARTS = ["files", "service", "command"] as const;

let lab: CrashLab;
let generation = 0;

function next(): number {
  generation += 1;
  lab.write(generation, PARTS);
  return generation;
}

const begun = (child: CliProcess): Promise<LabEvent | undefined> =>
  child.event((event) => event.type === "action.started");

/** All bytes of the state's folder but the records of runs. */
function stateBytes(): Record<string, string> {
  const dir = join(lab.cwd, ".labctl");
  const names = readdirSync(dir).filter((name) => name !== "runs");
  return Object.fromEntries(names.map((name) => [name, readFileSync(join(dir, name), "utf8")]));
}

describe.skipIf(machinesUnavailable() !== undefined)("locking between processes", () => {
  beforeAll(async () => {
    lab = await startCrashLab();
    next();
    const first = await lab.run(["apply", "--auto-approve"]);
    expect(first.code, first.output).toBe(0);
  });
  afterAll(() => lab.stop());

  test("of two applies at once one is refused, saying who holds the lock; the other is not disturbed", async () => {
    const n = next();
    const first = lab.spawn(APPLY);
    await begun(first);
    // Held still, so that it has the lock for as long as this takes.
    first.kill("SIGSTOP");
    const second = await lab.run(["apply", "--auto-approve"]);
    first.kill("SIGCONT");
    expect(second.code, second.output).toBe(4);
    expect(second.output).toContain("E_STATE_LOCKED");
    expect(second.output).toContain(`pid ${first.pid}`);
    expect(second.output).toContain("labctl apply");
    expect(second.output).toContain("--lock-timeout");
    expect((await first.done).code).toBe(0);
    expect(await lab.look()).toBe(lab.expected(n, PARTS));
  });

  test("with --lock-timeout it waits, says for whom, and then does its work", async () => {
    next();
    const first = lab.spawn(APPLY);
    await begun(first);
    first.kill("SIGSTOP");
    const waiting = lab.spawn(["apply", "--auto-approve", "--json", "--lock-timeout", "40s"]);
    const told = await waiting.event((event) => event.type === "lock.waiting" || event.type === "lock.acquired");
    expect(told).toMatchObject({ type: "lock.waiting", purpose: expect.stringContaining("labctl apply") });
    first.kill("SIGCONT");
    const [one, two] = [await first.done, await waiting.done];
    expect(one.code, one.output).toBe(0);
    expect(two.code, two.output).toBe(0);
    // The first did all that was planned: under the lock it sees that nothing is left to do, and does nothing twice.
    expect(two.stdout).not.toContain('"type":"action.started"');
    await lab.converges(generation, PARTS);
  });

  test("a killed holder's lock is taken over at once, and its work finished", async () => {
    const n = next();
    const first = lab.spawn(APPLY);
    await begun(first);
    first.kill("SIGKILL");
    await first.done;
    const second = await lab.run(APPLY);
    expect(second.code, second.output).toBe(0);
    expect(second.stdout).toMatch(/"type":"lock.acquired","token":\d+,"takeover":true/);
    expect(await lab.look()).toBe(lab.expected(n, PARTS));
    await lab.converges(n, PARTS);
  });

  test("a stalled holder whose lock was taken away changes and begins nothing more", async () => {
    next();
    const stalled = lab.spawn([...APPLY, "--parallelism", "1"], { timeout: 90_000 });
    await begun(stalled);
    stalled.kill("SIGSTOP");
    const refused = await lab.run(["apply", "--auto-approve"]);
    expect(refused.code, refused.output).toBe(4);
    const unlocked = await lab.run(["state", "unlock", "--auto-approve"]);
    expect(unlocked.code, unlocked.output).toBe(0);
    expect(unlocked.output).toContain(`pid ${stalled.pid}`);
    const n = next();
    const second = await lab.run(["apply", "--auto-approve"]);
    expect(second.code, second.output).toBe(0);
    const before = stateBytes();
    const seen = stalled.events.length;
    stalled.kill("SIGCONT");
    const old = await stalled.done;
    expect(old.code, old.output).toBe(4);
    expect(summaryOf(old)?.problems.map((problem) => problem.code)).toEqual(["E_STATE_LOCK_LOST"]);
    expect(stateBytes()).toEqual(before);
    // What was running may still be told of; nothing that changes a machine was begun after it woke up.
    await sleep(300);
    const later = stalled.events.slice(seen).filter((event) => event.type === "action.finished");
    expect(later.filter((event) => event.type === "action.finished" && event.result === "ok")).toEqual([]);
    expect(await lab.look()).toBe(lab.expected(n, PARTS));
    await lab.converges(n, PARTS);
  });
});
