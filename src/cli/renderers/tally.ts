import {
  type ActionResult,
  type ActionType,
  type Address,
  isEffective,
  type LabEvent,
  type Plan,
  type Problem,
} from "../../model/index.ts";
import { rootOf } from "./words.ts";

export interface RunningAction {
  readonly address: Address;
  readonly action: ActionType;
  readonly startedAt: string;
  readonly attempt: number;
  readonly fraction?: number;
  readonly text?: string;
  /** While it waits to try again: why, and until when. */
  readonly retry?: { readonly problem: Problem; readonly until: number };
}

interface FailedAction {
  readonly address: Address;
  readonly action: ActionType;
  readonly problem: Problem;
  readonly optional: boolean;
}

export interface RootTally {
  readonly root: Address;
  total: number;
  readonly ended: Map<ActionResult, number>;
  readonly running: Map<Address, RunningAction>;
  readonly failed: FailedAction[];
}

/** What a run has come to, as its events tell. Fed one event at a time; everything that is shown while it runs is made of it. */
export class Tally {
  readonly roots = new Map<Address, RootTally>();
  readonly hosts = new Map<
    Address,
    { readonly state: "connecting" | "connected" | "offline"; readonly note: string }
  >();
  /** From the address whose failure is the reason to those that were left out for it. */
  readonly skipped = new Map<Address, Address[]>();
  readonly blocked: { readonly address: Address; readonly why: string }[] = [];
  readonly warnings: Problem[] = [];
  readonly errors: Problem[] = [];
  plan: Plan | undefined;
  phase: string | undefined;
  notice: string | undefined;

  take(event: LabEvent): void {
    switch (event.type) {
      case "phase.started":
        this.phase = event.phase;
        break;
      case "phase.finished":
        this.phase = undefined;
        break;
      case "plan.made":
        this.#planned(event.plan);
        break;
      case "lock.waiting":
        this.notice = `waiting for the lock: ${event.holder}, ${event.purpose}`;
        break;
      case "lock.acquired":
        this.notice = undefined;
        break;
      case "host.connecting":
        this.hosts.set(event.host, { state: "connecting", note: event.attempt > 1 ? `attempt ${event.attempt}` : "" });
        break;
      case "host.connected":
        this.hosts.set(event.host, { state: "connected", note: "" });
        break;
      case "host.retrying":
        this.hosts.set(event.host, { state: "connecting", note: `${event.why}; trying again` });
        break;
      case "host.offline":
        this.hosts.set(event.host, { state: "offline", note: event.problem.message });
        break;
      case "action.started":
        this.#root(event.address).running.set(event.address, {
          address: event.address,
          action: event.action,
          startedAt: event.at,
          attempt: event.attempt,
        });
        break;
      case "action.progress":
        this.#progress(event);
        break;
      case "stage.started":
        this.#progress({ ...event, type: "action.progress", text: event.stage });
        break;
      case "action.retrying":
        this.#retrying(event);
        break;
      case "action.finished":
        this.#finished(event);
        break;
      case "warning.raised":
        this.warnings.push(event.problem);
        break;
      case "error.raised":
        this.errors.push(event.problem);
        break;
      case "cancel.requested":
        this.notice =
          event.level === 1
            ? "cancelling: nothing new is started, Ctrl-C again aborts what runs"
            : "aborting: calls are being cut off";
        break;
      default:
        break;
    }
  }

  #planned(plan: Plan): void {
    this.plan = plan;
    this.roots.clear();
    this.blocked.length = 0;
    for (const action of plan.actions) {
      if (isEffective(action.action)) this.#root(action.address).total += 1;
      if (action.action === "blocked") this.blocked.push({ address: action.address, why: action.reason.text });
    }
  }

  #progress(event: Extract<LabEvent, { type: "action.progress" }>): void {
    const root = this.#root(event.address);
    const running = root.running.get(event.address);
    if (running === undefined) return;
    root.running.set(event.address, {
      address: running.address,
      action: running.action,
      startedAt: running.startedAt,
      attempt: running.attempt,
      ...(event.fraction !== undefined && { fraction: event.fraction }),
      ...(event.text !== undefined && { text: event.text }),
    });
  }

  #retrying(event: Extract<LabEvent, { type: "action.retrying" }>): void {
    const root = this.#root(event.address);
    const running = root.running.get(event.address);
    if (running === undefined) return;
    root.running.set(event.address, {
      ...running,
      attempt: event.attempt,
      retry: { problem: event.problem, until: Date.parse(event.at) + event.delay_ms },
    });
  }

  #finished(event: Extract<LabEvent, { type: "action.finished" }>): void {
    const root = this.#root(event.address);
    root.running.delete(event.address);
    root.ended.set(event.result, (root.ended.get(event.result) ?? 0) + 1);
    if (event.result === "failed") {
      root.failed.push({
        address: event.address,
        action: event.action,
        problem: event.problem ?? { code: "E_INTERNAL", message: "no reason was given" },
        optional: event.optional === true,
      });
    }
    if (event.result === "skipped") {
      const because = event.because ?? "an earlier failure";
      this.skipped.set(because, [...(this.skipped.get(because) ?? []), event.address]);
    }
  }

  #root(address: Address): RootTally {
    const name = rootOf(address);
    let root = this.roots.get(name);
    if (root === undefined) {
      root = { root: name, total: 0, ended: new Map(), running: new Map(), failed: [] };
      this.roots.set(name, root);
    }
    return root;
  }
}
