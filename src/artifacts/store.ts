import { createReadStream } from "node:fs";
import { chmod, stat } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { LabError } from "../diagnostics/index.ts";
import { nodeFs } from "../state/index.ts";
import type { Machine } from "../transport/index.ts";

import { Blobs, corrupt } from "./blobs.ts";
import { checkStore } from "./check.ts";
import { collect } from "./collect.ts";
import { fetchBlob } from "./fetch.ts";
import { errorCode, isFull, letGo, list, storeError, syncFolder, temporaryName } from "./files.ts";
import { BlobWriter } from "./blob-writer.ts";
import { cleanScript, presentScript, saidBy } from "./host-script.ts";
import { Layout } from "./layout.ts";
import { demandArtifact, demandBuild, describe, newestFirst } from "./lookup.ts";
import type {
  ArtifactStore,
  ArtifactStoreOptions,
  BlobSource,
  CheckReport,
  FetchedArtifact,
  HostTarget,
  HostTransferOptions,
  PutOptions,
  SentArtifact,
  StoredBlob,
} from "./ports.ts";
import { Records } from "./records.ts";
import { blobsOf, DEFAULT_RETENTION } from "./retention.ts";
import { sendBlob } from "./send.ts";
import type { Artifact, BlobInfo, BuildQuery, BuildRecord, GcResult } from "./types.ts";

const READ = 1024 * 1024;
const LIMIT = 16 * 1024 * 1024;
type OnHost = Pick<HostTransferOptions, "root" | "cache" | "signal">;

/** A store in a folder of this machine. Nothing is touched until it is used. */
export function createArtifactStore(options: ArtifactStoreOptions): ArtifactStore {
  return new FolderStore(options);
}

class FolderStore implements ArtifactStore {
  readonly root: string;
  readonly #options: ArtifactStoreOptions;
  readonly #layout: Layout;
  readonly #blobs: Blobs;
  readonly #records: Records;
  /** Making room is done once for all who found the disk full. */
  #cleaning: Promise<GcResult> | undefined;

  constructor(options: ArtifactStoreOptions) {
    this.root = options.root;
    this.#options = options;
    this.#layout = new Layout(options.root);
    this.#blobs = new Blobs(this.#layout);
    this.#records = new Records(this.#layout);
  }

  async put(source: BlobSource, options: PutOptions = {}): Promise<StoredBlob> {
    const { sha256, signal } = options;
    if (sha256 !== undefined && (await this.#freshened(sha256))) {
      const info = await this.#blobs.info(sha256);
      if (info !== undefined) return { sha256, size: info.size };
    }
    return await this.#writing(
      async (room) => {
        const writer = await this.#blobs.writer(room);
        try {
          for await (const chunk of bytesOf(source)) {
            if (signal?.aborted) throw new LabError("E_CANCELLED", "cancelled");
            await writer.write(chunk);
            options.onProgress?.(writer.size);
          }
          const map = await this.#blobs.keep(writer, sha256);
          await this.#mark(map.sha256, false);
          return { sha256: map.sha256, size: map.size };
        } catch (error) {
          await writer.abandon();
          throw error;
        }
      },
      nameOf(source),
      !("stream" in source),
    );
  }

  async #freshened(sha256: string): Promise<boolean> {
    return await this.#blobs.freshen(sha256).catch((error: unknown) => {
      throw storeError(error, `the artifact store ${this.root} cannot be written`);
    });
  }

  async info(sha256: string): Promise<BlobInfo | undefined> {
    return await this.#blobs.info(sha256).catch((error: unknown) => {
      throw storeError(error, `the artifact store ${this.root} cannot be read`);
    });
  }

  async *read(sha256: string, signal?: AbortSignal): AsyncGenerator<Buffer> {
    try {
      yield* this.#blobs.read(sha256, signal);
    } catch (error) {
      throw await this.#told(sha256, error);
    }
  }

  /** What was found damaged is marked wherever it is named. */
  async #told(sha256: string, error: unknown): Promise<unknown> {
    if (error instanceof LabError && error.code === "E_ARTIFACT_CORRUPT") await this.#mark(sha256, true);
    return error;
  }

  async content(sha256: string, limit = LIMIT): Promise<Buffer> {
    const info = await this.info(sha256);
    if (info !== undefined && info.size > limit) {
      throw new LabError("E_ARTIFACT_STORE", `the artifact ${sha256} has ${info.size} bytes, more than ${limit}`, {
        hint: "raise the limit, or read it in pieces",
      });
    }
    const chunks: Buffer[] = [];
    for await (const chunk of this.read(sha256)) chunks.push(chunk);
    return Buffer.concat(chunks);
  }

  async copyTo(
    sha256: string,
    path: string,
    options: { readonly mode?: string; readonly signal?: AbortSignal } = {},
  ): Promise<void> {
    const target = resolve(path);
    const temporary = join(dirname(target), temporaryName(`.${basename(target)}`));
    let writer: BlobWriter | undefined;
    const fail = (error: unknown): never => {
      if (error instanceof LabError) throw error;
      throw new LabError(isFull(error) ? "E_DISK_FULL" : "E_TRANSFER", `${path} cannot be written: ${textOf(error)}`, {
        cause: error,
        hint: isFull(error) ? "free some space there and run again" : "check the folder and its permissions",
      });
    };
    const file = await this.#blobs.open(sha256);
    const { ino } = await file.stat();
    try {
      writer = await BlobWriter.open(temporary, (error) => Promise.reject(error)).catch(fail);
      for await (const chunk of file.createReadStream({ highWaterMark: READ, autoClose: false })) {
        if (options.signal?.aborted) throw new LabError("E_CANCELLED", "cancelled");
        await writer.write(chunk as Buffer).catch(fail);
      }
      const map = await writer.finish().catch(fail);
      if (map.sha256 !== sha256) {
        await this.#blobs.quarantine(sha256, ino);
        throw await this.#told(sha256, corrupt(sha256, `its content has the digest ${map.sha256}`));
      }
      await place(writer.path, target, options.mode ?? "0644").catch(fail);
    } catch (error) {
      await writer?.abandon();
      throw storeError(error, `the artifact ${sha256} cannot be read`);
    } finally {
      await file.close();
    }
  }

  async saveBuild(record: BuildRecord): Promise<void> {
    // Before the record is there, only their age keeps its blobs from a gc that runs at the same time.
    for (const [name, artifact] of Object.entries(record.artifacts)) {
      if (artifact.corrupted || (await this.#freshened(artifact.sha256))) continue;
      throw new LabError(
        "E_ARTIFACT_NOT_FOUND",
        `${describe(record)} names ${name} (${artifact.sha256}), which is not in the store`,
        { hint: "put the content first, then the record" },
      );
    }
    if (record.log !== undefined) await this.#freshened(record.log);
    await this.#writing(async () => this.#records.save(record), "a build record");
  }

  async updateBuild(id: string, change: (record: BuildRecord) => BuildRecord): Promise<BuildRecord> {
    const changed = async (record: BuildRecord): Promise<void> => {
      for (const sha256 of blobsOf(record)) await this.#freshened(sha256);
    };
    const before = await this.build(id);
    if (before !== undefined) await changed(change(before));
    const after = await this.#writing(async () => this.#records.update(id, change), "a build record");
    if (after !== undefined) return after;
    throw new LabError("E_ARTIFACT_NOT_FOUND", `there is no build ${id}`, {
      hint: "`labctl artifact list` shows the builds there are",
    });
  }

  async build(id: string): Promise<BuildRecord | undefined> {
    return await this.#reading(() => this.#records.get(id));
  }

  async builds(): Promise<readonly BuildRecord[]> {
    const { records } = await this.#reading(() => this.#records.all());
    return [...records].sort(newestFirst);
  }

  async findBuild(query: BuildQuery): Promise<BuildRecord> {
    return demandBuild(await this.builds(), query);
  }

  async findArtifact(
    query: BuildQuery,
    what: string,
  ): Promise<{ readonly build: BuildRecord; readonly name: string; readonly artifact: Artifact }> {
    const build = await this.findBuild(query);
    const found = demandArtifact(build, what);
    if (found.artifact.corrupted) {
      throw new LabError("E_ARTIFACT_CORRUPT", `${found.name} of ${describe(build)} was found damaged`, {
        hint: "build it again: its content is not in the store any more",
      });
    }
    return { build, ...found };
  }

  async send(
    machine: Machine,
    sha256: string,
    target?: HostTarget,
    options: HostTransferOptions = {},
  ): Promise<SentArtifact> {
    try {
      const blob = {
        map: await this.#blobs.map(sha256),
        open: () => this.#blobs.open(sha256),
        verify: () => this.#blobs.verify(sha256, options.signal),
      };
      return await sendBlob(machine, blob, target, options);
    } catch (error) {
      throw await this.#told(sha256, error);
    }
  }

  async presentOn(machine: Machine, digests: readonly string[], options: OnHost = {}): Promise<ReadonlySet<string>> {
    const blobs: BlobInfo[] = [];
    for (const sha256 of new Set(digests)) {
      const info = await this.info(sha256);
      if (info !== undefined) blobs.push(info);
    }
    if (blobs.length === 0) return new Set();
    const answer = await machine.probe(presentScript(blobs, options.cache), {
      root: options.root ?? true,
      ...(options.signal && { signal: options.signal }),
    });
    return new Set(
      saidBy(answer.stdout.toString("utf8")).flatMap(([word, sha256 = ""]) => (word === "there" ? [sha256] : [])),
    );
  }

  async fetch(machine: Machine, path: string, options: HostTransferOptions = {}): Promise<FetchedArtifact> {
    const fetched = await this.#writing((room) => fetchBlob(this.#blobs, machine, path, options, room), path);
    if (fetched.fetched) await this.#mark(fetched.sha256, false);
    return fetched;
  }

  async cleanHost(machine: Machine, keep: Iterable<string>, options: OnHost = {}): Promise<number> {
    const answer = await machine.exec(cleanScript([...keep], options.cache), {
      root: options.root ?? true,
      ...(options.signal && { signal: options.signal }),
    });
    return saidBy(answer.stdout.toString("utf8"))
      .filter(([word]) => word === "removed")
      .reduce((sum, [, , blocks = "0"]) => sum + Number(blocks) * 512, 0);
  }

  async check(options: Parameters<ArtifactStore["check"]>[0] = {}): Promise<CheckReport> {
    const report = await this.#reading(() => checkStore(this.#blobs, this.#records, options));
    for (const { sha256, is } of report.findings) if (is === "damaged") await this.#mark(sha256, true);
    return report;
  }

  async gc(options: { readonly dryRun?: boolean; readonly pins?: ReadonlySet<string> } = {}): Promise<GcResult> {
    return await this.#reading(async () =>
      collect(
        { layout: this.#layout, blobs: this.#blobs, records: this.#records },
        {
          pins: new Set([...((await this.#options.pins?.()) ?? []), ...(options.pins ?? [])]),
          policy: this.#options.retention ?? DEFAULT_RETENTION,
          now: (this.#options.now ?? Date.now)(),
          dryRun: options.dryRun ?? false,
        },
      ),
    );
  }

  /** Marks or unmarks a digest in all records that name it. */
  async #mark(sha256: string, is: boolean): Promise<void> {
    if (!is && !(await list(this.#layout.corrupted)).some((name) => name.startsWith(sha256))) return;
    for (const { id } of (await this.builds()).filter((record) => blobsOf(record).includes(sha256))) {
      await this.updateBuild(id, (record) => {
        const artifacts = Object.entries(record.artifacts).map(([name, artifact]): [string, Artifact] => {
          if (artifact.sha256 !== sha256) return [name, artifact];
          const { corrupted: _corrupted, ...rest } = artifact;
          return [name, is ? { ...rest, corrupted: true } : rest];
        });
        return { ...record, artifacts: Object.fromEntries(artifacts) };
      }).catch((error: unknown) => {
        // A gc was faster.
        if (!(error instanceof LabError) || error.code !== "E_ARTIFACT_NOT_FOUND") throw error;
      });
    }
  }

  async #reading<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      throw storeError(error, `the artifact store ${this.root} cannot be read`);
    }
  }

  /** Does something that writes; where the disk is full, cleans up by retention and goes on. `again`: it can be repeated. */
  async #writing<T>(
    work: (room: (error: unknown) => Promise<void>) => Promise<T>,
    what: string,
    again = true,
  ): Promise<T> {
    const room = (error: unknown): Promise<void> => this.#makeRoom(error, what);
    try {
      return await work(room);
    } catch (error) {
      if (!isFull(error)) throw storeError(error, `the artifact store ${this.root} cannot be written`);
      if (!again) throw this.#full(error, what);
      await room(error);
      return await this.#writing(work, what, false);
    }
  }

  async #makeRoom(error: unknown, what: string): Promise<void> {
    if (!isFull(error)) throw error;
    this.#options.onNotice?.({ is: "full", what });
    this.#cleaning ??= this.gc().finally(() => {
      this.#cleaning = undefined;
    });
    const cleaned = await this.#cleaning;
    const { length: blobs } = cleaned.blobs;
    this.#options.onNotice?.({ is: "cleaned", builds: cleaned.records.length, blobs, frees: cleaned.frees });
    if (blobs + cleaned.temporary + cleaned.corrupted === 0) throw this.#full(error, what);
  }

  #full(cause: unknown, what: string): LabError {
    return new LabError("E_ARTIFACT_STORE_FULL", `no space left in the artifact store ${this.root} for ${what}`, {
      cause,
      retryable: true,
      hint: "nothing more may go by retention: free some space there, shorten `artifacts: { retention: ... }`, or move the store; what is in it is whole",
    });
  }
}

async function* bytesOf(source: BlobSource): AsyncGenerator<Uint8Array> {
  if ("content" in source) {
    yield typeof source.content === "string" ? Buffer.from(source.content) : source.content;
  } else if ("stream" in source) yield* source.stream;
  else {
    try {
      if ((await stat(source.file)).isDirectory()) throw new Error("it is a directory");
      for await (const chunk of createReadStream(source.file, { highWaterMark: READ })) yield chunk as Buffer;
    } catch (cause) {
      throw new LabError("E_SOURCE_FILE", `${source.file} cannot be read: ${textOf(cause)}`, {
        cause,
        hint: "check the path and its permissions",
      });
    }
  }
}

function nameOf(source: BlobSource): string {
  return "file" in source ? source.file : "an artifact";
}

async function place(from: string, to: string, mode: string): Promise<void> {
  await chmod(from, Number.parseInt(mode, 8));
  await nodeFs.rename(from, to);
  letGo(from);
  await syncFolder(dirname(to));
}

function textOf(error: unknown): string {
  return errorCode(error) ?? (error instanceof Error ? error.message : String(error));
}
