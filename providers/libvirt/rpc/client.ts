/**
 * One connection that speaks libvirt's RPC: calls side by side over one stream of bytes, answers told apart by their serial
 * numbers, messages that the server sends by itself, streams, signs of life. Knows nothing of domains.
 */
import type { Duplex } from "node:stream";
import { type Address, LabError } from "../../../src/index.ts";
import type { Procedure } from "./procedures.ts";
import { RpcStream, type StreamOptions } from "./stream.ts";
import { remoteError } from "./virterror.ts";
import {
  encodePacket,
  type Header,
  KEEPALIVE_PING,
  KEEPALIVE_PONG,
  KEEPALIVE_PROGRAM,
  MessageType,
  type Packet,
  PacketReader,
  PROGRAM_VERSION,
  REMOTE_PROGRAM,
  Status,
} from "./wire.ts";
import { type Codec, decode, encode, XdrError } from "./xdr.ts";

export interface CallOptions {
  readonly signal?: AbortSignal;
  /** Milliseconds until E_TIMEOUT: default 60 s, ten minutes for what copies, formats or allocates. */
  readonly timeout?: number;
}

export interface RpcOptions {
  readonly address: Address;
  /** For messages: `libvirt on host.a`. */
  readonly where: string;
  /** Milliseconds between signs of life, and how many may stay unanswered. */
  readonly keepalive?: { readonly interval: number; readonly count: number };
}

const TIMEOUT_MS = 60_000;
const SLOW_TIMEOUT_MS = 600_000;
/** As libvirt's own client: a peer that says nothing for half a minute is gone. */
const KEEPALIVE = { interval: 5_000, count: 5 };
/**
 * A server works on so many calls of one client at once (`max_client_requests`, 5 by default) and reads nothing more
 * meanwhile, signs of life included: with as many on their way its silence means nothing, and deadlines have to do.
 */
const SERVER_BUSY = 4;
const SERIAL_MAX = 0xffff_ffff;

interface Pending {
  readonly procedure: number;
  settle(result: { readonly reply: Buffer } | { readonly error: LabError }): void;
}

export class RpcClient {
  readonly address: Address;
  readonly where: string;
  /** Resolves when the connection has ended: to why, or to undefined where it was closed from here. */
  readonly closed: Promise<LabError | undefined>;
  readonly #socket: Duplex;
  readonly #reader = new PacketReader();
  readonly #pending = new Map<number, Pending>();
  readonly #streams = new Map<number, RpcStream>();
  readonly #listeners = new Map<number, (payload: Buffer) => void>();
  readonly #holding = new Set<RpcStream>();
  readonly #keepalive: { readonly interval: number; readonly count: number };
  readonly #heart: NodeJS.Timeout;
  #serial = 0;
  #lost: LabError | undefined;
  #closing = false;
  #corked = false;
  #heard = true;
  #missed = 0;
  #end: (why: LabError | undefined) => void = () => undefined;

  constructor(socket: Duplex, options: RpcOptions) {
    this.address = options.address;
    this.where = options.where;
    this.#socket = socket;
    this.#keepalive = options.keepalive ?? KEEPALIVE;
    this.closed = new Promise((resolve) => {
      this.#end = resolve;
    });
    socket.on("data", (chunk: Buffer) => this.#receive(chunk));
    socket.on("error", (error: Error) => this.#fail(error));
    socket.once("end", () => this.#fail(undefined));
    socket.once("close", () => this.#fail(undefined));
    this.#heart = setInterval(() => this.#beat(), this.#keepalive.interval);
    this.#heart.unref();
  }

  /** Why the connection is gone, once it is. */
  get lost(): LabError | undefined {
    return this.#lost;
  }

  /**
   * Makes one call. Rejects with E_LIBVIRT (what libvirt says, or that the connection broke: then retryable), E_TIMEOUT and
   * E_CANCELLED; after these last two the server may still carry it out.
   */
  async call<A, R>(procedure: Procedure<A, R>, args: A, options: CallOptions = {}): Promise<R> {
    const payload = this.#encode(procedure, args);
    const serial = this.#nextSerial();
    const reply = await this.#request(serial, procedure, payload, options);
    return this.#decode(procedure.name, procedure.reply, reply);
  }

  /** Makes a call that opens a stream. */
  async openStream<A>(
    procedure: Procedure<A, void>,
    args: A,
    stream: StreamOptions,
    options: CallOptions = {},
  ): Promise<RpcStream> {
    const payload = this.#encode(procedure, args);
    const serial = this.#nextSerial();
    const opened = new RpcStream(this, { procedure: procedure.number, serial, ...stream });
    // Data may follow the reply in the same chunk.
    this.#streams.set(serial, opened);
    // Nobody else listens yet, and the call itself says what went wrong.
    const ignore = (): void => undefined;
    opened.on("error", ignore);
    try {
      await this.#request(serial, procedure, payload, options);
      opened.removeListener("error", ignore);
      return opened;
    } catch (error) {
      opened.discard();
      throw error;
    }
  }

  /** Calls the listener with what the server sends by itself under this procedure number. */
  onMessage<T>(message: { readonly number: number; readonly body: Codec<T> }, listener: (body: T) => void): void {
    this.#listeners.set(message.number, (payload) => listener(decode(message.body, payload)));
  }

  /** Tells the server that it is over, in its own words, and closes. Never fails. */
  async leave<R>(goodbye: Procedure<void, R>, timeout: number): Promise<void> {
    // A server may hang up before its answer is read.
    this.#closing = true;
    await this.call(goodbye, undefined, { timeout }).catch(() => undefined);
    this.close();
  }

  /** Ends the connection from here: what is still under way fails with E_CANCELLED. Never fails. */
  close(): void {
    if (this.#lost) return;
    this.#closing = true;
    this.#finish(this.#closed());
    this.#socket.end();
    // A server that hangs does not answer the goodbye.
    const timer = setTimeout(() => this.#socket.destroy(), 1_000);
    timer.unref();
    this.#socket.once("close", () => clearTimeout(timer));
    this.#socket.resume();
  }

  /** For streams: `done` is called when it has left this process, or the connection is gone. */
  sendStream(
    serial: number,
    procedure: number,
    type: number,
    status: number,
    payload: Uint8Array,
    done?: (error?: Error | null) => void,
  ): void {
    if (this.#lost) {
      done?.(this.#lost);
      return;
    }
    this.#send(
      { program: REMOTE_PROGRAM, version: PROGRAM_VERSION, procedure, type, serial, status },
      payload,
      done &&
        ((error) => {
          // A socket tells who writes before it tells everybody.
          if (error) this.#fail(error);
          done(error ? this.#lost : undefined);
        }),
    );
  }

  /** A stream whose reader is behind holds everything back: bytes are not gathered without bound. */
  hold(stream: RpcStream): void {
    this.#holding.add(stream);
    this.#socket.pause();
  }

  release(stream: RpcStream): void {
    if (this.#holding.delete(stream) && this.#holding.size === 0 && !this.#lost) this.#socket.resume();
  }

  forget(serial: number, stream: RpcStream): void {
    this.#streams.delete(serial);
    this.release(stream);
  }

  #encode<A, R>(procedure: Procedure<A, R>, args: A): Buffer {
    try {
      return encode(procedure.args, args);
    } catch (error) {
      if (!(error instanceof XdrError)) throw error;
      throw new LabError("E_LIBVIRT", `${this.where}: ${procedure.name} cannot be called: ${error.message}`, {
        address: this.address,
        cause: error,
      });
    }
  }

  #decode<R>(name: string, codec: Codec<R>, reply: Buffer): R {
    try {
      return decode(codec, reply);
    } catch (error) {
      if (!(error instanceof XdrError) && !(error instanceof RangeError)) throw error;
      throw new LabError("E_LIBVIRT", `${this.where}: the answer to ${name} cannot be read: ${error.message}`, {
        address: this.address,
        cause: error,
      });
    }
  }

  #nextSerial(): number {
    do this.#serial = this.#serial >= SERIAL_MAX ? 1 : this.#serial + 1;
    while (this.#pending.has(this.#serial) || this.#streams.has(this.#serial));
    return this.#serial;
  }

  #request<A, R>(
    serial: number,
    procedure: Procedure<A, R>,
    payload: Buffer,
    { signal, timeout }: CallOptions,
  ): Promise<Buffer> {
    return new Promise<Buffer>((resolve, reject) => {
      if (this.#lost) {
        reject(this.#lost);
        return;
      }
      const cancelled = (): LabError =>
        new LabError("E_CANCELLED", "cancelled", { address: this.address, cause: signal?.reason });
      if (signal?.aborted) {
        reject(cancelled());
        return;
      }
      const ms = timeout ?? (procedure.slow ? SLOW_TIMEOUT_MS : TIMEOUT_MS);
      const settle: Pending["settle"] = (result) => {
        clearTimeout(timer);
        signal?.removeEventListener("abort", onAbort);
        this.#pending.delete(serial);
        if ("error" in result) reject(result.error);
        else resolve(result.reply);
      };
      const timer = setTimeout(
        () =>
          settle({
            error: new LabError("E_TIMEOUT", `${this.where} did not answer ${procedure.name} within ${ms / 1000} s`, {
              address: this.address,
              retryable: true,
              hint: "libvirt or QEMU may hang there: look at its log; the call may still be carried out",
            }),
          }),
        ms,
      );
      const onAbort = (): void => settle({ error: cancelled() });
      signal?.addEventListener("abort", onAbort, { once: true });
      this.#pending.set(serial, { procedure: procedure.number, settle });
      const header = { procedure: procedure.number, type: MessageType.call, serial, status: Status.ok };
      this.#send({ program: REMOTE_PROGRAM, version: PROGRAM_VERSION, ...header }, payload);
    });
  }

  /** What is sent in one turn of the event loop leaves together. */
  #send(header: Header, payload: Uint8Array, done?: (error?: Error | null) => void): void {
    if (!this.#corked) {
      this.#corked = true;
      this.#socket.cork();
      process.nextTick(() => {
        this.#corked = false;
        this.#socket.uncork();
      });
    }
    const parts = encodePacket(header, payload);
    for (const [i, part] of parts.entries()) {
      if (i === parts.length - 1 && done) this.#socket.write(part, done);
      else this.#socket.write(part);
    }
  }

  #receive(chunk: Buffer): void {
    this.#heard = true;
    this.#missed = 0;
    if (this.#lost) return;
    try {
      for (const packet of this.#reader.push(chunk)) this.#dispatch(packet);
    } catch (error) {
      this.#fail(error instanceof Error ? error : new Error(String(error)));
    }
  }

  #dispatch(packet: Packet): void {
    if (packet.program === KEEPALIVE_PROGRAM) {
      if (packet.procedure === KEEPALIVE_PING) this.#sign(KEEPALIVE_PONG);
      return;
    }
    switch (packet.type) {
      case MessageType.reply: {
        // None: its caller gave up waiting.
        const pending = this.#pending.get(packet.serial);
        if (packet.status === Status.ok) pending?.settle({ reply: packet.payload });
        else pending?.settle({ error: remoteError(packet.payload, this.where, this.address) });
        return;
      }
      case MessageType.message:
        this.#listeners.get(packet.procedure)?.(packet.payload);
        return;
      case MessageType.stream:
      case MessageType.hole:
        this.#streams.get(packet.serial)?.receive(packet);
        return;
      default:
        throw new XdrError(`a message of the unknown type ${packet.type}`);
    }
  }

  #sign(procedure: number): void {
    const header = { program: KEEPALIVE_PROGRAM, version: PROGRAM_VERSION, procedure };
    this.#send({ ...header, type: MessageType.message, serial: 0, status: Status.ok }, new Uint8Array());
  }

  #beat(): void {
    if (this.#heard) {
      this.#heard = false;
    } else if (this.#pending.size >= SERVER_BUSY || this.#holding.size > 0 || this.#socket.writableNeedDrain) {
      // The server may be too busy to read, or it is not read from here: nothing follows from silence.
      this.#missed = 0;
      return;
    } else if (++this.#missed > this.#keepalive.count) {
      const seconds = (this.#keepalive.interval * this.#missed) / 1000;
      this.#fail(new Error(`no sign of life for ${seconds} s`));
      return;
    }
    this.#sign(KEEPALIVE_PING);
  }

  #closed(): LabError {
    return new LabError("E_CANCELLED", `${this.where}: the connection was closed`, { address: this.address });
  }

  #fail(cause: Error | undefined): void {
    if (this.#lost) return;
    if (this.#closing) {
      this.#finish(this.#closed());
      this.#socket.destroy();
      return;
    }
    const why = cause === undefined ? "its daemon ended it" : cause.message;
    const error = new LabError("E_LIBVIRT", `the connection to ${this.where} broke: ${why}`, {
      address: this.address,
      retryable: true,
      hint: "libvirtd may have been restarted or have crashed: look at its log there, and run again; what it had begun may have been done",
      ...(cause && { cause }),
    });
    this.#finish(error);
    this.#socket.destroy();
  }

  #finish(error: LabError): void {
    this.#lost = error;
    clearInterval(this.#heart);
    for (const pending of this.#pending.values()) pending.settle({ error });
    for (const stream of this.#streams.values()) stream.lose(error);
    this.#end(this.#closing ? undefined : error);
  }
}
