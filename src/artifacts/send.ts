import { randomBytes } from "node:crypto";
import type { FileHandle } from "node:fs/promises";
import { Readable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { constants, gzip } from "node:zlib";
import { LabError } from "../diagnostics/index.ts";
import { formatSize } from "../model/index.ts";
import type { ExecResult, Machine } from "../transport/index.ts";
import { BLOCK, type BlockMap, dataBytes, PIECE } from "./block-map.ts";
import { receiveScript, saidBy } from "./host-script.ts";
import type { HostTarget, HostTransferOptions, SentArtifact } from "./ports.ts";
import { withRetries } from "./retries.ts";
import { Ring, RING_BUFFER, RING_MARK } from "./ring.ts";

const compressed = promisify(gzip);
const DAY_MS = 24 * 3600 * 1000;
const READ = 1024 * 1024;
/** How often one piece is sent before its content is given up. */
const SENDINGS = 2;
/** What the far end unpacks comes in whole pages: its shell reads nothing else exactly. */
const PAGE = 4096;
/** Until so much went out, only buffers were filled, and nothing is known of the connection. */
const WARM_UP = 4 * READ;
/** What zlib does in a second at its fastest level, until it was measured; bytes. */
const GZIP_RATE = 120e6;
const BUSY_PAUSE_MS = 500;

export interface LocalBlob {
  readonly map: BlockMap;
  open(): Promise<FileHandle>;
  /** Reads all of it here. Rejects where it is damaged. */
  verify(): Promise<unknown>;
}

/** Puts a blob on a host; the contract is ArtifactStore.send. */
export async function sendBlob(
  machine: Machine,
  blob: LocalBlob,
  target: HostTarget | undefined,
  options: HostTransferOptions,
): Promise<SentArtifact> {
  let before = "";
  let wire = 0;
  let kept = 0;
  return await withRetries(
    options,
    async () => {
      for (;;) {
        const id = randomBytes(8).toString("hex");
        const sending = new Sending(machine, blob, target, options, id, before);
        before = id;
        try {
          const result = await sending.run();
          wire += sending.wire;
          if (result !== undefined) return { ...result, wire };
        } catch (error) {
          wire += sending.wire;
          kept = Math.max(kept, sending.settled);
          throw error;
        }
        // Another upload of the same is under way; what it brings serves this one too.
        await sleep(BUSY_PAUSE_MS, undefined, options.signal ? { signal: options.signal } : {}).catch(() => {
          throw new LabError("E_CANCELLED", "cancelled", { address: machine.address });
        });
      }
    },
    (error, attempts) =>
      new LabError(
        error.code,
        `${error.message} (tried ${attempts} times); ${formatSize(kept)} of ${formatSize(blob.map.size)} are kept on ${machine.address}`,
        {
          address: machine.address,
          retryable: true,
          cause: error,
          hint: "run again: it goes on with what is there",
        },
      ),
  );
}

/** One attempt: one script at the far end, fed over its stdin. */
class Sending {
  readonly #machine: Machine;
  readonly #blob: LocalBlob;
  readonly #target: HostTarget | undefined;
  readonly #options: HostTransferOptions;
  readonly #id: string;
  readonly #before: string;
  readonly #good = new Set<number>();
  /** Pieces that were sent, and whose digest was not told yet. */
  readonly #pending = new Set<number>();
  readonly #bad = new Set<number>();
  readonly #sendings = new Map<number, number>();
  #wake: () => void = () => undefined;
  #state: "asking" | "sending" | "over" = "asking";
  #canUnpack = false;
  #failure: LabError | undefined;
  #resumed = 0;
  #done = 0;
  #since = 0;
  #gzipRate = GZIP_RATE;
  #partial = "";
  readonly #ring = new Ring();
  wire = 0;

  constructor(
    machine: Machine,
    blob: LocalBlob,
    target: HostTarget | undefined,
    options: HostTransferOptions,
    id: string,
    before: string,
  ) {
    this.#machine = machine;
    this.#blob = blob;
    this.#target = target;
    this.#options = options;
    this.#id = id;
    this.#before = before;
  }

  /** Bytes of data that the far end has, verified. */
  get settled(): number {
    return [...this.#good].reduce((sum, index) => sum + dataBytes(this.#piece(index)), 0);
  }

  #piece(index: number): BlockMap["pieces"][number] {
    return this.#blob.map.pieces[index] ?? { runs: [], sha256: "" };
  }

  /** Undefined where the far end is busy with the same blob. */
  async run(): Promise<Omit<SentArtifact, "wire"> | undefined> {
    const { map } = this.#blob;
    const content = Readable.from(this.#feed(), { objectMode: false, highWaterMark: RING_MARK });
    // What goes wrong while reading here is told below, and not as what it did to the connection.
    content.on("error", () => undefined);
    const script = receiveScript({
      sha256: map.sha256,
      size: map.size,
      need: map.pieces.reduce((sum, piece) => sum + dataBytes(piece), 0),
      id: this.#id,
      before: this.#before,
      cache: this.#options.cache,
      target: this.#target,
    });
    let answer: ExecResult;
    try {
      answer = await this.#machine.exec(script, {
        root: this.#options.root ?? true,
        stdin: content,
        timeout: DAY_MS,
        onStdout: (chunk) => this.#hear(chunk),
        ...(this.#options.signal && { signal: this.#options.signal }),
      });
    } catch (error) {
      throw this.#failure ?? error;
    } finally {
      this.#over();
    }
    if (this.#failure !== undefined) throw this.#failure;
    return this.#outcome(answer);
  }

  #over(): void {
    this.#state = "over";
    this.#wake();
  }

  #hear(chunk: Buffer): void {
    const lines = (this.#partial + chunk.toString("utf8")).split("\n");
    this.#partial = lines.pop() ?? "";
    for (const [word, first, second = ""] of saidBy(lines.join("\n"))) {
      if (word === "go") {
        this.#state = "sending";
        this.#canUnpack = first === "gzip";
      } else if (word === "have" || word === "piece") {
        const index = Number(first);
        this.#pending.delete(index);
        if (this.#piece(index).sha256 === second) {
          if (word === "have") this.#resumed += dataBytes(this.#piece(index));
          this.#good.add(index);
        } else if (word === "piece") this.#bad.add(index);
      }
    }
    this.#wake();
  }

  async #changed(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#wake = resolve;
    });
  }

  async *#feed(): AsyncGenerator<Buffer> {
    while (this.#state === "asking") await this.#changed();
    if (this.#state !== "sending") return;
    let file: FileHandle | undefined;
    try {
      file = await this.#blob.open();
      const { pieces, size } = this.#blob.map;
      const data = pieces.reduce((sum, piece) => sum + dataBytes(piece), 0);
      // Holes are at their place already.
      this.#done = Math.max(0, size - data) + this.#resumed;
      this.#since = performance.now();
      for (const [index, piece] of pieces.entries()) {
        if (piece.runs.length > 0 && !this.#good.has(index)) yield* this.#send(file, index);
        yield* this.#again(file);
      }
      while (this.#pending.size > 0 || this.#bad.size > 0) {
        if (this.#bad.size === 0) await this.#changed();
        if (this.#stopped()) return;
        yield* this.#again(file);
      }
      this.#report(size);
      yield Buffer.from("commit\n");
    } catch (error) {
      this.#failure =
        error instanceof LabError
          ? error
          : new LabError("E_ARTIFACT_STORE", `${this.#blob.map.sha256} cannot be read: ${String(error)}`, {
              cause: error,
            });
    } finally {
      await file?.close();
    }
  }

  #stopped(): boolean {
    return this.#state === "over";
  }

  /** What arrived damaged goes once more; after that, whose fault it is decides what is said. */
  async *#again(file: FileHandle): AsyncGenerator<Buffer> {
    for (const index of this.#bad) {
      this.#bad.delete(index);
      if ((this.#sendings.get(index) ?? 0) >= SENDINGS) {
        await this.#blob.verify();
        throw new LabError(
          "E_ARTIFACT_CORRUPT",
          `${this.#blob.map.sha256} arrived damaged on ${this.#machine.address}, also when it was sent again`,
          {
            address: this.#machine.address,
            hint: "the artifact is whole here: check the memory and the disk of that machine",
          },
        );
      }
      yield* this.#send(file, index);
    }
  }

  async *#send(file: FileHandle, index: number): AsyncGenerator<Buffer> {
    const piece = this.#piece(index);
    this.#sendings.set(index, (this.#sendings.get(index) ?? 0) + 1);
    const start = (index * PIECE) / BLOCK;
    for (const [first, count] of piece.runs) {
      for (let at = 0; at < count; ) {
        // In small steps where each may go another way; in one where that is settled: every step is a process there.
        const small = Math.min(count - at, READ / BLOCK);
        const packs = this.#mayPack() && (await this.#shrinks(file, start + first + at));
        const blocks = packs || this.#rate() === undefined ? small : count - at;
        if (packs) yield* this.#packed(file, start + first + at, blocks);
        else yield* this.#plain(file, start + first + at, blocks);
        at += blocks;
        if (this.#stopped()) return;
      }
    }
    this.#pending.add(index);
    const runs = piece.runs.map(([first, count]) => `${start + first}:${count}`).join(" ");
    yield Buffer.from(`check ${index} ${runs}\n`);
  }

  /** Bytes a second; undefined while that cannot be known. */
  #rate(): number | undefined {
    return this.wire < WARM_UP ? undefined : (this.wire * 1000) / Math.max(1, performance.now() - this.#since);
  }

  /** Whether compressing may be worth it: far quicker than the connection, for it takes the processor from others. */
  #mayPack(): boolean {
    const { compress = "auto" } = this.#options;
    const rate = this.#rate();
    if (!this.#canUnpack || compress === "never") return false;
    return compress === "always" || (rate !== undefined && rate < this.#gzipRate / 2);
  }

  /** As far as its first block tells. */
  async #shrinks(file: FileHandle, first: number): Promise<boolean> {
    if (this.#options.compress === "always") return true;
    const sample = await compressed(await this.#read(file, first * BLOCK, Buffer.allocUnsafe(BLOCK)), {
      level: constants.Z_BEST_SPEED,
    });
    return sample.length < 0.85 * BLOCK;
  }

  async *#plain(file: FileHandle, first: number, blocks: number): AsyncGenerator<Buffer> {
    yield Buffer.from(`raw ${first} ${blocks}\n`);
    for (let at = 0; at < blocks * BLOCK; at += RING_BUFFER) {
      const length = Math.min(RING_BUFFER, blocks * BLOCK - at);
      yield await this.#read(file, first * BLOCK + at, this.#ring.next(length));
      this.#count(length, length);
    }
  }

  async *#packed(file: FileHandle, first: number, blocks: number): AsyncGenerator<Buffer> {
    const data = await this.#read(file, first * BLOCK, Buffer.allocUnsafe(blocks * BLOCK));
    const started = performance.now();
    const packed = await compressed(data, { level: constants.Z_BEST_SPEED });
    const measured = (data.length * 1000) / Math.max(0.1, performance.now() - started);
    this.#gzipRate = 0.8 * this.#gzipRate + 0.2 * measured;
    const pages = Math.ceil(packed.length / PAGE);
    yield Buffer.from(`gz ${first} ${blocks} ${pages}\n`);
    // Zeros after its end are no part of a gzip file, and ignored.
    yield Buffer.concat([packed, Buffer.alloc(pages * PAGE - packed.length)]);
    this.#count(pages * PAGE, blocks * BLOCK);
  }

  /** Fills the buffer from the file; what is past its end is zero. */
  async #read(file: FileHandle, position: number, bytes: Buffer): Promise<Buffer> {
    let done = 0;
    while (done < bytes.length) {
      const { bytesRead } = await file.read(bytes, done, bytes.length - done, position + done);
      if (bytesRead === 0) break;
      done += bytesRead;
    }
    return bytes.fill(0, done);
  }

  #count(wire: number, data: number): void {
    this.wire += wire;
    this.#report(Math.min(this.#blob.map.size, this.#done + data));
  }

  #report(done: number): void {
    this.#done = done;
    this.#options.onProgress?.({ done, total: this.#blob.map.size, sent: this.wire });
  }

  #outcome(answer: ExecResult): Omit<SentArtifact, "wire"> | undefined {
    const { address } = this.#machine;
    const text = answer.stdout.toString("utf8");
    const said = saidBy(text);
    const has = (word: string): string[] | undefined => said.find(([first]) => first === word);
    const done = has("done");
    if (done !== undefined) {
      return { cached: done.slice(1).join(" "), sent: has("go") !== undefined, resumed: this.#resumed };
    }
    if (has("busy") !== undefined) return undefined;
    const path = JSON.stringify(this.#target?.path ?? "the cache of artifacts");
    if (has("directory") !== undefined) {
      throw new LabError("E_MISMATCH", `${path} on ${address} is a directory, and a file was to be put there`, {
        address,
        hint: "move the directory away, or choose another path; labctl does not delete directories that it did not make",
      });
    }
    const rest = (word: string): string =>
      text
        .slice(text.indexOf(`labctl-artifact ${word}`))
        .split("\n")
        .slice(1)
        .join("\n")
        .trim();
    if (has("full") !== undefined) {
      throw new LabError(
        "E_DISK_FULL",
        `no space left for the artifact ${this.#blob.map.sha256} on ${address}\n${rest("full")}`,
        {
          address,
          hint: "free some space there and run again: what arrived is kept, and it goes on from there",
        },
      );
    }
    const why = (has("failed") === undefined ? answer.stderr.toString("utf8") : rest("failed")).trim().slice(0, 500);
    throw new LabError("E_TRANSFER", `the artifact ${this.#blob.map.sha256} cannot be put on ${address}: ${why}`, {
      address,
      hint: /not permitted|denied/i.test(why)
        ? "the login may not write there: set `become: sudo`, or choose another path"
        : "look at the machine, then run again",
    });
  }
}
