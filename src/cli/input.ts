import type { Readable } from "node:stream";
import { LabError } from "../diagnostics/index.ts";

const MOST_BYTES = 256 * 1024 * 1024;

/** All of a stream as text. @throws LabError E_USAGE where there is more than 256 MiB */
export async function readAll(stream: Readable): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of stream) {
    const bytes = typeof chunk === "string" ? Buffer.from(chunk) : Buffer.from(chunk as Uint8Array);
    size += bytes.length;
    if (size > MOST_BYTES)
      throw new LabError("E_USAGE", "more than 256 MiB on stdin", { hint: "is this the right file?" });
    chunks.push(bytes);
  }
  return Buffer.concat(chunks).toString("utf8");
}
