import { DiagnosticsError, type Diagnostic, errorsIn, LabError, toLabError, toProblem } from "../diagnostics/index.ts";
import type { Paint } from "./renderers/paint.ts";
import { renderProblem } from "./renderers/summary.ts";
import { plural, visible, visibleLine } from "./renderers/text.ts";

/** An error for people: message, place, hint, code. A stack only for defects, and only under -vv. */
export function renderError(error: unknown, paint: Paint, verbose: number): string {
  if (error instanceof DiagnosticsError) return renderDiagnostics(error.diagnostics, paint);
  const lab = toLabError(error);
  const text = errorsIn(error)
    .map((one) => renderProblem(toProblem(one), paint))
    .join("\n\n");
  if (lab.code !== "E_INTERNAL" || verbose < 2) return text;
  const stack = lab.cause instanceof Error ? lab.cause.stack : lab.stack;
  return `${text}\n\n${(stack ?? "").split("\n").map(visibleLine).join("\n")}`;
}

/** The same as data, for `--json`. */
export function errorJson(error: unknown): Record<string, unknown> {
  if (error instanceof DiagnosticsError) return { error: toProblem(error), diagnostics: error.diagnostics };
  const all = errorsIn(error).map(toProblem);
  return { error: toProblem(error), ...(all.length > 1 && { problems: all }) };
}

export function exitOf(error: unknown): number {
  return (error instanceof LabError ? error : toLabError(error)).exitCode;
}

/** Every finding with its frame, and the counts at the end. */
export function renderDiagnostics(diagnostics: readonly Diagnostic[], paint: Paint): string {
  const blocks = diagnostics.map((one) => renderDiagnostic(one, paint));
  const errors = diagnostics.filter((one) => one.severity === "error").length;
  const warnings = diagnostics.length - errors;
  const counts = [
    ...(errors > 0 ? [paint.red(plural(errors, "error"))] : []),
    ...(warnings > 0 ? [paint.yellow(plural(warnings, "warning"))] : []),
  ];
  return [...blocks, ...(counts.length > 0 ? [`${counts.join(", ")}.`] : [])].join("\n\n");
}

function renderDiagnostic(one: Diagnostic, paint: Paint): string {
  const place =
    one.at === undefined ? "" : `${paint.bold(`${visible(one.at.file)}:${one.at.line}:${one.at.column}`)}: `;
  const word = one.severity === "error" ? paint.red("error:") : paint.yellow("warning:");
  const head = `${place}${word} ${visible(one.message)} ${paint.dim(`[${one.code}]`)}`;
  const frame = (one.frame ?? "")
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => {
      const text = `  ${visibleLine(line)}`;
      if (/^\s*\|\s*\^+$/.test(line)) return paint.red(text);
      return line.startsWith(">") ? text : paint.dim(text);
    });
  const hint = one.hint === undefined ? [] : [`  ${paint.cyan("hint:")} ${visible(one.hint)}`];
  return [head, ...frame, ...hint].join("\n");
}
