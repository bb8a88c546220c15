import type { Duplex } from "node:stream";
import { LabError } from "../../diagnostics/index.ts";
import type { Address } from "../../model/index.ts";
import { pause } from "../deferred.ts";
import type { Link, RunningProcess } from "../link.ts";
import type { SshConnection, TransportObserver } from "../ports.ts";
import { cancelled } from "../run.ts";
import { socketRefused } from "../socket-errors.ts";
import { commandLine } from "../wire.ts";
import { Connection } from "./connection.ts";
import { dial } from "./dial.ts";
import type { AcceptedKeys } from "./host-key.ts";
import { resolveSettings, type Settings } from "./settings.ts";
import { writeThroughSftp } from "./sftp.ts";

export interface SshLinkOptions {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly observer: TransportObserver;
  readonly accepted: AcceptedKeys;
  /** Most channels used at once on one connection. */
  readonly channels: number;
  readonly keepalive: { readonly interval: number; readonly count: number };
  /** The link of a jump host, shared with all that go through it. */
  jump(spec: SshConnection): SshLink;
}

/** One SSH server: at most one connection, made when first used and again after it broke. */
export class SshLink implements Link {
  readonly address: Address;
  readonly local = false;
  readonly crowded = new Set<() => void>();
  readonly #spec: SshConnection;
  readonly #options: SshLinkOptions;
  #settings: Promise<Settings> | undefined;
  #connection: Connection | undefined;
  #connecting: Promise<Connection> | undefined;
  /** Set once all tries failed: the machine is not bothered again. */
  #offline: LabError | undefined;
  #closing = new AbortController();

  constructor(spec: SshConnection, options: SshLinkOptions) {
    this.address = spec.address;
    this.#spec = spec;
    this.#options = options;
  }

  get name(): string {
    const { address, host, port } = this.#spec;
    return `${address} (${host}${port === undefined || port === 22 ? "" : `:${port}`})`;
  }

  async isRoot(): Promise<boolean> {
    return (await this.#resolved()).user === "root";
  }

  async start(
    words: readonly string[],
    options: { readonly signal?: AbortSignal; readonly urgent?: boolean },
  ): Promise<RunningProcess> {
    const command = commandLine(words);
    const connection = await this.connect(options.signal);
    if (!options.urgent) return await connection.exec(command, options.signal, false);
    try {
      return await connection.exec(command, undefined, true);
    } catch (error) {
      if (connection.lost) throw error;
      // No room for one more session: a connection of its own ends what is to be ended.
      return await this.#aside(command);
    }
  }

  async #aside(command: string): Promise<RunningProcess> {
    const connection = await this.#dial(() => undefined);
    const process = await connection.exec(command, undefined, true);
    return {
      ...process,
      destroy: () => {
        process.destroy();
        connection.close();
      },
    };
  }

  async writeNew(
    path: string,
    content: () => AsyncIterable<Buffer>,
    options: { readonly signal?: AbortSignal; readonly onProgress?: (sent: number) => void },
  ): Promise<boolean> {
    const connection = await this.connect(options.signal);
    return await writeThroughSftp(this, connection, path, content, options);
  }

  async openSocket(path: string, signal?: AbortSignal): Promise<Duplex> {
    const connection = await this.connect(signal);
    const opening = connection.openSocket(path, signal);
    // Who no longer waits for it hears nothing more of it.
    opening.catch(() => undefined);
    try {
      return await orAborted(opening, signal, () => cancelled(this));
    } catch (error) {
      if (error instanceof LabError) throw error;
      throw socketRefused(this, path, error instanceof Error ? error : new Error(String(error)));
    }
  }

  /** The connection, made if there is none. The caller's signal ends the wait, not the connecting that others share. */
  async connect(signal?: AbortSignal): Promise<Connection> {
    if (this.#connection && !this.#connection.lost) return this.#connection;
    if (this.#offline) throw this.#offline;
    if (this.#closing.signal.aborted) throw cancelled(this);
    this.#connecting ??= this.#connectWithRetries().finally(() => {
      this.#connecting = undefined;
    });
    return await orAborted(this.#connecting, signal, () => cancelled(this));
  }

  async #connectWithRetries(): Promise<Connection> {
    const { observer } = this.#options;
    const { retry } = this.#spec;
    let delay = retry.delay;
    for (let attempt = 1; ; attempt++) {
      observer.connecting?.(this.address, attempt);
      const started = performance.now();
      try {
        const connection = await this.#dial(() => {
          if (this.#connection === connection) this.#connection = undefined;
        });
        this.#connection = connection;
        observer.connected?.(this.address, performance.now() - started);
        return connection;
      } catch (error) {
        if (this.#closing.signal.aborted) throw cancelled(this);
        const failure = error instanceof LabError ? error : new LabError("E_INTERNAL", String(error), { cause: error });
        if (failure.code !== "E_CONNECT" || !failure.retryable || attempt > retry.attempts) {
          this.#offline = attempt === 1 ? failure : givenUp(failure, attempt);
          observer.offline?.(this.address, this.#offline);
          throw this.#offline;
        }
        observer.retrying?.(this.address, attempt, delay, failure.message);
        await pause(delay, this.#closing.signal);
        delay = Math.min(delay * 2, retry.max_delay);
      }
    }
  }

  async #dial(onLost: () => void): Promise<Connection> {
    const spec = this.#spec;
    const settings = await this.#resolved();
    const sock = settings.jump ? await this.#through(settings.jump, settings) : undefined;
    const client = await dial({
      address: this.address,
      name: this.name,
      settings,
      passphrase: spec.passphrase?.reveal(),
      password: spec.password?.reveal(),
      policy: {
        address: this.address,
        host: settings.knownAs,
        port: settings.port,
        rule: spec.host_key,
        files: settings.knownHosts,
      },
      accepted: this.#options.accepted,
      keepalive: this.#options.keepalive,
      sock,
      signal: this.#closing.signal,
    });
    return new Connection(client, this.address, this.name, this.#options.channels, onLost, () => {
      for (const tell of this.crowded) tell();
    });
  }

  async #through(jump: SshConnection, settings: Settings): Promise<Duplex> {
    const link = this.#options.jump(jump);
    let connection: Connection;
    try {
      connection = await link.connect(this.#closing.signal);
    } catch (error) {
      if (!(error instanceof LabError)) throw error;
      throw new LabError(error.code, `${this.name} cannot be reached, since its jump host cannot: ${error.message}`, {
        address: this.address,
        cause: error,
        ...(error.hint !== undefined && { hint: error.hint }),
      });
    }
    try {
      return await bounded(connection.forward(settings.host, settings.port), settings.connectTimeout);
    } catch (error) {
      if (error instanceof LabError && error.code !== "E_DISCONNECTED") throw error;
      const why = error instanceof Error ? error.message.replace(/^\(SSH\) Channel open failure: /, "") : String(error);
      const forbidden = /prohibited/i.test(why);
      throw new LabError("E_CONNECT", `${this.name} cannot be reached from its jump host ${link.name}: ${why}`, {
        address: this.address,
        cause: error,
        retryable: !forbidden,
        hint: forbidden
          ? "allow it in the jump host's sshd_config: AllowTcpForwarding yes (or local), and PermitOpen"
          : "check that it is switched on, and that the jump host can reach its address and port",
      });
    }
  }

  #resolved(): Promise<Settings> {
    this.#settings ??= resolveSettings(this.#spec, this.#options.env);
    return this.#settings;
  }

  async reset(): Promise<void> {
    this.#offline = undefined;
    const connection = this.#connection;
    this.#connection = undefined;
    connection?.destroy();
    const { jump } = await this.#resolved();
    const hop = jump && this.#options.jump(jump);
    if (hop) hop.#offline = undefined;
  }

  close(): Promise<void> {
    this.#closing.abort();
    this.#connection?.close();
    this.#connection = undefined;
    return Promise.resolve();
  }
}

function givenUp(failure: LabError, attempts: number): LabError {
  return new LabError(failure.code, `${failure.message} (tried ${attempts} times)`, {
    ...(failure.hint !== undefined && { hint: failure.hint }),
    ...(failure.address !== undefined && { address: failure.address }),
    cause: failure.cause,
    retryable: failure.retryable,
  });
}

async function orAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined, why: () => Error): Promise<T> {
  if (signal === undefined) return await promise;
  if (signal.aborted) throw why();
  let onAbort: (() => void) | undefined;
  const aborted = new Promise<never>((_, reject) => {
    onAbort = () => reject(why());
    signal.addEventListener("abort", onAbort, { once: true });
  });
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    if (onAbort) signal.removeEventListener("abort", onAbort);
  }
}

async function bounded<T>(promise: Promise<T>, ms: number): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  try {
    return await Promise.race([
      promise,
      new Promise<never>((_, reject) => {
        timer = setTimeout(() => reject(new Error(`no answer within ${ms / 1000} s`)), ms);
      }),
    ]);
  } finally {
    clearTimeout(timer);
  }
}
