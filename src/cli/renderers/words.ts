import { type ActionType, type Address, formatDuration, type Problem } from "../../model/index.ts";
import type { Paint } from "./paint.ts";
import { visible, visibleLine } from "./text.ts";

export interface ActionWords {
  readonly symbol: string;
  readonly doing: string;
  readonly done: string;
  /** After "3 ", in the summary of a plan. */
  readonly planned: string;
}

export const ACTIONS: Readonly<Record<ActionType, ActionWords>> = {
  create: { symbol: "+", doing: "creating", done: "created", planned: "to create" },
  update: { symbol: "~", doing: "changing", done: "changed", planned: "to update" },
  replace: { symbol: "-/+", doing: "replacing", done: "replaced", planned: "to replace" },
  delete: { symbol: "-", doing: "deleting", done: "deleted", planned: "to delete" },
  adopt: { symbol: "=", doing: "adopting", done: "adopted", planned: "to adopt" },
  forget: { symbol: ".", doing: "forgetting", done: "forgotten", planned: "to forget" },
  check: { symbol: "?", doing: "checking", done: "checked", planned: "to check" },
  blocked: { symbol: "!", doing: "blocked", done: "blocked", planned: "blocked" },
  noop: { symbol: " ", doing: "leaving", done: "unchanged", planned: "unchanged" },
};

export function paintAction(action: ActionType, text: string, paint: Paint): string {
  switch (action) {
    case "create":
      return paint.green(text);
    case "update":
      return paint.yellow(text);
    case "replace":
      return paint.magenta(text);
    case "delete":
      return paint.red(text);
    case "adopt":
    case "check":
      return paint.cyan(text);
    case "forget":
    case "noop":
      return paint.dim(text);
    case "blocked":
      return paint.red(text);
  }
}

/** The first segment: what a tree is grouped by. */
export function rootOf(address: Address): Address {
  return splitRoot(address).root;
}

/** `host.a` and `file["/x"]` of `host.a/file["/x"]`. A slash inside a quoted key does not count. */
export function splitRoot(address: Address): { readonly root: Address; readonly rest: string } {
  const match = /^(?:[^/"[]|\["(?:[^"\\]|\\.)*"\])*/.exec(address);
  const root = match?.[0] ?? address;
  return root === "" ? { root: address, rest: "" } : { root, rest: address.slice(root.length + 1) };
}

/** The first line of a message, with its code: for places that have one line. */
export function problemLine({ message, code }: Problem, paint: Paint): string {
  const end = message.indexOf("\n");
  return `${visible(end < 0 ? message : `${message.slice(0, end)} …`)} ${paint.dim(`[${code}]`)}`;
}

/** All lines of a message, with its code. Those after the first stand behind a bar, so that none can pass for labctl's own. */
export function problemText({ message, code }: Problem, paint: Paint): string {
  const [first = "", ...more] = message.trimEnd().split("\n");
  const rest = more.map((line) => `${paint.dim("│")} ${visibleLine(line)}`);
  return [`${visible(first)} ${paint.dim(`[${code}]`)}`, ...rest].join("\n");
}

/** What came of an action: `created`, `failed`, `skipped`. */
export function resultWord(action: ActionType, result: string, paint: Paint): string {
  switch (result) {
    case "ok":
      return paint.green(ACTIONS[action].done);
    case "failed":
      return paint.red("failed");
    default:
      return paint.yellow(visible(result.replace("_", " ")));
  }
}

/** `boot: completed 4.1 s` */
export function stageLine(
  { stage, result, duration_ms }: { readonly stage: string; readonly result: string; readonly duration_ms?: number },
  paint: Paint,
): string {
  const time = duration_ms === undefined ? "" : ` ${paint.dim(formatDuration(duration_ms))}`;
  return `${visible(stage)}: ${result === "failed" ? paint.red(result) : visible(result)}${time}`;
}
