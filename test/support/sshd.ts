/**
 * Real machines for tests: OpenSSH's sshd in namespaces of its own, several on one box.
 *
 *     const host = await startMachine({ name: "a" });          // root and Linux; under a second
 *     const pool = createMachinePool({ env: host.env });
 *     const machine = pool.machine(host.connection());         // login `lab`, sudo without password
 *     ...
 *     await host.stop();
 *
 * Each machine has its own address (veth on a bridge that all machines of this process share, so that they also reach
 * each other), process ids, host name, and file system: an overlay over this machine's, so that every program that is installed
 * here is there too, and nothing that happens there is seen here. `/tmp` and `/run` are empty at the start.
 *
 * `host.root("/etc/x")` is the path under which this process sees the machine's /etc/x (also for writing).
 * `host.exec("...")` runs sh as root inside, without SSH. `host.connection({...})` is a ConnectionSpec.
 * `pause()` cuts the cable, `resume()` mends it; `stopSshd()` refuses connections, `cut()` kills the sessions;
 * `kill()` is a power failure; `stop()` removes everything. `reboot` inside really drops all sessions and gives a new
 * boot id. What a killed test run left behind is removed at the next start; a machine ends with the process that
 * started it, also after kill -9.
 *
 * `machinesUnavailable()` says why machines cannot be had here (not root, no sshd), or undefined.
 * Ports other than 22, users, passwords, sudo rules, SFTP off, MaxSessions, CA keys: see MachineOptions.
 */
import { type ChildProcess, execFile, spawn, spawnSync } from "node:child_process";
import { chmodSync, copyFileSync, existsSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { rm } from "node:fs/promises";
import { connect } from "node:net";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { promisify } from "node:util";
import { formatAddress } from "../../src/model/index.ts";
import type { SshConnection } from "../../src/transport/index.ts";
import { INIT, type SshdSettings, setupScript } from "./sshd-init.ts";
import {
  isAlive,
  joinNetwork,
  type LabNetwork,
  startLabNetwork,
  TEMPORARY,
  temporaryRoot,
  sweep,
} from "./sshd-network.ts";

export type { LabNetwork } from "./sshd-network.ts";

const run = promisify(execFile);

export interface MachineUser {
  /** `nopasswd`: root without asking; `password`: sudo asks for `password`; absent: no sudo. */
  readonly sudo?: "nopasswd" | "password";
  readonly password?: string;
  readonly shell?: string;
  /** Accepts the test key (default true). */
  readonly key?: boolean;
}

export interface MachineOptions {
  /** Host name, and the key in the address `host.NAME`; default `m1`, `m2`, ... */
  readonly name?: string;
  /** Besides root. Default: `lab`, with sudo without a password. */
  readonly users?: Readonly<Record<string, MachineUser>>;
  readonly port?: number;
  /** Default true. */
  readonly sftp?: boolean;
  /** Default 10, as OpenSSH. */
  readonly maxSessions?: number;
  /** Default: ed25519 only. */
  readonly hostKeys?: readonly ("ed25519" | "ecdsa" | "rsa")[];
  /** Public keys of certificate authorities for users. */
  readonly userCa?: readonly string[];
  readonly passwordLogin?: boolean;
  /** Keyboard-interactive through PAM. */
  readonly pam?: boolean;
  /** Further lines of sshd_config. */
  readonly sshdConfig?: readonly string[];
  /** File systems of a size: `{ "/srv/small": "1m" }`. */
  readonly tmpfs?: Readonly<Record<string, string>>;
  /** Shell text that runs as root before sshd starts. */
  readonly setup?: string;
  /** Default: the one that all machines of this process share. */
  readonly network?: LabNetwork;
}

export interface TestMachine {
  readonly name: string;
  readonly address: string;
  readonly port: number;
  /** Private key that all users accept unless told otherwise; its public half beside it with .pub. */
  readonly keyPath: string;
  /** Holds this machine's host keys. A file of its own for each machine. */
  readonly knownHostsPath: string;
  /** An empty home folder, so that nobody's ~/.ssh takes part. */
  readonly home: string;
  /** For createMachinePool: HOME is `home`, no agent. */
  readonly env: Record<string, string>;
  /** Process id, here, of the machine's init. */
  readonly pid: number;
  root(path: string): string;
  exec(command: string, stdin?: string): Promise<{ stdout: string; stderr: string; code: number }>;
  /** Login `lab` with sudo and the test key, strict host key; three quick retries. */
  connection(overrides?: Partial<SshConnection>): SshConnection;
  /** New host keys; known_hosts keeps the old ones. */
  rotateHostKey(): Promise<void>;
  stopSshd(): Promise<void>;
  startSshd(): Promise<void>;
  /** Ends all SSH sessions, as when the link is cut; sshd goes on. */
  cut(): Promise<void>;
  pause(): Promise<void>;
  resume(): Promise<void>;
  /** Power failure: everything inside ends at once, and is gone. */
  kill(): Promise<void>;
  stop(): Promise<void>;
}

let availability: string | undefined | null = null;

/** Why machines cannot be started here; undefined where they can. Installs openssh-server where it may. */
export function machinesUnavailable(): string | undefined {
  if (availability !== null) return availability;
  availability = checkAvailability();
  return availability;
}

function checkAvailability(): string | undefined {
  if (process.platform !== "linux") return "test machines need Linux";
  if (process.getuid?.() !== 0) return "test machines need root (namespaces, overlay mounts)";
  const missing = [
    "sshd:openssh-server",
    "ip:iproute2",
    "unshare:util-linux",
    "ssh-keygen:openssh-client",
    "sudo:sudo",
  ].filter(
    (tool) => spawnSync("sh", ["-c", `PATH=$PATH:/usr/sbin:/sbin command -v ${tool.split(":")[0] ?? ""}`]).status !== 0,
  );
  if (missing.length > 0) {
    const packages = missing.map((tool) => tool.split(":")[1] ?? "");
    console.log(`installing for tests: ${packages.join(" ")}`);
    const script = `apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends ${packages.join(" ")}`;
    if (spawnSync("sh", ["-c", script], { stdio: "ignore" }).status !== 0) {
      return `test machines need the packages ${packages.join(", ")}; install them with: apt-get install ${packages.join(" ")}`;
    }
  }
  if (spawnSync("unshare", ["--mount", "--pid", "--fork", "--net", "--uts", "--ipc", "true"]).status !== 0) {
    return "namespaces cannot be made here";
  }
  return undefined;
}

interface Common {
  readonly network: LabNetwork;
  readonly folder: string;
  readonly keyPath: string;
}

/** What all machines of this process share; goes with the last of them. */
let shared: Promise<Common> | undefined;
let counter = 0;
const running = new Set<ChildProcess>();

function common(): Promise<Common> {
  shared ??= (async () => {
    await sweep();
    const folder = mkdtempSync(join(temporaryRoot(), `${TEMPORARY}${process.pid}-`));
    const keyPath = join(folder, "id_test");
    await run("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-C", "labctl-test", "-f", keyPath]);
    process.once("exit", () => {
      for (const child of running) child.kill("SIGKILL");
      spawnSync("rm", ["-rf", folder]);
    });
    return { network: await startLabNetwork(), folder, keyPath };
  })();
  return shared;
}

async function leave(): Promise<void> {
  if (running.size > 0 || shared === undefined) return;
  const { network, folder } = await shared;
  if (running.size > 0) return;
  shared = undefined;
  await network.stop();
  await rm(folder, { recursive: true, force: true });
}

export async function startMachine(options: MachineOptions = {}): Promise<TestMachine> {
  const why = machinesUnavailable();
  if (why !== undefined) throw new Error(why);
  const { network: defaultNetwork, folder: base, keyPath } = await common();
  const network = options.network ?? defaultNetwork;
  const name = options.name ?? `m${++counter}`;
  const folder = mkdtempSync(join(base, "machine-"));
  const port = options.port ?? 22;
  const settings: SshdSettings = {
    ...options,
    name,
    port,
    users: options.users ?? { lab: { sudo: "nopasswd" } },
    hostKeys: options.hostKeys ?? ["ed25519"],
    authorizedKey: readFileSync(`${keyPath}.pub`, "utf8").trim(),
  };
  for (const type of settings.hostKeys) {
    await run("ssh-keygen", ["-q", "-t", type, "-N", "", "-C", name, "-f", join(folder, `ssh_host_${type}_key`)]);
  }
  const child = spawn(
    "unshare",
    [
      "--mount",
      "--pid",
      "--fork",
      "--uts",
      "--net",
      "--ipc",
      "--kill-child=SIGKILL",
      "bash",
      "-c",
      INIT,
      "init",
      folder,
    ],
    { stdio: ["pipe", "pipe", "pipe"], cwd: "/" },
  );
  running.add(child);
  let trouble = "";
  child.stderr.on("data", (chunk: Buffer) => {
    trouble = (trouble + chunk.toString()).slice(-4000);
  });
  const exited = new Promise<void>((resolve) => {
    child.once("exit", () => {
      running.delete(child);
      resolve();
    });
  });
  child.stdin.on("error", () => undefined);
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const answer = async (): Promise<string> => {
    const line = await lines.next();
    if (line.done) throw new Error(`the test machine ${name} did not start: ${trouble}`);
    return line.value;
  };
  const tell = async (script: string): Promise<void> => {
    child.stdin.write(`${Buffer.from(script).toString("base64")}\n`);
    const reply = await answer();
    if (reply !== "done 0") throw new Error(`${name}: ${reply}: ${trouble}`);
  };
  let address = "";
  let link: { readonly address: string; readonly device: string };
  let pid = 0;
  try {
    pid = Number(await answer());
    link = await joinNetwork(network, pid);
    address = link.address;
    await tell(setupScript(settings, `${address}/${network.prefix}`));
    await listening(address, port);
  } catch (error) {
    child.kill("SIGKILL");
    await exited;
    await leave();
    throw error;
  }
  const knownHostsPath = join(folder, "known_hosts");
  const knownName = port === 22 ? address : `[${address}]:${port}`;
  writeFileSync(
    knownHostsPath,
    settings.hostKeys
      .map(
        (type) =>
          `${knownName} ${readFileSync(join(folder, `ssh_host_${type}_key.pub`), "utf8")
            .split(" ")
            .slice(0, 2)
            .join(" ")}\n`,
      )
      .join(""),
  );
  const home = mkdtempSync(join(folder, "home-"));
  const inside = (command: string, stdin?: string): Promise<{ stdout: string; stderr: string; code: number }> =>
    new Promise((resolve, reject) => {
      const args = ["-t", String(pid), "-m", "-p", "-n", "-u", "-i", "--wd=/", "sh", "-c", command];
      const process = execFile("nsenter", args, { maxBuffer: 64 << 20, env: INSIDE_ENV }, (error, stdout, stderr) => {
        if (error && typeof error.code !== "number") reject(error);
        else resolve({ stdout, stderr, code: typeof error?.code === "number" ? error.code : 0 });
      });
      process.stdin?.on("error", () => undefined);
      process.stdin?.end(stdin ?? "");
    });
  const must = async (command: string): Promise<void> => {
    const result = await inside(command);
    if (result.code !== 0) throw new Error(`${name}: ${command}: ${result.stderr}`);
  };
  const end = async (): Promise<void> => {
    // The namespaces' own first process: the kernel ends all others before unshare sees it gone.
    if (running.has(child) && isAlive(pid)) process.kill(pid, "SIGKILL");
    const timer = setTimeout(() => child.kill("SIGKILL"), 5_000);
    await exited;
    clearTimeout(timer);
  };
  return {
    name,
    address,
    port,
    keyPath,
    knownHostsPath,
    home,
    env: { HOME: home, PATH: process.env["PATH"] ?? "/usr/bin:/bin", USER: "lab" },
    pid,
    root: (path) => `/proc/${pid}/root${path}`,
    exec: inside,
    connection: (overrides = {}) => ({
      type: "ssh",
      address: formatAddress([{ kind: "host", key: name }]),
      host: address,
      port,
      user: "lab",
      keys: [keyPath],
      agent: false,
      known_hosts: knownHostsPath,
      host_key: "strict",
      become: { method: "sudo" },
      connect_timeout: 5_000,
      retry: { attempts: 3, delay: 50, max_delay: 400 },
      ssh_config: false,
      ...overrides,
    }),
    async rotateHostKey() {
      await must(
        settings.hostKeys
          .map(
            (type) =>
              `rm -f /etc/ssh/ssh_host_${type}_key*; ssh-keygen -q -t ${type} -N '' -f /etc/ssh/ssh_host_${type}_key`,
          )
          .join("\n"),
      );
      await must("kill -HUP $(cat /run/sshd.pid)");
      await listening(address, port);
    },
    stopSshd: () =>
      must(
        "kill $(cat /run/sshd.pid); while kill -0 $(cat /run/sshd.pid 2>/dev/null || echo 99999999) 2>/dev/null; do sleep 0.01; done",
      ),
    async startSshd() {
      await must("/usr/sbin/sshd -E /var/log/sshd.log");
      await listening(address, port);
    },
    cut: () =>
      must("for p in $(pgrep -x sshd); do [ $p = $(cat /run/sshd.pid) ] || kill -9 $p 2>/dev/null; done; true"),
    async pause() {
      await run("ip", ["link", "set", link.device, "down"]);
    },
    async resume() {
      await run("ip", ["link", "set", link.device, "up"]);
    },
    kill: end,
    async stop() {
      await end();
      await rm(folder, { recursive: true, force: true });
      await leave();
    },
  };
}

const INSIDE_ENV = {
  PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
  HOME: "/root",
  USER: "root",
  LC_ALL: "C.UTF-8",
};

/** A copy of the test key in a place of its own, readable by its owner alone: for tests that change its mode. */
export function copyKey(machine: TestMachine, to: string): void {
  copyFileSync(machine.keyPath, to);
  chmodSync(to, 0o600);
  if (existsSync(`${machine.keyPath}.pub`)) copyFileSync(`${machine.keyPath}.pub`, `${to}.pub`);
}

async function listening(address: string, port: number): Promise<void> {
  const until = performance.now() + 10_000;
  for (;;) {
    const ok = await new Promise<boolean>((resolve) => {
      const socket = connect({ host: address, port, timeout: 500 });
      const end = (value: boolean): void => {
        socket.destroy();
        resolve(value);
      };
      socket.once("data", () => end(true));
      socket.once("error", () => end(false));
      socket.once("timeout", () => end(false));
      socket.once("close", () => resolve(false));
    });
    if (ok) return;
    if (performance.now() > until) throw new Error(`nothing listens on ${address}:${port}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
