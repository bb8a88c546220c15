import { createHash } from "node:crypto";
import { constants } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { dirname, relative } from "node:path";
import { LabError } from "../diagnostics/index.ts";
import type { SourceRange } from "../model/index.ts";

/** Most bytes of one spec file, and of all files of a spec together. */
export const FILE_LIMIT = 4 * 1024 * 1024;
export const TOTAL_LIMIT = 16 * 1024 * 1024;

/** Text that was read, or typed on a command line, and where it came from. */
export class SourceText {
  /** Absolute path; for text that comes from no file, what it is called: `--var port`. */
  readonly path: string;
  /** The path as diagnostics show it: relative to where the user stands. */
  readonly shown: string;
  /** Absolute folder that relative paths in it are relative to. */
  readonly dir: string;
  readonly text: string;
  readonly sha256: string;
  #lines: readonly string[] | undefined;
  #starts: readonly number[] | undefined;

  constructor(init: { path: string; shown: string; dir: string; text: string; sha256?: string }) {
    this.path = init.path;
    this.shown = init.shown;
    this.dir = init.dir;
    this.text = init.text;
    this.sha256 = init.sha256 ?? "";
  }

  get lines(): readonly string[] {
    this.#lines ??= this.text.split(/\r?\n/);
    return this.#lines;
  }

  /** Line and column of an offset, both from 1. */
  position(offset: number): { readonly line: number; readonly column: number } {
    this.#starts ??= lineStarts(this.text);
    let [low, high] = [0, this.#starts.length - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if ((this.#starts[middle] ?? 0) <= offset) low = middle;
      else high = middle - 1;
    }
    return { line: low + 1, column: offset - (this.#starts[low] ?? 0) + 1 };
  }

  range(start: number, end: number): SourceRange {
    const from = this.position(Math.min(start, this.text.length));
    const to = this.position(Math.min(Math.max(start, end), this.text.length));
    return { file: this.shown, ...from, endLine: to.line, endColumn: to.column };
  }
}

function lineStarts(text: string): number[] {
  const starts = [0];
  for (let at = text.indexOf("\n"); at !== -1; at = text.indexOf("\n", at + 1)) starts.push(at + 1);
  return starts;
}

/** The path as users are shown it: relative to where they stand, with `/`. */
export function shownPath(path: string, cwd: string): string {
  return relative(cwd, path).split("\\").join("/") || ".";
}

/**
 * Reads one spec file. Only regular files are read (opening a FIFO does not wait), and never more than the limit.
 * Rejects with E_SPEC_NOT_FOUND, E_SPEC_UNREADABLE, E_SPEC_TOO_LARGE or E_SPEC_ENCODING.
 */
export async function readSource(path: string, cwd: string, limit = FILE_LIMIT): Promise<SourceText> {
  const shown = shownPath(path, cwd);
  const bytes = await readBounded(path, shown, limit);
  const text = decode(bytes, shown);
  const sha256 = createHash("sha256").update(bytes).digest("hex");
  return new SourceText({ path, shown, dir: dirname(path), text, sha256 });
}

async function readBounded(path: string, shown: string, limit: number): Promise<Buffer> {
  const at = { file: shown, line: 1, column: 1 };
  let file: FileHandle;
  try {
    file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (cause) {
    throw openError(path, shown, cause);
  }
  try {
    const info = await file.stat();
    if (!info.isFile()) {
      const what = info.isDirectory() ? "a folder" : "a device or a pipe";
      throw new LabError("E_SPEC_UNREADABLE", `${shown} is ${what}, not a file`, { at });
    }
    const chunks: Buffer[] = [];
    let size = 0;
    while (size <= limit) {
      const { bytesRead, buffer } = await file.read(Buffer.allocUnsafe(65_536), 0, 65_536, null);
      if (bytesRead === 0) return Buffer.concat(chunks);
      size += bytesRead;
      chunks.push(buffer.subarray(0, bytesRead));
    }
    throw new LabError("E_SPEC_TOO_LARGE", `${shown} is larger than ${limit / 1024 / 1024} MiB`, {
      at,
      hint: "split it with `include:`, or keep data in files of their own and name them with `source:`",
    });
  } catch (cause) {
    throw cause instanceof LabError ? cause : openError(path, shown, cause);
  } finally {
    await file.close();
  }
}

function openError(path: string, shown: string, cause: unknown): LabError {
  const code = cause instanceof Error && "code" in cause ? String(cause.code) : "";
  if (code === "ENOENT" || code === "ENOTDIR") {
    return new LabError("E_SPEC_NOT_FOUND", `${shown} is not there`, { cause });
  }
  const why = cause instanceof Error ? cause.message.replace(`, open '${path}'`, "") : String(cause);
  return new LabError("E_SPEC_UNREADABLE", `${shown} cannot be read: ${why}`, { cause });
}

function decode(bytes: Buffer, shown: string): string {
  const failed = (message: string, offset: number, hint?: string): LabError => {
    const before = bytes.subarray(0, offset).toString("utf8");
    const line = before.split("\n").length;
    const column = before.length - (before.lastIndexOf("\n") + 1) + 1;
    return new LabError("E_SPEC_ENCODING", `${shown} ${message}`, {
      at: { file: shown, line, column },
      hint: hint ?? "save it as UTF-8",
    });
  };
  const [a, b] = bytes;
  if ((a === 0xff && b === 0xfe) || (a === 0xfe && b === 0xff)) throw failed("is UTF-16 text, not UTF-8", 0);
  const nul = bytes.indexOf(0);
  if (nul !== -1) {
    const wide = bytes.length > 3 && (a === 0 || b === 0);
    throw failed(wide ? "is UTF-16 or UTF-32 text, not UTF-8" : "is not text: it holds a NUL byte", nul);
  }
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw failed("is not valid UTF-8", firstInvalid(bytes));
  }
  // What YAML 1.2 (section 5.1) does not allow in a stream: a spec that holds it is no text file.
  const control = new RegExp(`[${String.raw`\x01-\x08\x0b\x0c\x0e-\x1f\x7f`}]`).exec(text);
  if (control !== null) {
    const offset = Buffer.byteLength(text.slice(0, control.index));
    const code = control[0].charCodeAt(0).toString(16).padStart(2, "0");
    throw failed(
      `is not text: it holds the control character 0x${code}`,
      offset,
      "remove it, or write it as an escape",
    );
  }
  return text;
}

/** Offset of the first byte that is not UTF-8, by halving: a prefix is good or is cut within one character. */
function firstInvalid(bytes: Buffer): number {
  const good = (length: number): boolean => {
    try {
      new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(0, length), { stream: true });
      return true;
    } catch {
      return false;
    }
  };
  let [low, high] = [0, bytes.length];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (good(middle)) low = middle;
    else high = middle - 1;
  }
  return low;
}
