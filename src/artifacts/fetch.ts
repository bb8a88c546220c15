import { promisify } from "node:util";
import { gunzip } from "node:zlib";
import { LabError } from "../diagnostics/index.ts";
import { formatSize } from "../model/index.ts";
import type { Machine } from "../transport/index.ts";
import { PIECE } from "./block-map.ts";
import type { BlobWriter, MakeRoom } from "./blob-writer.ts";
import type { Blobs } from "./blobs.ts";
import { SHA256 } from "./layout.ts";
import { describeScript, partScript, saidBy } from "./host-script.ts";
import type { FetchedArtifact, HostTransferOptions } from "./ports.ts";
import { withRetries } from "./retries.ts";

const unpacked = promisify(gunzip);
const DAY_MS = 24 * 3600 * 1000;
/** Pieces on their way at once: what is held in memory, and enough that the connection is never idle. */
const WINDOW = 3;
/** Slower than this, compressing at the far end is tried; bytes a second. */
const SLOW = 40e6;
/** Of the script: the file is not the one that was described. */
const CHANGED = 68;

interface FarFile {
  readonly sha256: string;
  readonly size: number;
  readonly mode: string;
  readonly identity: string;
  readonly sparse: boolean;
  readonly canPack: boolean;
}

class FileChanged extends Error {}

/** Brings a file of a host into the store; the contract is ArtifactStore.fetch. */
export async function fetchBlob(
  blobs: Blobs,
  machine: Machine,
  path: string,
  options: HostTransferOptions,
  room: MakeRoom,
): Promise<FetchedArtifact> {
  let wire = 0;
  for (let tries = 1; ; tries++) {
    const far = await withRetries(options, () => describeFar(machine, path, options), gaveUp(machine, path, 0, 0));
    const result = { sha256: far.sha256, size: far.size, mode: far.mode };
    if (await blobs.freshen(far.sha256)) return { ...result, fetched: false, wire };
    const writer = await blobs.resume(far.sha256, room);
    try {
      const pieces = new Pieces(machine, path, far, writer, options);
      await withRetries(
        options,
        () => pieces.run(),
        (error, attempts) => gaveUp(machine, path, writer.size, far.size)(error, attempts),
      ).finally(() => {
        wire += pieces.wire;
      });
    } catch (error) {
      await writer.abandon(error instanceof LabError && error.retryable);
      if (!(error instanceof FileChanged)) throw error;
      if (tries > 1) throw changing(machine, path);
      continue;
    }
    try {
      await blobs.keep(writer, far.sha256);
      return { ...result, fetched: true, wire };
    } catch (error) {
      if (!(error instanceof LabError) || error.code !== "E_MISMATCH") throw error;
      if (tries > 1) throw damaged(machine, path, error);
    }
  }
}

function gaveUp(machine: Machine, path: string, kept: number, size: number) {
  return (error: LabError, attempts: number): LabError =>
    new LabError(
      error.code,
      `${error.message} (tried ${attempts} times while fetching ${path})${size > 0 ? `; ${formatSize(kept)} of ${formatSize(size)} are kept here` : ""}`,
      { address: machine.address, cause: error, retryable: true, hint: "run again: it goes on with what is here" },
    );
}

function changing(machine: Machine, path: string): LabError {
  return new LabError("E_MISMATCH", `${path} on ${machine.address} changes while it is read`, {
    address: machine.address,
    retryable: true,
    hint: "something still writes to it there; run again when that is done",
  });
}

function damaged(machine: Machine, path: string, cause: unknown): LabError {
  return new LabError(
    "E_ARTIFACT_CORRUPT",
    `what arrives of ${path} from ${machine.address} is not what has the digest there, also when it is fetched again`,
    { address: machine.address, cause, hint: "check the memory and the disk of both machines" },
  );
}

async function describeFar(machine: Machine, path: string, options: HostTransferOptions): Promise<FarFile> {
  const { address } = machine;
  const answer = await machine.exec(describeScript(path), {
    root: options.root ?? true,
    timeout: DAY_MS,
    ...(options.signal && { signal: options.signal }),
  });
  const text = answer.stdout.toString("utf8");
  const [[word, sha256 = "", size, mode = "", blocks, identity = "", gz] = []] = saidBy(text);
  if (word === "file" && SHA256.test(sha256)) {
    return {
      sha256,
      size: Number(size),
      mode: mode.padStart(4, "0"),
      identity,
      sparse: Number(blocks) * 512 < 0.9 * Number(size),
      canPack: gz === "gzip",
    };
  }
  const quoted = JSON.stringify(path);
  if (word === "missing" || word === "directory") {
    throw new LabError("E_TRANSFER", `${quoted} on ${address} is ${word === "missing" ? "not there" : "a directory"}`, {
      address,
      hint: word === "missing" ? "check the path, and that the login may look into its directory" : "name a file",
    });
  }
  const why = (word === "failed" ? text.split("\n").slice(1).join(" ") : answer.stderr.toString("utf8")).trim();
  throw new LabError("E_TRANSFER", `${quoted} on ${address} cannot be read: ${why.slice(0, 300)}`, {
    address,
    hint: "check that the login may read it, or use root",
  });
}

/** The pieces of one file, in order, several of them on their way. Can be run again after it rejected. */
class Pieces {
  readonly #machine: Machine;
  readonly #path: string;
  readonly #far: FarFile;
  readonly #writer: BlobWriter;
  readonly #options: HostTransferOptions;
  #pack: boolean;
  #judged = false;
  wire = 0;

  constructor(machine: Machine, path: string, far: FarFile, writer: BlobWriter, options: HostTransferOptions) {
    this.#machine = machine;
    this.#path = path;
    this.#far = far;
    this.#writer = writer;
    this.#options = options;
    const { compress = "auto" } = options;
    this.#pack = far.canPack && (compress === "always" || (compress === "auto" && far.sparse));
    this.#judged = compress !== "auto" || far.sparse || !far.canPack;
  }

  async run(): Promise<void> {
    const count = Math.ceil(this.#far.size / PIECE);
    const stop = new AbortController();
    const signal = this.#options.signal ? AbortSignal.any([stop.signal, this.#options.signal]) : stop.signal;
    const coming: Promise<Buffer>[] = [];
    let next = this.#writer.size / PIECE;
    try {
      for (let index = next; index < count; index++) {
        while (next < count && coming.length < WINDOW) {
          const one = this.#piece(next++, signal);
          one.catch(() => undefined);
          coming.push(one);
        }
        const bytes = await coming.shift();
        if (bytes === undefined) break;
        await this.#writer.write(bytes);
        this.#options.onProgress?.({ done: this.#writer.size, total: this.#far.size, sent: this.wire });
      }
    } catch (error) {
      stop.abort();
      await Promise.allSettled(coming);
      throw error;
    }
  }

  async #piece(index: number, signal: AbortSignal): Promise<Buffer> {
    const pack = this.#pack;
    const started = performance.now();
    const answer = await this.#machine.exec(partScript(this.#path, this.#far.identity, index, pack), {
      root: this.#options.root ?? true,
      timeout: DAY_MS,
      keep: 2 * PIECE,
      signal,
    });
    if (answer.code === CHANGED) throw new FileChanged();
    this.wire += answer.stdout.length;
    const length = Math.min(PIECE, this.#far.size - index * PIECE);
    let bytes: Buffer | undefined = answer.stdout;
    if (pack) bytes = await unpacked(answer.stdout, { maxOutputLength: PIECE }).catch(() => undefined);
    // Cut short: somebody truncated it, or the far end ended the command.
    if (bytes?.length !== length) throw new FileChanged();
    this.#judge(pack, length, answer.stdout.length, performance.now() - started);
    return bytes;
  }

  /** On a slow connection one compressed piece shows whether it is worth it. */
  #judge(pack: boolean, length: number, wire: number, ms: number): void {
    if (this.#judged) return;
    if (pack) {
      this.#judged = true;
      this.#pack = wire < 0.9 * length;
    } else if ((WINDOW * length * 1000) / Math.max(1, ms) < SLOW) this.#pack = true;
  }
}
