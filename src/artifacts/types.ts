import type { Plain } from "../model/index.ts";

/** Types that labctl itself gives a meaning; any other name is as good. */
export const ARTIFACT_TYPES = [
  "kernel_image",
  "initrd",
  "rootfs",
  "device_tree",
  "kernel_modules",
  "build_log",
] as const;
export type ArtifactType = (typeof ARTIFACT_TYPES)[number] | (string & {});

export const BUILD_STATUSES = ["queued", "building", "completed", "failed", "cancelled"] as const;
export type BuildStatus = (typeof BUILD_STATUSES)[number];

/** One output of a build. */
export interface Artifact {
  readonly type: ArtifactType;
  readonly sha256: string;
  /** Bytes. */
  readonly size: number;
  /** Four octal digits: the executable bit of what was built. */
  readonly mode: string;
  /** What it is called when it is put somewhere: `bzImage`. */
  readonly file: string;
  /** Absent: the build's. */
  readonly arch?: string;
  /** Of a build that failed: kept to look at, never deployed. */
  readonly partial?: true;
  /** Its content was found damaged, and is no longer in the store. */
  readonly corrupted?: true;
}

/** Something that went into a build: a source tree, a tarball, a fragment, another artifact. */
export interface BuildMaterial {
  readonly uri: string;
  /** By algorithm: `sha256`, `gitCommit`. */
  readonly digest?: Readonly<Record<string, string>>;
  readonly name?: string;
}

/** What a build was asked for by. */
export interface BuildAlias {
  /** A build's name in a spec. */
  readonly name: string;
  /** Branch, tag or ref. */
  readonly branch?: string;
  /** When an apply last came from there to this build. */
  readonly at: string;
}

/** All that is known of a build; one JSON document. Times are RFC 3339 in UTC. */
export interface BuildRecord {
  /** Hexadecimal SHA-256 of all inputs: the build's identity. */
  readonly id: string;
  /** The build's name in the spec that made it: `kasan-x86_64`. */
  readonly name: string;
  readonly status: BuildStatus;
  readonly arch: string;
  readonly commit?: string;
  /** Branch, tag or ref as it was asked for; without one, the branch that the repository's HEAD named. */
  readonly branch?: string;
  /** All that it was asked for by, its own `name` and `branch` among them; see {@link aliasesOf} for records without. */
  readonly known_as?: readonly BuildAlias[];
  readonly toolchain?: { readonly name: string; readonly version: string };
  /** Address of the machine that it ran on. */
  readonly server?: string;
  readonly created_at: string;
  readonly started_at?: string;
  readonly finished_at?: string;
  /** Milliseconds. */
  readonly duration_ms?: number;
  readonly artifacts: Readonly<Record<string, Artifact>>;
  /** Digest of the log's blob. */
  readonly log?: string;
  /** What the id was made of, without secrets: configuration, arguments, environment. */
  readonly inputs: Readonly<Record<string, Plain>>;
  readonly materials?: readonly BuildMaterial[];
  /** Why it failed: code and message. */
  readonly problem?: { readonly code: string; readonly message: string };
  /** The run of labctl that made it. */
  readonly run?: string;
}

/** A blob of the store as it lies there. */
export interface BlobInfo {
  readonly sha256: string;
  readonly size: number;
  /** Bytes that it takes on disk: less than `size` where it is sparse. */
  readonly allocated: number;
  /** Milliseconds since the epoch: when it was last put or referred to anew. */
  readonly touched: number;
}

/** Asks for one build. `build` and `commit` may be beginnings that fit one alone. */
export interface BuildQuery {
  readonly build?: string;
  readonly commit?: string;
  readonly branch?: string;
  readonly name?: string;
  readonly arch?: string;
  /** Of all completed ones that fit: the one that `branch` came to last; without `branch`, the one that finished last. */
  readonly latest?: boolean;
}

export interface RetentionPolicy {
  /** A build that finished no longer ago than this stays. */
  readonly days: number;
  /** So many completed builds of each name and architecture stay, however old. */
  readonly keep_latest: number;
}

export interface GcPlan {
  readonly records: readonly {
    readonly id: string;
    readonly name: string;
    readonly arch: string;
    readonly why: string;
  }[];
  readonly blobs: readonly { readonly sha256: string; readonly size: number; readonly allocated: number }[];
  readonly kept: { readonly records: number; readonly blobs: number };
  /** Bytes on disk that the blobs give back. */
  readonly frees: number;
}

export interface GcResult extends GcPlan {
  /** Temporary files that nobody was writing any more. */
  readonly temporary: number;
  /** Damaged content past its days. */
  readonly corrupted: number;
}

export interface TransferProgress {
  /** Bytes of the whole that are at their place, holes included. */
  readonly done: number;
  readonly total: number;
  /** Bytes that went over the wire. */
  readonly sent: number;
}
