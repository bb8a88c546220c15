import { setMaxListeners } from "node:events";
import type { Duplex } from "node:stream";
import { LabError } from "../diagnostics/index.ts";
import type { Address } from "../model/index.ts";
import { download } from "./download.ts";
import type { Link } from "./link.ts";
import type {
  ConnectionSpec,
  ExecOptions,
  ExecResult,
  Machine,
  SocketOptions,
  TransferOptions,
  UploadResult,
  UploadSource,
  UploadTarget,
} from "./ports.ts";
import { ProbeBatcher } from "./probe.ts";
import { reboot } from "./reboot.ts";
import { run } from "./run.ts";
import { SharedShells } from "./shared-shell.ts";
import { openSocket } from "./socket.ts";
import type { ShellText } from "./shell.ts";
import { upload } from "./upload.ts";
import { fullScript } from "./wire.ts";

const KEEP = 1 << 20;

/** What a machine does with a link: the same for this machine and one over SSH. */
export class LinkMachine implements Machine {
  readonly address: Address;
  readonly connection: ConnectionSpec;
  readonly #link: Link;
  readonly #timeouts: { readonly command: number; readonly boot: number };
  readonly #shells: SharedShells;
  readonly #prober: ProbeBatcher;
  readonly #uploads = new Map<string, Promise<unknown>>();

  constructor(connection: ConnectionSpec, link: Link, timeouts: { readonly command: number; readonly boot: number }) {
    this.address = connection.address;
    this.connection = connection;
    this.#link = link;
    this.#timeouts = timeouts;
    this.#shells = new SharedShells(link, connection.become);
    this.#prober = new ProbeBatcher(link, connection.become, timeouts.command, this.#shells);
  }

  async exec(command: ShellText, options: ExecOptions = {}): Promise<ExecResult> {
    shareable(options.signal);
    if (this.#mayShare(options)) {
      return await this.#shells.run(options.root ?? true, {
        script: command.text,
        signal: options.signal,
        timeout: options.timeout ?? this.#timeouts.command,
        keep: options.keep ?? KEEP,
      });
    }
    return await run(this.#link, {
      script: fullScript({
        script: command.text,
        ...(options.env && { env: options.env }),
        ...(options.cwd !== undefined && { cwd: options.cwd }),
      }),
      become: this.connection.become,
      root: options.root ?? true,
      timeout: options.timeout ?? this.#timeouts.command,
      keep: options.keep ?? KEEP,
      ...(options.stdin !== undefined && { stdin: options.stdin }),
      ...(options.signal && { signal: options.signal }),
      ...(options.onStdout && { onStdout: options.onStdout }),
      ...(options.onStderr && { onStderr: options.onStderr }),
    });
  }

  /** A process of this machine is cheap, and has a life of its own. */
  #mayShare({ brief, env, cwd, stdin, onStdout, onStderr }: ExecOptions): boolean {
    const plain = [env, cwd, stdin, onStdout, onStderr].every((one) => one === undefined);
    return brief === true && plain && !this.#link.local;
  }

  async probe(
    script: ShellText,
    options: { readonly root?: boolean; readonly signal?: AbortSignal } = {},
  ): Promise<ExecResult> {
    shareable(options.signal);
    return await this.#prober.probe(script.text, options.root ?? true, options.signal);
  }

  /** Uploads to one path follow each other: each removes what an earlier one left beside the target. */
  async upload(source: UploadSource, target: UploadTarget, options: TransferOptions = {}): Promise<UploadResult> {
    shareable(options.signal);
    const before = this.#uploads.get(target.path);
    const own = (async () => {
      await before?.catch(() => undefined);
      return await upload(
        { link: this.#link, become: this.connection.become, timeout: this.#timeouts.command },
        source,
        target,
        options,
      );
    })();
    this.#uploads.set(target.path, own);
    try {
      return await own;
    } finally {
      if (this.#uploads.get(target.path) === own) this.#uploads.delete(target.path);
    }
  }

  async download(
    path: string,
    options: TransferOptions & { readonly root?: boolean; readonly limit?: number } = {},
  ): Promise<Buffer> {
    shareable(options.signal);
    return await download(this.#link, this.connection.become, path, {
      ...options,
      timeout: options.timeout ?? this.#timeouts.command,
    });
  }

  async openSocket(path: string, options: SocketOptions = {}): Promise<Duplex> {
    shareable(options.signal);
    return await openSocket(this.#link, this.connection.become, path, options);
  }

  async reboot(
    options: { readonly timeout?: number; readonly signal?: AbortSignal } = {},
  ): Promise<{ readonly boot_id: string }> {
    if (this.#link.local) {
      throw new LabError("E_REBOOT", `${this.#link.name} is where labctl runs: it does not restart that`, {
        address: this.address,
        hint: "restart it by hand, then run again",
      });
    }
    return await reboot(this.#link, this.connection.become, {
      timeout: options.timeout ?? this.#timeouts.boot,
      ...(options.signal && { signal: options.signal }),
    });
  }
}

/** One run's signal ends hundreds of calls at once; Node.js takes more than ten listeners for a leak and says so. */
function shareable(signal: AbortSignal | undefined): void {
  if (signal) setMaxListeners(0, signal);
}
