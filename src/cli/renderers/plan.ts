import type {
  ActionType,
  OutputChange,
  Placement,
  Plain,
  Plan,
  PlannedAction,
  PropertyChange,
} from "../../model/index.ts";
import { countActions, parseAddress } from "../../model/index.ts";
import { renderDiff } from "./diff.ts";
import { type Paint, paintFor, type Style } from "./paint.ts";
import { padEnd, plural, visible, visibleLine, widthOf } from "./text.ts";
import { formatValue, nameOf, sidesOf, specialText } from "./value.ts";
import { ACTIONS, paintAction, splitRoot } from "./words.ts";

/** From this many on, resources that are blocked for one and the same reason are counted and not listed. */
const FOLD_BLOCKED = 3;
const MOST_TEXT_LINES = 20;

/** The whole plan for people: what drifted, what will be done and why, what will not and why, and the counts. */
export function renderPlan(plan: Plan, style: Style): string {
  const paint = paintFor(style);
  const blocks = [
    renderDrift(plan, style, paint),
    renderActions(plan, style, paint),
    renderOutputs(plan.outputs, paint),
    renderWarnings(plan, paint),
    renderPlanSummary(plan, style),
  ];
  return blocks.filter((block) => block !== "").join("\n\n");
}

/** `Plan: 3 to create, 1 to update; 12 unchanged.` */
function renderPlanSummary(plan: Plan, style: Pick<Style, "color">): string {
  const paint = paintFor(style);
  const counts = countActions(plan.actions);
  const order: ActionType[] = ["create", "update", "replace", "delete", "adopt", "forget", "check", "blocked"];
  const parts = order
    .filter((action) => counts[action] > 0)
    .map((action) => paintAction(action, `${counts[action]} ${ACTIONS[action].planned}`, paint));
  const same = counts.noop > 0 ? `${counts.noop} unchanged` : "";
  if (parts.length === 0) {
    const outputs = plan.outputs.length > 0 ? `Only ${plural(plan.outputs.length, "output")} will change. ` : "";
    return `${outputs === "" ? paint.green("No changes. ") : outputs}${nothingToDo(plan, counts.noop)}`;
  }
  return `${paint.bold("Plan:")} ${parts.join(", ")}${same === "" ? "" : paint.dim(`; ${same}`)}.`;
}

function nothingToDo(plan: Plan, count: number): string {
  if (plan.mode === "destroy") return "There is nothing to destroy.";
  if (plan.mode === "refresh-only") return `The state matches what is there (${plural(count, "resource")}).`;
  return count === 0
    ? "The spec has no resources."
    : `${count === 1 ? "The one resource is" : `All ${count} resources are`} as the spec says.`;
}

interface Group {
  readonly root: string;
  readonly own: PlannedAction | undefined;
  readonly children: readonly PlannedAction[];
}

function groups(actions: readonly PlannedAction[]): Group[] {
  const found = new Map<string, { own: PlannedAction | undefined; children: PlannedAction[] }>();
  for (const action of actions) {
    const { root, rest } = splitRoot(action.address);
    const group = found.get(root) ?? { own: undefined, children: [] };
    if (rest === "") group.own = action;
    else group.children.push(action);
    found.set(root, group);
  }
  return [...found].map(([root, group]) => ({ root, ...group }));
}

function renderActions(plan: Plan, style: Style, paint: Paint): string {
  const shown = plan.actions.filter((action) => action.action !== "noop" || style.verbose > 0);
  if (shown.length === 0) return "";
  const blocks = groups(shown).map((group) => renderGroup(group, style, paint).join("\n"));
  return [legend(shown, paint), ...blocks].join("\n\n");
}

function legend(actions: readonly PlannedAction[], paint: Paint): string {
  const seen = new Set(actions.map((action) => action.action));
  const order: ActionType[] = ["create", "update", "replace", "delete", "adopt", "forget", "check", "blocked"];
  return order
    .filter((action) => seen.has(action))
    .map((action) => `${paintAction(action, ACTIONS[action].symbol, paint)} ${action}`)
    .join("   ");
}

function renderGroup(group: Group, style: Style, paint: Paint): string[] {
  const lines: string[] = [];
  if (group.own === undefined || group.own.action === "noop") lines.push(`    ${paint.bold(visible(group.root))}`);
  else lines.push(...renderAction(group.own, visible(group.root), 0, style, paint));
  const folded = foldBlocked(group.children, style);
  for (const child of group.children) {
    if (!folded.has(child)) {
      lines.push(...renderAction(child, visible(splitRoot(child.address).rest), 2, style, paint));
    }
  }
  const reasons = new Map<string, number>();
  for (const action of folded) reasons.set(action.reason.text, (reasons.get(action.reason.text) ?? 0) + 1);
  for (const [reason, count] of reasons) {
    lines.push(
      `  ${paintAction("blocked", padEnd(ACTIONS.blocked.symbol, 3), paint)} ${plural(count, "resource")} blocked: ${visible(reason)} ${paint.dim("(-v lists them)")}`,
    );
  }
  return lines;
}

function foldBlocked(children: readonly PlannedAction[], style: Style): ReadonlySet<PlannedAction> {
  const byReason = new Map<string, PlannedAction[]>();
  for (const child of children) {
    if (child.action !== "blocked") continue;
    byReason.set(child.reason.text, [...(byReason.get(child.reason.text) ?? []), child]);
  }
  const many = [...byReason.values()].filter((list) => list.length > FOLD_BLOCKED && style.verbose === 0);
  return new Set(many.flat());
}

function renderAction(action: PlannedAction, label: string, by: number, style: Style, paint: Paint): string[] {
  const symbol = paintAction(action.action, padEnd(ACTIONS[action.action].symbol, 3), paint);
  const gap = " ".repeat(by);
  const name = action.action === "noop" ? paint.dim(label) : paint.bold(label);
  const moved =
    action.moved_from === undefined || action.reason.code === "moved" ? "" : `, was ${visible(action.moved_from)}`;
  const optional = action.options.optional === true ? ", optional" : "";
  const head = `${gap}${symbol} ${name}  ${paint.dim(visible(action.reason.text) + moved + optional)}`;
  return [
    head,
    ...renderPlacement(action.placement, " ".repeat(by + 6), paint),
    ...renderChanges(withoutKey(action), by + 6, style, paint),
  ];
}

/** Where it would be now, and why not elsewhere. */
function renderPlacement(placement: Placement | undefined, gap: string, paint: Paint): string[] {
  if (placement === undefined) return [];
  const { chosen, machines } = placement;
  const others = machines.filter((one) => one.address !== chosen);
  const why = machines.find((one) => one.address === chosen)?.why ?? "";
  const now = chosen === undefined ? "now none can take it" : `now ${visible(chosen)}: ${visible(why)}`;
  return [
    `${gap}host: ${paint.dim("(known after apply)")} ${now}`,
    ...others.map((one) => paint.dim(`${gap}  not ${visible(one.address)}: ${visible(one.why)}`)),
  ];
}

/** The property that only repeats the key, which stands in the line above already. */
function withoutKey(action: PlannedAction): readonly PropertyChange[] {
  const key = parseAddress(action.address)?.at(-1)?.key;
  return action.changes.filter((change) => change.before !== undefined || change.after !== key);
}

function renderChanges(changes: readonly PropertyChange[], by: number, style: Style, paint: Paint): string[] {
  const gap = " ".repeat(by);
  const width = Math.max(0, ...changes.map((change) => widthOf(pathOf(change)) + 1));
  return changes.flatMap((change) => {
    const effect = effectText(change, paint);
    const body = textBody(change, style, paint);
    if (body !== undefined) {
      return [`${gap}${pathOf(change)}:${effect}`, ...body.map((line) => `${gap}  ${line}`)];
    }
    return [`${gap}${padEnd(`${pathOf(change)}:`, width)} ${valueText(change, paint)}${effect}`];
  });
}

function pathOf(change: PropertyChange): string {
  return visible(change.path);
}

function effectText(change: PropertyChange, paint: Paint): string {
  switch (change.effect) {
    case "replace":
      return paint.magenta("  (forces replacement)");
    case "restart":
      return paint.yellow("  (restarts it)");
    case "update":
      return "";
  }
}

function valueText(change: PropertyChange, paint: Paint): string {
  const { before, after } = sidesOf(change);
  if (change.before === undefined) return paint.green(after);
  if (change.after === undefined) return `${paint.red(before)} ${paint.dim("→ (none)")}`;
  if (change.sensitive === true && before === after) return paint.dim("(sensitive, changes)");
  return `${paint.red(before)} ${paint.dim("→")} ${paint.green(after)}`;
}

/** Text of several lines: a diff where both sides are known, the lines themselves where it is new. */
function textBody(change: PropertyChange, style: Style, paint: Paint): string[] | undefined {
  if (change.sensitive === true) return undefined;
  const { before, after } = change;
  if (typeof after === "string" && typeof before === "string" && (change.text === true || multiline(before, after))) {
    return renderDiff(before, after, paint, style.verbose > 0);
  }
  if (before === undefined && typeof after === "string" && multiline("", after)) {
    const lines = after.replace(/\n$/, "").split("\n");
    const most = style.verbose > 0 ? lines.length : MOST_TEXT_LINES;
    const shown = lines.slice(0, most).map((line) => paint.green(`+${visibleLine(line)}`));
    if (lines.length > most) shown.push(paint.dim(`… ${lines.length - most} more lines: -v shows them`));
    return shown;
  }
  return undefined;
}

function multiline(before: string, after: string): boolean {
  return before.includes("\n") || after.includes("\n");
}

function renderDrift(plan: Plan, style: Style, paint: Paint): string {
  const gone = (action: PlannedAction): boolean => action.reason.code === "missing";
  const drifted = plan.actions.filter((action) => action.drift.length > 0 || gone(action));
  if (drifted.length === 0) return "";
  const lines = drifted.flatMap((action) => [
    `  ${paint.yellow("≠")} ${paint.bold(visible(action.address))}${gone(action) ? `  ${paint.red("is gone")}` : ""}`,
    ...renderChanges(
      action.drift.map((change) => ({ ...change, effect: "update" })),
      6,
      style,
      paint,
    ),
  ]);
  return [paint.bold("Changed outside labctl since its last run:"), ...lines].join("\n");
}

function renderOutputs(outputs: readonly OutputChange[], paint: Paint): string {
  if (outputs.length === 0) return "";
  const lines = outputs.map((output) => {
    const name = nameOf(output.name);
    if (output.after === undefined) return `  ${paint.red("-")} ${name}`;
    if (output.before === undefined) return `  ${paint.green("+")} ${name} = ${outputValue(output.after)}`;
    return `  ${paint.yellow("~")} ${name} = ${outputValue(output.before)} ${paint.dim("→")} ${outputValue(output.after)}`;
  });
  return [paint.bold("Outputs:"), ...lines].join("\n");
}

function outputValue(value: Plain): string {
  return specialText(value) ?? formatValue(value);
}

function renderWarnings(plan: Plan, paint: Paint): string {
  return plan.warnings
    .map((warning) => {
      const where = warning.address === undefined ? "" : `${visible(warning.address)}: `;
      return `${paint.yellow("Warning:")} ${where}${visible(warning.text)} ${paint.dim(`[${visible(warning.code)}]`)}`;
    })
    .join("\n");
}
