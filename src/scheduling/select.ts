import { LabError } from "../diagnostics/index.ts";
import { formatDuration, type Placement } from "../model/index.ts";
import { type Candidate, isLow, passes, type Requirements, type Unmet, unmet, utilization } from "./requirements.ts";

export interface SelectionRequest {
  /** For people: `build.kasan-x86_64`. */
  readonly what: string;
  readonly requires: Requirements;
  /** Where it was before: kept among machines that are as good. */
  readonly sticky?: string;
}

export interface Ranked {
  readonly address: string;
  /** The fullest of its amounts once the request is there: 0 empty, 1 full. */
  readonly utilization: number;
  /** Why it stands where it stands. */
  readonly why: string;
}

export interface Rejected {
  readonly address: string;
  readonly unmet: readonly Unmet[];
  /** It can never do, as it is. */
  readonly permanent: boolean;
}

/** `chosen`: the first of `ranking`. `busy`: some would do, not now. `never`: none can. */
export interface Selection {
  readonly verdict: "chosen" | "busy" | "never";
  readonly ranking: readonly Ranked[];
  readonly rejected: readonly Rejected[];
  /** For people: what is low, though it keeps nothing away. */
  readonly warnings: readonly string[];
  /** Milliseconds until the first of those that would do is expected to be free; absent: nobody can know. */
  readonly expected_wait?: number;
}

/**
 * Pure: the same request and machines give the same selection, in whatever order they come. `more`: what else is against a
 * machine, for reasons that are not its own.
 */
export function select(
  request: SelectionRequest,
  candidates: readonly Candidate[],
  now: number,
  more: (one: Candidate) => readonly Unmet[] = () => [],
): Selection {
  const { requires, sticky } = request;
  const preferred = (one: Candidate): number => {
    const at = (requires.prefer ?? []).findIndex((name) => name === one.name || name === one.address);
    return at < 0 ? Number.MAX_SAFE_INTEGER : at;
  };
  const fitting: { one: Candidate; load: number }[] = [];
  const rejected: Rejected[] = [];
  const ends: number[] = [];
  for (const one of [...candidates].sort(byAddress)) {
    const why = [...unmet(requires, one), ...more(one)];
    if (why.length === 0) {
      fitting.push({ one, load: utilization(requires, one) });
      continue;
    }
    const permanent = why.some((reason) => reason.permanent);
    rejected.push({ address: one.address, unmet: why, permanent });
    if (!permanent && one.next_free !== undefined) ends.push(one.next_free);
  }
  // Loads that differ by less than a hundredth are the same: what is measured is never quite still.
  const step = (load: number): number => Math.round(load * 100);
  fitting.sort(
    (a, b) =>
      preferred(a.one) - preferred(b.one) ||
      step(a.load) - step(b.load) ||
      Number(b.one.address === sticky) - Number(a.one.address === sticky) ||
      byAddress(a.one, b.one),
  );
  const ranking = fitting.map(({ one, load }, i): Ranked => {
    const reasons = [
      ...(preferred(one) < Number.MAX_SAFE_INTEGER ? ["preferred"] : []),
      `${Math.round(load * 100)}% in use with it`,
      ...(one.address === sticky ? ["it was here before"] : []),
      ...(i === 0 && fitting.length === 1 && rejected.length > 0 ? ["the only one that fits"] : []),
    ];
    return { address: one.address, utilization: load, why: reasons.join(", ") };
  });
  const low = fitting.filter(({ one }) => isLow(one)).map(({ one }) => `${one.address} is low on disk`);
  const verdict = ranking.length > 0 ? "chosen" : rejected.some((one) => !one.permanent) ? "busy" : "never";
  const wait = ends.length === 0 ? undefined : Math.max(0, Math.min(...ends) - now);
  return { verdict, ranking, rejected, warnings: low, ...(wait !== undefined && { expected_wait: wait }) };
}

function byAddress(a: { readonly address: string }, b: { readonly address: string }): number {
  return a.address < b.address ? -1 : a.address > b.address ? 1 : 0;
}

/**
 * What to try after these failed: the next of the approved ones, in their order. Undefined: there is none left. Nothing
 * that was not approved is ever tried.
 */
export function nextCandidate(ranking: readonly Ranked[], failed: ReadonlySet<string>): Ranked | undefined {
  return ranking.find((one) => !failed.has(one.address));
}

/** Each machine with the reasons against it. */
export function explainRejected(rejected: readonly Rejected[]): string {
  return rejected.map((one) => `${one.address}: ${reasonsAgainst(one)}`).join("\n");
}

function reasonsAgainst(one: Rejected): string {
  return one.unmet.map((reason) => reason.text).join("; ");
}

/** A selection as a plan carries it. Pure. */
export function placementOf({ ranking, rejected }: Selection): Placement {
  const [chosen] = ranking;
  return {
    ...(chosen !== undefined && { chosen: chosen.address }),
    machines: [
      ...ranking.map(({ address, why }) => ({ address, why })),
      ...rejected.map((one) => ({ address: one.address, why: reasonsAgainst(one) })),
    ],
  };
}

/** Why this one and not another, for people: the chosen one, then each other that was looked at. */
export function explainChoice(selection: Selection, chosen: string): string {
  const others = selection.ranking.filter((one) => one.address !== chosen);
  return [
    `${chosen}: ${selection.ranking.find((one) => one.address === chosen)?.why ?? "chosen"}`,
    ...others.map((one) => `not ${one.address}: ${one.why}`),
    ...(selection.rejected.length === 0
      ? []
      : explainRejected(selection.rejected)
          .split("\n")
          .map((line) => `not ${line}`)),
  ].join("\n");
}

/** E_NEVER_FITS or E_BUSY, with why each machine does not do. */
export function selectionError(request: SelectionRequest, selection: Selection): LabError {
  const { what } = request;
  const reasons = explainRejected(selection.rejected);
  if (selection.verdict === "never") {
    const none = selection.rejected.length === 0;
    return new LabError(
      "E_NEVER_FITS",
      none ? `${what}: the lab has no machine for it` : `${what}: no machine of the lab can take it\n${reasons}`,
      { address: what, hint: none ? "declare one in lab.yaml" : closest(selection.rejected) },
    );
  }
  const wait = selection.expected_wait === undefined ? "" : `, for about ${formatDuration(selection.expected_wait)}`;
  return new LabError("E_BUSY", `${what}: every machine that could take it is busy${wait}\n${reasons}`, {
    address: what,
    hint: selection.rejected.some((one) => !one.permanent && one.unmet.every(passes))
      ? "run again without --no-wait to wait in the queue, or bring another machine into service"
      : "waiting does not help: bring one of them back, end its maintenance, make room on its disk, or declare another",
  });
}

/** What misses the least. */
function closest(rejected: readonly Rejected[]): string {
  const [best] = [...rejected].sort(
    (a, b) => a.unmet.filter((one) => one.permanent).length - b.unmet.filter((one) => one.permanent).length,
  );
  const missing = best?.unmet.filter((one) => one.permanent).map((one) => one.what) ?? [];
  return `${best?.address ?? ""} comes closest: ask for less (${[...new Set(missing)].join(", ")}), or give it what it lacks`;
}
