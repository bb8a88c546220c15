import { spawn } from "node:child_process";
import { constants } from "node:fs";
import { open } from "node:fs/promises";
import { homedir } from "node:os";
import { resolve } from "node:path";
import { LabError } from "../diagnostics/index.ts";
import { type SecretSource, Sensitive } from "../model/index.ts";

/** Most bytes of a secret. */
const LIMIT = 1024 * 1024;
/** Milliseconds that a command may take to give one; a password manager may ask its user. */
const COMMAND_TIME = 60_000;

export interface SecretContext {
  /** Absolute folder of the lab's spec. */
  readonly root: string;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Values of sensitive variables: LoadResult.variables. */
  readonly variables?: ReadonlyMap<string, Sensitive<string>>;
  readonly signal?: AbortSignal;
  /** Milliseconds; default one minute. */
  readonly timeout?: number;
}

/**
 * Obtains a secret. One newline at its end is dropped, for files and commands have one. The value goes nowhere but into
 * the Sensitive. Rejects with E_SECRET_UNAVAILABLE or E_SECRET_PERMISSIONS; messages never hold output of the command.
 */
export async function resolveSecret(
  name: string,
  source: SecretSource,
  ctx: SecretContext,
): Promise<Sensitive<string>> {
  if ("env" in source) return fromEnv(name, source.env, ctx);
  if ("file" in source) return fromFile(name, source.file, ctx);
  if ("command" in source) return fromCommand(name, source.command, ctx);
  const value = ctx.variables?.get(source.variable);
  if (value !== undefined) return value;
  throw unavailable(
    name,
    `the variable "${source.variable}" has no value`,
    `give it with --var ${source.variable}=VALUE or LABCTL_VAR_${source.variable}`,
  );
}

function unavailable(name: string, why: string, hint: string, cause?: unknown): LabError {
  return new LabError("E_SECRET_UNAVAILABLE", `the secret "${name}" cannot be obtained: ${why}`, { hint, cause });
}

function trimmed(text: string): Sensitive<string> {
  return new Sensitive(text.replace(/\r?\n$/, ""));
}

function fromEnv(name: string, variable: string, ctx: SecretContext): Sensitive<string> {
  const value = ctx.env[variable];
  if (value === undefined || value === "") {
    const why = value === "" ? `${variable} is empty` : `${variable} is not set`;
    throw unavailable(name, why, `set ${variable} in the environment of labctl`);
  }
  return new Sensitive(value);
}

async function fromFile(name: string, path: string, ctx: SecretContext): Promise<Sensitive<string>> {
  const home = ctx.env["HOME"] ?? homedir();
  const full = resolve(ctx.root, path.replace(/^~(?=\/|$)/, home));
  let bytes: Buffer;
  try {
    const file = await open(full, constants.O_RDONLY | constants.O_NONBLOCK);
    try {
      const info = await file.stat();
      if (!info.isFile()) throw unavailable(name, `${path} is not a file`, "name a regular file");
      refuseOpenFile(name, path, info);
      if (info.size > LIMIT) throw unavailable(name, `${path} is larger than 1 MiB`, "is this the right file?");
      bytes = Buffer.alloc(LIMIT + 1);
      const { bytesRead } = await file.read(bytes, 0, bytes.length, 0);
      bytes = bytes.subarray(0, Math.min(bytesRead, LIMIT));
    } finally {
      await file.close();
    }
  } catch (cause) {
    if (cause instanceof LabError) throw cause;
    const code = cause instanceof Error && "code" in cause ? String(cause.code) : "unknown error";
    throw unavailable(
      name,
      `${path} cannot be read (${code})`,
      "the path is relative to the file that names it",
      cause,
    );
  }
  return trimmed(decode(name, bytes));
}

function refuseOpenFile(name: string, path: string, info: { readonly mode: number; readonly uid: number }): void {
  const mode = (info.mode & 0o777).toString(8).padStart(4, "0");
  if ((info.mode & 0o077) !== 0) {
    throw new LabError(
      "E_SECRET_PERMISSIONS",
      `the secret "${name}" is refused: others than its owner have rights on ${path} (mode ${mode})`,
      { hint: `chmod 600 ${path}` },
    );
  }
  const self = process.getuid?.();
  if (self !== undefined && self !== 0 && info.uid !== self) {
    throw new LabError("E_SECRET_PERMISSIONS", `the secret "${name}" is refused: ${path} belongs to another user`, {
      hint: "a secret file belongs to whoever runs labctl",
    });
  }
}

function decode(name: string, bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw unavailable(name, "it is not UTF-8 text", "encode a binary secret, for example with base64");
  }
}

/** Runs the command without a shell, in a process group of its own so that a timeout ends all of it. */
async function fromCommand(name: string, command: readonly string[], ctx: SecretContext): Promise<Sensitive<string>> {
  const [program = "", ...args] = command;
  const hint = `run it by hand to see why: ${program} ...`;
  const bytes = await new Promise<Buffer>((done, fail) => {
    const refuse = (why: string, cause?: unknown): void => fail(unavailable(name, why, hint, cause));
    const child = spawn(program, args, {
      cwd: ctx.root,
      env: Object.fromEntries(Object.entries(ctx.env).filter(([, value]) => value !== undefined)),
      // What it says goes nowhere: a tool may well print the secret beside its complaint.
      stdio: ["ignore", "pipe", "ignore"],
      detached: true,
    });
    const chunks: Buffer[] = [];
    let size = 0;
    let ended: string | undefined;
    const end = (why: string): void => {
      ended ??= why;
      try {
        if (child.pid !== undefined) process.kill(-child.pid, "SIGKILL");
      } catch {
        child.kill("SIGKILL");
      }
      child.stdout.destroy();
    };
    const timer = setTimeout(() => end(`${program} gave no answer in time`), ctx.timeout ?? COMMAND_TIME);
    const cancel = (): void => end("cancelled");
    ctx.signal?.addEventListener("abort", cancel, { once: true });
    if (ctx.signal?.aborted === true) cancel();
    child.stdout.on("data", (chunk: Buffer) => {
      size += chunk.length;
      if (size > LIMIT) end(`${program} prints more than 1 MiB`);
      else chunks.push(chunk);
    });
    const settle = (): void => {
      clearTimeout(timer);
      ctx.signal?.removeEventListener("abort", cancel);
    };
    child.on("error", (cause) => {
      settle();
      const code = "code" in cause ? String(cause.code) : cause.message;
      refuse(`${program} cannot be run (${code})`);
    });
    child.on("close", (code, signal) => {
      settle();
      if (ctx.signal?.aborted === true) fail(new LabError("E_CANCELLED", "cancelled"));
      else if (ended !== undefined) refuse(ended);
      else if (code !== 0) refuse(`${program} ended with ${signal ?? `exit code ${code}`}`);
      else done(Buffer.concat(chunks));
    });
  });
  const value = trimmed(decode(name, bytes));
  if (value.reveal() === "") throw unavailable(name, `${program} printed nothing`, hint);
  return value;
}
