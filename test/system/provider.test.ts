/** examples/provider with a real git repository, and everything that can be wrong with a provider. */
import { spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { createWorkspace, type Workspace } from "../support/workspace.ts";

const EXAMPLE = join(import.meta.dirname, "../../examples/provider");
const git = spawnSync("git", ["--version"]).status === 0;
if (!git) console.log("provider: skipped: git is not installed");

describe.skipIf(!git)("examples/provider", () => {
  let lab: Workspace;
  let repository: string;
  let clone: string;
  let address: string;

  const run = (program: string, args: readonly string[], cwd = repository): string => {
    const result = spawnSync(program, args, {
      cwd,
      encoding: "utf8",
      env: { PATH: process.env["PATH"], HOME: lab.path("home"), GIT_CONFIG_NOSYSTEM: "1" },
    });
    expect(result.status, `${program} ${args.join(" ")}: ${result.stderr}`).toBe(0);
    return result.stdout.trim();
  };
  const commit = (text: string): string => {
    writeFileSync(join(repository, "README"), text);
    run("git", ["add", "."]);
    run("git", ["-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", text]);
    return run("git", ["rev-parse", "HEAD"]);
  };

  beforeEach(() => {
    lab = createWorkspace({ copy: EXAMPLE, env: { GIT_CONFIG_NOSYSTEM: "1" } });
    for (const name of [".labctl", "labctl.lock"]) rmSync(lab.path(name), { recursive: true, force: true });
    repository = lab.path("repository");
    clone = lab.path("clone");
    address = `host.this/checkout[${JSON.stringify(clone)}]`;
    mkdirSync(repository);
    run("git", ["init", "-q", "-b", "main"]);
    const spec = readFileSync(lab.path("lab.yaml"), "utf8");
    lab.write(
      "lab.yaml",
      spec.replaceAll("/tmp/labctl-provider-example", clone).replace("/srv/git/project.git", repository),
    );
  });
  afterEach(() => lab.remove());

  const respec = (checkout: string): void => {
    const spec = readFileSync(lab.path("lab.yaml"), "utf8");
    lab.write("lab.yaml", spec.replace(/(: )\{ repository: .*\}/, `$1${checkout}`));
  };
  const lock = (): { providers: Record<string, { source: string; version: string; integrity: string }> } =>
    JSON.parse(readFileSync(lab.path("labctl.lock"), "utf8")) as ReturnType<typeof lock>;
  /** Exit 3, the code, the place, and no stack trace. */
  const refused = async (code: string, ...says: RegExp[]): Promise<void> => {
    const result = await lab.run(["plan"]);
    expect(result.code, result.output).toBe(3);
    expect(result.output).toContain(code);
    expect(result.output).toMatch(/lab\.yaml:\d+|labctl\.lock/);
    expect(result.output).not.toMatch(/^\s+at .*:\d+:\d+\)?$/m);
    expect(result.output).toMatch(/hint: \S+/);
    for (const pattern of says) expect(result.output).toMatch(pattern);
  };

  test("apply, drift, update and destroy of a real checkout", async () => {
    const first = commit("one\n");
    const plan = await lab.plan([], 2);
    expect(plan.settings.providers.map(({ name }) => name)).toEqual(["git-checkout"]);
    expect(existsSync(lab.path("labctl.lock")), "planning writes nothing").toBe(false);
    await lab.apply();
    expect(run("git", ["rev-parse", "HEAD"], clone)).toBe(first);
    expect(JSON.parse((await lab.run(["output", "commit"])).stdout)).toBe(first);
    expect(await lab.pending()).toEqual({});
    expect(lock().providers["git-checkout"]).toMatchObject({ source: "git-checkout.js", version: "1.0.0" });
    expect(lock().providers["git-checkout"]?.integrity).toMatch(/^sha256-[0-9a-f]{64}$/);

    const second = commit("two\n");
    respec(`{ repository: "${repository}", commit: "${second}" }`);
    expect(await lab.pending()).toEqual({ [address]: "update commit" });
    await lab.apply();
    expect(readFileSync(join(clone, "README"), "utf8")).toBe("two\n");

    run("git", ["remote", "set-url", "origin", "/elsewhere"], clone);
    expect(await lab.pending()).toEqual({ [address]: "update repository" });
    run("git", ["checkout", "-q", first], clone);
    expect(await lab.pending()).toEqual({ [address]: "update repository, commit" });
    await lab.apply();
    expect(await lab.pending()).toEqual({});

    rmSync(clone, { recursive: true });
    expect(await lab.pending()).toEqual({ [address]: "create" });
    await lab.apply();
    // Work that is not committed is nobody's to remove.
    writeFileSync(join(clone, "work"), "unsaved");
    const kept = await lab.destroy([], 6);
    expect(kept.summary.problems[0]?.message).toContain("not committed");
    expect(kept.summary.problems[0]?.hint).toBeTruthy();
    rmSync(join(clone, "work"));
    await lab.destroy();
    expect(existsSync(clone)).toBe(false);
  });

  test("a checkout that was there before stays after destroy", async () => {
    commit("one\n");
    run("git", ["clone", "-q", repository, clone]);
    await lab.apply();
    await lab.destroy();
    expect(existsSync(join(clone, "README"))).toBe(true);
  });

  test("its kind is documented and validated like labctl's own", async () => {
    commit("one\n");
    respec(`{ repositry: "${repository}" }`);
    const result = await lab.run(["validate"]);
    expect(result.code).toBe(3);
    expect(result.output).toMatch(/lab\.yaml:\d+:\d+: .*repositry/);
    expect(result.output).toContain("repository");
  });

  test("other files under the locked version are refused until the lock is given up", async () => {
    commit("one\n");
    await lab.apply();
    const integrity = lock().providers["git-checkout"]?.integrity;
    writeFileSync(lab.path("git-checkout.js"), "\n// tampered with\n", { flag: "a" });
    await refused("E_PROVIDER_INTEGRITY", /git-checkout/);
    expect((await lab.run(["apply", "--auto-approve"])).code).toBe(3);
    expect(lock().providers["git-checkout"]?.integrity).toBe(integrity);
    rmSync(lab.path("labctl.lock"));
    await lab.apply(["--replace", address]);
    expect(lock().providers["git-checkout"]?.integrity).not.toBe(integrity);
    lab.write("labctl.lock", "{ not json");
    await refused("E_PROVIDER_INTEGRITY", /labctl\.lock/);
  });

  test("missing, broken, of another API, exporting nothing, failing when loaded", async () => {
    commit("one\n");
    const file = lab.path("git-checkout.js");
    const source = readFileSync(file, "utf8");
    const cases: readonly [string, string, RegExp][] = [
      ["export default {", "E_PROVIDER_INVALID", /git-checkout/],
      ["export const provider = 1;", "E_PROVIDER_INVALID", /exports no provider/],
      ['throw new Error("cannot start");', "E_PROVIDER_INVALID", /cannot start/],
      ['import "not-installed-anywhere"; export default 1;', "E_PROVIDER_INVALID", /not-installed-anywhere/],
      [
        source.replace(/export default defineProvider\((.*)\);/, "export default { ...defineProvider($1), api: 99 };"),
        "E_PROVIDER_VERSION",
        /99/,
      ],
      [source.replace('name: "checkouts"', 'name: "files"'), "E_PROVIDER_INVALID", /files/],
    ];
    for (const [text, code, says] of cases) {
      writeFileSync(file, text);
      await refused(code, says);
    }
    rmSync(file);
    await refused("E_PROVIDER_NOT_FOUND", /git-checkout/);
    writeFileSync(file, source);
    const spec = readFileSync(lab.path("lab.yaml"), "utf8");
    lab.write("lab.yaml", spec.replace("source: ./git-checkout.js", "source: ./git-checkout.js, version: ^2"));
    await refused("E_PROVIDER_VERSION", /1\.0\.0/, /\^2/);
    lab.write("lab.yaml", spec.replace("source: ./git-checkout.js", "source: ./git-checkout.js, version: ^1"));
    await lab.apply();
  });

  test("npm: from a node_modules beside the spec, its version checked and locked", async () => {
    const head = commit("one\n");
    const spec = readFileSync(lab.path("lab.yaml"), "utf8");
    lab.write("lab.yaml", spec.replace("source: ./git-checkout.js", 'source: "npm:@acme/labctl-git", version: ^1.2'));
    await refused("E_PROVIDER_NOT_FOUND", /npm install @acme\/labctl-git/);
    const folder = lab.path("node_modules/@acme/labctl-git");
    mkdirSync(join(folder, "lib"), { recursive: true });
    cpSync(lab.path("git-checkout.js"), join(folder, "lib/index.js"));
    rmSync(lab.path("git-checkout.js"));
    const manifest = (version: string): void =>
      writeFileSync(
        join(folder, "package.json"),
        JSON.stringify({
          name: "@acme/labctl-git",
          version,
          type: "module",
          exports: { ".": { import: "./lib/index.js", default: "./lib/index.js" } },
        }),
      );
    manifest("1.1.0");
    await refused("E_PROVIDER_VERSION", /1\.1\.0/, /\^1\.2/);
    manifest("1.2.3");
    await lab.apply();
    expect(run("git", ["rev-parse", "HEAD"], clone)).toBe(head);
    expect(lock().providers["git-checkout"]).toMatchObject({ source: "npm:@acme/labctl-git", version: "1.2.3" });
    // A new version is no tampering; the lock follows with the next apply.
    manifest("1.3.0");
    writeFileSync(join(folder, "lib/more.js"), "");
    expect(await lab.pending()).toEqual({});
    await lab.apply(["--replace", address]);
    expect(lock().providers["git-checkout"]?.version).toBe("1.3.0");
    writeFileSync(join(folder, "lib/more.js"), "// other\n");
    await refused("E_PROVIDER_INTEGRITY", /1\.3\.0/);
    expect(dirname(folder)).toContain("node_modules");
  });
});
