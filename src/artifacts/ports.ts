import type { Machine } from "../transport/index.ts";
import type {
  Artifact,
  BlobInfo,
  BuildQuery,
  BuildRecord,
  GcResult,
  RetentionPolicy,
  TransferProgress,
} from "./types.ts";

/** Content for the store. A file is read once. */
export type BlobSource =
  | { readonly file: string }
  | { readonly content: string | Uint8Array }
  | { readonly stream: AsyncIterable<Uint8Array> };

export interface PutOptions {
  /** Nothing is read where it is there already; E_MISMATCH where the content turns out to be another. */
  readonly sha256?: string;
  readonly signal?: AbortSignal;
  /** Bytes taken so far. */
  readonly onProgress?: (bytes: number) => void;
}

export interface StoredBlob {
  readonly sha256: string;
  readonly size: number;
}

/** Where on a host an artifact is put. Without one it only goes to the host's cache. */
export interface HostTarget {
  /** Absolute. */
  readonly path: string;
  /** Four octal digits. */
  readonly mode?: string;
  readonly owner?: string;
  readonly group?: string;
  /**
   * `link`: a hard link to the host's one copy, read-only (0444), for what nobody writes to: kernels, initrds, backing
   * files. `copy`: a file of its own, sparse, and sharing blocks where the file system can. Default: `link`, but `copy`
   * where a mode or an owner is asked for.
   */
  readonly how?: "link" | "copy";
}

export interface HostTransferOptions {
  /** Default true. */
  readonly root?: boolean;
  /** Folder of the host's cache. Default /var/lib/labctl/artifacts for root, ~/.cache/labctl/artifacts for others. */
  readonly cache?: string;
  readonly signal?: AbortSignal;
  readonly onProgress?: (progress: TransferProgress) => void;
  /** Attempts after the first, with delays in milliseconds that double. Default: 3, 1 s, up to 30 s. */
  readonly retry?: { readonly attempts: number; readonly delay: number; readonly max_delay: number };
  readonly onRetry?: (why: string, attempt: number, delay_ms: number) => void;
  /** `auto` compresses what gets smaller, where the connection is slower than compressing. */
  readonly compress?: "auto" | "never" | "always";
}

export interface SentArtifact {
  /** Absolute path of the host's one copy. */
  readonly cached: string;
  /** False where the host had it: one round trip, and no content. */
  readonly sent: boolean;
  /** Bytes of content that went over the wire, as compressed as they went. */
  readonly wire: number;
  /** Bytes of data that an attempt before had left there. */
  readonly resumed: number;
}

export interface FetchedArtifact extends StoredBlob {
  /** Four octal digits, as on the host. */
  readonly mode: string;
  /** False where the store had it. */
  readonly fetched: boolean;
  /** Bytes of content that went over the wire. */
  readonly wire: number;
}

export interface CheckFinding {
  readonly sha256: string;
  /** `damaged`: found now; `marked`: found earlier, and still referred to; `missing`: referred to, and not there. */
  readonly is: "damaged" | "marked" | "missing";
  /** What refers to it. */
  readonly builds: readonly { readonly id: string; readonly name: string; readonly artifact: string }[];
}

export interface CheckReport {
  readonly checked: number;
  readonly bytes: number;
  readonly findings: readonly CheckFinding[];
  /** Files of records that cannot be read. */
  readonly records: readonly string[];
}

/** What the store tells while it works. */
export type StoreNotice =
  | { readonly is: "full"; readonly what: string }
  | { readonly is: "cleaned"; readonly builds: number; readonly blobs: number; readonly frees: number };

/**
 * Content by digest, and records of the builds that made it. Several processes may use one store at once; what is in
 * it is whole whenever one of them is killed. Everything read is verified against its digest: damaged content is moved
 * aside, marked in the records that name it, and reported as E_ARTIFACT_CORRUPT. Times are those of this machine's clock.
 */
export interface ArtifactStore {
  /** Absolute folder. */
  readonly root: string;
  /** Rejects with E_ARTIFACT_STORE_FULL, E_ARTIFACT_STORE, E_MISMATCH, E_SOURCE_FILE, E_CANCELLED. */
  put(source: BlobSource, options?: PutOptions): Promise<StoredBlob>;
  /** Size and place in time of a blob; undefined where it is not there. Does not read it. */
  info(sha256: string): Promise<BlobInfo | undefined>;
  /** Counts only once it has ended: a wrong digest shows at the end. */
  read(sha256: string, signal?: AbortSignal): AsyncIterable<Buffer>;
  /** Whole content, of at most `limit` bytes (default 16 MiB). */
  content(sha256: string, limit?: number): Promise<Buffer>;
  /** Writes a verified copy: atomically, with holes for zeros. */
  copyTo(
    sha256: string,
    path: string,
    options?: { readonly mode?: string; readonly signal?: AbortSignal },
  ): Promise<void>;

  /** The record as a whole, new or in place of the one of its id. What it names must be there, or be marked. */
  saveBuild(record: BuildRecord): Promise<void>;
  /** Changes a record; `change` is pure and may run again where somebody else was faster. E_ARTIFACT_NOT_FOUND. */
  updateBuild(id: string, change: (record: BuildRecord) => BuildRecord): Promise<BuildRecord>;
  /** By its whole id. */
  build(id: string): Promise<BuildRecord | undefined>;
  /** Newest first. */
  builds(): Promise<readonly BuildRecord[]>;
  /** E_ARTIFACT_NOT_FOUND names what comes near; E_ARTIFACT_AMBIGUOUS what fits alike. */
  findBuild(query: BuildQuery): Promise<BuildRecord>;
  /** An artifact by its name in the build, or by a type that only one has. Refuses what is marked corrupted. */
  findArtifact(
    query: BuildQuery,
    what: string,
  ): Promise<{ readonly build: BuildRecord; readonly name: string; readonly artifact: Artifact }>;

  /** Puts a blob on a host by digest, and where it is used; see HostTarget. */
  send(machine: Machine, sha256: string, target?: HostTarget, options?: HostTransferOptions): Promise<SentArtifact>;
  /** Which of these the host has, verified: one round trip, shared with other probes. Changes nothing. */
  presentOn(
    machine: Machine,
    digests: readonly string[],
    options?: Pick<HostTransferOptions, "root" | "cache" | "signal">,
  ): Promise<ReadonlySet<string>>;
  /** Brings a file of a host into the store. */
  fetch(machine: Machine, path: string, options?: HostTransferOptions): Promise<FetchedArtifact>;
  /** Removes from a host's cache what nobody uses any more; bytes that were freed. */
  cleanHost(
    machine: Machine,
    keep: Iterable<string>,
    options?: Pick<HostTransferOptions, "root" | "cache" | "signal">,
  ): Promise<number>;

  /** Reads everything that `only` (default: all) names. */
  check(options?: {
    readonly only?: ReadonlySet<string>;
    readonly signal?: AbortSignal;
    readonly onProgress?: (bytes: number) => void;
  }): Promise<CheckReport>;
  /** Retention. Removes nothing that a pin, an unfinished build or a kept record refers to. */
  gc(options?: { readonly dryRun?: boolean; readonly pins?: ReadonlySet<string> }): Promise<GcResult>;
}

export interface ArtifactStoreOptions {
  /** Absolute folder; made when it is first written to. */
  readonly root: string;
  readonly retention?: RetentionPolicy;
  /** Digests that must not go, asked for before every gc: builds or blobs. Where it rejects, nothing is removed. */
  readonly pins?: () => Promise<ReadonlySet<string>>;
  readonly onNotice?: (notice: StoreNotice) => void;
  readonly now?: () => number;
}
