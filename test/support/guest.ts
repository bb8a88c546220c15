/**
 * A real Debian with systemd and a kernel of its own, in QEMU (software emulation): what namespaces cannot show.
 *
 *     const guest = await startGuest();                       // 40 s the first time, then about 10
 *     const machine = createMachinePool({ env: guest.env }).machine(guest.connection());
 *     await guest.exec("systemctl mask cron");                // OpenSSH's own client, past labctl
 *     await guest.powerFailure();                             // nothing is synced; the disk stays
 *     await guest.boot();
 *     await guest.stop();
 *
 * Logins are root and `lab` (sudo without a password), both with the key of the image; its host key is known beforehand. Each guest
 * starts from the same disk, and what it writes goes with it. It ends with the process that started it, also after kill -9.
 * It is its own NFS server: /srv/export is exported to 127.0.0.1 (NFSv4; start `nfs-server`).
 */
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { rm } from "node:fs/promises";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { formatAddress } from "../../src/model/index.ts";
import type { SshConnection } from "../../src/transport/index.ts";
import { guestImage, guestUnavailable } from "./guest-image.ts";

export { BUILD_MS, guestUnavailable } from "./guest-image.ts";

const run = promisify(execFile);

const TEMPORARY = "labctl-guest-";

/** Longest that a start may take until sshd answers, in milliseconds. */
const BOOT_MS = 180_000;

interface GuestResult {
  readonly stdout: string;
  readonly stderr: string;
  readonly code: number;
}

export interface Guest {
  readonly name: string;
  /** Always this machine, at {@link port}. */
  readonly address: string;
  readonly port: number;
  readonly keyPath: string;
  readonly knownHostsPath: string;
  readonly home: string;
  /** For createMachinePool: HOME is `home`, no agent. */
  readonly env: Record<string, string>;
  connection(overrides?: Partial<SshConnection>): SshConnection;
  /** What a spec says of it. */
  host(more?: object): object;
  /** sh as root inside, by OpenSSH's client; rejects only where it cannot be reached or `timeout` (default 60,000 ms) passes. */
  exec(command: string, options?: { readonly stdin?: string; readonly timeout?: number }): Promise<GuestResult>;
  /** Its standard output; throws unless it ends with 0. */
  sh(command: string): Promise<string>;
  /** The processor stops between two instructions: what was not written to the disk is lost. */
  powerFailure(): Promise<void>;
  /** Starts it from its disk, and waits for sshd. */
  boot(): Promise<void>;
  stop(): Promise<void>;
}

const running = new Set<ChildProcess>();
process.once("exit", () => {
  for (const child of running) child.kill("SIGKILL");
});

export async function startGuest(options: { readonly name?: string } = {}): Promise<Guest> {
  const why = guestUnavailable();
  if (why !== undefined) throw new Error(why);
  const image = await guestImage();
  const name = options.name ?? "guest";
  sweep();
  const folder = mkdtempSync(join(tmpdir(), `${TEMPORARY}${process.pid}-`));
  const disk = join(folder, "disk.qcow2");
  const home = join(folder, "home");
  mkdirSync(home);
  await run("qemu-img", ["create", "-q", "-f", "qcow2", "-b", image.disk, "-F", "raw", disk]);
  const port = await freePort();
  const knownHostsPath = join(folder, "known_hosts");
  const hostKey = readFileSync(image.hostKeyFile, "utf8").split(" ").slice(0, 2).join(" ");
  writeFileSync(knownHostsPath, `[127.0.0.1]:${port} ${hostKey}\n`);
  const console = join(folder, "console.log");
  let child: ChildProcess | undefined;
  let exited: Promise<void> = Promise.resolve();
  let trouble = "";

  const ssh = (words: readonly string[], stdin: string, timeout: number): Promise<GuestResult> =>
    new Promise((resolve, reject) => {
      const args = [
        "-q",
        "-F",
        "none",
        "-i",
        image.key,
        "-p",
        String(port),
        "-l",
        "root",
        ...sshOptions({
          BatchMode: "yes",
          IdentitiesOnly: "yes",
          UserKnownHostsFile: knownHostsPath,
          StrictHostKeyChecking: "yes",
          ConnectTimeout: "20",
          // One login for many commands: a key exchange is slow on an emulated processor.
          ControlMaster: "auto",
          ControlPersist: "60",
          ControlPath: join(folder, "ssh"),
          ServerAliveInterval: "5",
        }),
        "127.0.0.1",
        ...words,
      ];
      const process = execFile(
        "ssh",
        args,
        { maxBuffer: 64 << 20, timeout, killSignal: "SIGKILL", env: { PATH: globalThis.process.env["PATH"] } },
        (error, stdout, stderr) => {
          if (error && (typeof error.code !== "number" || error.code === 255)) {
            reject(new Error(`${name}: ${words.join(" ")}: ${stderr || error.message}\n${tail(console)}`));
          } else resolve({ stdout, stderr, code: typeof error?.code === "number" ? error.code : 0 });
        },
      );
      process.stdin?.on("error", () => undefined);
      process.stdin?.end(stdin);
    });

  const powerFailure = async (): Promise<void> => {
    child?.kill("SIGKILL");
    await exited;
    await rm(join(folder, "ssh"), { force: true });
  };
  const stop = async (): Promise<void> => {
    await powerFailure();
    await rm(folder, { recursive: true, force: true });
  };
  const boot = async (): Promise<void> => {
    trouble = "";
    const qemu = spawn(
      "setpriv",
      ["--pdeathsig", "KILL", "qemu-system-x86_64", ...machine(image, disk, port, console)],
      {
        stdio: ["ignore", "ignore", "pipe"],
      },
    );
    child = qemu;
    running.add(qemu);
    qemu.stderr.on("data", (chunk: Buffer) => {
      trouble = (trouble + chunk.toString()).slice(-2000);
    });
    let over = false;
    exited = new Promise((resolve) => {
      qemu.once("close", () => {
        over = true;
        running.delete(qemu);
        resolve();
      });
    });
    const until = performance.now() + BOOT_MS;
    while (!(await answers(port))) {
      if (over || performance.now() > until) {
        throw new Error(`the guest ${over ? "ended" : "does not answer"}: ${trouble}\n${tail(console)}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
    await ssh(["true"], "", 60_000);
  };
  const exec: Guest["exec"] = (command, given = {}) => ssh([command], given.stdin ?? "", given.timeout ?? 60_000);
  const started: Guest = {
    name,
    address: "127.0.0.1",
    port,
    keyPath: image.key,
    knownHostsPath,
    home,
    env: { HOME: home, PATH: process.env["PATH"] ?? "/usr/bin:/bin", USER: "root" },
    connection: (overrides = {}) => ({
      type: "ssh",
      address: formatAddress([{ kind: "host", key: name }]),
      host: "127.0.0.1",
      port,
      user: "root",
      keys: [image.key],
      agent: false,
      known_hosts: knownHostsPath,
      host_key: "strict",
      become: { method: "none" },
      connect_timeout: 20_000,
      retry: { attempts: 3, delay: 500, max_delay: 2_000 },
      ssh_config: false,
      ...overrides,
    }),
    host: (more = {}) => ({
      address: "127.0.0.1",
      ssh: { user: "root", key: image.key, known_hosts: knownHostsPath, host_key: "strict", port },
      ...more,
    }),
    exec,
    async sh(command) {
      const result = await exec(command);
      if (result.code !== 0) throw new Error(`${command}: ${result.code}: ${result.stderr}${result.stdout}`);
      return result.stdout;
    },
    powerFailure,
    boot,
    stop,
  };
  try {
    await boot();
  } catch (error) {
    await stop();
    throw error;
  }
  return started;
}

/** Removes the disks of test runs that were killed: QEMU itself ended with them. */
function sweep(): void {
  for (const name of readdirSync(tmpdir())) {
    const pid = new RegExp(`^${TEMPORARY}([0-9]+)-`).exec(name)?.[1];
    if (pid !== undefined && !existsSync(`/proc/${pid}`))
      rmSync(join(tmpdir(), name), { recursive: true, force: true });
  }
}

function sshOptions(options: Readonly<Record<string, string>>): string[] {
  return Object.entries(options).flatMap(([key, value]) => ["-o", `${key}=${value}`]);
}

function machine(
  image: { readonly kernel: string; readonly initrd: string },
  disk: string,
  port: number,
  console: string,
): string[] {
  return [
    "-accel",
    "tcg,thread=multi",
    "-cpu",
    "qemu64,-svm",
    "-smp",
    "2",
    "-m",
    "1024",
    "-nodefaults",
    "-no-user-config",
    "-display",
    "none",
    "-serial",
    `file:${console}`,
    "-kernel",
    image.kernel,
    "-initrd",
    image.initrd,
    "-append",
    "console=ttyS0 quiet net.ifnames=0 mitigations=off random.trust_cpu=on panic=-1 audit=0",
    "-drive",
    `file=${disk},format=qcow2,if=virtio,cache=unsafe`,
    "-netdev",
    `user,id=net,hostfwd=tcp:127.0.0.1:${port}-:22`,
    "-device",
    "virtio-net-pci,netdev=net,romfile=",
    "-device",
    "virtio-rng-pci",
  ];
}

function tail(path: string): string {
  try {
    return readFileSync(path, "utf8").slice(-2000);
  } catch {
    return "";
  }
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const address = server.address();
      server.close(() => resolve(typeof address === "object" && address !== null ? address.port : 0));
    });
  });
}

/** Whether sshd sends its first line: QEMU takes connections before the guest does. */
function answers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host: "127.0.0.1", port, timeout: 5_000 });
    const end = (value: boolean): void => {
      socket.destroy();
      resolve(value);
    };
    socket.once("data", () => end(true));
    socket.once("error", () => end(false));
    socket.once("timeout", () => end(false));
    socket.once("close", () => resolve(false));
  });
}
