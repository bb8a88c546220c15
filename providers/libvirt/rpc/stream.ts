import { Duplex } from "node:stream";
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
  /** Zeros that were written and are not sent yet. */
  #hole = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(client: RpcClient, options: StreamOptions & { readonly procedure: number; readonly serial: number }) {
    super({ readable: options.mode !== "write", writable: options.mode !== "read", highWaterMark: 1 << 18 });
    this.#client = client;
    this.#serial = options.serial;
    this.#procedure = options.procedure;
    this.#options = options;
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
    if (!this.#eof) return;
    if (this.#finished) this.push(null);
    else if (!this.#finishing) this.#finish(() => this.push(null));
    this.#progress();
  }

  /** Asks the server to end it, and to say whether all went well. */
  #finish(done: (error?: Error | null) => void): void {
    this.#confirm = done;
    this.#finishing = true;
    this.#client.sendStream(this.#serial, this.#procedure, MessageType.stream, Status.ok, EMPTY);
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
    const pieces = this.#options.sparse === true ? split(chunk) : [chunk];
    let left: Buffer[] = [];
    for (const piece of pieces) {
      if (typeof piece === "number") this.#hole += piece;
      else {
        this.#sendHole();
        left.push(...this.#sendData(piece));
      }
    }
    left = left.filter((packet) => packet.length > 0);
    if (left.length === 0) {
      done();
      return;
    }
    this.#progress();
    let open = left.length;
    let failed: Error | undefined;
    for (const packet of left) {
      this.#send(packet, (error) => {
        failed ??= error ?? undefined;
        this.#progress();
        if (--open === 0) done(failed);
      });
    }
  }
}
