import { padEnd, padStart, truncate, widthOf } from "./text.ts";
import { paintFor, type Style } from "./paint.ts";

export interface Column<T> {
  readonly title: string;
  /** May hold colour sequences; what came from outside must have gone through visible(). */
  readonly cell: (row: T) => string;
  readonly align?: "right";
  /** Gives way first where the terminal is narrow. */
  readonly flexible?: boolean;
}

const GAP = 2;
const NARROWEST = 8;

/** Aligned columns. Columns that are empty in every row are left out. Cut only where `style.width` is given. */
export function renderTable<T>(rows: readonly T[], columns: readonly Column<T>[], style: Style): string {
  const paint = paintFor(style);
  const cells = rows.map((row) => columns.map((column) => column.cell(row)));
  const used = columns.map((column, i) => ({ column, i })).filter(({ i }) => cells.some((row) => row[i] !== ""));
  const widths = used.map(({ column, i }) =>
    Math.max(widthOf(column.title), ...cells.map((row) => widthOf(row[i] ?? ""))),
  );
  fit(
    widths,
    used.map(({ column }) => column.flexible === true),
    style.width,
  );
  const line = (texts: readonly string[]): string =>
    texts
      .map((text, n) => {
        const width = widths[n] ?? 0;
        const fitted = style.width === undefined ? text : truncate(text, width);
        return used[n]?.column.align === "right" ? padStart(fitted, width) : padEnd(fitted, width);
      })
      .join(" ".repeat(GAP))
      .trimEnd();
  const head = paint.bold(line(used.map(({ column }) => column.title.toUpperCase())));
  return [head, ...cells.map((row) => line(used.map(({ i }) => row[i] ?? "")))].join("\n");
}

/** Narrows the widest flexible columns, then any, until the line fits. */
function fit(widths: number[], flexible: readonly boolean[], width: number | undefined): void {
  if (width === undefined) return;
  const total = (): number => widths.reduce((sum, one) => sum + one, 0) + GAP * (widths.length - 1);
  for (const only of [true, false]) {
    while (total() > width) {
      let widest = -1;
      for (const [i, one] of widths.entries()) {
        if (only && flexible[i] !== true) continue;
        if (one > NARROWEST && one > (widths[widest] ?? 0)) widest = i;
      }
      if (widest < 0) break;
      widths[widest] = (widths[widest] ?? 0) - 1;
    }
  }
}
