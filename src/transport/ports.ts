import type { Duplex, Readable } from "node:stream";
import type { Address, Sensitive } from "../model/index.ts";
import type { ShellText } from "./shell.ts";

/** How to reach a machine. Plain but for secrets; made by kinds that provide a machine (see Kind.machine). */
export type ConnectionSpec = LocalConnection | SshConnection;

export interface LocalConnection {
  readonly type: "local";
  readonly address: Address;
  readonly become: Become;
}

export interface SshConnection {
  readonly type: "ssh";
  readonly address: Address;
  readonly host: string;
  /** Absent: what ~/.ssh/config says, else 22. */
  readonly port?: number;
  /** Absent: what ~/.ssh/config says, else the name of the user who runs labctl. */
  readonly user?: string;
  /** Private key files; absent: ~/.ssh/config, then the agent and the usual files. */
  readonly keys?: readonly string[];
  readonly passphrase?: Sensitive<string>;
  readonly password?: Sensitive<string>;
  /** An OpenSSH certificate beside the key; absent: KEY-cert.pub where it exists. */
  readonly certificate?: string;
  /** Path of an agent's socket; absent: SSH_AUTH_SOCK; false: none. */
  readonly agent?: string | false;
  readonly known_hosts?: string;
  /** `strict`, `accept-new`, or a pinned `SHA256:...` fingerprint. */
  readonly host_key: string;
  readonly jump?: SshConnection;
  readonly become: Become;
  /** Milliseconds. */
  readonly connect_timeout: number;
  /** Attempts after the first, delays in milliseconds. Authentication failures are never retried. */
  readonly retry: { readonly attempts: number; readonly delay: number; readonly max_delay: number };
  /** Use ~/.ssh/config (default true). Explicit settings above win over it. */
  readonly ssh_config?: boolean | string;
}

/** How to get root: not at all, or through sudo, with a password where it asks for one. */
export interface Become {
  readonly method: "none" | "sudo";
  readonly password?: Sensitive<string>;
}

export interface ExecOptions {
  /** Run as root (default true); where the login is root already, or `become` is `none`, the same as false. */
  readonly root?: boolean;
  /** Delivered over stdin, never on a command line. */
  readonly env?: Readonly<Record<string, string | Sensitive<string>>>;
  readonly cwd?: string;
  readonly stdin?: string | Uint8Array | Readable;
  readonly signal?: AbortSignal;
  /** Milliseconds until it is killed, with its process group; default the lab's `timeouts.command`. */
  readonly timeout?: number;
  readonly onStdout?: (chunk: Buffer) => void;
  readonly onStderr?: (chunk: Buffer) => void;
  /** Most bytes kept of each stream, the rest is dropped from the middle; default 1 MiB. Streaming callbacks see all. */
  readonly keep?: number;
  /**
   * A provider's own script that ends by itself and leaves nothing running: it may follow others in a shell that is there
   * already, which costs the machine less. A signal that ends it then shows as an exit code (128 and its number).
   */
  readonly brief?: boolean;
}

export interface ExecResult {
  /** Absent where a signal ended it. */
  readonly code: number | undefined;
  readonly signal: string | undefined;
  readonly stdout: Buffer;
  readonly stderr: Buffer;
  readonly truncated: boolean;
  readonly duration_ms: number;
}

export interface UploadTarget {
  readonly path: string;
  /** Four octal digits, e.g. "0644"; set before the file becomes visible. Absent: as what it replaces, else 0644. */
  readonly mode?: string;
  /** Names or numbers. Absent: as what it replaces, else whoever writes it. */
  readonly owner?: string;
  readonly group?: string;
  readonly root?: boolean;
}

export type UploadSource =
  | { readonly file: string; readonly sha256: string; readonly size: number }
  | { readonly content: Uint8Array | Sensitive<string>; readonly sha256: string };

export interface UploadResult {
  /** False where a file of this digest was already there: nothing was sent. */
  readonly sent: boolean;
  readonly bytes: number;
}

export interface TransferOptions {
  readonly signal?: AbortSignal;
  readonly timeout?: number;
  readonly onProgress?: (sent: number, total: number) => void;
}

/** Runs commands. A non-zero exit is a result, not an error; not reaching the machine, or a timeout, is a LabError. */
export interface Exec {
  exec(command: ShellText, options?: ExecOptions): Promise<ExecResult>;
  /**
   * Looks, and changes nothing. Probes asked for in the same turn of the event loop travel as one: one round trip reads
   * all of a machine. Each piece runs in a subshell of its own with stdin closed.
   */
  probe(script: ShellText, options?: { readonly root?: boolean; readonly signal?: AbortSignal }): Promise<ExecResult>;
}

export interface FileTransfer {
  /** Atomic at the far end: a temporary name beside the target, content, mode and owner, fsync, rename. */
  upload(source: UploadSource, target: UploadTarget, options?: TransferOptions): Promise<UploadResult>;
  /** Whole content; refuses more than `limit` bytes (default 16 MiB). */
  download(
    path: string,
    options?: TransferOptions & { readonly root?: boolean; readonly limit?: number },
  ): Promise<Buffer>;
}

export interface Reboot {
  /** Restarts the machine, waits for the connection to drop and for another boot id. Milliseconds. */
  reboot(options?: { readonly timeout?: number; readonly signal?: AbortSignal }): Promise<{ readonly boot_id: string }>;
}

export interface SocketOptions {
  /** With root's rights, through sudo where the login has fewer. Default false: with those of the login. */
  readonly root?: boolean;
  /** Ends the opening; afterwards the stream is ended with destroy(). */
  readonly signal?: AbortSignal;
}

/** Reaches what listens on the machine itself: libvirtd, podman, QEMU's monitors. */
export interface Sockets {
  /**
   * A stream to a Unix socket there (absolute path, at most 107 bytes). It is destroyed with the connection to the
   * machine, with E_DISCONNECTED where that broke. Rejects with E_SOCKET where nothing listens, the login may not, or the
   * machine offers no way.
   */
  openSocket(path: string, options?: SocketOptions): Promise<Duplex>;
}

/** A machine that can be reached: what kinds on a host work with. */
export interface Machine extends Exec, FileTransfer, Reboot, Sockets {
  readonly address: Address;
  readonly connection: ConnectionSpec;
}

/** Opens machines and shares their connections; close() ends all of them. */
export interface MachinePool {
  machine(spec: ConnectionSpec): Machine;
  close(): Promise<void>;
}

/** What transports tell about connections; the engine turns it into events. */
export interface TransportObserver {
  connecting?(host: Address, attempt: number): void;
  connected?(host: Address, duration_ms: number): void;
  retrying?(host: Address, attempt: number, delay_ms: number, why: string): void;
  offline?(host: Address, error: Error): void;
}
