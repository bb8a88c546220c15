import { Duplex, type DuplexOptions } from "node:stream";
import { LabError } from "../../../src/index.ts";
import type { RpcClient } from "./client.ts";
import { hole } from "./shapes.ts";
import { remoteError } from "./virterror.ts";
import { MessageType, type Packet, Status, STREAM_PAYLOAD_MAX } from "./wire.ts";
import { decode, encode } from "./xdr.ts";

export interface StreamOptions {
  /** Which way bytes go. */
  readonly mode: "read" | "write" | "both";
  /** Sends runs of zeros as holes; the server was told to expect them. Holes that come are zeros here in any case. */
  readonly sparse?: boolean;
  /** Milliseconds without any progress, while there is something to do, until E_TIMEOUT; absent: never. */
  readonly stall?: number;
  /** Aborts it. */
  readonly signal?: AbortSignal;
  /** Called when it has ended, in whatever way. */
  readonly onClose?: () => void;
}

const EMPTY = Buffer.alloc(0);
/** Blocks of which a hole is made; a file system keeps none that are smaller. */
const BLOCK = 4096;
const ZEROS = Buffer.alloc(1 << 16);

/**
 * A stream of libvirt's RPC as a stream of Node.js, with backpressure both ways. Writing is done, and `finish` comes, only when the
 * server has confirmed that all is taken; reading ends only after the server has confirmed that nothing failed. destroy()
 * aborts it there too.
 */
export class RpcStream extends Duplex {
  readonly #client: RpcClient;
  readonly #serial: number;
  readonly #procedure: number;
  readonly #options: StreamOptions;
  /** What arrived and was not taken yet: bytes, or the length of a hole. */
  readonly #arrived: (Buffer | number)[] = [];
  #wanted = false;
  /** The server has sent all. */
  #eof = false;
  /** Whether the end was asked for, and whether it was confirmed (or the server ended it with an error). */
  #finishing = false;
  #finished = false;
  #confirm: ((error?: Error | null) => void) | undefined;
  /** Packets that have not left yet, one more while some are being made. */
  #writing = 0;
  /** Zeros that were written and are not sent yet. */
  #hole = 0;
  #timer: NodeJS.Timeout | undefined;
  readonly #onAbort = (): void => {
    this.destroy(new LabError("E_CANCELLED", "cancelled", { address: this.#client.address }));
  };

  constructor(client: RpcClient, options: StreamOptions & { readonly procedure: number; readonly serial: number }) {
    super(sides(options.mode));
    this.#client = client;
    this.#serial = options.serial;
    this.#procedure = options.procedure;
    this.#options = options;
    options.signal?.addEventListener("abort", this.#onAbort, { once: true });
  }

  /** The connection is gone. What had been confirmed before stays good, and can still be read. */
  lose(error: LabError): void {
    if (!this.#finished) this.destroy(error);
  }

  /** It never came to be: nothing is to be ended at the server. */
  discard(): void {
    this.#finished = true;
    this.destroy();
  }

  receive(packet: Packet): void {
    this.#progress();
    if (packet.status === Status.error) {
      this.#finished = true;
      this.destroy(remoteError(packet.payload, this.#client.where, this.#client.address));
    } else if (packet.status === Status.ok) {
      this.#finished = true;
      this.#confirm?.();
      this.#confirm = undefined;
      this.#eof = true;
      this.#deliver();
    } else if (packet.type === MessageType.hole) {
      this.#arrived.push(Number(decode(hole, packet.payload).length));
      this.#deliver();
    } else if (packet.payload.length > 0) {
      this.#arrived.push(packet.payload);
      this.#deliver();
    } else if (this.#options.mode !== "write") {
      this.#eof = true;
      this.#deliver();
    }
  }

  /** Hands on what arrived, as long as it is taken; then holds the connection back. */
  #deliver(): void {
    if (this.destroyed) return;
    while (this.#wanted && this.#arrived.length > 0) {
      const next = this.#arrived[0];
      if (typeof next === "number") {
        const zeros = Math.min(next, ZEROS.length);
        if (next === zeros) this.#arrived.shift();
        else this.#arrived[0] = next - zeros;
        if (zeros > 0) this.#wanted = this.push(ZEROS.subarray(0, zeros));
      } else if (next !== undefined) {
        this.#arrived.shift();
        this.#wanted = this.push(next);
      }
    }
    if (this.#arrived.length > 0) {
      this.#client.hold(this);
      return;
    }
    this.#client.release(this);
    if (!this.#eof || this.#options.mode === "write") return;
    if (this.#finished) this.push(null);
    else if (!this.#finishing) this.#finish(() => this.push(null));
    this.#progress();
  }

  /** Asks the server to end it, and to say whether all went well. */
  #finish(done: (error?: Error | null) => void): void {
    this.#confirm = done;
    this.#finishing = true;
    this.#packet(MessageType.stream, Status.ok, EMPTY);
    this.#progress();
  }

  override _read(): void {
    this.#wanted = true;
    this.#progress();
    this.#deliver();
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    if (this.#finished) {
      done(new LabError("E_LIBVIRT", `${this.#client.where} has ended the stream`, { address: this.#client.address }));
      return;
    }
    let failed: Error | undefined;
    const sent = (error?: Error | null): void => {
      failed ??= error ?? undefined;
      this.#writing--;
      this.#progress();
      if (this.#writing === 0) done(failed);
    };
    this.#writing = 1;
    for (const piece of this.#options.sparse === true ? runs(chunk) : [chunk]) {
      if (typeof piece === "number") {
        this.#hole += piece;
        continue;
      }
      this.#sendHole();
      for (let at = 0; at < piece.length; at += STREAM_PAYLOAD_MAX) {
        this.#writing++;
        this.#packet(MessageType.stream, Status.continue, piece.subarray(at, at + STREAM_PAYLOAD_MAX), sent);
      }
    }
    sent();
  }

  override _final(done: (error?: Error | null) => void): void {
    if (this.#finished) {
      done();
      return;
    }
    this.#sendHole();
    this.#finish(done);
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    clearTimeout(this.#timer);
    this.#options.signal?.removeEventListener("abort", this.#onAbort);
    if (!this.#finished && this.#client.lost === undefined) this.#packet(MessageType.stream, Status.error, EMPTY);
    this.#finished = true;
    this.#arrived.length = 0;
    this.#client.forget(this.#serial, this);
    this.#options.onClose?.();
    done(error);
  }

  #sendHole(): void {
    if (this.#hole === 0) return;
    const length = BigInt(this.#hole);
    this.#hole = 0;
    this.#packet(MessageType.hole, Status.continue, encode(hole, { length, flags: 0 }));
  }

  #packet(type: number, status: number, payload: Uint8Array, done?: (error?: Error | null) => void): void {
    this.#client.sendStream(this.#serial, this.#procedure, type, status, payload, done);
  }

  /** Something moved: the wait for the next begins anew, where there is something to wait for. */
  #progress(): void {
    clearTimeout(this.#timer);
    const { stall } = this.#options;
    if (stall === undefined || this.destroyed) return;
    const reading = this.#wanted && !this.#eof;
    const ending = this.#finishing && !this.#finished;
    if (!reading && !ending && this.#writing === 0) return;
    this.#timer = setTimeout(() => {
      this.destroy(
        new LabError("E_TIMEOUT", `${this.#client.where}: nothing moved for ${stall / 1000} s`, {
          address: this.#client.address,
          retryable: true,
          hint: "the host's disk or the network to it may be stuck; run again",
        }),
      );
    }, stall);
  }
}

function sides(mode: StreamOptions["mode"]): DuplexOptions {
  const options = { readable: mode !== "write", writable: mode !== "read", highWaterMark: 1 << 18 };
  return options;
}

/** Bytes, and lengths of the runs of zeros between them: whole blocks, as they lie in the chunk. */
function runs(chunk: Buffer): (Buffer | number)[] {
  const found: (Buffer | number)[] = [];
  let dataFrom = 0;
  let at = 0;
  while (at < chunk.length) {
    const end = Math.min(at + BLOCK, chunk.length);
    if (chunk.compare(ZEROS, 0, end - at, at, end) !== 0) {
      at = end;
      continue;
    }
    if (at > dataFrom) found.push(chunk.subarray(dataFrom, at));
    found.push(end - at);
    at = end;
    dataFrom = end;
  }
  if (at > dataFrom) found.push(chunk.subarray(dataFrom, at));
  return found;
}
