import { execFile, spawn, type ChildProcess } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { LabError } from "../../src/diagnostics/index.ts";
import { Sensitive } from "../../src/model/index.ts";
import { createMachinePool, type MachinePoolOptions, sh, type SshConnection } from "../../src/transport/index.ts";
import { copyKey, startMachine, type TestMachine } from "../support/sshd.ts";

const run = promisify(execFile);
let host: TestMachine;
let folder: string;
const agents: ChildProcess[] = [];

const keygen = (...args: string[]): Promise<unknown> => run("ssh-keygen", ["-q", ...args]);
const newKey = async (name: string, type: string, passphrase = "", ...more: string[]): Promise<string> => {
  const path = join(folder, name);
  await keygen("-t", type, "-N", passphrase, "-C", name, "-f", path, ...more);
  return path;
};
const authorize = async (path: string): Promise<void> => {
  await host.exec("cat >>/home/lab/.ssh/authorized_keys", readFileSync(`${path}.pub`, "utf8"));
};
async function login(
  overrides: Partial<SshConnection>,
  options: Partial<MachinePoolOptions> = {},
  machine = host,
): Promise<string> {
  const pool = createMachinePool({ env: machine.env, ...options });
  try {
    return (await pool.machine(machine.connection(overrides)).exec(sh`id -un`, { root: false })).stdout
      .toString()
      .trim();
  } finally {
    await pool.close();
  }
}
async function refused(...args: Parameters<typeof login>): Promise<LabError> {
  try {
    await login(...args);
  } catch (error) {
    return error as LabError;
  }
  throw new Error("logged in");
}
async function startAgent(...keys: string[]): Promise<string> {
  const socket = join(folder, `agent-${agents.length}`);
  const agent = spawn("ssh-agent", ["-D", "-a", socket], { stdio: "ignore" });
  agents.push(agent);
  await expect
    .poll(() =>
      run("ssh-add", ["-l"], { env: { ...process.env, SSH_AUTH_SOCK: socket } }).catch((e: { code: number }) => e.code),
    )
    .not.toBe(2);
  for (const key of keys) await run("ssh-add", ["-q", key], { env: { ...process.env, SSH_AUTH_SOCK: socket } });
  return socket;
}

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "labctl-auth-"));
  await keygen("-t", "ed25519", "-N", "", "-f", join(folder, "ca"));
  host = await startMachine({
    name: "auth",
    users: {
      lab: { sudo: "nopasswd" },
      typed: { password: "p4ss word", key: false },
      pamuser: { password: "p4m", key: false },
    },
    userCa: [readFileSync(join(folder, "ca.pub"), "utf8").trim()],
    sshdConfig: ["Match User typed", "PasswordAuthentication yes", "Match all"],
  });
});
afterAll(async () => {
  for (const agent of agents) agent.kill();
  await host.stop();
  await run("rm", ["-rf", folder]);
});

describe("keys", () => {
  test.each([
    ["ed25519", []],
    ["ecdsa", ["-b", "256"]],
    ["ecdsa", ["-b", "521"]],
    ["rsa", ["-b", "2048"]],
    ["rsa", ["-b", "2048", "-m", "PEM"]],
  ])("%s %j", async (type, more) => {
    const key = await newKey(`plain-${type}-${more.join("")}`, type, "", ...more);
    await authorize(key);
    expect(await login({ keys: [key] })).toBe("lab");
  });

  test("an encrypted key opens with its passphrase, and says what is wrong otherwise", async () => {
    const key = await newKey("locked", "ed25519", "open sesame");
    await authorize(key);
    expect(await login({ keys: [key], passphrase: new Sensitive("open sesame") })).toBe("lab");
    const wrong = await refused({ keys: [key], passphrase: new Sensitive("CANARY-77") });
    expect([wrong.code, wrong.message]).toEqual(["E_SSH_KEY", expect.stringContaining("the passphrase is wrong")]);
    expect(JSON.stringify([wrong.message, wrong.hint])).not.toContain("CANARY-77");
    const missing = await refused({ keys: [key] });
    expect([missing.code, missing.hint]).toEqual(["E_SSH_KEY", expect.stringContaining("passphrase:")]);
  });

  test("a key that others can read, or that is not there, is refused", async () => {
    const open = join(folder, "open");
    copyKey(host, open);
    chmodSync(open, 0o644);
    const readable = await refused({ keys: [open] });
    expect([readable.code, readable.hint]).toEqual(["E_SSH_KEY", expect.stringContaining("chmod 600")]);
    expect((await refused({ keys: [join(folder, "nowhere")] })).code).toBe("E_SSH_KEY");
  });

  test("a refused login says what was tried and what is allowed, and is not tried again", async () => {
    const stranger = await newKey("stranger", "ed25519");
    const retries: string[] = [];
    const error = await refused(
      { keys: [stranger] },
      { observer: { retrying: (_host, _n, _d, why) => retries.push(why) } },
    );
    expect(error.code).toBe("E_AUTH");
    expect(error.message).toContain(stranger);
    expect(error.message).toMatch(/the server allows publickey/);
    expect(retries).toEqual([]);
  });
});

describe("the agent", () => {
  test("serves through SSH_AUTH_SOCK and by path, and with IdentitiesOnly", async () => {
    const key = await newKey("held", "ed25519");
    const rsa = await newKey("held-rsa", "rsa", "", "-b", "2048");
    await authorize(key);
    const socket = await startAgent(rsa, key);
    const { agent: _agent, keys: _keys, ...bare } = host.connection();
    const pool = createMachinePool({ env: { ...host.env, SSH_AUTH_SOCK: socket } });
    expect((await pool.machine(bare).exec(sh`id -un`, { root: false })).stdout.toString()).toBe("lab\n");
    await pool.close();
    expect(await login({ agent: socket })).toBe("lab");
    // The file is locked; its public half tells which of the agent's keys it is.
    const locked = await newKey("locked-in-agent", "ed25519", "secret");
    await authorize(locked);
    await run("cp", [locked, `${locked}.open`]);
    await keygen("-p", "-P", "secret", "-N", "", "-f", `${locked}.open`);
    expect(await login({ keys: [locked], agent: await startAgent(`${locked}.open`) })).toBe("lab");
  });

  test("RSA keys of an agent sign with SHA-2", async () => {
    const rsa = await newKey("agent-rsa", "rsa", "", "-b", "2048");
    await authorize(rsa);
    const { keys: _keys, ...bare } = host.connection({ agent: await startAgent(rsa) });
    const pool = createMachinePool({ env: host.env });
    expect((await pool.machine(bare).exec(sh`id -un`, { root: false })).stdout.toString()).toBe("lab\n");
    await pool.close();
  });

  test("an agent that is gone is named", async () => {
    const { keys: _keys, ...bare } = host.connection({ agent: join(folder, "no-agent") });
    const pool = createMachinePool({ env: host.env });
    const error = await pool
      .machine(bare)
      .exec(sh`id`)
      .catch((e: unknown) => e as LabError);
    expect(error).toMatchObject({ code: "E_AUTH", message: expect.stringContaining("no-agent") });
    await pool.close();
  });
});

describe("certificates", () => {
  const certify = async (key: string, ...more: string[]): Promise<void> => {
    await keygen("-s", join(folder, "ca"), "-I", "test", "-n", "lab", ...more, `${key}.pub`);
  };

  test.each([
    ["ed25519", []],
    ["ecdsa", ["-b", "256"]],
    ["ecdsa", ["-b", "521"]],
    ["rsa", ["-b", "2048"]],
  ])("%s %j", async (type, more) => {
    const key = await newKey(`certified-${type}-${more.join("")}`, type, "", ...more);
    expect((await refused({ keys: [key] })).code).toBe("E_AUTH");
    await certify(key);
    expect(await login({ keys: [key] })).toBe("lab");
  });

  test("signed through the agent, and named by `certificate`", async () => {
    const key = await newKey("certified-agent", "ed25519", "locked");
    await certify(key);
    await run("cp", [key, `${key}.open`]);
    await keygen("-p", "-P", "locked", "-N", "", "-f", `${key}.open`);
    const agent = await startAgent(`${key}.open`);
    expect(await login({ keys: [key], certificate: `${key}-cert.pub`, agent })).toBe("lab");
  });

  test("an expired one is named", async () => {
    const key = await newKey("expired", "ed25519");
    await certify(key, "-V", "20200101:20200102");
    expect((await refused({ keys: [key] })).message).toContain("has expired");
    const named = await refused({ keys: [key], certificate: `${key}-cert.pub` });
    expect([named.code, named.message]).toEqual(["E_SSH_KEY", expect.stringContaining("has expired")]);
  });
});

describe("passwords", () => {
  test("password", async () => {
    const { keys: _keys, ...bare } = host.connection({ user: "typed", password: new Sensitive("p4ss word") });
    const pool = createMachinePool({ env: host.env });
    expect((await pool.machine(bare).exec(sh`id -un`, { root: false })).stdout.toString()).toBe("typed\n");
    await pool.close();
    const wrong = await refused({ user: "typed", keys: [host.keyPath], password: new Sensitive("CANARY-12") });
    expect(wrong.code).toBe("E_AUTH");
    expect(wrong.message).toMatch(/tried .*password/);
    expect(`${wrong.message}${wrong.hint ?? ""}`).not.toContain("CANARY-12");
  });

  test("keyboard-interactive, answered with the password", async () => {
    const pam = await startMachine({ name: "pam", pam: true, users: { pamuser: { password: "p4m", key: false } } });
    try {
      expect(await login({ user: "pamuser", password: new Sensitive("p4m") }, {}, pam)).toBe("pamuser");
    } finally {
      await pam.stop();
    }
  });
});

describe("~/.ssh/config", () => {
  test("gives address, user, port, key, agent and known_hosts; explicit settings win", async () => {
    const home = join(folder, "home");
    mkdirSync(join(home, ".ssh", "conf.d"), { recursive: true });
    copyKey(host, join(home, ".ssh", "special_lab"));
    writeFileSync(join(home, ".ssh", "known"), readFileSync(host.knownHostsPath));
    writeFileSync(
      join(home, ".ssh", "config"),
      "Include conf.d/*.conf\nHost *\n  User nobody\n  StrictHostKeyChecking no\n",
    );
    writeFileSync(
      join(home, ".ssh", "conf.d", "a.conf"),
      `host nick*\n  hostname ${host.address}\n  user lab\n  Port ${host.port}\n  IdentityFile ~/.ssh/special_%r\n  UserKnownHostsFile %d/.ssh/known\n`,
    );
    const pool = createMachinePool({ env: { HOME: home, PATH: process.env["PATH"] ?? "" } });
    const spec: SshConnection = {
      type: "ssh",
      address: "host.nick",
      host: "nickname",
      host_key: "strict",
      become: { method: "none" },
      connect_timeout: 5000,
      retry: { attempts: 0, delay: 10, max_delay: 10 },
    };
    expect((await pool.machine(spec).exec(sh`id -un`)).stdout.toString()).toBe("lab\n");
    // The key's name depends on the user (%r): as root there is none of that name.
    const other = pool.machine({ ...spec, user: "root" });
    expect(await other.exec(sh`id -un`).catch((e: LabError) => e.code)).toBe("E_AUTH");
    await pool.close();
  });
});
