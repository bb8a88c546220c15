import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { rootBody, rootTitle } from "../../src/cli/renderers/live.ts";
import { renderBuilds } from "../../src/cli/renderers/builds.ts";
import { renderGuest, renderGuests } from "../../src/cli/renderers/guests.ts";
import { renderPlan } from "../../src/cli/renderers/plan.ts";
import { createPlainRenderer } from "../../src/cli/renderers/plain.ts";
import { createLogRenderer, renderEventLine } from "../../src/cli/renderers/runs.ts";
import { renderLogJson, renderNdjson } from "../../src/cli/renderers/structured.ts";
import { renderSummary } from "../../src/cli/renderers/summary.ts";
import { Tally } from "../../src/cli/renderers/tally.ts";
import { renderTree, renderDot, renderMermaid } from "../../src/cli/renderers/graph.ts";
import { renderWhy } from "../../src/cli/renderers/why.ts";
import type { Style } from "../../src/cli/renderers/paint.ts";
import type { LabEvent, RunSummary } from "../../src/model/index.ts";
import {
  applyFailed,
  applyOk,
  builds,
  emptyPlan,
  failedSummary,
  guests,
  hostilePlan,
  plan,
  richPlan,
  RUN,
  why,
} from "./streams.ts";

const STYLES: readonly (readonly [string, Style])[] = [80, 120].flatMap((width) =>
  [false, true].map((color) => [`${width}${color ? "-color" : ""}`, { width, color, verbose: 0 }] as const),
);

/** Escape sequences as text, so that a golden file can be read and reviewed. */
async function golden(name: string, text: string): Promise<void> {
  await expect(`${text.replaceAll("\u001b", "␛")}\n`).toMatchFileSnapshot(join("expected", `${name}.txt`));
}

describe.each(STYLES)("at %s", (label, style) => {
  test("virtual machines, and one of them", () =>
    golden(
      `guests-${label}`,
      [renderGuests(guests, style), ...guests.map((one) => renderGuest(one, style))].join("\n\n"),
    ));

  test("builds that were asked for", () => golden(`builds-${label}`, renderBuilds(builds, style)));

  test("why an environment was deployed anew", () => golden(`why-${label}`, renderWhy(why, style)));

  test("a plan with everything in it", () => golden(`plan-${label}`, renderPlan(richPlan, style)));

  test.each([
    ["ok", applyOk],
    ["failed", applyFailed],
  ])("the events of an apply that went %s, as lines", (name, events) => {
    const render = createPlainRenderer(style);
    return golden(`plain-${name}-${label}`, events.flatMap(render).join("\n"));
  });

  test.each([
    ["ok", applyOk],
    ["failed", applyFailed],
  ])("the live tree before each of its last events, apply that went %s", (name, events) => {
    const tally = new Tally();
    const frames: string[] = [];
    for (const event of events) {
      tally.take(event);
      if (!event.type.startsWith("action.")) continue;
      const lines = [...tally.roots.values()].flatMap((root) => [
        rootTitle(root, style),
        ...rootBody(root, Date.parse(event.at), style, 6).map((line) => `  › ${line}`),
      ]);
      frames.push([`-- ${event.seq} ${event.type}`, ...lines].join("\n"));
    }
    return golden(`live-${name}-${label}`, frames.join("\n"));
  });

  test.each([
    ["ok", applyOk],
    ["failed", applyFailed],
  ])("the summary of an apply that went %s", (name, events) =>
    golden(
      `summary-${name}-${label}`,
      renderSummary(summaryIn(events), tallyOf(events), { run: RUN, again: "labctl apply" }, style),
    ),
  );
});

test("a plan with everything in it, under -v", () =>
  golden("plan-verbose", renderPlan(richPlan, { color: false, width: 100, verbose: 1 })));

test("plans that have nothing to do", () =>
  golden(
    "plan-empty",
    [emptyPlan, plan([]), { ...emptyPlan, mode: "refresh-only" as const }, { ...plan([]), mode: "destroy" as const }]
      .map((one) => renderPlan(one, { color: false, verbose: 0 }))
      .join("\n--\n"),
  ));

test("structured logs, one JSON object a line", () => {
  const lines = [...applyOk, ...applyFailed].map((event) => renderLogJson(event, 0)).join("");
  for (const line of lines.trimEnd().split("\n")) {
    expect(JSON.parse(line)).toMatchObject({
      timestamp: expect.any(String),
      level: expect.any(String),
      component: expect.any(String),
      run: RUN,
      message: expect.any(String),
      metadata: expect.any(Object),
    });
  }
  return golden("logs-json", lines.trimEnd());
});

test("NDJSON is the events and nothing else", () => {
  const text = applyFailed.map(renderNdjson).join("");
  expect(
    text
      .trimEnd()
      .split("\n")
      .map((line): unknown => JSON.parse(line)),
  ).toEqual(applyFailed);
});

test("the log and the event list of a recorded run", async () => {
  const style = { color: false, verbose: 0 };
  await golden("log", applyFailed.flatMap(createLogRenderer(style)).join("\n"));
  await golden("events", applyFailed.map((event) => renderEventLine(event, style)).join("\n"));
});

test("graphs as a tree, for Graphviz and for Mermaid", async () => {
  const nodes = [
    { address: "host.a", kind: "host", depends: [] },
    { address: 'host.a/file["/x \\"y\\""]', kind: "file", parent: "host.a", depends: ["host.a/package.gcc"] },
    { address: "host.a/package.gcc", kind: "package", parent: "host.a", depends: [] },
    { address: "host.b", kind: "host", depends: ["host.a"] },
  ];
  await golden("graph-text", renderTree(nodes, { color: false, verbose: 0 }));
  await golden("graph-dot", renderDot(nodes));
  await golden("graph-mermaid", renderMermaid(nodes));
});

describe("hostile text", () => {
  const FORBIDDEN = /(?!\n)[\p{Cc}\u202a-\u202e\u2066-\u2069\u200e\u200f\u2028\u2029]/u;

  test("a plan with names and contents that act on terminals shows them escaped", () => {
    const text = renderPlan(hostilePlan, { color: false, verbose: 2 });
    expect(text).not.toMatch(FORBIDDEN);
    expect(text.split("\n")).not.toContain("No changes.");
    return golden("plan-hostile", text);
  });

  test("no renderer of events lets them through", () => {
    const evil = "x\u001b[2J\r\u202e\nError: forged";
    const events: LabEvent[] = applyFailed.map((event) => spoil(event, evil));
    const style = { color: false, verbose: 2 };
    const plain = createPlainRenderer(style);
    const log = createLogRenderer(style);
    for (const event of events) {
      const own = [...plain(event), ...log(event), renderEventLine(event, style)];
      for (const line of own) {
        expect(line).not.toMatch(FORBIDDEN);
        expect(line).not.toContain("\n");
      }
    }
    const text = renderSummary(summaryIn(events), tallyOf(events), { run: RUN, again: "labctl apply" }, style);
    expect(text).not.toMatch(FORBIDDEN);
    expect(text.split("\n").map((line) => line.trim())).not.toContain("Error: forged");
  });
});

/** The event with hostile text appended to every string that a lab or a machine can choose. */
function spoil(event: LabEvent, evil: string): LabEvent {
  const fixed = new Set([
    "type",
    "run",
    "at",
    "action",
    "result",
    "phase",
    "level",
    "code",
    "mode",
    "stream",
    "effect",
  ]);
  const deep = (value: unknown, key: string): unknown => {
    if (typeof value === "string") return fixed.has(key) ? value : value + evil;
    if (Array.isArray(value)) return value.map((item: unknown) => deep(item, key));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, deep(item, name)]));
  };
  return deep(event, "") as LabEvent;
}

function summaryIn(events: readonly LabEvent[]): RunSummary {
  const last = events.at(-1);
  return last?.type === "run.finished" ? last.summary : failedSummary;
}

function tallyOf(events: readonly LabEvent[]): Tally {
  const tally = new Tally();
  for (const event of events) tally.take(event);
  return tally;
}
