import type { Duplex, Readable, Writable } from "node:stream";
import type { Address } from "../model/index.ts";

/** A process at the far end, as an adapter gives it. */
export interface RunningProcess {
  readonly stdin: Writable;
  readonly stdout: Readable;
  readonly stderr: Readable;
  /** Rejects with a LabError where the link broke before the process was known to have ended. */
  readonly exited: Promise<{ readonly code: number | undefined; readonly signal: string | undefined }>;
  /** Resolves when both outputs ended; never before `exited` settles where that is known. */
  readonly closed: Promise<void>;
  /** Asks the far end to deliver a signal to the process; the last means, where a second process cannot be started. */
  signal(name: "TERM" | "KILL"): void;
  /** Lets go of it: the streams are destroyed, the process may go on. */
  destroy(): void;
}

/** What is left for an adapter to do; everything else is shared by local and ssh. */
export interface Link {
  readonly address: Address;
  /** For messages: `host.a (10.0.0.1)`. */
  readonly name: string;
  readonly local: boolean;
  /** Told when a session is wanted and the machine allows no more of them: who keeps one to spare ends it. */
  readonly crowded?: Set<() => void>;
  /** True where commands run as root without asking for more. */
  isRoot(): Promise<boolean>;
  /** Starts a command line. `urgent`: to end another process; does not wait for a free channel. */
  start(
    words: readonly string[],
    options: { readonly signal?: AbortSignal; readonly urgent?: boolean },
  ): Promise<RunningProcess>;
  /**
   * Writes a new file with mode 0600 faster than through a shell. False: not possible here, use the shell.
   * Rejects with a LabError where the transfer broke.
   */
  writeNew?(
    path: string,
    content: () => AsyncIterable<Buffer>,
    options: { readonly signal?: AbortSignal; readonly onProgress?: (sent: number) => void },
  ): Promise<boolean>;
  /**
   * A stream to a Unix socket there, with the rights of the login. Rejects with E_SOCKET where that did not work (why is not
   * always known), and with what reaching the machine rejects with.
   */
  openSocket(path: string, signal?: AbortSignal): Promise<Duplex>;
  /** Drops the connection, so that the next use makes a new one. A machine that was given up is tried again. */
  reset(): Promise<void>;
  close(): Promise<void>;
}
