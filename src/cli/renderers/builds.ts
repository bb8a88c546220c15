import { formatDuration, formatSize } from "../../model/index.ts";
import { paintFor, type Style } from "./paint.ts";
import { renderPairs } from "./rows.ts";
import { visible } from "./text.ts";

/** A build after it was asked for, as data: what `--json` gives. */
export interface BuiltLine {
  readonly address: string;
  /** `built` in this run, `there` already, or why there is nothing. `unstarted`: its turn never came. */
  readonly result: "built" | "there" | "failed" | "skipped" | "blocked" | "cancelled" | "unfinished" | "unstarted";
  readonly digest?: string;
  readonly commit?: string;
  readonly server?: string;
  /** Of the build itself, whenever that was. */
  readonly duration_ms?: number;
  readonly artifacts: readonly {
    readonly name: string;
    readonly type: string;
    readonly sha256: string;
    readonly size: number;
  }[];
}

export function renderBuilds(builds: readonly BuiltLine[], style: Style): string {
  return builds.map((one) => renderBuild(one, style)).join("\n\n");
}

function renderBuild(one: BuiltLine, style: Style): string {
  const paint = paintFor(style);
  const word =
    one.result === "built"
      ? paint.green("built")
      : one.result === "there"
        ? paint.dim("there already")
        : one.result === "failed"
          ? paint.red("failed")
          : paint.yellow(one.result === "unstarted" ? "not begun" : one.result);
  const facts: [string, string][] = [
    ...(one.digest === undefined ? [] : ([["  digest", visible(one.digest)]] as [string, string][])),
    ...(one.commit === undefined ? [] : ([["  commit", visible(one.commit)]] as [string, string][])),
    ...(one.server === undefined ? [] : ([["  server", visible(one.server)]] as [string, string][])),
    ...(one.duration_ms === undefined ? [] : ([["  took", formatDuration(one.duration_ms)]] as [string, string][])),
    ...one.artifacts.map(({ name, type, sha256, size }): [string, string] => [
      `  ${visible(name)}`,
      `sha256:${sha256.slice(0, 12)}… ${formatSize(size)}${type === name ? "" : paint.dim(` ${visible(type)}`)}`,
    ]),
  ];
  const head = `${paint.bold(visible(one.address))}: ${word}`;
  return facts.length === 0 ? head : `${head}\n${renderPairs(facts)}`;
}
