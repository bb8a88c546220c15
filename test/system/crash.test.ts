import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, describe, expect, test } from "vitest";
import { type CrashLab, startCrashLab } from "../support/cli-lab.ts";
import type { CliProcess } from "../support/cli.ts";
import { machinesUnavailable } from "../support/sshd.ts";

/** Kills in all, over two machines. */
const KILLS = Number(process.env["LABCTL_KILLS"] ?? 200);
const LONG = 15 * 60_000;
const EMPTY = "motd \npackage  \nuser  \nservice down\n";

const labs: CrashLab[] = [];
afterAll(async () => {
  for (const lab of labs) await lab.stop();
});

async function newLab(): Promise<CrashLab> {
  const lab = await startCrashLab();
  labs.push(lab);
  return lab;
}

/** Kills at a moment of its own each time: after one of its first actions began and a while more, or blindly. */
async function killSomewhere(child: CliProcess): Promise<boolean> {
  if (Math.random() < 0.1) await Promise.race([sleep(Math.random() * 1500), child.done]);
  else {
    const nth = 1 + Math.floor(Math.random() * 4);
    let begun = 0;
    await child.event((event) => event.type === "action.started" && ++begun >= nth);
    await Promise.race([sleep(Math.random() * 400), child.done]);
  }
  child.kill("SIGKILL");
  return (await child.done).signal === "SIGKILL";
}

/** What the killed run said was done is in the state, which can be read. */
async function nothingLost(lab: CrashLab, child: CliProcess): Promise<void> {
  const { rows } = await lab.state();
  for (const event of child.events) {
    if (event.type !== "action.finished" || event.result !== "ok") continue;
    const row = rows.get(event.address);
    const about = `${event.address} ${event.action}`;
    // What a killed delete had taken away already is forgotten by the next one.
    if (event.action === "delete" || event.action === "forget") expect(row, about).toBeUndefined();
    else expect(row, about).toMatchObject({ status: "ok", updated_by: event.run });
  }
}

interface Tally {
  kills: number;
  open: number;
}

/** Two to seven kills in a row, each of which leaves a readable state that lost nothing; then one run must finish it. */
async function round(lab: CrashLab, command: "apply" | "destroy", tally: Tally): Promise<void> {
  for (let left = 2 + Math.floor(Math.random() * 6); left > 0; left--) {
    const child = lab.spawn([command, "--auto-approve", "--json"]);
    const killed = await killSomewhere(child);
    await nothingLost(lab, child);
    if (!killed) return;
    tally.kills += 1;
    const run = child.events[0]?.run;
    if (run !== undefined && lab.open(run) > 0) tally.open += 1;
  }
  const listed = await lab.run(["state", "list", "--json"]);
  expect(listed.code, listed.output).toBe(0);
}

async function lane(kills: number, tally: Tally): Promise<void> {
  const lab = await newLab();
  const own: Tally = { kills: 0, open: 0 };
  for (let generation = 1; own.kills < kills; generation++) {
    lab.write(generation);
    await round(lab, "apply", own);
    await lab.converges(generation);
    if (generation % 6 === 0) {
      await round(lab, "destroy", own);
      const destroyed = await lab.run(["destroy", "--auto-approve"]);
      expect(destroyed.code, destroyed.output).toBe(0);
      expect((await lab.state()).rows.size).toBe(0);
      expect(await lab.look()).toBe(EMPTY);
      expect(await lab.leftovers()).toBe("");
    }
  }
  tally.kills += own.kills;
  tally.open += own.open;
}

describe.skipIf(machinesUnavailable() !== undefined)("crash safety", () => {
  test(
    "kill -9 at any moment: nothing done is lost, nothing is left behind, the next run converges",
    async () => {
      const tally: Tally = { kills: 0, open: 0 };
      await Promise.all([lane(KILLS / 2, tally), lane(KILLS / 2, tally)]);
      expect(tally.kills).toBeGreaterThanOrEqual(KILLS);
      // Kills that hit nothing prove nothing.
      expect(tally.open / tally.kills).toBeGreaterThanOrEqual(0.3);
      console.log(`${tally.kills} kills, ${tally.open} of them inside operations`);
    },
    LONG,
  );
});
