import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type CrashLab, startCrashLab } from "../support/cli-lab.ts";
import type { CliProcess } from "../support/cli.ts";
import { machinesUnavailable } from "../support/sshd.ts";

const APPLY = ["apply", "--auto-approve", "--json"];
const PARTS = ["large", "files"] as const;
let lab: CrashLab;
let generation = 0;

/** A run in the middle of its large upload. */
async function uploading(): Promise<CliProcess> {
  generation += 1;
  lab.write(generation, PARTS);
  const child = lab.spawn(APPLY);
  await child.event((event) => event.type === "action.progress" && (event.fraction ?? 0) > 0.2);
  return child;
}

describe.skipIf(machinesUnavailable() !== undefined)("machines that go away in the middle", () => {
  beforeAll(async () => {
    lab = await startCrashLab();
  });
  afterAll(() => lab.stop());

  test("the session is cut: it is tried again, or exit 6; the next run converges", async () => {
    for (let i = 0; i < 2; i++) {
      const child = await uploading();
      await lab.machine.cut();
      const result = await child.done;
      expect([0, 6], result.output.slice(-2000)).toContain(result.code);
      await lab.converges(generation, PARTS);
    }
  });

  test("the power fails: exit 5 or 6 and what to do, and once the machine is back the next run converges", async () => {
    await lab.machine.exec("touch /run/reboot_never");
    const child = await uploading();
    await lab.machine.exec("reboot");
    const result = await child.done;
    expect([5, 6], result.output.slice(-2000)).toContain(result.code);
    expect(result.stdout).toMatch(/"code":"E_(DISCONNECTED|CONNECT|BLOCKED)"/);
    const away = await lab.run(APPLY);
    expect(away.code, away.output.slice(-2000)).toBe(5);
    await lab.machine.exec("rm /run/reboot_never");
    await lab.machine.startSshd();
    await lab.converges(generation, PARTS);
  });
});
