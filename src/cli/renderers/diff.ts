import { structuredPatch } from "diff";
import type { Paint } from "./paint.ts";
import { visibleLine } from "./text.ts";

const CONTEXT = 3;
/** Beyond this many characters or edited lines the exact diff costs too much: the sizes are shown instead. */
const MOST_CHARACTERS = 512 * 1024;
const MOST_EDITS = 4000;
const MOST_LINES = 60;

/** A unified diff of two texts, without file headers; cut to 60 lines unless `all`. */
export function renderDiff(before: string, after: string, paint: Paint, all: boolean): string[] {
  if (before.length + after.length > MOST_CHARACTERS) return [sizes(before, after)];
  const patch = structuredPatch("before", "after", before, after, undefined, undefined, {
    context: CONTEXT,
    maxEditLength: MOST_EDITS,
  });
  if (patch === undefined) return [sizes(before, after)];
  const lines = patch.hunks.flatMap((hunk) => [
    paint.cyan(`@@ -${hunk.oldStart},${hunk.oldLines} +${hunk.newStart},${hunk.newLines} @@`),
    ...hunk.lines.map((line) => paintLine(line, paint)),
  ]);
  if (lines.length === 0) return [paint.dim("(the same text)")];
  if (all || lines.length <= MOST_LINES) return lines;
  return [...lines.slice(0, MOST_LINES), paint.dim(`… ${lines.length - MOST_LINES} more lines: -v shows them`)];
}

function paintLine(line: string, paint: Paint): string {
  const text = line.slice(0, 1) + visibleLine(line.slice(1));
  if (line.startsWith("+")) return paint.green(text);
  if (line.startsWith("-")) return paint.red(text);
  return paint.dim(text);
}

function sizes(before: string, after: string): string {
  return `(too large to compare: ${before.length} characters before, ${after.length} after)`;
}
