import { formatSource, type SourceRange } from "../model/index.ts";
import type { Code } from "./codes.ts";
import { LabError } from "./error.ts";

/** One finding of validation. All of them are collected; none stops the search for more. */
export interface Diagnostic {
  readonly severity: "error" | "warning";
  readonly code: Code;
  readonly message: string;
  readonly hint?: string;
  readonly at?: SourceRange;
  /** The lines of the file around `at`, marked; see codeFrame(). */
  readonly frame?: string;
}

/** Several diagnostics thrown as one: what a command exits 3 with. */
export class DiagnosticsError extends LabError {
  readonly diagnostics: readonly Diagnostic[];
  constructor(diagnostics: readonly Diagnostic[]) {
    const errors = sortDiagnostics(diagnostics.filter((d) => d.severity === "error"));
    const first = errors[0];
    super(
      first?.code ?? "E_INTERNAL",
      first === undefined
        ? "no diagnostics"
        : `${first.message}${errors.length > 1 ? ` (and ${errors.length - 1} more)` : ""}`,
      {
        ...(first?.at && { at: first.at }),
        ...(first?.hint !== undefined && { hint: first.hint }),
      },
    );
    this.diagnostics = sortDiagnostics(diagnostics);
  }
}

/** By file, then place, then code: the same spec always gives the same list. */
export function sortDiagnostics(diagnostics: readonly Diagnostic[]): Diagnostic[] {
  const key = (d: Diagnostic): [string, number, number, string, string] => [
    d.at?.file ?? "",
    d.at?.line ?? 0,
    d.at?.column ?? 0,
    d.code,
    d.message,
  ];
  return [...diagnostics].sort((a, b) => {
    const [left, right] = [key(a), key(b)];
    for (const [i, l] of left.entries()) {
      const r = right[i] ?? l;
      if (l < r) return -1;
      if (l > r) return 1;
    }
    return 0;
  });
}

/** Up to two lines before and one after, with a caret line. Long lines are cut around the column. */
export function codeFrame(text: string | readonly string[], at: SourceRange): string {
  const lines = typeof text === "string" ? text.split(/\r?\n/) : text;
  const from = Math.max(1, at.line - 2);
  const to = Math.min(lines.length, at.line + 1);
  const width = String(to).length;
  const shift = at.column > 100 ? at.column - 60 : 0;
  const out: string[] = [];
  for (let n = from; n <= to; n++) {
    const line = (lines[n - 1] ?? "").replaceAll("\t", " ").slice(shift, shift + 120);
    const marked = n === at.line;
    out.push(`${marked ? ">" : " "} ${String(n).padStart(width)} | ${line}`.trimEnd());
    if (marked) {
      const length = at.endLine === at.line && at.endColumn !== undefined ? at.endColumn - at.column : 1;
      out.push(
        `  ${" ".repeat(width)} | ${" ".repeat(at.column - 1 - shift)}${"^".repeat(Math.max(1, Math.min(length, 60)))}`,
      );
    }
  }
  return out.join("\n");
}

export function formatDiagnostic(d: Diagnostic): string {
  const head = `${d.at ? `${formatSource(d.at)}: ` : ""}${d.severity}: ${d.message} [${d.code}]`;
  return [head, ...(d.frame ? [d.frame.replaceAll(/^/gm, "  ")] : []), ...(d.hint ? [`  hint: ${d.hint}`] : [])].join(
    "\n",
  );
}
