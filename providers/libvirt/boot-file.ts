import { createReadStream } from "node:fs";
import { type BuildRecord, type KindContext, LabError } from "../../src/index.ts";

/** Something to boot from: in the store, or a file here. */
export interface BootFile {
  readonly sha256: string;
  /** Absolute; absent: it is in the store. */
  readonly file?: string;
  /** The build that made it. */
  readonly build?: BuildRecord;
}

const DIGEST = /^sha256:([0-9a-f]{64})$/;

/** The digest that a text such as `sha256:...` names. */
export function digestOf(text: string | undefined): string | undefined {
  return text === undefined ? undefined : DIGEST.exec(text)?.[1];
}

/** What a path here, or the artifact of a build, names. Throws E_ARTIFACT_NOT_FOUND, E_SOURCE_FILE. */
export async function resolveFile(ctx: KindContext, text: string): Promise<BootFile> {
  const sha256 = digestOf(text);
  if (sha256 === undefined) {
    const file = ctx.local.resolve(text);
    return { file, sha256: (await ctx.local.digest(text)).sha256 };
  }
  if ((await ctx.artifacts.info(sha256)) === undefined) {
    throw new LabError("E_ARTIFACT_NOT_FOUND", `the artifact ${sha256.slice(0, 12)} is not in the store`, {
      hint: "build it again: `labctl apply` with its build selected",
    });
  }
  const builds = await ctx.artifacts.builds();
  const build = builds.find((one) => Object.values(one.artifacts).some((artifact) => artifact.sha256 === sha256));
  return { sha256, ...(build !== undefined && { build }) };
}

/** All of it. */
export function contentOf(ctx: KindContext, file: BootFile): AsyncIterable<Buffer> {
  if (file.file === undefined) return ctx.artifacts.read(file.sha256, ctx.signal);
  return createReadStream(file.file, { signal: ctx.signal }) as AsyncIterable<Buffer>;
}

/** Its first bytes. */
export async function headOf(ctx: KindContext, file: BootFile, length: number): Promise<Buffer> {
  const parts: Buffer[] = [];
  let size = 0;
  for await (const part of contentOf(ctx, file)) {
    parts.push(part);
    size += part.length;
    if (size >= length) break;
  }
  return Buffer.concat(parts).subarray(0, length);
}

/** Puts a file into the store, so that hosts get it by digest. */
export async function store(ctx: KindContext, file: BootFile): Promise<string> {
  if (file.file !== undefined)
    await ctx.artifacts.put({ file: file.file }, { sha256: file.sha256, signal: ctx.signal });
  return file.sha256;
}
