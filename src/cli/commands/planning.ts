import type { Command } from "commander";
import { LabError } from "../../diagnostics/index.ts";
import type { PlanOptions } from "../../engine/port.ts";
import { type Code, exitCodeOf } from "../../diagnostics/index.ts";
import {
  type Address,
  canonicalAddress,
  isEffective,
  type Plan,
  type PlanMode,
  type Problem,
} from "../../model/index.ts";
import { type Context, countOption } from "../context.ts";

/** Flags that decide what a plan is about. */
export interface PlanningFlags {
  readonly target: readonly string[];
  readonly exclude: readonly string[];
  readonly replace: readonly string[];
  readonly refreshOnly?: boolean;
  /** `--no-refresh` */
  readonly refresh: boolean;
  readonly destroy?: boolean;
  readonly batch?: number;
}

const collect = (value: string, previous: readonly string[]): string[] => [...previous, value];

export function addPlanningOptions(command: Command, which: { readonly destroy: boolean }): Command {
  command
    .option("--target <address>", "only this and what it contains and needs (repeatable)", collect, [])
    .option("--exclude <address>", "leave this and what it contains alone (repeatable)", collect, [])
    .option("--no-refresh", "trust the state: read nothing")
    .option("--batch <n>", "change at most N hosts at a time", (text) => countOption("--batch", text));
  if (!which.destroy) return command;
  return command
    .option("--replace <address>", "make this anew (repeatable)", collect, [])
    .option("--refresh-only", "only bring the state up to date with what is there")
    .option("--destroy", "plan to delete everything that the state knows");
}

/** @throws LabError E_USAGE */
export function planOptions(
  context: Context,
  flags: Partial<PlanningFlags>,
  mode: PlanMode = modeOf(flags),
): PlanOptions {
  const { globals, signals } = context;
  const list = (name: string, texts: readonly string[] | undefined): Address[] =>
    (texts ?? []).map((text) => addressArgument(text, name));
  return {
    mode,
    targets: list("--target", flags.target),
    excludes: list("--exclude", flags.exclude),
    replace: list("--replace", flags.replace),
    refresh: flags.refresh !== false,
    parallelism: globals.parallelism,
    ...(flags.batch !== undefined && { batch: flags.batch }),
    experimental: globals.experimental === true,
    signal: signals.cancellation.soft,
  };
}

function modeOf(flags: Partial<PlanningFlags>): PlanMode {
  if (flags.destroy === true && flags.refreshOnly === true) {
    throw new LabError("E_USAGE", "--destroy and --refresh-only exclude each other", { hint: "choose one of them" });
  }
  if (flags.refreshOnly === true && flags.refresh === false) {
    throw new LabError("E_USAGE", "--refresh-only and --no-refresh exclude each other", { hint: "choose one of them" });
  }
  return flags.destroy === true ? "destroy" : flags.refreshOnly === true ? "refresh-only" : "normal";
}

/** The canonical form of an address as typed. @throws LabError E_USAGE */
export function addressArgument(text: string, where = "ADDRESS"): Address {
  const address = canonicalAddress(text);
  if (address === undefined) {
    throw new LabError("E_USAGE", `${where}: ${JSON.stringify(text)} is not an address`, {
      hint: `addresses look like host.builder-1 or 'host.builder-1/file["/etc/motd"]' (quoted for the shell)`,
    });
  }
  return address;
}

/** What a plan leaves undone because it could not be known or is forbidden. */
export function blockedProblems(plan: Plan): Problem[] {
  const problems: Problem[] = [];
  const seen = new Set<string>();
  for (const action of plan.actions) {
    if (action.action !== "blocked" || action.options.optional === true) continue;
    const known = BLOCKED[action.reason.code];
    // One unreachable host blocks many resources for one reason: it is told once.
    const key = known === undefined ? "" : `${known.code} ${action.reason.text}`;
    if (known === undefined || seen.has(key)) continue;
    seen.add(key);
    const { cause } = action.reason;
    problems.push({
      code: cause?.code ?? known.code,
      message: action.reason.text,
      hint: cause?.hint ?? known.hint,
      address: action.address,
    });
  }
  return problems;
}

const BLOCKED: Readonly<Partial<Record<string, { readonly code: Code; readonly hint: string }>>> = {
  unreachable: { code: "E_BLOCKED", hint: "bring the machine back and plan again; the rest of the lab is not held up" },
  "not-owned": { code: "E_NOT_OWNED", hint: "`labctl import` takes it over; or give the resource another name" },
  prevented: {
    code: "E_PREVENT_DESTROY",
    hint: "drop `prevent_destroy` from its lifecycle first, if that is what you want",
  },
};

/** The exit code of a plan: what it could not look at or may not do counts before changes that are pending. */
export function planExit(plan: Plan, detailed: boolean): number {
  const blocked = plan.actions.filter((action) => action.action === "blocked" && action.options.optional !== true);
  // Whatever it is that kept labctl from looking, nothing was begun.
  const codes = blocked.flatMap((action) => BLOCKED[action.reason.code]?.code ?? []);
  if (codes.length > 0) return exitCodeOf(codes);
  const pending = plan.actions.some((action) => action.action !== "noop") || plan.outputs.length > 0;
  return detailed && pending ? 2 : 0;
}

/** True where applying the plan does anything at all. */
export function doesSomething(plan: Plan): boolean {
  return plan.outputs.length > 0 || plan.actions.some((action) => isEffective(action.action));
}
