import { execFile, execFileSync, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

const exec = promisify(execFile);
const ROOT = resolve(import.meta.dirname, "../..");
const BUILT = join(ROOT, ".scratch", "cli-completion");
const FILE = 'host.here/file["/tmp/my lab/$motd"]';

let dir: string;
let env: NodeJS.ProcessEnv;

beforeAll(async () => {
  const missing = ["zsh", "fish", "script"].filter((name) => !onPath(name));
  if (missing.length > 0) {
    execFileSync("apt-get", [
      "install",
      "-y",
      "-qq",
      ...missing.map((name) => (name === "script" ? "bsdutils" : name)),
    ]);
  }
  // A build of its own: dist/ may be another version, or in the making.
  const tsc = join(ROOT, "node_modules/.bin/tsc");
  await exec(tsc, ["-p", join(ROOT, "tsconfig.build.json"), "--outDir", join(BUILT, "dist"), "--incremental", "false"]);
  dir = await mkdtemp(join(tmpdir(), "labctl-completion-"));
  await mkdir(join(dir, "bin"));
  await writeFile(
    join(dir, "bin", "labctl"),
    `#!/bin/sh\nexec '${process.execPath}' '${join(BUILT, "dist/src/cli/main.js")}' "$@"\n`,
    { mode: 0o755 },
  );
  await writeFile(
    join(dir, "lab.yaml"),
    JSON.stringify({ labctl: 1, name: "x", hosts: { here: { connection: "local" } } }),
  );
  env = {
    ...process.env,
    PATH: `${join(dir, "bin")}:${process.env["PATH"] ?? ""}`,
    HOME: dir,
    ZDOTDIR: dir,
    TERM: "xterm",
    PS1: "> ",
  };
  // A row as an apply would leave it, pushed through the command line itself.
  const row = (address: string, kind: string) => ({
    address,
    kind,
    version: 1,
    instance_id: "i",
    desired: {},
    observed: {},
    original: null,
    depends: [],
    options: {},
    secrets: {},
    status: "ok",
    updated_at: "2026-01-01T00:00:00.000Z",
    updated_by: "r",
  });
  const snapshot = {
    format_version: 1,
    labctl: "0.1.0",
    lineage: "l",
    scope: "lab",
    serial: 1,
    rows: { "host.here": row("host.here", "host"), [FILE]: row(FILE, "file") },
    outputs: {},
    holds: {},
  };
  await writeFile(join(dir, "state.json"), JSON.stringify(snapshot));
  await exec(join(dir, "bin", "labctl"), ["state", "push", "state.json", "--force"], { cwd: dir, env });
  for (const shell of ["bash", "zsh", "fish"]) {
    const { stdout } = await exec(join(dir, "bin", "labctl"), ["completion", shell], { cwd: dir, env });
    await writeFile(join(dir, `completion.${shell}`), stdout);
  }
  await writeFile(
    join(dir, ".zshrc"),
    "autoload -U compinit; compinit -u -D; bindkey -e; unsetopt beep; source ./completion.zsh; PS1='> '\n",
  );
}, 180_000);

afterAll(async () => {
  await rm(dir, { recursive: true, force: true });
  await rm(BUILT, { recursive: true, force: true });
});

function onPath(name: string): boolean {
  return (process.env["PATH"] ?? "").split(":").some((folder) => existsSync(join(folder, name)));
}

/**
 * Types into a real interactive shell on a terminal, presses Tab, and then makes the shell itself say which words the
 * line now has: `printf` is put before it, and prints each word between angle brackets.
 */
async function words(
  shell: readonly [string, ...string[]],
  setup: string,
  typed: string,
  expected: string,
): Promise<string> {
  const child = spawn("script", ["-qfec", shell.join(" "), "/dev/null"], { cwd: dir, env });
  let output = "";
  child.stdout.on("data", (chunk: Buffer) => {
    output += chunk.toString("utf8");
  });
  const until = async (done: () => boolean, ms: number): Promise<void> => {
    for (let waited = 0; !done() && waited < ms; waited += 50) await new Promise((r) => setTimeout(r, 50));
  };
  try {
    child.stdin.write(`${setup}echo re''ady\n`);
    await until(() => output.includes("ready"), 10_000);
    const before = output.length;
    child.stdin.write(`${typed}\t`);
    // The shell asks labctl, and draws what it got: no event says so, only silence after output.
    let seen = -1;
    await until(() => {
      const still = output.length === seen && output.length > before + typed.length;
      seen = output.length;
      return still;
    }, 4000);
    await new Promise((r) => setTimeout(r, 400));
    child.stdin.write("\u0001printf '<%s>' \n");
    await until(() => output.includes(expected), 5000);
    return output.slice(before);
  } finally {
    child.kill("SIGKILL");
  }
}

const CASES: readonly (readonly [string, string])[] = [
  ["labctl vali", "<labctl><validate>"],
  ["labctl plan --detailed", "<labctl><plan><--detailed-exitcode>"],
  ["labctl apply --on-failure roll", "<labctl><apply><--on-failure><rollback>"],
  ["labctl plan --log-format=j", "<labctl><plan><--log-format=json>"],
  ["labctl state sh", "<labctl><state><show>"],
  ["labctl host show h", "<labctl><host><show><host.here>"],
  ["labctl state show host.here/", `<labctl><state><show><${FILE}>`],
  ["labctl state show 'host.here/f", `<labctl><state><show><${FILE}>`],
  ["labctl fmt state.j", "<labctl><fmt><state.json>"],
];

describe("completion in real shells", () => {
  test.each(CASES)("bash: %s", async (typed, expected) => {
    const got = await words(
      ["bash", "--norc", "--noprofile"],
      "source ./completion.bash; bind 'set bell-style none'; ",
      typed,
      expected,
    );
    expect(got).toContain(expected);
  });

  test.each(CASES)("zsh: %s", async (typed, expected) => {
    expect(await words(["zsh", "-i"], "", typed, expected)).toContain(expected);
  });

  test.each(CASES.filter(([typed]) => !typed.includes("'")))("fish: %s", async (typed, expected) => {
    // Fish has no printf trick for a line in the making, but says itself what it would complete.
    const { stdout } = await exec(
      "fish",
      ["--no-config", "-c", "source ./completion.fish; complete -C $argv[1]", "--", typed],
      { cwd: dir, env },
    );
    const candidates = stdout
      .trimEnd()
      .split("\n")
      .map((line) => line.split("\t")[0]);
    const word = expected.slice(expected.lastIndexOf("<") + 1, -1);
    expect(candidates).toContain(word);
  });
});
