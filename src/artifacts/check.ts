import { LabError } from "../diagnostics/index.ts";
import type { Blobs } from "./blobs.ts";
import type { CheckFinding, CheckReport } from "./ports.ts";
import type { Records } from "./records.ts";

/** Reads every blob, and looks for those that records name and that are not there. */
export async function checkStore(
  blobs: Blobs,
  records: Records,
  options: {
    readonly only?: ReadonlySet<string>;
    readonly signal?: AbortSignal;
    readonly onProgress?: (bytes: number) => void;
  },
): Promise<CheckReport> {
  const { records: all, damaged } = await records.all();
  const named = new Map<string, { id: string; name: string; artifact: string; marked: boolean }[]>();
  const name = (sha256: string, use: { id: string; name: string; artifact: string; marked: boolean }): void => {
    named.set(sha256, [...(named.get(sha256) ?? []), use]);
  };
  for (const { id, name: build, artifacts, log } of all) {
    for (const [artifact, one] of Object.entries(artifacts)) {
      name(one.sha256, { id, name: build, artifact, marked: one.corrupted === true });
    }
    if (log !== undefined) name(log, { id, name: build, artifact: "build_log", marked: false });
  }
  const findings: CheckFinding[] = [];
  const found = (sha256: string, is: CheckFinding["is"]): void => {
    const builds = (named.get(sha256) ?? []).map(({ marked: _marked, ...use }) => use);
    findings.push({ sha256, is, builds });
  };
  const seen = new Set<string>();
  let bytes = 0;
  for await (const { sha256 } of blobs.all()) {
    if (options.only?.has(sha256) === false) continue;
    seen.add(sha256);
    try {
      bytes += await blobs.verify(sha256, options.signal);
    } catch (error) {
      if (!(error instanceof LabError)) throw error;
      // A gc may have taken it since it was listed.
      if (error.code === "E_ARTIFACT_NOT_FOUND") continue;
      if (error.code !== "E_ARTIFACT_CORRUPT") throw error;
      found(sha256, "damaged");
    }
    options.onProgress?.(bytes);
  }
  for (const [sha256, uses] of named) {
    if (seen.has(sha256) || options.only?.has(sha256) === false) continue;
    found(sha256, uses.some(({ marked }) => marked) ? "marked" : "missing");
  }
  return { checked: seen.size, bytes, findings, records: damaged };
}
