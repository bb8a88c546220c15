import { createHash, randomBytes } from "node:crypto";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { ArtifactStore, ArtifactStoreOptions, BuildRecord } from "../../src/artifacts/index.ts";
import { createArtifactStore } from "../../src/artifacts/index.ts";
import type { LabError } from "../../src/diagnostics/index.ts";

export const digest = (data: Uint8Array | string): string => createHash("sha256").update(data).digest("hex");

export interface Scratch {
  readonly root: string;
  readonly store: (options?: Partial<ArtifactStoreOptions>) => ArtifactStore;
  readonly blob: (sha256: string) => string;
  readonly remove: () => void;
}

/** In memory where there is such a place: what is synced there costs nothing. */
export const MEMORY = existsSync("/dev/shm") ? "/dev/shm" : tmpdir();

/** An empty store in a folder of its own. */
export function scratch(base = tmpdir()): Scratch {
  const root = mkdtempSync(join(base, "labctl-artifacts-"));
  return {
    root,
    store: (options = {}) => createArtifactStore({ root, ...options }),
    blob: (sha256) => join(root, "blobs/sha256", sha256.slice(0, 2), sha256),
    remove: () => rmSync(root, { recursive: true, force: true }),
  };
}

let serial = 0;

export function build(more: Partial<BuildRecord> = {}): BuildRecord {
  const name = more.name ?? "kasan";
  return {
    id: digest(`${name} ${serial++} ${randomBytes(8).toString("hex")}`),
    name,
    status: "completed",
    arch: "x86_64",
    created_at: "2026-01-01T00:00:00.000Z",
    artifacts: {},
    inputs: {},
    ...more,
  };
}

export async function failure(promise: Promise<unknown>): Promise<LabError> {
  try {
    await promise;
  } catch (error) {
    return error as LabError;
  }
  throw new Error("it did not fail");
}

export async function bytesOf(content: AsyncIterable<Buffer>): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of content) chunks.push(chunk);
  return Buffer.concat(chunks);
}
