import { hostname } from "node:os";
import { LabError, Redactor, toLabError, toProblem } from "../diagnostics/index.ts";
import type { SpecSelection } from "../engine/port.ts";
import { createEventBus, newRunId, RunRecorder } from "../events/index.ts";
import { type Address, type Hold, LAB_SCOPE, type LockInfo, type Row, type StateSettings } from "../model/index.ts";
import {
  type LockRequest,
  openScopes,
  readScopes,
  type ScopedSession,
  type ScopedView,
  type StateStore,
} from "../state/index.ts";
import { type Context, whoAmI } from "./context.ts";
import { summaryOf } from "./lab.ts";
import { visible } from "./renderers/text.ts";

/** Every scope that there is something of, as one: what people look at. Takes no lock. */
export async function readWhole(store: StateStore): Promise<ScopedView> {
  return readScopes(store, [...new Set([LAB_SCOPE, ...(await store.scopes())])]);
}

/** Every scope under its lock. */
export async function openWhole(store: StateStore, request: LockRequest): Promise<ScopedSession> {
  const own = [...new Set([LAB_SCOPE, ...(await store.scopes())])];
  return openScopes(store, { own, others: [], route: () => LAB_SCOPE }, request);
}

export interface StateWork {
  readonly store: StateStore;
  readonly settings: StateSettings;
  readonly run: string;
}

/** The state of the lab that the flags name, found also where the spec is broken. Nothing is written. */
export async function stateOfLab(context: Context, selection: SpecSelection): Promise<Omit<StateWork, "run">> {
  const settings = await context.services.locateState(selection);
  return { settings, store: await context.services.openStore(settings) };
}

/** Does something to the state and records it as a run. */
export async function changeState(
  context: Context,
  selection: SpecSelection,
  command: string,
  body: (work: StateWork) => Promise<number>,
): Promise<number> {
  const { term } = context;
  const started = performance.now();
  const { settings, store } = await stateOfLab(context, selection);
  const redactor = new Redactor();
  const bus = createEventBus({
    run: newRunId(term.io.now()),
    redact: (text) => redactor.redact(text),
    now: term.io.now,
  });
  const recorder = new RunRecorder(bus);
  const who = whoAmI(term.io.env);
  await recorder.start(settings.path, {
    id: bus.run,
    command,
    argv: context.argv,
    who,
    host: hostname(),
    pid: process.pid,
    lab: "",
    started_at: term.io.now().toISOString(),
  });
  bus.emit({ type: "run.started", command, who, lab: "" });
  const end = async (exit: number, problems: Parameters<typeof summaryOf>[3] = []): Promise<void> => {
    const summary = summaryOf(command, exit, started, problems);
    bus.emit({ type: "run.finished", summary });
    await recorder.finish(summary, term.io.now());
  };
  try {
    const exit = await body({ store, settings, run: bus.run });
    await end(exit);
    return exit;
  } catch (error) {
    await end(toLabError(error).exitCode, [toProblem(error)]);
    throw error;
  }
}

export function lockRequest(context: Context, purpose: string): LockRequest {
  const { term, globals, signals } = context;
  return {
    holder: `${whoAmI(term.io.env)}@${hostname()}`,
    purpose,
    timeout: globals.lockTimeout,
    signal: signals.cancellation.soft,
    onWaiting: (holder) => term.err(`Waiting for the lock: ${holderText(holder)}`),
  };
}

export function holderText(lock: LockInfo): string {
  return `held by ${visible(lock.holder)} (pid ${lock.pid} on ${visible(lock.host)}) since ${visible(lock.since)} for ${visible(lock.purpose)}`;
}

/** Rows at an address and below it. @throws LabError E_ADDRESS_UNKNOWN */
export function rowsWithin(rows: ReadonlyMap<Address, Row>, address: Address): Row[] {
  const found = [...rows.values()].filter((row) => row.address === address || row.address.startsWith(`${address}/`));
  if (found.length > 0) return found;
  throw new LabError("E_ADDRESS_UNKNOWN", `the state has no ${visible(address)}`, {
    address,
    hint: nearest(address, [...rows.keys()]) ?? "`labctl state list` lists what it has",
  });
}

function nearest(address: Address, known: readonly Address[]): string | undefined {
  const close = known.filter((one) => one.includes(address.slice(address.indexOf(".") + 1))).slice(0, 3);
  return close.length === 0 ? undefined : `did you mean ${close.join(", ")}?`;
}

/** A hold that has not run out. */
export function activeHold(hold: Hold | undefined, now: Date): Hold | undefined {
  if (hold === undefined) return undefined;
  return hold.until !== undefined && Date.parse(hold.until) <= now.getTime() ? undefined : hold;
}
