import { appendFileSync, existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { LabError } from "../../src/diagnostics/index.ts";
import {
  createMachinePool,
  hostKeyFingerprint,
  type MachinePoolOptions,
  type ResettablePool,
  sh,
  type SshConnection,
} from "../../src/transport/index.ts";
import { startMachine, type TestMachine } from "../support/sshd.ts";

let a: TestMachine;
let b: TestMachine;
let c: TestMachine;
let folder: string;
const pools: ResettablePool[] = [];

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "labctl-conn-"));
  [a, b, c] = await Promise.all([
    startMachine({ name: "a", hostKeys: ["ed25519", "ecdsa"] }),
    startMachine({ name: "b" }),
    startMachine({ name: "c", port: 2222, maxSessions: 2 }),
  ]);
});
afterAll(async () => {
  await Promise.all(pools.map((pool) => pool.close()));
  await Promise.all([a, b, c].map((machine) => machine.stop()));
  rmSync(folder, { recursive: true, force: true });
});

function newPool(options: Partial<MachinePoolOptions> = {}): ResettablePool {
  const pool = createMachinePool({ env: a.env, ...options });
  pools.push(pool);
  return pool;
}
async function hostname(spec: SshConnection, pool = newPool()): Promise<string> {
  return (await pool.machine(spec).exec(sh`hostname`, { root: false })).stdout.toString().trim();
}
async function failure(promise: Promise<unknown>): Promise<LabError> {
  try {
    await promise;
  } catch (error) {
    return error as LabError;
  }
  throw new Error("it did not fail");
}
const file = (name: string, text: string): string => {
  const path = join(folder, name);
  writeFileSync(path, text);
  return path;
};
const keyOf = (machine: TestMachine, type = "ed25519"): string =>
  readFileSync(machine.root(`/etc/ssh/ssh_host_${type}_key.pub`), "utf8")
    .split(" ")
    .slice(0, 2)
    .join(" ");
const fingerprintOf = (machine: TestMachine): string =>
  hostKeyFingerprint(Buffer.from(keyOf(machine).split(" ")[1] ?? "", "base64"));

describe("host keys", () => {
  test("strict: an unknown key is refused with its fingerprint and the line to add, which then serves", async () => {
    const known = file("unknown", "# nothing\n");
    const error = await failure(hostname(b.connection({ known_hosts: known })));
    expect(error.code).toBe("E_HOST_KEY_UNKNOWN");
    expect(error.message).toContain(fingerprintOf(b));
    const line = (error.hint ?? "").split("\n").find((one) => one.startsWith(b.address));
    expect(line).toBe(`${b.address} ${keyOf(b)}`);
    expect(readFileSync(known, "utf8")).toBe("# nothing\n");
    appendFileSync(known, `${line ?? ""}\n`);
    expect(await hostname(b.connection({ known_hosts: known }))).toBe("b");
  });

  test("accept-new writes the key once, also for many at a time and after a line without an end", async () => {
    const known = file("accept", "other.example ssh-ed25519 AAAA");
    const spec = c.connection({ known_hosts: known, host_key: "accept-new" });
    await Promise.all([hostname(spec), hostname(spec)]);
    const lines = readFileSync(known, "utf8").split("\n");
    expect(lines[0]).toBe("other.example ssh-ed25519 AAAA");
    expect(lines.filter((line) => line === `[${c.address}]:2222 ${keyOf(c)}`)).toHaveLength(1);
    expect(await hostname(c.connection({ known_hosts: known, host_key: "strict" }))).toBe("c");
    const fresh = join(folder, "deep", "known");
    await hostname(c.connection({ known_hosts: fresh, host_key: "accept-new" }));
    expect(statSync(fresh).mode & 0o777).toBe(0o600);
  });

  test("accept-new in a read-only pool accepts and writes nothing", async () => {
    const known = join(folder, "never-written");
    expect(
      await hostname(b.connection({ known_hosts: known, host_key: "accept-new" }), newPool({ readOnly: true })),
    ).toBe("b");
    expect(existsSync(known)).toBe(false);
  });

  test("a further key type of the server is not taken for an unknown key", async () => {
    const known = file("one-type", `${a.address} ${keyOf(a, "ecdsa")}\n`);
    expect(await hostname(a.connection({ known_hosts: known }))).toBe("a");
  });

  test("hashed names, patterns, negation and revocation", async () => {
    const { execFileSync } = await import("node:child_process");
    const known = file("hashed", `${a.address} ${keyOf(a)}\n`);
    execFileSync("ssh-keygen", ["-q", "-H", "-f", known], { stdio: "ignore" });
    expect(readFileSync(known, "utf8")).toMatch(/^\|1\|/);
    expect(await hostname(a.connection({ known_hosts: known }))).toBe("a");
    const pattern = a.address.replace(/\.\d+$/, ".*");
    expect(await hostname(a.connection({ known_hosts: file("pattern", `${pattern} ${keyOf(a)}\n`) }))).toBe("a");
    const not = await failure(
      hostname(a.connection({ known_hosts: file("not", `${pattern},!${a.address} ${keyOf(a)}\n`) })),
    );
    expect(not.code).toBe("E_HOST_KEY_UNKNOWN");
    const text = `${a.address} ${keyOf(a)}\n@revoked * ${keyOf(a)}\n`;
    expect((await failure(hostname(a.connection({ known_hosts: file("revoked", text) })))).message).toContain(
      "revoked",
    );
  });

  test("a pinned fingerprint, and only that", async () => {
    const nothing = join(folder, "absent");
    expect(await hostname(b.connection({ known_hosts: nothing, host_key: fingerprintOf(b) }))).toBe("b");
    const error = await failure(hostname(b.connection({ host_key: fingerprintOf(a) })));
    expect(error.code).toBe("E_HOST_KEY_CHANGED");
  });

  test.each(["strict", "accept-new"])("a changed key is refused and explained (%s)", async (host_key) => {
    const known = file(`changed-${host_key}`, `# first\n${b.address} ${keyOf(b)}\n`);
    const before = fingerprintOf(b);
    await b.rotateHostKey();
    const pool = newPool();
    const error = await failure(hostname(b.connection({ known_hosts: known, host_key }), pool));
    expect(error.code).toBe("E_HOST_KEY_CHANGED");
    expect(error.message).toContain(before);
    expect(error.message).toContain(fingerprintOf(b));
    expect(error.message).toContain(`${known}:2`);
    expect(error.hint).toContain("ssh-keygen -R");
    expect(readFileSync(known, "utf8")).not.toContain(keyOf(b));
    expect(await failure(hostname(b.connection({ known_hosts: known, host_key }), pool))).toBe(error);
    writeFileSync(b.knownHostsPath, `${b.address} ${keyOf(b)}\n`);
  });
});

describe("jump hosts", () => {
  test("two hops, each host key checked, the hop's connection shared", async () => {
    const events: string[] = [];
    const pool = newPool({ observer: { connected: (host) => events.push(host) } });
    const viaB = b.connection({ jump: a.connection() });
    const far = c.connection({ jump: viaB });
    expect(await hostname(far, pool)).toBe("c");
    expect(await hostname(viaB, pool)).toBe("b");
    expect(await hostname(a.connection(), pool)).toBe("a");
    expect(events).toEqual(["host.a", "host.b", "host.c"]);
    // c sees b, not this machine.
    const from = await pool.machine(far).exec(sh`echo "$SSH_CLIENT"`, { root: false });
    expect(from.stdout.toString().split(" ")[0]).toBe(b.address);
  });

  test("an unknown key of the hop, and one of the target, are found", async () => {
    const nothing = join(folder, "absent");
    const hop = await failure(hostname(b.connection({ jump: a.connection({ known_hosts: nothing }) })));
    expect([hop.code, hop.message]).toEqual(["E_HOST_KEY_UNKNOWN", expect.stringContaining("jump host")]);
    const target = await failure(hostname(b.connection({ known_hosts: nothing, jump: a.connection() })));
    expect(target.code).toBe("E_HOST_KEY_UNKNOWN");
  });

  test("a target that the hop cannot reach", async () => {
    const error = await failure(
      hostname(b.connection({ port: 4, jump: a.connection(), retry: { attempts: 0, delay: 1, max_delay: 1 } })),
    );
    expect([error.code, error.message]).toEqual(["E_CONNECT", expect.stringContaining("from its jump host host.a")]);
  });
});

describe("reaching", () => {
  const quick = { attempts: 2, delay: 20, max_delay: 30 };

  test("refused: retried with growing delays, then offline for good, until reset", async () => {
    const log: string[] = [];
    const pool = newPool({
      observer: {
        connecting: (_host, n) => log.push(`try ${n}`),
        retrying: (_host, n, delay) => log.push(`retry ${n} in ${delay}`),
        offline: (_host, error) => log.push((error as LabError).code),
      },
    });
    await a.stopSshd();
    const spec = a.connection({ retry: { attempts: 3, delay: 20, max_delay: 50 } });
    const error = await failure(hostname(spec, pool));
    expect([error.code, error.message]).toEqual(["E_CONNECT", expect.stringContaining("refused")]);
    expect(log).toEqual([
      "try 1",
      "retry 1 in 20",
      "try 2",
      "retry 2 in 40",
      "try 3",
      "retry 3 in 50",
      "try 4",
      "E_CONNECT",
    ]);
    await a.startSshd();
    const started = performance.now();
    expect(await failure(hostname(spec, pool))).toBe(error);
    expect(performance.now() - started).toBeLessThan(10);
    await pool.reset(spec);
    expect(await hostname(spec, pool)).toBe("a");
  });

  test("a server that comes back while it is retried", async () => {
    await a.stopSshd();
    const connecting = hostname(a.connection({ retry: { attempts: 6, delay: 50, max_delay: 400 } }));
    await new Promise((resolve) => setTimeout(resolve, 150));
    await a.startSshd();
    expect(await connecting).toBe("a");
  });

  test("a name that is not known, a silent address, a port where something else answers", async () => {
    const name = await failure(hostname(a.connection({ host: "no-such-host.invalid", retry: quick })));
    expect([name.code, name.message]).toEqual(["E_CONNECT", expect.stringMatching(/name|looked up/)]);
    await b.pause();
    const started = performance.now();
    const silent = await failure(hostname(b.connection({ connect_timeout: 300, retry: quick })));
    await b.resume();
    expect(silent.message).toMatch(/no answer|no route/);
    expect(performance.now() - started).toBeLessThan(3000);
    const server = createServer((socket) => socket.end("220 mail.example ESMTP\r\n")).listen(0, "127.0.0.1");
    await new Promise((resolve) => server.once("listening", resolve));
    const address = server.address();
    const port = typeof address === "object" && address ? address.port : 0;
    const wrong = await failure(hostname(a.connection({ host: "127.0.0.1", port, retry: quick })));
    server.close();
    expect([wrong.code, wrong.hint]).toEqual(["E_CONNECT", expect.stringContaining("SSH server")]);
  });

  test("cancelling ends the wait for a connection", async () => {
    await b.pause();
    const abort = new AbortController();
    const pool = newPool();
    const waiting = pool.machine(b.connection()).exec(sh`true`, { signal: abort.signal });
    setTimeout(() => abort.abort(), 50);
    expect((await failure(waiting)).code).toBe("E_CANCELLED");
    await pool.close();
    await b.resume();
  });
});

describe("an established connection", () => {
  test("that breaks gives E_DISCONNECTED, and the next use makes a new one", async () => {
    const pool = newPool();
    const machine = pool.machine(a.connection());
    const running = failure(machine.exec(sh`sleep 5`));
    await expect.poll(async () => (await a.exec("pgrep -f '^sleep 5$' || true")).stdout).not.toBe("");
    await a.cut();
    const error = await running;
    expect([error.code, error.retryable]).toEqual(["E_DISCONNECTED", true]);
    expect(await hostname(a.connection(), pool)).toBe("a");
  });

  test("through a jump host, whose end goes away, breaks as one without", { timeout: 20_000 }, async () => {
    const machine = newPool().machine(a.connection({ jump: b.connection() }));
    const running = failure(machine.exec(sh`sleep 6`));
    await expect.poll(async () => (await a.exec("pgrep -f '^sleep 6$' || true")).stdout).not.toBe("");
    await a.cut();
    const error = await running;
    expect([error.code, error.retryable]).toEqual(["E_DISCONNECTED", true]);
  });

  test("whose peer falls silent is noticed in bounded time", async () => {
    const pool = newPool({ keepalive: { interval: 200, count: 2 } });
    const machine = pool.machine(b.connection());
    await machine.exec(sh`true`);
    const running = failure(machine.exec(sh`sleep 60`));
    await new Promise((resolve) => setTimeout(resolve, 300));
    await b.pause();
    const started = performance.now();
    const error = await running;
    expect([error.code, error.message]).toEqual(["E_DISCONNECTED", expect.stringContaining("no longer answers")]);
    expect(performance.now() - started).toBeLessThan(3000);
    await b.resume();
    expect(await hostname(b.connection(), pool)).toBe("b");
  });

  test("is one, with no more sessions at once than the server allows", async () => {
    const connected: string[] = [];
    const pool = newPool({ observer: { connected: (host) => connected.push(host) } });
    const machine = pool.machine(c.connection());
    const results = await Promise.all(
      Array.from({ length: 20 }, (_, i) => machine.exec(sh`sleep 0.05; echo ${i}`, { root: false })),
    );
    expect(results.map((result) => result.stdout.toString().trim())).toEqual(
      Array.from({ length: 20 }, (_, i) => String(i)),
    );
    expect(connected).toEqual(["host.c"]);
    expect((await c.exec("grep -c 'Accepted publickey' /var/log/sshd.log")).code).toBe(0);
  });
});

describe("restarting", () => {
  test("waits for another boot id", async () => {
    const pool = newPool();
    const machine = pool.machine(a.connection());
    const before = (await machine.exec(sh`cat /proc/sys/kernel/random/boot_id`)).stdout.toString().trim();
    const { boot_id } = await machine.reboot({ timeout: 20_000 });
    expect(boot_id).not.toBe(before);
    expect((await machine.exec(sh`cat /proc/sys/kernel/random/boot_id`)).stdout.toString().trim()).toBe(boot_id);
  });

  test("a machine that does not come back is E_REBOOT in bounded time", async () => {
    await b.exec("touch /run/reboot_never");
    const error = await failure(newPool().machine(b.connection()).reboot({ timeout: 4_000 }));
    expect([error.code, error.message]).toEqual(["E_REBOOT", expect.stringContaining("did not come back")]);
    await b.exec("rm /run/reboot_never");
    await b.startSshd();
  });

  test("this machine is never restarted", async () => {
    const local = newPool().machine({ type: "local", address: "host.here", become: { method: "none" } });
    expect((await failure(local.reboot())).code).toBe("E_REBOOT");
  });
});
