import type { SFTPWrapper } from "ssh2";
import { LabError } from "../../diagnostics/index.ts";
import type { Link } from "../link.ts";
import { cancelled } from "../run.ts";
import type { Connection } from "./connection.ts";

/** Every server has to take packets of 34,000 bytes (RFC 4253, section 6.1): 32 KiB of data fits all. */
const BLOCK = 32 * 1024;
/** Blocks on their way at once: enough for 100 ms at 20 MiB/s. */
const IN_FLIGHT = 64;

/**
 * Writes a new file through SFTP, blocks on their way side by side. False where the server has no SFTP. Rejects with
 * E_TRANSFER where the server refuses, E_DISCONNECTED where the connection goes.
 */
export async function writeThroughSftp(
  link: Link,
  connection: Connection,
  path: string,
  content: () => AsyncIterable<Buffer>,
  options: { readonly signal?: AbortSignal; readonly onProgress?: (sent: number) => void },
): Promise<boolean> {
  const session = await connection.sftp(options.signal);
  if (session === undefined) return false;
  const { sftp, lost, release } = session;
  let onAbort: (() => void) | undefined;
  const aborted = new Promise<never>((_, reject) => {
    onAbort = () => reject(cancelled(link));
    options.signal?.addEventListener("abort", onAbort, { once: true });
    if (options.signal?.aborted) onAbort();
  });
  aborted.catch(() => undefined);
  try {
    const writing = write(sftp, path, content, options.onProgress);
    writing.catch(() => undefined);
    await Promise.race([writing, lost, aborted]);
    return true;
  } catch (error) {
    if (connection.lost) throw connection.lost;
    if (error instanceof LabError) throw error;
    throw new LabError(
      "E_TRANSFER",
      `${JSON.stringify(path)} cannot be written on ${link.name}: ${error instanceof Error ? error.message : String(error)}`,
      {
        address: link.address,
        cause: error,
        hint: "check that the login may write there, and the room on its disk",
      },
    );
  } finally {
    if (onAbort) options.signal?.removeEventListener("abort", onAbort);
    release();
  }
}

async function write(
  sftp: SFTPWrapper,
  path: string,
  content: () => AsyncIterable<Buffer>,
  onProgress: ((sent: number) => void) | undefined,
): Promise<void> {
  const handle = await new Promise<Buffer>((resolve, reject) => {
    sftp.open(path, "wx", { mode: 0o600 }, (error, opened) => (error ? reject(error) : resolve(opened)));
  });
  let sent = 0;
  let at = 0;
  let failure: Error | undefined;
  const inFlight = new Set<Promise<void>>();
  for await (const chunk of content()) {
    for (let from = 0; from < chunk.length; from += BLOCK) {
      const length = Math.min(BLOCK, chunk.length - from);
      const position = at;
      at += length;
      const one = new Promise<void>((resolve) => {
        sftp.write(handle, chunk, from, length, position, (error) => {
          if (error) failure ??= error;
          else onProgress?.((sent += length));
          resolve();
        });
      }).then(() => void inFlight.delete(one));
      inFlight.add(one);
      if (inFlight.size >= IN_FLIGHT) await Promise.race(inFlight);
      if (failure) throw failure;
    }
  }
  await Promise.all(inFlight);
  if (failure) throw failure;
  await new Promise<void>((resolve, reject) => {
    sftp.close(handle, (error) => (error ? reject(error) : resolve()));
  });
}
