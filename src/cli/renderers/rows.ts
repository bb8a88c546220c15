import type { Address, Hold, Plain, Row } from "../../model/index.ts";
import { type Paint, paintFor, type Style } from "./paint.ts";
import { renderTable } from "./table.ts";
import { indent, minute, padEnd, visible, visibleLine, widthOf } from "./text.ts";
import { formatValue, isMap, nameOf, specialText } from "./value.ts";

/** Rows of a state, a line each. */
export function renderRows(rows: readonly Row[], style: Style): string {
  const paint = paintFor(style);
  return renderTable(
    rows,
    [
      { title: "address", cell: (row) => visible(row.address), flexible: true },
      { title: "status", cell: (row) => paintStatus(row.status, paint) },
      { title: "changed", cell: (row) => visible(row.updated_at) },
      { title: "by run", cell: (row) => paint.dim(visible(row.updated_by)) },
    ],
    style,
  );
}

export function paintStatus(status: Row["status"], paint: Paint): string {
  switch (status) {
    case "ok":
      return paint.green(status);
    case "failed":
      return paint.red(status);
    case "interrupted":
    case "tainted":
      return paint.yellow(status);
  }
}

/** One row with all that it holds. */
export function renderRow(row: Row, contains: readonly Address[], hold: Hold | undefined, style: Style): string {
  const paint = paintFor(style);
  const facts: [string, string][] = [
    ["kind", visible(row.kind)],
    ["status", paintStatus(row.status, paint)],
    ["changed", `${visible(row.updated_at)} by run ${visible(row.updated_by)} (version ${row.version})`],
    ["instance", visible(row.instance_id)],
    ...(row.checkpoint === undefined ? [] : ([["stopped at", visible(row.checkpoint.step)]] as [string, string][])),
    ...(row.depends.length === 0 ? [] : ([["depends on", row.depends.map(visible).join(", ")]] as [string, string][])),
    ...(hold === undefined ? [] : ([["held", holdText(hold)]] as [string, string][])),
  ];
  const sections = [
    paint.bold(visible(row.address)),
    indent(renderPairs(facts), 2),
    section("wanted", row.desired, paint),
    section("last seen", row.observed, paint),
    row.original === null ? "" : section("before labctl", row.original, paint),
    contains.length === 0
      ? ""
      : [`  ${paint.bold("contains")}`, ...contains.map((one) => `    ${visible(one)}`)].join("\n"),
  ];
  return sections.filter((one) => one !== "").join("\n");
}

export function holdText(hold: Hold): string {
  const until = hold.until === undefined ? "" : ` until ${minute(hold.until)}`;
  const what = hold.kind === undefined ? "" : `${hold.kind}: `;
  return `${what}${visible(hold.why)} (${visible(hold.who)}, since ${minute(hold.since)}${until})`;
}

export function renderPairs(pairs: readonly (readonly [string, string])[]): string {
  const width = Math.max(0, ...pairs.map(([name]) => widthOf(name)));
  return pairs.map(([name, text]) => `${padEnd(name, width)}  ${text}`).join("\n");
}

function section(title: string, value: Plain, paint: Paint): string {
  if (!isMap(value) || Object.keys(value).length === 0) return "";
  return [`  ${paint.bold(title)}`, ...renderMap(value, 4)].join("\n");
}

/** Properties of an encoded map, text of several lines as lines. */
export function renderMap(value: { readonly [key: string]: Plain }, by: number): string[] {
  const gap = " ".repeat(by);
  const width = Math.max(...Object.keys(value).map((key) => widthOf(nameOf(key)) + 1));
  return Object.entries(value).flatMap(([key, item]) => {
    if (typeof item === "string" && item.includes("\n")) {
      const lines = item.replace(/\n$/, "").split("\n");
      return [`${gap}${nameOf(key)}:`, ...lines.map((line) => `${gap}  | ${visibleLine(line)}`)];
    }
    return [`${gap}${padEnd(`${nameOf(key)}:`, width)} ${specialText(item) ?? formatValue(item)}`];
  });
}
