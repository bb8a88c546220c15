import { setTimeout as sleep } from "node:timers/promises";
import type { Client, ClientChannel, SFTPWrapper } from "ssh2";
import type { Duplex } from "node:stream";
import { LabError } from "../../diagnostics/index.ts";
import type { Address } from "../../model/index.ts";
import { type Deferred, deferred } from "../deferred.ts";
import type { RunningProcess } from "../link.ts";
import { ChannelSocket } from "./channel-socket.ts";

/** How often a server that refuses even a single session is asked, and how long it is left alone between. */
const REFUSALS = 20;
const REFUSED_PAUSE_MS = 50;

/** The server said no to one more channel; the connection itself is well. */
class ChannelRefused extends Error {}

/** One established connection: its channels, and what happens to them when it goes. */
export class Connection {
  readonly #client: Client;
  readonly #address: Address;
  readonly #name: string;
  readonly #onLost: () => void;
  readonly #onCrowded: () => void;
  readonly #waiting: Deferred<void>[] = [];
  readonly #open = new Set<(error: LabError) => void>();
  #limit: number;
  #used = 0;
  #lost: LabError | undefined;
  /** False once the server refused the subsystem. */
  sftpOffered = true;

  /** `onCrowded`: a channel is wanted, and there is none left. */
  constructor(
    client: Client,
    address: Address,
    name: string,
    channels: number,
    onLost: () => void,
    onCrowded: () => void,
  ) {
    this.#client = client;
    this.#address = address;
    this.#name = name;
    this.#limit = channels;
    this.#onLost = onLost;
    this.#onCrowded = onCrowded;
    let why: Error | undefined;
    client.on("error", (error) => {
      why ??= error;
    });
    client.once("close", () => this.#end(why));
  }

  get lost(): LabError | undefined {
    return this.#lost;
  }

  #end(cause: Error | undefined): void {
    if (this.#lost) return;
    const quiet = cause !== undefined && /keepalive/i.test(cause.message);
    this.#lost = new LabError(
      "E_DISCONNECTED",
      `the connection to ${this.#name} broke${cause === undefined ? "" : quiet ? ": it no longer answers" : `: ${cause.message}`}`,
      {
        address: this.#address,
        retryable: true,
        cause,
        hint: "run again: what was done is kept, and what was cut short is repeated",
      },
    );
    this.#onLost();
    for (const tell of this.#open) tell(this.#lost);
    this.#open.clear();
    for (const waiter of this.#waiting.splice(0)) waiter.reject(this.#lost);
  }

  /** Starts a command. Waits for a free channel, unless `urgent`. */
  async exec(command: string, signal: AbortSignal | undefined, urgent: boolean): Promise<RunningProcess> {
    if (urgent)
      return this.#process(
        await this.#channel<ClientChannel>((done) => this.#client.exec(command, done)),
        () => undefined,
      );
    return await this.#withSlot(signal, async (release) =>
      this.#process(await this.#channel<ClientChannel>((done) => this.#client.exec(command, done)), release),
    );
  }

  /** An SFTP session; undefined where the server has none. Call `release` when done. */
  async sftp(
    signal: AbortSignal | undefined,
  ): Promise<{ sftp: SFTPWrapper; release: () => void; lost: Promise<never> } | undefined> {
    if (!this.sftpOffered) return undefined;
    try {
      return await this.#withSlot(signal, async (release) => {
        const sftp = await this.#channel<SFTPWrapper>((done) => this.#client.sftp(done));
        const lost = deferred<never>();
        lost.promise.catch(() => undefined);
        this.#open.add(lost.reject);
        sftp.on("error", (error: Error) => lost.reject(error));
        sftp.once("close", () => {
          this.#open.delete(lost.reject);
          lost.reject(this.#lost ?? new Error("the SFTP session ended"));
          release();
        });
        return { sftp, lost: lost.promise, release: () => sftp.end() };
      });
    } catch (error) {
      if (error instanceof LabError) throw error;
      this.sftpOffered = false;
      return undefined;
    }
  }

  /** A stream to another host's port, from the far end. */
  async forward(host: string, port: number): Promise<Duplex> {
    const channel = await this.#channel<Duplex>((done) => this.#client.forwardOut("127.0.0.1", 0, host, port, done));
    // A TCP connection would not stay half open either: without this the far end, which has gone, is never given up.
    channel.once("end", () => channel.end());
    return channel;
  }

  /**
   * A stream to a Unix socket at the far end (direct-streamlocal@openssh.com; OpenSSH's PROTOCOL, section 2.4). Like any
   * forwarding it is not one of the sessions that MaxSessions counts, so it takes no slot from commands.
   */
  async openSocket(path: string, signal: AbortSignal | undefined): Promise<Duplex> {
    const channel = await this.#channel<ClientChannel>((done) =>
      this.#client.openssh_forwardOutStreamLocal(path, done),
    );
    const socket = new ChannelSocket(channel, () => this.#open.delete(tell));
    const tell = (error: LabError): void => {
      socket.destroy(error);
    };
    this.#open.add(tell);
    if (signal?.aborted) socket.destroy();
    return socket;
  }

  close(): void {
    this.#client.end();
    // A peer that is gone never answers the goodbye.
    const timer = setTimeout(() => this.#client.destroy(), 1_000);
    this.#client.once("close", () => clearTimeout(timer));
  }

  destroy(): void {
    this.#client.destroy();
  }

  #channel<T>(start: (done: (error: Error | undefined, channel: T) => void) => void): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (this.#lost) {
        reject(this.#lost);
        return;
      }
      const tell = (error: LabError): void => reject(error);
      this.#open.add(tell);
      const done = (error: Error | undefined, channel: T): void => {
        this.#open.delete(tell);
        if (error === undefined || error === null) resolve(channel);
        else if (this.#lost) reject(this.#lost);
        else if (/channel open failure/i.test(error.message))
          reject(new ChannelRefused(error.message, { cause: error }));
        else reject(error);
      };
      try {
        start(done);
      } catch (error) {
        // "Not connected": the socket has closed, and its event is still to come.
        this.#open.delete(tell);
        this.#end(error instanceof Error ? error : undefined);
        reject(this.#lost ?? new Error("not connected"));
      }
    });
  }

  /** Runs `use` with one of the channels the server allows; asks for fewer when the server refuses. */
  async #withSlot<T>(signal: AbortSignal | undefined, use: (release: () => void) => Promise<T>): Promise<T> {
    for (let refused = 0; ; ) {
      await this.#acquire(signal);
      let released = false;
      const release = (): void => {
        if (released) return;
        released = true;
        this.#used--;
        this.#wake();
      };
      try {
        return await use(release);
      } catch (error) {
        release();
        if (!(error instanceof ChannelRefused)) throw error;
        if (this.#used === 0) {
          // The server may still count a session that has just ended here: it is asked again for a moment.
          refused += 1;
          if (refused < REFUSALS && this.#lost === undefined) {
            await sleep(REFUSED_PAUSE_MS);
            continue;
          }
          throw new LabError("E_CONNECT", `${this.#name} refuses to open a session: ${error.message}`, {
            address: this.#address,
            cause: error,
            hint: "check MaxSessions in its sshd_config, and that others do not use up its sessions",
          });
        }
        this.#limit = Math.max(1, Math.min(this.#limit - 1, this.#used));
        this.#onCrowded();
      }
    }
  }

  async #acquire(signal: AbortSignal | undefined): Promise<void> {
    while (this.#used >= this.#limit) {
      if (this.#lost) throw this.#lost;
      const turn = deferred<void>();
      this.#waiting.push(turn);
      this.#onCrowded();
      const onAbort = (): void => turn.reject(new LabError("E_CANCELLED", "cancelled", { address: this.#address }));
      signal?.addEventListener("abort", onAbort, { once: true });
      try {
        await turn.promise;
      } catch (error) {
        const at = this.#waiting.indexOf(turn);
        if (at >= 0) this.#waiting.splice(at, 1);
        throw error;
      } finally {
        signal?.removeEventListener("abort", onAbort);
      }
    }
    if (this.#lost) throw this.#lost;
    this.#used++;
  }

  #wake(): void {
    const free = this.#limit - this.#used;
    for (const waiter of this.#waiting.splice(0, Math.max(0, free))) waiter.resolve();
  }

  #process(channel: ClientChannel, release: () => void): RunningProcess {
    const exited = deferred<{ code: number | undefined; signal: string | undefined }>();
    const closed = deferred<void>();
    exited.promise.catch(() => undefined);
    const tell = (error: LabError): void => {
      exited.reject(error);
      closed.resolve();
    };
    this.#open.add(tell);
    channel.once("exit", (code: number | null, name?: string) => {
      exited.resolve({ code: code ?? undefined, signal: name });
    });
    channel.once("close", (code?: number | null, name?: string) => {
      this.#open.delete(tell);
      release();
      // How it ended may have come in one packet with the session's beginning, before anybody could listen.
      if (typeof code === "number" || name !== undefined) exited.resolve({ code: code ?? undefined, signal: name });
      exited.reject(
        this.#lost ??
          new LabError("E_DISCONNECTED", `${this.#name} closed a session without saying how its command ended`, {
            address: this.#address,
            retryable: true,
            hint: "its sshd or its login shell was killed; run again",
          }),
      );
      closed.resolve();
    });
    channel.on("error", () => undefined);
    return {
      stdin: channel,
      stdout: channel,
      stderr: channel.stderr,
      exited: exited.promise,
      closed: closed.promise,
      signal: (name) => {
        if (!this.#lost) channel.signal(name);
      },
      destroy: () => {
        // Reading goes on, or the window stays full and the server's close never comes.
        channel.resume();
        channel.stderr.resume();
        if (!this.#lost) channel.close();
      },
    };
  }
}
