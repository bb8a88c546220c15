import { type Code, LabError, toProblem } from "../diagnostics/index.ts";
import { Graph, type Place, type Unit, walk } from "../graph/index.ts";
import {
  type ActionResult,
  type Address,
  isEffective,
  parseAddress,
  formatSegment,
  type Plain,
  type Plan,
  type PlannedAction,
  type Problem,
  type Row,
} from "../model/index.ts";
import { encodeValue } from "../model/index.ts";
import { blockedError } from "./blocked.ts";
import { assertAsPlanned } from "./envelope.ts";
import { Ledger } from "./ledger.ts";
import { batches, JournalError, Operations } from "./operation.ts";
import { resolveOutputs } from "./outputs.ts";
import type { ExecutorPorts } from "./ports.ts";
import { type Done, Reversal } from "./reversal.ts";
import { quoteWord } from "../transport/shell.ts";
import { manualStep, type Target, TargetMaker } from "./target.ts";

export interface ExecuteOptions {
  readonly parallelism: number;
  readonly batch?: number;
  readonly onFailure: "abort" | "continue" | "rollback" | "cleanup";
  readonly soft: AbortSignal;
  readonly hard: AbortSignal;
  /** Go on past what cannot be reached, and list what is left to clean up. */
  readonly force: boolean;
}

export interface ExecutionResult {
  readonly results: Readonly<Partial<Record<ActionResult, number>>>;
  readonly problems: readonly Problem[];
  readonly codes: readonly Code[];
  readonly begun: number;
  readonly cancelled: boolean;
  readonly manualSteps: readonly string[];
}

/** Most resources that one call converges together. */
const UNIT_SIZE = 256;

/** Walks the plan and nothing else. Never rejects for what happens to a resource: that is in the result. */
export async function execute(plan: Plan, ports: ExecutorPorts, options: ExecuteOptions): Promise<ExecutionResult> {
  return new Execution(plan, ports, options).run();
}

class Execution {
  readonly #plan: Plan;
  readonly #ports: ExecutorPorts;
  readonly #options: ExecuteOptions;
  readonly #operations: Operations;
  readonly #targets: TargetMaker;
  readonly #actions: ReadonlyMap<Address, PlannedAction>;
  readonly #ledger: Ledger;
  readonly #done: Done[] = [];
  readonly #manual: string[] = [];
  #stop = false;
  #journalFailed = false;

  constructor(plan: Plan, ports: ExecutorPorts, options: ExecuteOptions) {
    this.#plan = plan;
    this.#ports = ports;
    this.#options = options;
    this.#ledger = new Ledger(ports);
    this.#operations = new Operations(ports, options.onFailure === "rollback");
    this.#targets = new TargetMaker(ports, plan.secrets);
    this.#actions = new Map(plan.actions.map((action) => [action.address, action]));
  }

  async run(): Promise<ExecutionResult> {
    try {
      await this.#move();
      await this.#walk();
      await this.#listBlocked();
      if (
        this.#ledger.failed &&
        !this.#journalFailed &&
        (this.#options.onFailure === "rollback" || this.#options.onFailure === "cleanup")
      ) {
        await this.#reverse(this.#options.onFailure);
      }
      if (!this.#journalFailed) await this.#outputs();
    } catch (error) {
      this.#noteJournal(error);
    }
    return {
      results: this.#ledger.count(),
      problems: this.#ledger.problems,
      codes: this.#ledger.codes,
      begun: this.#operations.begun,
      cancelled: this.#options.soft.aborted || this.#options.hard.aborted,
      manualSteps: this.#manual,
    };
  }

  /** Renames rows, and in all others what they say of the renamed ones. */
  async #move(): Promise<void> {
    const { session } = this.#ports;
    const renamed = new Map<Address, Address>();
    for (const { address, moved_from } of this.#plan.actions) {
      if (moved_from === undefined) continue;
      await session.move(moved_from, address);
      renamed.set(moved_from, address);
    }
    if (renamed.size === 0) return;
    const now = (address: Address): Address => renamed.get(address) ?? address;
    const rows = Array.from(session.rows.values());
    for (const row of rows) {
      const parent = row.parent === undefined ? undefined : now(row.parent);
      if (parent === row.parent && row.depends.every((on) => !renamed.has(on))) continue;
      await session.put({ ...row, ...(parent !== undefined && { parent }), depends: row.depends.map(now).sort() });
    }
  }

  async #walk(): Promise<void> {
    const graph = new Graph();
    const soft = new Set<string>();
    for (const action of this.#plan.actions) graph.add(action.address);
    for (const action of this.#plan.actions) {
      for (const before of action.after_actions) graph.after(action.address, before);
      for (const before of action.after_soft) {
        graph.after(action.address, before);
        soft.add(`${action.address}\n${before}`);
      }
    }
    const unstarted = await walk(graph, {
      parallelism: this.#options.parallelism,
      keyOf: (address) => this.#keyOf(this.#action(address)),
      sizeOf: (key) => (key === "noop" ? 1024 : key.startsWith("many ") ? UNIT_SIZE : 1),
      permitsOf: (address) => this.#permits(this.#action(address)),
      isSoft: (node, before) => soft.has(`${node}\n${before}`),
      run: (unit, place) => this.#runUnit(unit, place),
      skip: (address, because) => this.#ledger.skip(this.#action(address), because),
      mayStart: () => !this.#stop && !this.#options.soft.aborted && !this.#options.hard.aborted,
      ...(this.#options.batch !== undefined && {
        batch: this.#options.batch,
        batchOf: (address: Address) => (this.#action(address).action === "noop" ? undefined : machineOf(address)),
      }),
    });
    for (const address of unstarted) {
      const action = this.#action(address);
      if (isEffective(action.action)) this.#ledger.finish(action, "cancelled", 0);
    }
  }

  #action(address: Address): PlannedAction {
    const action = this.#actions.get(address);
    if (action === undefined) throw new TypeError(`not in the plan: ${address}`);
    return action;
  }

  #keyOf(action: PlannedAction): string {
    if (action.action === "noop") return "noop";
    const kind = this.#ports.kinds.get(action.kind);
    const together = (action.action === "create" || action.action === "update") && kind !== undefined && batches(kind);
    return `${together ? "many" : action.action} ${action.kind} ${action.parent ?? ""}`;
  }

  #permits(action: PlannedAction): readonly { readonly name: string; readonly permits: number }[] {
    if (!isEffective(action.action)) return [];
    const desired = (action.after ?? action.before ?? {}) as Record<string, Plain>;
    return this.#ports.kinds.get(action.kind)?.limits?.(desired, action.address) ?? [];
  }

  /** Runs one unit and tells which of its addresses failed. */
  async #runUnit(unit: Unit, place: Place): Promise<ReadonlySet<string>> {
    const actions = unit.nodes.map((address) => this.#action(address));
    // Others of a larger unit may be at work while one of them waits: those keep their place.
    const [only, another] = actions;
    if (only !== undefined && another === undefined) this.#operations.placed(only.address, place);
    try {
      if (actions[0]?.action === "noop") return await this.#settleNoops(actions);
      const failed = new Set<string>();
      const converging: PlannedAction[] = [];
      for (const action of actions) {
        if (action.action === "create" || action.action === "update" || action.action === "replace")
          converging.push(action);
        else if (!(await this.#runSingle(action))) failed.add(action.address);
      }
      for (const address of await this.#converge(converging)) failed.add(address);
      return failed;
    } catch (error) {
      this.#noteJournal(error);
      return new Set(unit.nodes);
    }
  }

  /** Nothing to do in the world; what was seen to have drifted in properties nobody manages is noted. */
  async #settleNoops(actions: readonly PlannedAction[]): Promise<ReadonlySet<string>> {
    await Promise.all(
      actions.map(async (action) => {
        const row = this.#ports.session.rows.get(action.address);
        if (row !== undefined && action.drift.length > 0 && action.before !== undefined) {
          await this.#ports.session.put({
            ...row,
            observed: action.before,
            updated_at: this.#ports.now().toISOString(),
            updated_by: this.#ports.run,
          });
        }
        this.#ledger.note(action.address, "noop");
      }),
    );
    return new Set();
  }

  async #converge(actions: readonly PlannedAction[]): Promise<Set<Address>> {
    const failed = new Set<Address>();
    const started = this.#ports.monotonic();
    const signal = this.#signalFor(actions[0]);
    const work: {
      target: Target;
      intent: { action: PlannedAction["action"]; planned: PlannedAction };
      action: PlannedAction;
    }[] = [];
    for (const action of actions) {
      this.#ports.bus.emit({ type: "action.started", address: action.address, action: action.action, attempt: 1 });
      try {
        const target = await this.#targets.ofAction(action, signal);
        assertAsPlanned(action, encodeValue(target.resolved, this.#ports.seal));
        work.push({ target, intent: { action: action.action, planned: action }, action });
      } catch (error) {
        if (!this.#fail(action, error, started)) failed.add(action.address);
      }
    }
    const outcomes = await this.#operations.converge(work, signal);
    for (const { action, target } of work) {
      const outcome = outcomes.get(action.address) ?? { error: new LabError("E_INTERNAL", "no outcome") };
      if ("row" in outcome) {
        this.#done.push({ action, target, prior: target.prior, row: outcome.row });
        this.#ledger.finish(action, "ok", started);
      } else {
        this.#done.push({ action, target, prior: target.prior, row: undefined });
        if (!this.#fail(action, outcome.error, started)) failed.add(action.address);
      }
    }
    return failed;
  }

  /** True where what depends on it may go on. */
  async #runSingle(action: PlannedAction): Promise<boolean> {
    const started = this.#ports.monotonic();
    if (action.action === "blocked") return this.#blocked(action);
    this.#ports.bus.emit({ type: "action.started", address: action.address, action: action.action, attempt: 1 });
    try {
      switch (action.action) {
        case "delete":
          await this.#delete(action);
          break;
        case "forget":
          await this.#ports.session.drop(action.address);
          this.#ports.settled(action.address, undefined);
          break;
        case "adopt":
          await this.#adopt(action);
          break;
        default:
          throw new LabError("E_INTERNAL", `an action that the executor does not know: ${action.action}`);
      }
      this.#ledger.finish(action, "ok", started);
      return true;
    } catch (error) {
      if (error instanceof JournalError) throw error;
      return this.#fail(action, error, started);
    }
  }

  async #delete(action: PlannedAction): Promise<void> {
    const row = this.#ports.session.rows.get(action.address);
    if (row === undefined) return;
    const target = await this.#targets.ofRow(row);
    try {
      await this.#operations.remove(target, { action: "delete", planned: action }, this.#signalFor(action));
      this.#done.push({ action, target, prior: row, row: undefined });
    } catch (error) {
      this.#manual.push(manualStep(target, error));
      throw error;
    }
  }

  async #adopt(action: PlannedAction): Promise<void> {
    const prior = this.#ports.session.rows.get(action.address);
    if (this.#plan.mode === "refresh-only" && prior !== undefined) {
      const row: Row = {
        ...prior,
        observed: action.before ?? null,
        version: prior.version + 1,
        updated_at: this.#ports.now().toISOString(),
        updated_by: this.#ports.run,
      };
      await this.#ports.session.put(row);
      return;
    }
    const target = await this.#targets.ofAction(action, this.#signalFor(action));
    assertAsPlanned(action, encodeValue(target.resolved, this.#ports.seal));
    const reading = (await this.#operations.reread([target], this.#signalFor(action))).get(action.address);
    if (reading === undefined || "error" in reading) throw reading?.error ?? new LabError("E_INTERNAL", "not read");
    const left = this.#operations.difference(target, reading.observed);
    if (left === undefined || left.length > 0) {
      throw new LabError("E_OUTSIDE_ENVELOPE", `${action.address} is not as it was when the plan was made`, {
        hint: "plan again, look at the difference, and apply that",
      });
    }
    const row = await this.#operations.adopt(target, reading.observed, this.#signalFor(action));
    this.#done.push({ action, target, prior, row });
  }

  /** Notes a failure; true where what depends on it goes on all the same. */
  #fail(action: PlannedAction, error: unknown, started: number, result?: ActionResult): boolean {
    const noted = this.#ledger.fail(action, error, started, result);
    if (noted === "failed" && this.#options.onFailure !== "continue") this.#stop = true;
    return noted === "tolerated";
  }

  #blocked(action: PlannedAction): boolean {
    const error = blockedError(action);
    this.#ports.bus.emit({ type: "action.started", address: action.address, action: action.action, attempt: 1 });
    if (action.reason.code === "dependency-blocked") {
      this.#ledger.finish(action, "blocked", this.#ports.monotonic(), toProblem(error.atAddress(action.address)));
      return action.options.optional === true;
    }
    return this.#fail(action, error, this.#ports.monotonic(), "blocked");
  }

  /** `destroy --force`: what is left on machines that cannot be reached, as instructions. */
  async #listBlocked(): Promise<void> {
    if (!this.#options.force || this.#plan.mode !== "destroy") return;
    for (const action of this.#plan.actions) {
      if (action.action !== "blocked" || action.reason.code === "prevented") continue;
      const how = await this.#byHand(action, blockedError(action));
      this.#manual.push(`${how}; then \`labctl state rm ${quoteWord(action.address)}\``);
    }
  }

  async #byHand(action: PlannedAction, error: LabError): Promise<string> {
    const row = this.#ports.session.rows.get(action.address);
    try {
      if (row !== undefined) return manualStep(await this.#targets.ofRow(row), error);
    } catch (cause) {
      // A secret that is not at hand: the instruction is then a general one.
      this.#ports.bus.emit({ type: "warning.raised", problem: toProblem(cause) });
    }
    return `${action.address}: undo by hand what it is there (${error.message})`;
  }

  /** Goes back: see Reversal. What could not be reversed is told as instructions. */
  async #reverse(how: "rollback" | "cleanup"): Promise<void> {
    const reversal = new Reversal(this.#ports, this.#operations, this.#targets, this.#options.hard);
    const outcome = await reversal.run(how, this.#done);
    for (const address of outcome.reversed) this.#ledger.note(address, "rolled_back");
    this.#ledger.problems.push(...outcome.problems);
    this.#manual.push(...outcome.manual);
  }

  async #outputs(): Promise<void> {
    if (this.#plan.outputs.length === 0 || this.#plan.mode === "refresh-only") return;
    await this.#ports.session.setOutputs(await resolveOutputs(this.#plan, this.#ports, this.#targets));
  }

  /** A journal that cannot be written stops everything: nothing may be done that is not on record. */
  #noteJournal(error: unknown): void {
    if (!this.#journalFailed) this.#ledger.raise(error instanceof JournalError ? error.cause : error);
    this.#journalFailed = true;
    this.#stop = true;
  }

  /** Critical operations (a package manager at work) outlive the first Ctrl-C. */
  #signalFor(action: PlannedAction | undefined): AbortSignal {
    const critical = action !== undefined && this.#ports.kinds.get(action.kind)?.critical === true;
    return critical ? this.#options.hard : AbortSignal.any([this.#options.soft, this.#options.hard]);
  }
}

/** The machine that an address lies on: what a rolling batch counts. */
function machineOf(address: Address): string | undefined {
  const [first] = parseAddress(address) ?? [];
  return first && formatSegment(first);
}
