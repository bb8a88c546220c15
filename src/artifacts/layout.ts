import { join } from "node:path";
import { LabError } from "../diagnostics/index.ts";

export const SHA256 = /^[0-9a-f]{64}$/;

/** Where things lie below the store's folder. */
export class Layout {
  readonly root: string;
  constructor(root: string) {
    this.root = root;
  }
  get blobs(): string {
    return join(this.root, "blobs", "sha256");
  }
  get builds(): string {
    return join(this.root, "builds");
  }
  get temporary(): string {
    return join(this.root, "tmp");
  }
  get corrupted(): string {
    return join(this.root, "corrupted");
  }
  folder(sha256: string): string {
    return join(this.blobs, checked(sha256).slice(0, 2));
  }
  blob(sha256: string): string {
    return join(this.folder(sha256), sha256);
  }
  /** Digests of its pieces, and where its data lies: see block-map.ts. */
  map(sha256: string): string {
    return join(this.folder(sha256), `${sha256}.map`);
  }
  build(id: string): string {
    return join(this.builds, `${checked(id)}.json`);
  }
}

/** No text from outside becomes a part of a path unless it is a digest. */
function checked(digest: string): string {
  if (SHA256.test(digest)) return digest;
  throw new LabError("E_ARTIFACT_NOT_FOUND", `${JSON.stringify(digest)} is not a SHA-256 digest`, {
    hint: "give all 64 hexadecimal digits; `labctl artifact list` shows them",
  });
}
