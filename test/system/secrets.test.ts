/**
 * Canaries: secrets in every place where one can be used, and then nowhere else: no file beside the spec, no output, no
 * event, no command line here or there, no temporary file, also after kill -9.
 */
import { readdirSync, readFileSync, statSync } from "node:fs";
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { machinesUnavailable, startMachine, type TestMachine } from "../support/sshd.ts";
import type { CliResult } from "../support/cli.ts";
import { createWorkspace, resultsOf, type Workspace } from "../support/workspace.ts";

const unavailable = machinesUnavailable();
if (unavailable !== undefined) console.log(`secrets: skipped: ${unavailable}`);

/** Each has what shells, URLs and JSON write in another way. */
const SECRET = {
  content: "CANARY-content-'$x\"&é1",
  token: "CANARY-token-a%b c+d/2",
  password: "CANARY-sudo-pw-3",
  passphrase: "CANARY-passphrase 4",
  variable: "CANARY-variable-5;`id`",
  rotated: "CANARY-rotated-6'\"",
};

/** The forms in which tools write a value: any of them gives it away. */
function formsOf(secret: string): string[] {
  const base64 = (text: string): string => Buffer.from(text).toString("base64").replace(/=*$/, "");
  return [
    secret,
    JSON.stringify(secret).slice(1, -1),
    secret.replaceAll("'", String.raw`'\''`),
    encodeURIComponent(secret),
    base64(secret).slice(0, -2),
    base64(`x${secret}`).slice(2, -2),
    base64(`xx${secret}`).slice(3, -2),
    Buffer.from(secret).toString("hex"),
  ];
}

/** The first canary that a text shows, in whatever form; undefined: none. */
function shown(text: string): string | undefined {
  const utf8 = Buffer.from(text, "latin1").toString("utf8");
  for (const [name, secret] of Object.entries(SECRET)) {
    for (const form of formsOf(secret)) {
      for (const where of [text, utf8]) {
        const at = where.indexOf(form);
        if (at >= 0) return `${name}: ...${where.slice(Math.max(0, at - 200), at + form.length + 50)}...`;
      }
    }
  }
  // A piece is too much already.
  const piece = text.indexOf("CANARY");
  return piece < 0 ? undefined : `a piece: ...${text.slice(Math.max(0, piece - 200), piece + 80)}...`;
}

/** Log sanitization, sensitive data encryption, secure authentication mechanisms, temporary file cleanup, access control enforcement. */
describe.skipIf(unavailable !== undefined)("secrets", () => {
  let machine: TestMachine;
  let lab: Workspace;
  const outputs: [string, CliResult][] = [];
  /** Command lines seen on both sides while labctl ran. */
  let watching = true;
  let watcher: Promise<void>;
  const seen = new Map<string, string>();

  beforeAll(async () => {
    machine = await startMachine({
      name: "vault",
      users: { lab: { sudo: "password", password: SECRET.password } },
      setup: "rm -rf /var/lib/labctl; mkdir -p /srv/lab",
    });
    lab = createWorkspace({
      env: {
        S_CONTENT: SECRET.content,
        S_TOKEN: SECRET.token,
        S_SUDO: SECRET.password,
        S_PASS: SECRET.passphrase,
        LABCTL_VAR_private: SECRET.variable,
      },
    });
    const key = lab.path("id");
    const made = spawnSync("ssh-keygen", ["-q", "-t", "ed25519", "-N", SECRET.passphrase, "-f", key]);
    expect(made.status).toBe(0);
    await machine.exec("cat >>/home/lab/.ssh/authorized_keys", readFileSync(`${key}.pub`, "utf8"));
    write();
    watcher = watch();
  });
  afterAll(async () => {
    watching = false;
    await watcher;
    await machine?.stop();
    lab?.remove();
  });

  function write(more: { commands?: object; files?: object } = {}): void {
    lab.write("lab.yaml", {
      labctl: 1,
      name: "secrets",
      variables: { private: { sensitive: true, description: "kept to ourselves" } },
      secrets: {
        content: { env: "S_CONTENT" },
        token: { command: ["printenv", "S_TOKEN"] },
        sudo: { env: "S_SUDO" },
        passphrase: { env: "S_PASS" },
      },
      defaults: { retry: { attempts: 1, delay: "50ms" } },
      hosts: {
        vault: {
          address: machine.address,
          sudo: { password: "${secret.sudo}" },
          ssh: {
            user: "lab",
            key: "./id",
            passphrase: "${secret.passphrase}",
            known_hosts: machine.knownHostsPath,
            host_key: "strict",
          },
          files: {
            "/srv/lab/whole": { content: "${secret.content}" },
            "/srv/lab/part": { content: "token=${secret.token}\nvar=${var.private}\n", mode: "0640" },
            "/srv/lab/tagged": { content: `${SECRET.content}\n`, sensitive: true },
            ...more.files,
          },
          commands: {
            uses: {
              run: 'printf %s "$TOKEN" >/srv/lab/used; chmod 600 /srv/lab/used; sleep 0.5',
              creates: "/srv/lab/used",
              env: { TOKEN: "${secret.token}", PRIVATE: "${var.private}" },
              undo: "rm -f /srv/lab/used",
            },
            ...more.commands,
          },
        },
      },
      outputs: { token: { value: "${secret.token}" }, private: { value: "x-${var.private}" } },
    });
    // The spec itself holds one of them, and is the user's: it is not looked at.
  }

  async function watch(): Promise<void> {
    while (watching) {
      for (const pid of readdirSync("/proc")) {
        if (!/^\d+$/.test(pid)) continue;
        try {
          // Processes of the machine stand here too, under the numbers that they have outside.
          const text = readFileSync(`/proc/${pid}/cmdline`, "latin1");
          if (shown(text) !== undefined) seen.set(pid, text);
        } catch {
          // It ended meanwhile.
          continue;
        }
      }
      await sleep(15);
    }
  }

  const run = async (args: readonly string[], code: number): Promise<CliResult> => {
    const result = await lab.run(args);
    outputs.push([args.join(" "), result]);
    expect(result.code, `${args.join(" ")}: ${result.output.slice(-2000)}`).toBe(code);
    return result;
  };
  const LEAVES = new Set(["lab.yaml", "id", "id.pub"]);
  const expectClean = (): void => {
    for (const [what, { output }] of outputs) expect(shown(output), what).toBeUndefined();
    for (const [name, text] of lab.files()) if (!LEAVES.has(name)) expect(shown(text), name).toBeUndefined();
    expect([...seen.values()], "command lines").toEqual([]);
  };
  const temporaries = async (): Promise<string> =>
    (
      await machine.exec(
        "find /tmp /var/tmp /dev/shm /home/lab /run -xdev -newer /etc/hostname -type f -not -path '/home/lab/.ssh/*' -not -name sshd.pid -not -name boot_id -not -path '/run/sudo/*' 2>/dev/null; find /srv /var/lib/labctl \\( -name '.labctl-*' -o -name 'run-*' -o -name '*.new' \\) 2>/dev/null; true",
      )
    ).stdout;

  test("are delivered exactly, and shown nowhere", async () => {
    await run(["validate"], 0);
    await run(["plan", "-vv"], 0);
    await run(["plan", "--json"], 0);
    await run(["plan", "--out", "saved.plan"], 0);
    await run(["show", "saved.plan"], 0);
    await run(["apply", "saved.plan", "-vv"], 0);
    const there = async (path: string): Promise<string> => (await machine.exec(`cat ${path}`)).stdout;
    expect(await there("/srv/lab/whole")).toBe(SECRET.content);
    expect(await there("/srv/lab/part")).toBe(`token=${SECRET.token}\nvar=${SECRET.variable}\n`);
    expect(await there("/srv/lab/tagged")).toBe(`${SECRET.content}\n`);
    expect(await there("/srv/lab/used")).toBe(SECRET.token);
    // Secret content is for its owner alone unless the spec says otherwise.
    expect((await machine.exec("cd /srv/lab; stat -c '%n %a' whole part tagged")).stdout).toBe(
      "whole 600\npart 640\ntagged 600\n",
    );
    await run(["plan", "--detailed-exitcode"], 0);
    for (const args of [
      ["output"],
      ["output", "--json"],
      ["show", "host.vault"],
      ["state", "pull"],
      ["state", "show", 'host.vault/file["/srv/lab/whole"]'],
      ["history", "--json"],
      ["logs", "last"],
      ["events", "last", "--json"],
      ["host", "facts", "--json"],
      ["status"],
      ["graph"],
    ])
      await run(args, 0);
    expectClean();
    expect(await temporaries()).toBe("");
  });

  test("a failing command that prints its environment, in whole and in pieces, in all forms", async () => {
    write({
      commands: {
        leaky: {
          run: [
            'env; printf "%s\\n" "$TOKEN" "$CONTENT" >&2',
            'printf "%s" "$TOKEN" | base64; printf "user:%s" "$TOKEN" | base64',
            'printf %s "${TOKEN%????????}"; sleep 0.3; printf "%s\\n" "${TOKEN#"${TOKEN%????????}"}"',
            'printf "%s" "${CONTENT%??????}" >&2; sleep 0.3; printf "%s" "${CONTENT#"${CONTENT%??????}"}" >&2; exit 3',
          ].join("\n"),
          creates: "/srv/lab/never",
          env: { TOKEN: "${secret.token}", CONTENT: "${secret.content}", PRIVATE: "${var.private}" },
        },
      },
      files: {
        "/srv/lab/refused": { content: "${secret.content}", validate: 'cat "$FILE" >&2; exit 1' },
        "/srv/lab/nowhere/x": { content: "${secret.token}", owner: "nobody-of-that-name" },
      },
    });
    await run(["apply", "--auto-approve", "-vv"], 6);
    await run(["apply", "--auto-approve", "--json"], 6);
    await run(["apply", "--auto-approve", "--log-format", "json", "-vv"], 6);
    const log = await run(["logs", "last", "host.vault/command.leaky"], 0);
    expect(log.output).toContain("TOKEN=(sensitive)");
    await run(["events", "--json"], 0);
    expectClean();
    expect(await temporaries()).toBe("");
    write();
    await run(["apply", "--auto-approve"], 0);
  });

  test("wrong sudo password and wrong passphrase: said without them", async () => {
    for (const [name, value] of [
      ["S_SUDO", "CANARY-sudo-pw-3x"],
      ["S_PASS", "CANARY-passphrase 4x"],
    ] as const) {
      const kept = lab.env[name] ?? "";
      lab.env[name] = value;
      const result = await lab.run(["plan", "-vv"]);
      lab.env[name] = kept;
      outputs.push([`plan with a wrong ${name}`, result]);
      expect(result.code, result.output).toBe(5);
      expect(result.output).toMatch(name === "S_SUDO" ? /sudo.*password|password.*sudo/ : /passphrase/);
    }
    expectClean();
  });

  test("rotation is seen by the next plan, as exactly that change", async () => {
    const kept = lab.env["S_TOKEN"] ?? "";
    await run(["plan", "--out", "before.plan", "--replace", 'host.vault/file["/srv/lab/part"]'], 0);
    lab.env["S_TOKEN"] = SECRET.rotated;
    const pending = await lab.pending();
    expect(pending['host.vault/file["/srv/lab/part"]']).toBe("update content");
    expect(Object.keys(pending).filter((address) => address.includes("/file["))).toEqual([
      'host.vault/file["/srv/lab/part"]',
    ]);
    // A plan from before the rotation is not carried out.
    const stale = await lab.run(["apply", "before.plan"]);
    outputs.push(["apply of a plan from before", stale]);
    expect(stale.code).toBe(3);
    expect(stale.output).toContain("E_PLAN_STALE");
    const applied = await lab.apply();
    expect(resultsOf(applied.events)['host.vault/file["/srv/lab/part"]']).toBe("ok");
    outputs.push(["apply after rotation", applied]);
    expect((await machine.exec("cat /srv/lab/part")).stdout).toContain(SECRET.rotated);
    expect(await lab.pending()).toEqual({});
    expectClean();
    lab.env["S_TOKEN"] = kept;
    await run(["apply", "--auto-approve"], 0);
  });

  test("kill -9 in the middle leaves none, here or there, and nothing half made stays", async () => {
    for (const delay of [150, 500, 900]) {
      await machine.exec("rm -rf /srv/lab/*");
      const process = lab.spawn(["apply", "--auto-approve", "--json"]);
      await process.event((event) => event.type === "action.started" && event.address.includes("/"));
      await sleep(delay);
      process.kill("SIGKILL");
      const result = await process.done;
      outputs.push([`apply, killed after ${delay} ms`, result]);
      expectClean();
    }
    await run(["apply", "--auto-approve"], 0);
    expect(await lab.pending()).toEqual({});
    expect(await temporaries()).toBe("");
    expectClean();
  });

  test("what labctl writes is readable by its owner alone", () => {
    const wrong: string[] = [];
    const state = join(lab.cwd, ".labctl");
    const visit = (path: string): void => {
      const info = statSync(path);
      const mode = info.mode & 0o777;
      if (mode !== (info.isDirectory() ? 0o700 : 0o600)) wrong.push(`${path} ${mode.toString(8)}`);
      if (info.isDirectory()) for (const name of readdirSync(path)) visit(join(path, name));
    };
    visit(state);
    visit(lab.path("saved.plan"));
    visit(lab.path("home/.config/labctl"));
    expect(wrong).toEqual([]);
  });

  test("destroy needs the secrets only where it uses them, and leaves none behind", async () => {
    await run(["destroy", "--auto-approve", "-vv"], 0);
    expect((await machine.exec("ls -A /srv/lab; ls -A /var/lib/labctl 2>/dev/null")).stdout).toBe("");
    expectClean();
  });
});
