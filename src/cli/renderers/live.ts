import { formatDuration } from "../../model/index.ts";
import { type Paint, paintFor, type Style } from "./paint.ts";
import type { RootTally, RunningAction, Tally } from "./tally.ts";
import { truncate, visible } from "./text.ts";
import { ACTIONS, paintAction, problemLine, splitRoot } from "./words.ts";

const MOST_FAILED = 5;
const BAR = 12;

/** `host.builder-1  12/34 · 1 failed`: what a host has come to. */
export function rootTitle(root: RootTally, style: Style): string {
  const paint = paintFor(style);
  const ended = endedCount(root);
  const parts = [`${ended}/${Math.max(root.total, ended)}`];
  const count = (result: "failed" | "skipped" | "cancelled" | "rolled_back"): number => root.ended.get(result) ?? 0;
  const optional = root.failed.filter((one) => one.optional).length;
  if (count("failed") > optional) parts.push(paint.red(`${count("failed") - optional} failed`));
  if (optional > 0) parts.push(paint.yellow(`${optional} optional failed`));
  if (count("skipped") > 0) parts.push(paint.yellow(`${count("skipped")} skipped`));
  if (count("cancelled") > 0) parts.push(paint.yellow(`${count("cancelled")} cancelled`));
  if (count("rolled_back") > 0) parts.push(paint.yellow(`${count("rolled_back")} rolled back`));
  return `${paint.bold(visible(root.root))}  ${parts.join(paint.dim(" · "))}`;
}

/** Actions that came to an end; what was blocked from the start, and the way back of a rollback, are not among them. */
export function endedCount(root: RootTally): number {
  return [...root.ended].reduce(
    (sum, [result, count]) => sum + (result === "blocked" || result === "rolled_back" ? 0 : count),
    0,
  );
}

/** Below it: what runs, and what failed. At most `most` lines; the rest is counted. */
export function rootBody(root: RootTally, now: number, style: Style, most: number): string[] {
  const paint = paintFor(style);
  const fit = (line: string): string => (style.width === undefined ? line : truncate(line, style.width - 4));
  const failed = root.failed.slice(-MOST_FAILED).map((one) => {
    const label = visible(splitRoot(one.address).rest || one.address);
    const mark = one.optional ? paint.yellow("⚠") : paint.red("✖");
    return fit(`${mark} ${label}  ${problemLine(one.problem, paint)}`);
  });
  const running = [...root.running.values()].map((one) => fit(runningLine(one, now, paint)));
  const room = Math.max(1, most - failed.length);
  const shown = running.length > room ? running.slice(0, room - 1) : running;
  const more = running.length - shown.length;
  return [...failed, ...shown, ...(more > 0 ? [paint.dim(`… and ${more} more`)] : [])];
}

function runningLine(one: RunningAction, now: number, paint: Paint): string {
  const label = visible(splitRoot(one.address).rest || one.address);
  const elapsed = Math.max(0, now - Date.parse(one.startedAt));
  const parts = [
    paintAction(one.action, ACTIONS[one.action].symbol, paint),
    label,
    ...(one.fraction === undefined ? [] : [progressBar(one.fraction, paint)]),
    ...(one.text === undefined ? [] : [paint.dim(visible(one.text))]),
    ...(one.retry === undefined
      ? []
      : [
          paint.yellow(
            `retry ${one.attempt} in ${formatDuration(Math.max(0, one.retry.until - now))}: ${visible(one.retry.problem.message)}`,
          ),
        ]),
    ...(elapsed >= 1000 ? [paint.dim(formatDuration(elapsed))] : []),
  ];
  return parts.join(" ");
}

function progressBar(fraction: number, paint: Paint): string {
  const bounded = Math.min(1, Math.max(0, fraction));
  const full = Math.round(bounded * BAR);
  return `${paint.green("━".repeat(full))}${paint.dim("─".repeat(BAR - full))} ${Math.floor(bounded * 100)}%`;
}

/** While the lab is read: which hosts answer, and which do not yet. */
export function readingBody(tally: Tally, style: Style, most: number): string[] {
  const paint = paintFor(style);
  const lines = [...tally.hosts]
    .filter(([, host]) => host.state !== "connected")
    .map(([address, host]) => {
      const text =
        host.state === "offline"
          ? `${paint.red("✖")} ${visible(address)} is offline: ${visible(host.note)}`
          : `${paint.dim("…")} ${visible(address)} ${paint.dim(visible(host.note === "" ? "connecting" : host.note))}`;
      return style.width === undefined ? text : truncate(text, style.width - 4);
    });
  if (lines.length <= most) return lines;
  return [...lines.slice(0, most - 1), paint.dim(`… and ${lines.length - most + 1} more`)];
}

export function readingTitle(tally: Tally): string {
  const connected = [...tally.hosts.values()].filter((host) => host.state === "connected").length;
  return tally.hosts.size === 0
    ? "Reading what is there"
    : `Reading what is there  ${connected}/${tally.hosts.size} hosts`;
}
