import { formatSize, type PropertyChange } from "../../model/index.ts";
import { type Paint, paintFor, type Style } from "./paint.ts";
import { renderPairs } from "./rows.ts";
import { renderTable } from "./table.ts";
import { minute, visible } from "./text.ts";
import { sidesOf } from "./value.ts";

/** A virtual machine as it is found now, as data: what `--json` gives. */
export interface GuestLine {
  readonly address: string;
  readonly kind: string;
  /** `gone`: the state knows it, and it is not there. `unknown`: nobody could look, see `why`. */
  readonly status: "running" | "off" | "gone" | "unknown" | "not applied";
  readonly why?: string;
  /** Of the host it is on. */
  readonly host?: string;
  /** What it is called there. */
  readonly domain?: string;
  readonly arch?: string;
  readonly cpus?: number;
  /** Bytes. */
  readonly memory?: number;
  /** Where `labctl ssh` finds it. */
  readonly reached_at?: string;
  /** The machine that leads there. */
  readonly reached_through?: string;
  /** Whose it is. */
  readonly owner?: {
    readonly lab: string;
    readonly scope: string;
    readonly instance_id: string;
    readonly run: string;
    readonly since: string;
  };
  /** What changed behind labctl's back since its last run. */
  readonly drift: readonly PropertyChange[];
}

export function renderGuests(guests: readonly GuestLine[], style: Style): string {
  const paint = paintFor(style);
  return renderTable(
    guests,
    [
      { title: "machine", cell: (one) => paint.bold(visible(one.address)) },
      { title: "status", cell: (one) => statusText(one, paint) },
      { title: "host", cell: (one) => visible(one.host ?? "") },
      { title: "cpus", cell: (one) => (one.cpus === undefined ? "" : String(one.cpus)), align: "right" },
      { title: "memory", cell: (one) => (one.memory === undefined ? "" : formatSize(one.memory)), align: "right" },
      { title: "address", cell: (one) => visible(one.reached_at ?? "") },
      { title: "owner", cell: (one) => ownerText(one), flexible: true },
      {
        title: "drift",
        cell: (one) => paint.yellow(one.drift.map((change) => visible(change.path)).join(", ")),
        flexible: true,
      },
      { title: "why", cell: (one) => paint.dim(visible(one.why ?? "")), flexible: true },
    ],
    style,
  );
}

export function renderGuest(one: GuestLine, style: Style): string {
  const paint = paintFor(style);
  const through = one.reached_through === undefined ? "" : ` through ${visible(one.reached_through)}`;
  const facts: (readonly [string, string | undefined])[] = [
    ["status", statusText(one, paint) + (one.why === undefined ? "" : `: ${paint.dim(visible(one.why))}`)],
    ["host", one.host],
    ["domain", one.domain],
    ["arch", one.arch],
    ["cpus", one.cpus?.toString()],
    ["memory", one.memory === undefined ? undefined : formatSize(one.memory)],
    ["address", one.reached_at === undefined ? undefined : `${visible(one.reached_at)}${through}`],
    ["owner", one.owner && `${ownerText(one)} (instance ${visible(one.owner.instance_id)})`],
    ["applied", one.owner && `${minute(one.owner.since)} by run ${visible(one.owner.run)}`],
  ];
  const pairs = facts.flatMap(([name, text]): [string, string][] =>
    text === undefined ? [] : [[`  ${name}`, name === "status" || name === "address" ? text : visible(text)]],
  );
  const drift = one.drift.map((change) => {
    const { before, after } = sidesOf(change);
    return `    ${visible(change.path)}: ${paint.red(before)} ${paint.dim("→")} ${paint.green(after)}`;
  });
  return [
    paint.bold(visible(one.address)),
    renderPairs(pairs),
    ...(drift.length === 0 ? [] : [`  ${paint.yellow("changed outside labctl:")}`, ...drift]),
  ].join("\n");
}

function ownerText({ owner }: GuestLine): string {
  return owner === undefined ? "" : visible(`${owner.lab}/${owner.scope}`);
}

function statusText({ status }: GuestLine, paint: Paint): string {
  switch (status) {
    case "running":
      return paint.green(status);
    case "off":
      return paint.dim(status);
    case "gone":
    case "unknown":
      return paint.red(status);
    case "not applied":
      return paint.dim(status);
  }
}
