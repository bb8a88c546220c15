import type { Duplex } from "node:stream";
import { LabError } from "../diagnostics/index.ts";

/** What QEMU says by itself: `SHUTDOWN`, `RESET`, `GUEST_PANICKED`, ... */
export interface QmpEvent {
  readonly event: string;
  readonly data: Readonly<Record<string, unknown>>;
}

export interface QmpStatus {
  readonly status: string;
  readonly running: boolean;
}

const DEADLINE = 10_000;
/** QEMU answers in less; more than that is no QEMU. */
const MOST_LINE = 16 * 2 ** 20;

interface Waiting {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
}

/**
 * A client of the QEMU Machine Protocol (docs/interop/qmp-spec.txt): JSON lines; a greeting, then capabilities, then
 * commands with ids and events in between.
 */
export class QmpClient {
  readonly #stream: Duplex;
  readonly #waiting = new Map<number, Waiting>();
  readonly #listeners = new Set<(event: QmpEvent) => void>();
  #parts: Buffer[] = [];
  #size = 0;
  #next = 1;
  #ended: Error | undefined;
  #greeted: Waiting | undefined;

  private constructor(stream: Duplex) {
    this.#stream = stream;
    stream.on("data", (chunk: Buffer) => this.#data(chunk));
    stream.on("error", (error) => this.#end(error));
    stream.on("close", () => this.#end(new Error("QEMU closed its monitor")));
  }

  /** @throws LabError E_QEMU */
  static async connect(stream: Duplex, signal?: AbortSignal): Promise<QmpClient> {
    const client = new QmpClient(stream);
    const greeting = new Promise((resolve, reject) => {
      client.#greeted = { resolve, reject };
    });
    try {
      await bounded(greeting, "the greeting of its monitor", DEADLINE, signal);
    } catch (error) {
      throw error instanceof LabError ? error : gone("the greeting of its monitor", error);
    }
    await client.execute("qmp_capabilities", {}, { ...(signal !== undefined && { signal }) });
    return client;
  }

  onEvent(listener: (event: QmpEvent) => void): void {
    this.#listeners.add(listener);
  }

  /** @throws LabError E_QEMU where QEMU refuses, is gone, or does not answer in ten seconds */
  async execute(
    command: string,
    args: Readonly<Record<string, unknown>> = {},
    options: { readonly signal?: AbortSignal; readonly timeout?: number } = {},
  ): Promise<unknown> {
    if (this.#ended !== undefined) throw gone(command, this.#ended);
    const id = this.#next++;
    const answer = new Promise<unknown>((resolve, reject) => this.#waiting.set(id, { resolve, reject }));
    this.#stream.write(
      `${JSON.stringify({ execute: command, ...(Object.keys(args).length > 0 && { arguments: args }), id })}\n`,
    );
    try {
      return await bounded(answer, command, options.timeout ?? DEADLINE, options.signal);
    } catch (error) {
      if (error instanceof LabError) throw error;
      throw gone(command, error);
    } finally {
      this.#waiting.delete(id);
    }
  }

  /** Lets a machine run that was started stopped. */
  async cont(): Promise<void> {
    await this.execute("cont");
  }

  async reset(): Promise<void> {
    await this.execute("system_reset");
  }

  async status(): Promise<QmpStatus> {
    const value = await this.execute("query-status");
    const { status, running } = isRecord(value) ? value : {};
    if (typeof status !== "string" || typeof running !== "boolean")
      throw new LabError("E_QEMU", "QEMU's answer to query-status is not one");
    return { status, running };
  }

  /** Ends QEMU. That it is gone before it answers counts as done. */
  async quit(): Promise<void> {
    await this.execute("quit", {}, { timeout: 2000 }).catch((error: unknown) => {
      if (this.#ended === undefined) throw error;
    });
  }

  #data(chunk: Buffer): void {
    let rest = chunk;
    for (;;) {
      const end = rest.indexOf(0x0a);
      if (end < 0) break;
      this.#parts.push(rest.subarray(0, end));
      this.#message(Buffer.concat(this.#parts).toString("utf8"));
      this.#parts = [];
      this.#size = 0;
      rest = rest.subarray(end + 1);
    }
    this.#parts.push(rest);
    this.#size += rest.length;
    if (this.#size > MOST_LINE) this.#stream.destroy(new Error("a line without end"));
  }

  #message(text: string): void {
    let message: unknown;
    try {
      message = JSON.parse(text);
    } catch {
      if (text.trim() !== "") this.#stream.destroy(new Error(`not JSON: ${text.slice(0, 80)}`));
      return;
    }
    if (!isRecord(message)) return;
    if ("QMP" in message) this.#greeted?.resolve(message);
    else if (typeof message["event"] === "string") {
      const data = isRecord(message["data"]) ? message["data"] : {};
      for (const listener of this.#listeners) listener({ event: message["event"], data });
    } else if (typeof message["id"] === "number") {
      const waiting = this.#waiting.get(message["id"]);
      if ("error" in message) waiting?.reject(new Error(describe(message["error"])));
      else waiting?.resolve(message["return"]);
    }
  }

  #end(error: Error): void {
    if (this.#ended !== undefined) return;
    this.#ended = error;
    this.#greeted?.reject(error);
    for (const waiting of this.#waiting.values()) waiting.reject(error);
    this.#waiting.clear();
  }
}

async function bounded<T>(promise: Promise<T>, what: string, ms: number, signal: AbortSignal | undefined): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  let abort: (() => void) | undefined;
  const limits = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new LabError("E_QEMU", `QEMU gave no answer within ${ms / 1000} s: ${what}`)), ms);
    abort = () => reject(new LabError("E_CANCELLED", "cancelled"));
    if (signal?.aborted === true) abort();
    else signal?.addEventListener("abort", abort, { once: true });
  });
  // One of the two is always left over.
  promise.catch(() => undefined);
  try {
    return await Promise.race([promise, limits]);
  } finally {
    clearTimeout(timer);
    if (abort !== undefined) signal?.removeEventListener("abort", abort);
  }
}

function gone(command: string, cause: unknown): LabError {
  const why = cause instanceof Error ? cause.message : String(cause);
  return new LabError("E_QEMU", `QEMU did not carry out ${command}: ${why}`, { cause });
}

function describe(error: unknown): string {
  return isRecord(error) && typeof error["desc"] === "string" ? error["desc"] : JSON.stringify(error);
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
