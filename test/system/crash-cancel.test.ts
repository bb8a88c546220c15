import { createHash } from "node:crypto";
import { lstatSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type CrashLab, startCrashLab, summaryOf } from "../support/cli-lab.ts";
import type { CliProcess } from "../support/cli.ts";
import { machinesUnavailable } from "../support/sshd.ts";

const APPLY = ["apply", "--auto-approve", "--json"];
const PARTS = ["files", "service", "command"] as const;
let lab: CrashLab;
let generation = 0;

function next(): number {
  generation += 1;
  lab.write(generation, PARTS);
  return generation;
}

const startedAt = (child: CliProcess, address: string): Promise<unknown> =>
  child.event((event) => event.type === "action.started" && event.address === address);

/** Every file under a folder: path, mode, size, time of change and digest. */
function tree(dir: string): string[] {
  return readdirSync(dir, { recursive: true })
    .map(String)
    .sort()
    .map((name) => {
      const stat = lstatSync(join(dir, name));
      const digest = stat.isFile()
        ? createHash("sha256")
            .update(readFileSync(join(dir, name)))
            .digest("hex")
        : "";
      return `${name} ${stat.mode} ${stat.size} ${stat.mtimeMs} ${stat.ctimeMs} ${digest}`;
    });
}

/**
 * A module for `node --import`: once the nth operation is begun, on disk and without an end, the heap is filled until there is no more
 * of it, in one go: what the operation came to is never heard.
 */
function eatsMemoryIn(nth: number): string {
  const code = `
    import { readdirSync, readFileSync } from "node:fs";
    const count = (text, type) => text.split('"type":"' + type + '"').length - 1;
    const hog = [];
    const before = new Set(journals());
    function journals() {
      try { return readdirSync(".labctl").filter((name) => name.startsWith("lab.journal.")); } catch { return []; }
    }
    setInterval(() => {
      const text = journals().filter((name) => !before.has(name)).map((name) => readFileSync(".labctl/" + name, "latin1")).join("");
      if (count(text, "begin") >= ${nth} && count(text, "begin") > count(text, "end"))
        for (;;) hog.push(new Array(10000).fill(1));
    }, 1).unref();`;
  return `data:text/javascript,${encodeURIComponent(code)}`;
}

describe.skipIf(machinesUnavailable() !== undefined)("runs that are stopped", () => {
  beforeAll(async () => {
    lab = await startCrashLab();
    next();
    await lab.converges(generation, PARTS);
  });
  afterAll(() => lab.stop());

  test("Ctrl-C once: what runs ends, nothing new is begun, exit 130, and the lock is free", async () => {
    const n = next();
    const child = lab.spawn([...APPLY, "--parallelism", "1"]);
    await child.event((event) => event.type === "action.started");
    child.kill("SIGINT");
    const result = await child.done;
    expect(result.code, result.output.slice(-2000)).toBe(130);
    const at = child.events.findIndex((event) => event.type === "cancel.requested");
    expect(at).toBeGreaterThan(0);
    expect(child.events.slice(at).filter((event) => event.type === "action.started")).toEqual([]);
    const { rows } = await lab.state();
    for (const row of rows.values()) expect(row.status, row.address).toBe("ok");
    expect(summaryOf(result)?.results.cancelled).toBeGreaterThan(0);
    const following = await lab.run(APPLY);
    expect(following.stdout).not.toContain('"takeover":true');
    await lab.converges(n, PARTS);
  });

  test("Ctrl-C twice: ends soon, its processes on the machine with it, and the state knows", async () => {
    const n = next();
    const spec = JSON.parse(readFileSync(join(lab.cwd, "lab.yaml"), "utf8")) as {
      hosts: { m: { commands: Record<string, object> } };
    };
    spec.hosts.m.commands["slow"] = { run: "sleep 4242", unless: "test -e /srv/app/slow" };
    writeFileSync(join(lab.cwd, "lab.yaml"), JSON.stringify(spec));
    const child = lab.spawn(APPLY);
    await startedAt(child, "host.m/command.slow");
    for (let i = 0; i < 100 && (await lab.machine.exec("pgrep -f '^sleep 4242'")).code !== 0; i++) await sleep(50);
    child.kill("SIGINT");
    await child.event((event) => event.type === "cancel.requested");
    const began = performance.now();
    child.kill("SIGINT");
    const result = await child.done;
    expect(performance.now() - began).toBeLessThan(15_000);
    expect(result.code, result.output.slice(-2000)).toBe(130);
    await sleep(500);
    expect((await lab.machine.exec("pgrep -f '^sleep 4242'")).stdout).toBe("");
    expect((await lab.state()).rows.get("host.m/command.slow")?.status).toBe("failed");
    lab.write(n, PARTS);
    await lab.converges(n, PARTS);
  });

  test("no memory to start with: nothing is begun, and nothing is held up", async () => {
    const n = next();
    for (const megabytes of [8, 12]) {
      const result = await lab.run(APPLY, { nodeArgs: [`--max-old-space-size=${megabytes}`] });
      expect(result.signal, result.output.slice(-500)).toBe("SIGABRT");
      expect(result.stdout).not.toContain("action.started");
    }
    await lab.converges(n, PARTS);
  });

  test("out of memory in the middle of its work is as a kill: nothing done is lost, and the next run converges", async () => {
    for (const nth of [1, 2, 3, 4]) {
      const n = next();
      const eater = eatsMemoryIn(nth);
      const child = lab.spawn(APPLY, { nodeArgs: ["--max-old-space-size=48", "--import", eater] });
      expect((await child.done).signal).toBe("SIGABRT");
      const { rows } = await lab.state();
      for (const event of child.events) {
        if (event.type !== "action.finished" || event.result !== "ok") continue;
        expect(rows.get(event.address), event.address).toMatchObject({ status: "ok", updated_by: event.run });
      }
      const run = child.events[0]?.run;
      expect(lab.open(run ?? "")).toBeGreaterThan(0);
      await lab.converges(n, PARTS);
    }
  });

  test("a clock that jumps a year takes no lock from a live holder, and holds up nothing", async () => {
    for (const jump of ["+1y", "-1y", "+0"]) {
      const n = next();
      const holder = lab.spawn(APPLY, { wrap: ["faketime", "-f", jump] });
      await holder.event((event) => event.type === "action.started");
      holder.kill("SIGSTOP");
      const other = await lab.run(["apply", "--auto-approve"], {
        wrap: ["faketime", "-f", jump === "+1y" ? "-1y" : "+1y"],
      });
      holder.kill("SIGCONT");
      expect(other.code, other.output).toBe(4);
      expect((await holder.done).code).toBe(0);
      await lab.converges(n, PARTS);
    }
  });

  test("a clock that jumps in the middle of a run loses nothing and gives its lock to nobody", async () => {
    const n = next();
    const clock = join(lab.cwd, "home", "clock");
    writeFileSync(clock, "+0");
    const faked = [
      "LD_PRELOAD=/usr/$LIB/faketime/libfaketime.so.1",
      `FAKETIME_TIMESTAMP_FILE=${clock}`,
      "FAKETIME_NO_CACHE=1",
      "FAKETIME_DONT_FAKE_MONOTONIC=1",
    ];
    const holder = lab.spawn(APPLY, { wrap: ["env", ...faked] });
    const others: CliProcess[] = [];
    const [began, halfADay] = [Date.now(), 43_200_000];
    for (const jump of ["+1d", "-7d"]) {
      // The first jump has to be seen before the second comes.
      await holder.event((event) =>
        jump === "+1d" ? event.type === "action.started" : Date.parse(event.at) > began + halfADay,
      );
      holder.kill("SIGSTOP");
      writeFileSync(clock, jump);
      // Longer than a holder may be silent, by either clock.
      others.push(lab.spawn(["apply", "--auto-approve", "--json", "--lock-timeout", "60s"]));
      await others.at(-1)?.event((event) => event.type === "lock.waiting");
      holder.kill("SIGCONT");
    }
    const ended = await holder.done;
    expect(ended.code, ended.output.slice(-2000)).toBe(0);
    const times = holder.events.map(({ at }) => Date.parse(at));
    const steps = times.slice(1).map((time, i) => (time - (times[i] ?? time)) / 86_400_000);
    expect(Math.max(...steps), "it must have jumped").toBeGreaterThan(0.9);
    expect(Math.min(...steps), "and back").toBeLessThan(-7);
    for (const event of holder.events) {
      if (!("duration_ms" in event)) continue;
      expect(event.duration_ms, event.type).toBeGreaterThanOrEqual(0);
      expect(event.duration_ms, event.type).toBeLessThan(60_000);
    }
    for (const other of others) {
      expect((await other.done).code).toBe(0);
      const acquired = other.events.find((event) => event.type === "lock.acquired");
      expect(acquired).toMatchObject({ takeover: false });
    }
    await lab.converges(n, PARTS);
  });

  test("plan writes nothing, anywhere; a saved plan is carried out once, and refused when the state moved", async () => {
    const n = next();
    const touched =
      "find /srv /etc /home /tmp /var /root -xdev -type f -cnewer /run/labctl-plan ! -path '/var/log/*' ! -path '/root/.npm/*' ! -path '/root/.cache/*'";
    await lab.machine.exec("touch /run/labctl-plan; sleep 0.05");
    const before = tree(lab.cwd);
    const planned = await lab.run(["plan", "--detailed-exitcode"]);
    expect(planned.code, planned.output).toBe(2);
    expect(tree(lab.cwd)).toEqual(before);
    expect((await lab.machine.exec(touched)).stdout).toBe("");
    const saved = await lab.run(["plan", "--out", "one.plan"]);
    expect(saved.code, saved.output).toBe(0);
    const applied = await lab.run(["apply", "one.plan"]);
    expect(applied.code, applied.output).toBe(0);
    const again = await lab.run(["apply", "one.plan"]);
    expect(again.code, again.output).toBe(3);
    expect(again.output).toContain("E_PLAN_STALE");
    expect(again.output).not.toContain("finishes it");
    await lab.converges(n, PARTS);
  });
});
