import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { type LoadResult, loadLab } from "../../../src/config/index.ts";
import { type Diagnostic, DiagnosticsError, formatDiagnostic } from "../../../src/diagnostics/index.ts";
import type { SpecSelection } from "../../../src/engine/port.ts";
import { kinds } from "./kinds.ts";

/** Calls `use` with a folder that holds the files, and removes it. */
export async function inFolder<T>(
  files: Readonly<Record<string, string | Uint8Array>>,
  use: (folder: string) => Promise<T>,
): Promise<T> {
  const folder = await mkdtemp(join(tmpdir(), "labctl-config-"));
  try {
    for (const [path, content] of Object.entries(files)) {
      await mkdir(dirname(join(folder, path)), { recursive: true });
      await writeFile(join(folder, path), content);
    }
    return await use(folder);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

export function selection(cwd: string, more: Partial<SpecSelection> = {}): SpecSelection {
  return { paths: [], vars: {}, varFiles: [], env: {}, ...more, cwd };
}

export type Loaded = { readonly ok: LoadResult } | { readonly diagnostics: readonly Diagnostic[] };

/** What the loader makes of files: a lab, or diagnostics. Anything else that it throws is thrown on. */
export function load(
  files: Readonly<Record<string, string | Uint8Array>>,
  more: Partial<SpecSelection> = {},
): Promise<Loaded> {
  return inFolder(files, async (folder) => {
    try {
      return { ok: await loadLab(selection(folder, more), kinds) };
    } catch (error) {
      if (error instanceof DiagnosticsError) return { diagnostics: error.diagnostics };
      throw error;
    }
  });
}

/** A lab.yaml with a head, for tests that are about one section. */
export function spec(body: string): Record<string, string> {
  return { "lab.yaml": `labctl: 1\nname: test\n${body}` };
}

export async function mustLoad(...args: Parameters<typeof load>): Promise<LoadResult> {
  const loaded = await load(...args);
  if ("ok" in loaded) return loaded.ok;
  throw new Error(loaded.diagnostics.map(formatDiagnostic).join("\n"));
}

/** `code line:column` of each diagnostic. */
export async function codes(...args: Parameters<typeof load>): Promise<string[]> {
  const loaded = await load(...args);
  if ("ok" in loaded) return [];
  return loaded.diagnostics.map((d) => `${d.code} ${d.at === undefined ? "-" : `${d.at.line}:${d.at.column}`}`);
}
