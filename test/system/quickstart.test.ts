/** examples/quickstart, in a copy, as a user without any rights runs it. */
import { spawnSync } from "node:child_process";
import { chmodSync, chownSync, existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createWorkspace, type Workspace } from "../support/workspace.ts";

const EXAMPLE = join(import.meta.dirname, "../../examples/quickstart");
const NOBODY = 65_534;
const root = process.getuid?.() === 0;

describe("examples/quickstart", () => {
  let lab: Workspace;
  let out: string;
  /** The program as somebody who is not root; where the tests do not run as root, that is so anyway. */
  const wrap = root
    ? ["setpriv", `--reuid=${NOBODY}`, `--regid=${NOBODY}`, "--clear-groups", "--no-new-privs", "--bounding-set=-all"]
    : [];
  const run = (...args: string[]): ReturnType<Workspace["run"]> => lab.run(args);

  beforeAll(() => {
    lab = createWorkspace({ copy: EXAMPLE, wrap });
    out = join(lab.cwd, "out");
    rmSync(join(lab.cwd, ".labctl"), { recursive: true, force: true });
    const spec = readFileSync(join(lab.cwd, "lab.yaml"), "utf8");
    writeFileSync(join(lab.cwd, "lab.yaml"), spec.replaceAll("/tmp/labctl-quickstart", out));
    if (root) {
      chownSync(lab.cwd, NOBODY, NOBODY);
      for (const name of readdirSync(lab.cwd, { recursive: true }))
        chownSync(join(lab.cwd, String(name)), NOBODY, NOBODY);
    }
  });
  afterAll(() => lab.remove());

  test("does something to look at, without root", async () => {
    const validated = await run("validate");
    expect(validated.output).toContain("Valid: quickstart");
    const result = await run("apply", "--auto-approve");
    expect(result.code, result.output).toBe(0);
    expect(result.output).toContain("Apply complete");
    expect(result.output).toContain(`report = "${out}/doctor.txt"`);
    expect(readFileSync(join(out, "debug.config"), "utf8")).toContain("CONFIG_KASAN=y");
    const uname = spawnSync("uname", ["-r"], { encoding: "utf8" }).stdout.trim();
    expect(readFileSync(join(out, "machine.txt"), "utf8")).toContain(`kernel:         ${uname}\n`);
    expect(readFileSync(join(out, "doctor.txt"), "utf8")).toMatch(/^ {2}(yes|no) {1,3}gcc/m);
  });

  test("has nothing left to do, and changes nothing when it is run again", async () => {
    expect(await lab.pending()).toEqual({});
    const look = (): string => spawnSync("sh", ["-c", `stat -c '%n %i %Z' ${out}/*`], { encoding: "utf8" }).stdout;
    const before = look();
    const again = await run("apply", "--auto-approve");
    expect(again.code, again.output).toBe(0);
    expect(look()).toBe(before);
    expect(before.split("\n")).toHaveLength(4);
  });

  test("names what was changed behind its back, exactly, and mends it", async () => {
    writeFileSync(join(out, "debug.config"), "CONFIG_KASAN=n\n");
    chmodSync(join(out, "debug.config"), 0o600);
    expect(await lab.pending()).toEqual({ [`host.this/file["${out}/debug.config"]`]: "update content, mode" });
    rmSync(join(out, "doctor.txt"));
    chmodSync(out, 0o700);
    expect(await lab.pending()).toEqual({
      [`host.this/directory["${out}"]`]: "update mode",
      [`host.this/file["${out}/debug.config"]`]: "update content, mode",
      "host.this/command.doctor": "create",
    });
    const shown = await run("plan");
    expect(shown.output).toContain("-CONFIG_KASAN=n");
    expect((await run("apply", "--auto-approve")).code).toBe(0);
    expect(await lab.pending()).toEqual({});
    expect(existsSync(join(out, "doctor.txt"))).toBe(true);
  });

  test("leaves nothing after destroy", async () => {
    const result = await run("destroy", "--auto-approve");
    expect(result.code, result.output).toBe(0);
    expect(existsSync(out)).toBe(false);
    expect(await lab.pending().then((left) => Object.values(left))).not.toContain("delete");
    const state = await run("state", "list");
    expect(state.stdout.trim()).not.toContain("host.this");
    // Nothing beside what it says it keeps: the state, and the key of the seal.
    const home = readdirSync(join(lab.cwd, "home"), { recursive: true, withFileTypes: true });
    expect(home.filter((one) => one.isFile()).map((one) => one.name)).toEqual(["seal.key"]);
  });

  test("is refused with a place where it is broken", async () => {
    mkdirSync(join(lab.cwd, "broken"));
    const spec = readFileSync(join(lab.cwd, "lab.yaml"), "utf8");
    writeFileSync(join(lab.cwd, "broken", "lab.yaml"), spec.replace("directories:", "directoris:"));
    const result = await run("plan", "broken");
    expect(result.code).toBe(3);
    expect(result.output).toMatch(/lab\.yaml:\d+:\d+: .*directoris/);
    expect(result.output).toContain("directories");
  });
});
