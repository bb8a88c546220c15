import { type ChildProcess, spawn } from "node:child_process";
import { connect, type Socket } from "node:net";
import { userInfo } from "node:os";
import type { Duplex } from "node:stream";
import { LabError } from "../diagnostics/index.ts";
import type { Address } from "../model/index.ts";
import { deferred } from "./deferred.ts";
import type { Link, RunningProcess } from "./link.ts";
import { socketRefused } from "./socket-errors.ts";

/** The machine that labctl runs on. */
export class LocalLink implements Link {
  readonly address: Address;
  readonly name: string;
  readonly local = true;
  readonly #env: Readonly<Record<string, string | undefined>>;
  readonly #children = new Set<ChildProcess>();
  readonly #sockets = new Set<Socket>();

  constructor(address: Address, env: Readonly<Record<string, string | undefined>>) {
    this.address = address;
    this.name = `${address} (this machine)`;
    this.#env = env;
  }

  isRoot(): Promise<boolean> {
    return Promise.resolve(userInfo().uid === 0);
  }

  start(words: readonly string[]): Promise<RunningProcess> {
    const [file = "sh", ...args] = words;
    const exited = deferred<{ code: number | undefined; signal: string | undefined }>();
    const closed = deferred<void>();
    const started = deferred<RunningProcess>();
    // A session of its own, so that it can be ended with all that it starts, and does not get our Ctrl-C.
    const child = spawn(file, args, { detached: true, stdio: ["pipe", "pipe", "pipe"], env: { ...this.#env } });
    this.#children.add(child);
    child.once("error", (cause) => {
      this.#children.delete(child);
      const missing = "code" in cause && cause.code === "ENOENT";
      const error =
        missing && file === "sudo"
          ? new LabError("E_SUDO", `no root rights on ${this.name}: sudo is not installed`, {
              address: this.address,
              hint: "install sudo, run labctl as root, or set `become: none`",
              cause,
            })
          : new LabError("E_COMMAND_FAILED", `${file} cannot be started on ${this.name}: ${cause.message}`, {
              address: this.address,
              cause,
            });
      started.reject(error);
      exited.reject(error);
      exited.promise.catch(() => undefined);
      closed.resolve();
    });
    child.once("exit", (code, signal) => {
      this.#children.delete(child);
      exited.resolve({ code: code ?? undefined, signal: signal ?? undefined });
    });
    child.once("close", () => closed.resolve());
    child.once("spawn", () => {
      const send = (name: NodeJS.Signals): void => {
        try {
          if (child.pid !== undefined) process.kill(-child.pid, name);
        } catch (error) {
          // ESRCH: it has ended. EPERM: it is root's by now; sudo passes a signal on only from its own user.
          if (!(error instanceof Error && "code" in error)) throw error;
        }
      };
      started.resolve({
        stdin: child.stdin,
        stdout: child.stdout,
        stderr: child.stderr,
        exited: exited.promise,
        closed: closed.promise,
        signal: (name) => send(name === "TERM" ? "SIGTERM" : "SIGKILL"),
        destroy: () => {
          child.stdin.destroy();
          child.stdout.destroy();
          child.stderr.destroy();
          child.unref();
        },
      });
    });
    return started.promise;
  }

  openSocket(path: string, signal?: AbortSignal): Promise<Duplex> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) {
        reject(new LabError("E_CANCELLED", "cancelled", { address: this.address }));
        return;
      }
      const socket = connect({ path });
      const onAbort = (): void => {
        socket.destroy();
        reject(new LabError("E_CANCELLED", "cancelled", { address: this.address }));
      };
      const refused = (cause: Error): void => reject(socketRefused(this, path, cause));
      this.#sockets.add(socket);
      signal?.addEventListener("abort", onAbort, { once: true });
      socket.once("close", () => {
        this.#sockets.delete(socket);
        signal?.removeEventListener("abort", onAbort);
      });
      socket.once("error", refused);
      socket.once("connect", () => {
        signal?.removeEventListener("abort", onAbort);
        socket.removeListener("error", refused);
        resolve(socket);
      });
    });
  }

  reset(): Promise<void> {
    return Promise.resolve();
  }

  close(): Promise<void> {
    for (const child of this.#children) {
      try {
        if (child.pid !== undefined) process.kill(-child.pid, "SIGTERM");
      } catch (error) {
        if (!(error instanceof Error && "code" in error)) throw error;
      }
    }
    this.#children.clear();
    for (const socket of this.#sockets) socket.destroy();
    this.#sockets.clear();
    return Promise.resolve();
  }
}
