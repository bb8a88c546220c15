import type { SpecSelection } from "../engine/port.ts";
import { DiagnosticsError } from "../diagnostics/index.ts";
import type { ArtifactSettings } from "../model/index.ts";
import { ARTIFACTS, readArtifacts } from "./artifacts.ts";
import { check } from "./check.ts";
import { loadDocuments } from "./documents.ts";
import { entryOf } from "./node.ts";

/** Where the artifacts are, also where the spec is broken otherwise. `problem`: nothing may be removed by this. */
export async function locateArtifacts(
  selection: SpecSelection,
  state: string,
): Promise<ArtifactSettings & { readonly problem?: unknown }> {
  try {
    const { problems, variables, lab, root } = await loadDocuments(selection);
    const entry = entryOf(lab, "artifacts");
    if (entry === undefined) return readArtifacts(undefined, root, state);
    const place = { path: "", label: '"artifacts"', at: entry.at };
    const scope = { variables, secrets: new Set<string>(), incomplete: true };
    const value = check(entry.value, ARTIFACTS, place, { problems, scope, root, known: "in `artifacts:`" });
    const settings = readArtifacts(value, root, state);
    return problems.hasErrors ? { ...settings, problem: new DiagnosticsError(problems.diagnostics()) } : settings;
  } catch (problem) {
    return { ...readArtifacts(undefined, selection.cwd, state), problem };
  }
}
