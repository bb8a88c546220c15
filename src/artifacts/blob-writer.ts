import { createHash } from "node:crypto";
import { type FileHandle, open } from "node:fs/promises";
import { BLOCK, type BlockMap, describePiece, PIECE, type Piece } from "./block-map.ts";
import { createFile, letGo, removeIfThere } from "./files.ts";

/** Takes one write that found the disk full: frees some space, or rejects. */
export type MakeRoom = (error: unknown) => Promise<void>;

/** Writes a blob under a temporary name: digests it, leaves runs of zeros as holes, and keeps one piece in memory. */
export class BlobWriter {
  readonly path: string;
  readonly #file: FileHandle;
  readonly #room: MakeRoom;
  readonly #hash = createHash("sha256");
  readonly #pieces: Piece[] = [];
  /** Grows with what comes: most blobs are smaller than a piece. */
  #piece = Buffer.allocUnsafe(4 * BLOCK);
  #filled = 0;
  #size = 0;
  #closed = false;

  private constructor(path: string, file: FileHandle, room: MakeRoom) {
    this.path = path;
    this.#file = file;
    this.#room = room;
  }

  static async open(path: string, room: MakeRoom): Promise<BlobWriter> {
    for (let tries = 0; ; tries++) {
      try {
        return new BlobWriter(path, await createFile(path), room);
      } catch (error) {
        if (tries > 0) throw error;
        await room(error);
      }
    }
  }

  /** Goes on with a file that an earlier writer left: its whole pieces are read, and what follows them is dropped. */
  static async resume(path: string, room: MakeRoom): Promise<BlobWriter> {
    const file = await open(path, "r+");
    const writer = new BlobWriter(path, file, room);
    try {
      const whole = Math.floor((await file.stat()).size / PIECE);
      if (whole > 0) writer.#grow(PIECE);
      for (let i = 0; i < whole; i++) {
        const { bytesRead } = await file.read(writer.#piece, 0, PIECE, i * PIECE);
        if (bytesRead !== PIECE) break;
        writer.#hash.update(writer.#piece);
        writer.#pieces.push(describePiece(writer.#piece));
      }
      writer.#size = writer.#pieces.length * PIECE;
      await file.truncate(writer.#size);
      return writer;
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /** Bytes taken so far. */
  get size(): number {
    return this.#size;
  }

  async write(data: Uint8Array): Promise<void> {
    for (let at = 0; at < data.length; ) {
      const count = Math.min(data.length - at, PIECE - this.#filled);
      this.#grow(this.#filled + count);
      this.#piece.set(data.subarray(at, at + count), this.#filled);
      this.#filled += count;
      this.#size += count;
      at += count;
      if (this.#filled === PIECE) await this.#flush();
    }
  }

  #grow(needed: number): void {
    if (needed <= this.#piece.length) return;
    const larger = Buffer.allocUnsafe(Math.min(PIECE, 2 ** Math.ceil(Math.log2(needed))));
    this.#piece.copy(larger, 0, 0, this.#filled);
    this.#piece = larger;
  }

  /** Everything is on disk; the blob's digest and map. */
  async finish(): Promise<BlockMap> {
    if (this.#filled > 0) await this.#flush();
    await this.roomy(() => this.#file.truncate(this.#size));
    await this.roomy(() => this.#file.sync());
    await this.#close();
    return { sha256: this.#hash.digest("hex"), size: this.#size, pieces: this.#pieces };
  }

  /** Lets go of it; the file goes unless `keep`. */
  async abandon(keep = false): Promise<void> {
    if (keep && !this.#closed) {
      // What is whole stays for the next try; a piece in memory is fetched again.
      await this.#file.sync().catch(() => undefined);
    }
    await this.#close().catch(() => undefined);
    if (keep) letGo(this.path);
    else await removeIfThere(this.path);
  }

  async #close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#file.close();
  }

  async #flush(): Promise<void> {
    const data = this.#piece.subarray(0, this.#filled);
    this.#hash.update(data);
    const padded = Math.ceil(this.#filled / BLOCK) * BLOCK;
    this.#piece.fill(0, this.#filled, padded);
    const piece = describePiece(this.#piece.subarray(0, padded));
    const start = this.#pieces.length * PIECE;
    for (const [first, count] of piece.runs) {
      const from = first * BLOCK;
      const bytes = data.subarray(from, Math.min(from + count * BLOCK, data.length));
      await this.#writeAt(bytes, start + from);
    }
    // A hole at its end counts as well for who resumes.
    await this.roomy(() => this.#file.truncate(start + data.length));
    this.#pieces.push(piece);
    this.#filled = 0;
  }

  async #writeAt(bytes: Buffer, position: number): Promise<void> {
    for (let done = 0; done < bytes.length; ) {
      done += await this.roomy(
        async () => (await this.#file.write(bytes, done, bytes.length - done, position + done)).bytesWritten,
      );
    }
  }

  /** Where the disk is full, room is made once and the same is tried again. */
  async roomy<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      await this.#room(error);
      return await work();
    }
  }
}
