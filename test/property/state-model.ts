import fc from "fast-check";
import type { Address, Row } from "../../src/model/index.ts";
import type { ProcessTable, StateSession, StateView } from "../../src/state/index.ts";
import { makeRow } from "../unit/state-helpers.ts";

/** One step that a session is asked to do. `pick` chooses among what the model says is possible. */
export type Step =
  | { readonly do: "begin" | "end" | "fail" | "delete" | "checkpoint" | "put" | "drop" | "move"; readonly pick: number }
  | { readonly do: "outputs" | "hold"; readonly pick: number }
  /** Close and open again; or leave without closing, as kill -9 does, and open again. */
  | { readonly do: "reopen" | "abandon"; readonly pick: number };

export const ADDRESSES: readonly Address[] = [
  "host.a",
  'host.a/file["/etc/x \\"y\\"\\n$(z)"]',
  'host["__proto__"]',
  "__proto__",
  'user["é\u2028\ud800😀"]',
];

/** A reference model of the state: what every reader must see after each step. Knows nothing of files. */
export class Model {
  readonly rows = new Map<Address, Row>();
  outputs: Readonly<Record<string, string>> = {};
  readonly holds = new Map<Address, string>();
  floor = 0;
  readonly open = new Map<string, Address>();
  /** Those of the open operations whose begin was acknowledged: only they may go on. */
  readonly begun = new Set<string>();
  /** Addresses of operations whose end was asked for and not acknowledged yet. */
  readonly ending = new Set<Address>();

  view(): string {
    return describe(this.rows, this.outputs, [...this.holds]);
  }
  write(row: Row): void {
    this.rows.set(row.address, { ...row, version: (this.rows.get(row.address)?.version ?? this.floor) + 1 });
  }
  remove(address: Address): void {
    this.floor = Math.max(this.floor, this.rows.get(address)?.version ?? 0);
    this.rows.delete(address);
  }
}

export function viewOf(view: StateView): string {
  return describe(
    view.rows,
    view.outputs,
    [...view.holds].map(([address, hold]) => [address, hold.who]),
  );
}

function describe(
  rows: ReadonlyMap<Address, Row>,
  outputs: object,
  holds: readonly (readonly [string, string])[],
): string {
  const list = [...rows.values()].map(
    ({ address, version, status, observed, original, checkpoint, instance_id }) =>
      [address, version, status, observed, original, checkpoint ?? null, instance_id] as const,
  );
  const byName = ([a]: readonly [string, ...unknown[]], [b]: readonly [string, ...unknown[]]): number =>
    a < b ? -1 : 1;
  return JSON.stringify([list.sort(byName), outputs, [...holds].sort(byName)], undefined, 1);
}

/** Does one step to the model and, at the same time, asks the session for it. Undefined: not possible now. */
export function perform(model: Model, step: Step, n: number, session: StateSession): Promise<void> | undefined {
  const choose = <T>(items: readonly T[]): T | undefined => items[step.pick % Math.max(1, items.length)];
  const row = (address: Address): Row => makeRow(address, { observed: { n }, original: { n }, instance_id: `i${n}` });
  switch (step.do) {
    case "begin": {
      const address = choose(ADDRESSES.filter((item) => ![...model.open.values()].includes(item)));
      if (address === undefined) return undefined;
      const prior = model.rows.get(address);
      const begun: Row = { ...row(address), status: "interrupted" };
      model.write({ ...begun, original: prior === undefined ? begun.original : prior.original });
      model.open.set(`op${n}`, address);
      return session
        .begin({ op: `op${n}`, run: "r", action: "update", row: row(address) })
        .then(() => void model.begun.add(`op${n}`));
    }
    case "end":
    case "fail":
    case "delete": {
      const op = choose([...model.open].filter(([id]) => model.begun.has(id)));
      if (op === undefined) return undefined;
      const [id, address] = op;
      model.open.delete(id);
      model.ending.add(address);
      if (step.do === "delete") {
        model.remove(address);
        return session.end({ op: id, result: "ok", row: null });
      }
      if (step.do === "end") {
        model.write(row(address));
        return session.end({ op: id, result: "ok", row: row(address) });
      }
      const current = model.rows.get(address);
      if (current !== undefined) model.write({ ...current, status: "failed" });
      return session.end({ op: id, result: "failed" });
    }
    case "checkpoint": {
      const op = choose([...model.open].filter(([id]) => model.begun.has(id)));
      if (op === undefined) return undefined;
      const checkpoint = { step: `s${n}`, data: { n } };
      const current = model.rows.get(op[1]);
      if (current !== undefined) model.rows.set(op[1], { ...current, checkpoint });
      return session.checkpoint(op[0], checkpoint);
    }
    case "put": {
      const address = choose(ADDRESSES) ?? "host.a";
      model.write(row(address));
      return session.put(row(address));
    }
    case "drop": {
      const address = choose([...model.rows.keys()]);
      if (address === undefined) return undefined;
      model.remove(address);
      return session.drop(address);
    }
    case "move": {
      const busy = [...model.open.values(), ...model.ending];
      const from = choose([...model.rows.keys()].filter((item) => !busy.includes(item)));
      const to = choose(ADDRESSES.filter((item) => !model.rows.has(item) && !busy.includes(item)));
      const old = from === undefined ? undefined : model.rows.get(from);
      if (from === undefined || to === undefined || old === undefined) return undefined;
      model.remove(from);
      model.rows.set(to, { ...old, address: to, version: old.version + 1 });
      return session.move(from, to);
    }
    case "outputs":
      model.outputs = { out: `o${n}` };
      return session.setOutputs({ out: `o${n}` });
    case "hold": {
      const address = choose(ADDRESSES) ?? "host.a";
      if (model.holds.delete(address)) return session.setHold(address, null);
      model.holds.set(address, `w${n}`);
      return session.setHold(address, { who: `w${n}`, why: "y", since: "2026-01-01T00:00:00.000Z" });
    }
    case "reopen":
    case "abandon":
      return undefined;
  }
}

export const stepArbitrary: fc.Arbitrary<Step> = fc.record({
  do: fc.oneof(
    { weight: 6, arbitrary: fc.constantFrom("begin" as const, "end" as const) },
    {
      weight: 6,
      arbitrary: fc.constantFrom(
        "put" as const,
        "fail" as const,
        "delete" as const,
        "checkpoint" as const,
        "drop" as const,
        "move" as const,
        "outputs" as const,
        "hold" as const,
      ),
    },
    { weight: 2, arbitrary: fc.constantFrom("reopen" as const, "abandon" as const) },
  ),
  pick: fc.nat(20),
});

/** A process of its own: every other one is dead. */
export function onlyProcess(pid: number): ProcessTable {
  return {
    self: { pid, host: "h", boot_id: "b", started: String(pid) },
    liveness: (holder) => (holder.pid === pid ? "alive" : "dead"),
  };
}
