import { open } from "node:fs/promises";
import { type Address, type KindContext, LabError, type Machine } from "../../src/index.ts";
import { IMAGE_HEAD } from "./model/image.ts";

/** A file here, or one in the store: what disks, kernels and initial RAM disks are made from. */
export interface LocalImage {
  readonly sha256: string;
  /** Bytes. */
  readonly size: number;
  /** Absolute; absent: it is in the store. */
  readonly file?: string;
  /** Its first bytes, enough to say what it is. */
  readonly head: Buffer;
}

const DIGEST = /^sha256:([0-9a-f]{64})$/;

/** What `source: ./images/base.qcow2` or `kernel: ${build.x.kernel}` names. Throws E_SOURCE_FILE, E_ARTIFACT_NOT_FOUND. */
export async function localImage(ctx: KindContext, address: Address, text: string): Promise<LocalImage> {
  const sha256 = DIGEST.exec(text)?.[1];
  if (sha256 === undefined) {
    const file = ctx.local.resolve(text);
    const digest = await ctx.local.digest(text);
    const handle = await open(file, "r");
    try {
      const { buffer, bytesRead } = await handle.read(Buffer.alloc(IMAGE_HEAD), 0, IMAGE_HEAD, 0);
      return { sha256: digest.sha256, size: digest.size, file, head: buffer.subarray(0, bytesRead) };
    } finally {
      await handle.close();
    }
  }
  const info = await ctx.artifacts.info(sha256);
  if (info === undefined) {
    throw new LabError("E_ARTIFACT_NOT_FOUND", `the artifact ${sha256.slice(0, 12)} is not in the store`, {
      address,
      hint: "build it again: `labctl apply` with its build selected",
    });
  }
  const parts: Buffer[] = [];
  let size = 0;
  for await (const part of ctx.artifacts.read(sha256, ctx.signal)) {
    parts.push(part);
    size += part.length;
    if (size >= IMAGE_HEAD) break;
  }
  return { sha256, size: info.size, head: Buffer.concat(parts).subarray(0, IMAGE_HEAD) };
}

/** Puts it on a host: by digest, so that what is there already is not sent again. */
export async function sendImage(
  ctx: KindContext & { progress?(fraction: number | undefined, text?: string): void },
  machine: Machine,
  image: LocalImage,
  path: string,
  mode = "0644",
): Promise<void> {
  if (image.file !== undefined)
    await ctx.artifacts.put({ file: image.file }, { sha256: image.sha256, signal: ctx.signal });
  await ctx.artifacts.send(
    machine,
    image.sha256,
    { path, mode, how: "copy" },
    {
      signal: ctx.signal,
      onProgress: ({ done, total }) => ctx.progress?.(total === 0 ? undefined : done / total, `sending ${path}`),
      onRetry: (why, attempt) => ctx.log("warn", `sending ${path} to ${machine.address}: ${why} (retry ${attempt})`),
    },
  );
}
