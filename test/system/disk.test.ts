import { execFileSync } from "node:child_process";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type CrashLab, startCrashLab, summaryOf } from "../support/cli-lab.ts";
import { machinesUnavailable } from "../support/sshd.ts";

let lab: CrashLab;

describe.skipIf(machinesUnavailable() !== undefined)("full disks", () => {
  beforeAll(async () => {
    // Too small for the large file; the rest fits.
    lab = await startCrashLab({ tmpfs: { "/srv/app": "10m" } });
  });
  afterAll(async () => {
    try {
      execFileSync("umount", ["-l", join(lab.cwd, ".labctl")], { stdio: "ignore" });
    } catch {
      // The test that mounts it did not come that far.
    }
    await lab.stop();
  });

  test("on the host: E_DISK_FULL and exit 6, what fits is done, no partial file stays, and with space it converges", async () => {
    lab.write(1);
    const full = await lab.run(["apply", "--auto-approve", "--json"]);
    expect(full.code, full.output.slice(-2000)).toBe(6);
    const problem = summaryOf(full)?.problems[0];
    expect(problem, JSON.stringify(summaryOf(full)?.problems)).toMatchObject({
      code: "E_DISK_FULL",
      message: expect.stringContaining("/srv/app"),
    });
    expect(problem?.hint).toContain("free some space");
    expect(full.stdout).toMatch(/"type":"action.finished","address":"[^{]*big.bin[^{]*"result":"failed"/);
    expect(await lab.leftovers()).toBe("");
    expect((await lab.state()).rows.get('host.m/file["/srv/app/conf-1"]')?.status).toBe("ok");
    await lab.machine.exec("mount -o remount,size=64m /srv/app");
    await lab.converges(1);
  });

  test("under the state: E_DISK_FULL, nothing is begun without a record, nothing is lost, and with space it converges", async () => {
    const state = join(lab.cwd, ".labctl");
    const kept = execFileSync("tar", ["-C", state, "-cf", "-", "."], { maxBuffer: 64 << 20 });
    rmSync(state, { recursive: true });
    mkdirSync(state, { mode: 0o700 });
    execFileSync("mount", ["-t", "tmpfs", "-o", "size=4m,mode=0700", "small", state]);
    execFileSync("tar", ["-C", state, "-xf", "-"], { input: kept });
    const before = await lab.state();
    let blocked = 0;
    // From no space at all to some of it: it runs out at another record each time.
    for (const [i, free] of [0, 4096, 12288, 32768].entries()) {
      const filler = join(state, "runs", "filler");
      rmSync(filler, { force: true });
      const available = Number(
        execFileSync("df", ["--output=avail", "-B1", state], { encoding: "utf8" }).trim().split("\n").at(-1),
      );
      writeFileSync(filler, Buffer.alloc(Math.max(0, available - free)));
      const generation = 2 + i;
      lab.write(generation);
      const full = await lab.run(["apply", "--auto-approve", "--json"]);
      rmSync(filler, { force: true });
      expect([0, 4, 6], full.output.slice(-2000)).toContain(full.code);
      if (full.code !== 0) {
        blocked += 1;
        expect(summaryOf(full)?.problems.map(({ code }) => code)).toContain("E_DISK_FULL");
        expect(full.output).not.toContain("    at ");
      }
      const now = await lab.state();
      expect(now.lineage).toBe(before.lineage);
      expect([...now.rows.keys()].sort()).toEqual([...before.rows.keys()].sort());
      for (const line of full.stdout.split("\n").filter((one) => one.includes('"action.finished"'))) {
        const event = JSON.parse(line) as { address: string; result: string; run: string };
        if (event.result === "ok") expect(now.rows.get(event.address)).toMatchObject({ updated_by: event.run });
      }
      await lab.converges(generation);
    }
    expect(blocked).toBeGreaterThan(0);
  });
});
