import { createHash, createHmac } from "node:crypto";
import { constants } from "node:fs";
import { link, mkdir, open, readFile, unlink } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { LabError } from "../diagnostics/index.ts";
import type { Seal } from "../model/index.ts";

type Environment = Readonly<Record<string, string | undefined>>;

/** Where the key of keyed digests stands: beside the user's configuration, never beside the state. */
export function sealKeyPath(env: Environment): string {
  return join(env["XDG_CONFIG_HOME"] || join(env["HOME"] || homedir(), ".config"), "labctl", "seal.key");
}

/**
 * Keyed digests `KEYID:HEX` of secret values: they show that a secret changed and nothing else. The key comes from
 * LABCTL_SEAL_KEY (for CI jobs that share a state) or from a file. Where there is none `fresh` (32 bytes) is the key, and
 * `create` says whether it is put on disk: planning writes nothing, and what was planned can be compared when it is applied.
 */
export async function openSeal(env: Environment, create: boolean, fresh: Buffer): Promise<Seal> {
  const key = env["LABCTL_SEAL_KEY"]
    ? Buffer.from(env["LABCTL_SEAL_KEY"])
    : await readOrMakeKey(sealKeyPath(env), create, fresh);
  const id = createHash("sha256").update("labctl seal key id\0").update(key).digest("hex").slice(0, 8);
  return (text) => `${id}:${createHmac("sha256", key).update(text).digest("hex")}`;
}

async function readOrMakeKey(path: string, create: boolean, fresh: Buffer): Promise<Buffer> {
  const existing = await readKey(path);
  if (existing !== undefined) return existing;
  if (!create) return fresh;
  const temporary = `${path}.${process.pid}.tmp`;
  try {
    await mkdir(dirname(path), { recursive: true, mode: 0o700 });
    const file = await open(temporary, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL, 0o600);
    try {
      await file.writeFile(fresh.toString("hex"));
      await file.sync();
    } finally {
      await file.close();
    }
    // Linking fails where another labctl was faster: then its key is the one.
    await link(temporary, path);
    return fresh;
  } catch (cause) {
    const theirs = await readKey(path);
    if (theirs !== undefined) return theirs;
    throw new LabError(
      "E_STATE_WRITE",
      `cannot write ${path}: ${cause instanceof Error ? cause.message : String(cause)}`,
      {
        cause,
        hint: "set LABCTL_SEAL_KEY, or make the folder writable: keyed digests of secrets need a key",
      },
    );
  } finally {
    await unlink(temporary).catch((error: unknown) => {
      if (!(error instanceof Error && "code" in error && error.code === "ENOENT")) throw error;
    });
  }
}

async function readKey(path: string): Promise<Buffer | undefined> {
  try {
    const text = (await readFile(path, "utf8")).trim();
    return /^[0-9a-f]{64}$/.test(text) ? Buffer.from(text, "hex") : undefined;
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return undefined;
    throw error;
  }
}
