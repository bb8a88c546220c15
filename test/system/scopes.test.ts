import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type CliResult, labctl } from "../support/cli.ts";

let cwd: string;
let out: string;
beforeEach(() => {
  cwd = mkdtempSync(join(tmpdir(), "labctl-scopes-"));
  out = join(cwd, "out");
  mkdirSync(join(cwd, "home"));
});
afterEach(() => rmSync(cwd, { recursive: true, force: true }));

const run = (...args: string[]): Promise<CliResult> =>
  labctl(args, { cwd, env: { HOME: join(cwd, "home"), NO_COLOR: "1" } });

function lab(file: string, name: string, files: Readonly<Record<string, unknown>>, more: object = {}): void {
  const hosts = { me: { connection: "local", files } };
  writeFileSync(join(cwd, file), JSON.stringify({ labctl: 1, name, hosts, ...more }));
}

describe("whose state it is", () => {
  test("a spec of another lab does not tear down the one whose state it finds; renaming is said", async () => {
    lab("lab.yaml", "berlin", { [out]: { content: "berlin\n" } });
    expect((await run("apply", "--auto-approve")).code).toBe(0);
    lab("other.yaml", "munich", { [`${out}-2`]: { content: "munich\n" } });

    const planned = await run("plan", "-f", "other.yaml");
    expect(planned.code, planned.output).toBe(4);
    expect(planned.output).toContain('is that of the lab "berlin", and this spec is "munich"');
    expect(planned.output).toContain("labctl state rename munich");
    const applied = await run("apply", "-f", "other.yaml", "--auto-approve");
    expect(applied.code, applied.output).toBe(4);
    expect(readFileSync(out, "utf8")).toBe("berlin\n");

    const renamed = await run("state", "rename", "munich");
    expect(renamed.code, renamed.output).toBe(0);
    const again = await run("plan", "-f", "other.yaml", "--detailed-exitcode");
    expect(again.code, again.output).toBe(2);
    const back = await run("plan");
    expect(back.code, back.output).toBe(4);
  });

  test("a lab that was destroyed makes room for another", async () => {
    lab("lab.yaml", "berlin", { [out]: { content: "berlin\n" } });
    expect((await run("apply", "--auto-approve")).code).toBe(0);
    expect((await run("destroy", "--auto-approve")).code).toBe(0);
    lab("lab.yaml", "munich", { [out]: { content: "munich\n" } });
    const applied = await run("apply", "--auto-approve");
    expect(applied.code, applied.output).toBe(0);
    expect(readFileSync(out, "utf8")).toBe("munich\n");
  });
});

describe("pipelines have scopes of their own", () => {
  test("a pipeline beside its lab owns its scope, and not the lab's, unless both are given", async () => {
    lab("lab.yaml", "berlin", { [out]: { content: "one\n" } });
    writeFileSync(join(cwd, "pipeline.yaml"), "labctl: 1\nname: ci\n");
    expect((await run("apply", "--auto-approve")).code).toBe(0);
    lab("lab.yaml", "berlin", { [out]: { content: "two\n" } });
    // The pipeline alone: the lab is read, and left alone.
    const alone = await run("apply", "-f", "pipeline.yaml", "--auto-approve");
    expect(alone.code, alone.output).toBe(0);
    expect(readFileSync(out, "utf8")).toBe("one\n");
    const both = await run("apply", "--auto-approve");
    expect(both.code, both.output).toBe(0);
    expect(readFileSync(out, "utf8")).toBe("two\n");
    const state = JSON.parse((await run("state", "list", "--json")).stdout) as { scopes: Record<string, unknown> };
    expect(Object.keys(state.scopes)).toEqual(["lab", "pipeline/ci"]);
  });
});

describe("saved plans", () => {
  test("carry the variables that they were made with, but not sensitive ones", async () => {
    const variables = { text: { description: "has no default" }, token: { default: "none", sensitive: true } };
    const files = { [out]: { content: "${var.text}\n" }, [`${out}-secret`]: { content: "${var.token}\n" } };
    lab("lab.yaml", "berlin", files, { variables });
    const planned = await run("plan", "--var", "text=given", "--var", "token=canary-7f3", "--out", "change.plan");
    expect(planned.code, planned.output).toBe(0);
    expect(readFileSync(join(cwd, "change.plan"), "utf8")).not.toContain("canary-7f3");
    const applied = await run("apply", "change.plan", "--var", "token=canary-7f3");
    expect(applied.code, applied.output).toBe(0);
    expect(readFileSync(out, "utf8")).toBe("given\n");
    expect(readFileSync(`${out}-secret`, "utf8")).toBe("canary-7f3\n");
  });
});
