/**
 * The frames of libvirt's RPC: a length, a header of six words, a payload (src/rpc/virnetprotocol.x of libvirt 9.0). Programs:
 * REMOTE (src/remote/remote_protocol.x) and KEEPALIVE (src/rpc/virkeepaliveprotocol.x).
 */
import { XdrError } from "./xdr.ts";

export const REMOTE_PROGRAM = 0x20008086;
export const KEEPALIVE_PROGRAM = 0x6b656570;
export const PROGRAM_VERSION = 1;
export const KEEPALIVE_PING = 1;
export const KEEPALIVE_PONG = 2;

/** virNetMessageType. */
export const MessageType = { call: 0, reply: 1, message: 2, stream: 3, hole: 6 } as const;
/** virNetMessageStatus. */
export const Status = { ok: 0, error: 1, continue: 2 } as const;

const LENGTH_BYTES = 4;
const HEADER_BYTES = 24;
/** VIR_NET_MESSAGE_MAX, with the length word that it does not count. */
export const MESSAGE_MAX = 33_554_432 + LENGTH_BYTES;
/** VIR_NET_MESSAGE_LEGACY_PAYLOAD_MAX: what every server takes in one packet of a stream. */
export const STREAM_PAYLOAD_MAX = 262_120;

export interface Header {
  readonly program: number;
  readonly version: number;
  readonly procedure: number;
  readonly type: number;
  readonly serial: number;
  readonly status: number;
}

export interface Packet extends Header {
  readonly payload: Buffer;
}

/** Head and payload apart, so that large payloads are not copied. */
export function encodePacket(header: Header, payload: Uint8Array): Buffer[] {
  const length = LENGTH_BYTES + HEADER_BYTES + payload.length;
  if (length > MESSAGE_MAX) throw new XdrError(`a message of ${length} bytes where at most ${MESSAGE_MAX} are allowed`);
  const head = Buffer.allocUnsafe(LENGTH_BYTES + HEADER_BYTES);
  head.writeUInt32BE(length, 0);
  head.writeUInt32BE(header.program, 4);
  head.writeUInt32BE(header.version, 8);
  head.writeInt32BE(header.procedure, 12);
  head.writeInt32BE(header.type, 16);
  head.writeUInt32BE(header.serial, 20);
  head.writeInt32BE(header.status, 24);
  if (payload.length === 0) return [head];
  return [head, Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength)];
}

/** Cuts a stream of bytes, in chunks of any size, into packets. */
export class PacketReader {
  #chunks: Buffer[] = [];
  #held = 0;

  /** The packets that are whole now. Throws XdrError at a length that no message has: nothing after it can be understood. */
  push(chunk: Buffer): Packet[] {
    this.#chunks.push(chunk);
    this.#held += chunk.length;
    const packets: Packet[] = [];
    for (;;) {
      const length = this.#length();
      if (length === undefined || this.#held < length) return packets;
      packets.push(parse(this.#take(length)));
    }
  }

  #length(): number | undefined {
    if (this.#held < LENGTH_BYTES) return undefined;
    let first = this.#chunks[0];
    if (first === undefined || first.length < LENGTH_BYTES) {
      first = Buffer.concat(this.#chunks);
      this.#chunks = [first];
    }
    const length = first.readUInt32BE(0);
    if (length < LENGTH_BYTES + HEADER_BYTES || length > MESSAGE_MAX) {
      throw new XdrError(`a message of ${length} bytes cannot be: it does not speak libvirt's protocol`);
    }
    return length;
  }

  #take(length: number): Buffer {
    let [first] = this.#chunks;
    if (first === undefined || first.length < length) {
      // Once a packet, when all of it is there: chunks are not copied over and over.
      first = Buffer.concat(this.#chunks);
      this.#chunks = [first];
    }
    this.#held -= length;
    if (first.length === length) this.#chunks.shift();
    else this.#chunks[0] = first.subarray(length);
    return first.subarray(0, length);
  }
}

function parse(bytes: Buffer): Packet {
  return {
    program: bytes.readUInt32BE(4),
    version: bytes.readUInt32BE(8),
    procedure: bytes.readInt32BE(12),
    type: bytes.readInt32BE(16),
    serial: bytes.readUInt32BE(20),
    status: bytes.readInt32BE(24),
    payload: bytes.subarray(LENGTH_BYTES + HEADER_BYTES),
  };
}
