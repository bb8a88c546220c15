import { randomBytes } from "node:crypto";
import { hostname, userInfo } from "node:os";
import { execute, type ExecutionResult } from "../apply/index.ts";
import type { ArtifactStore } from "../artifacts/index.ts";
import type { LoadResult } from "../config/index.ts";
import { LabError, type Redactor, toLabError, toProblem } from "../diagnostics/index.ts";
import type { EventBus } from "../events/port.ts";
import {
  type Address,
  type Lab,
  LAB_SCOPE,
  type Plan,
  type Resource,
  type Row,
  type RunSummary,
  type Scope,
  type Seal,
  type SecretSource,
  type Sensitive,
  type Value,
} from "../model/index.ts";
import {
  applyMoves,
  dependencyGraph,
  dig,
  makePlan,
  type ReferenceSources,
  type Readings,
  resolveValue,
  rowReading,
  selectAddresses,
} from "../plan/index.ts";
import type { Kind } from "../provider/index.ts";
import { openScopes, readScopes, type ScopedSession, type ScopedView, type StateStore } from "../state/index.ts";
import type { Machine, ResettablePool } from "../transport/index.ts";
import { freshPlan, verdict } from "./fresh.ts";
import { refuseExperimental, refuseOtherLab } from "./guard.ts";
import { checkImports, requireImported } from "./imports.ts";
import { resolveSecrets } from "./machines.ts";
import { siblingOrder } from "./order.ts";
import type { ApplyOptions, LabSession, PlanOptions } from "./port.ts";
import { restoredResource } from "./restore.ts";
import type { ProviderLock } from "./providers.ts";
import { itemFor, readAll } from "./reader.ts";
import { openSeal } from "./seal.ts";
import { Surroundings } from "./surroundings.ts";

export interface SessionParts {
  readonly loaded: LoadResult;
  readonly kinds: ReadonlyMap<string, Kind>;
  readonly store: StateStore;
  readonly artifacts: ArtifactStore;
  readonly pool: ResettablePool;
  readonly bus: EventBus;
  readonly redactor: Redactor;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly version: string;
  readonly providerLock: ProviderLock;
  readonly secret: (name: string, sources: Readonly<Record<string, SecretSource>>) => Promise<Sensitive>;
}

const NO_STATE = { lineage: "", serial: 0 };

/** A loaded lab: plans, applies, and hands out machines. */
export class Session implements LabSession {
  readonly #parts: SessionParts;
  readonly #around: Surroundings;
  readonly #resources: ReadonlyMap<Address, Resource>;
  #seal: Promise<Seal> | undefined;
  #sealIsDurable = false;
  readonly #freshKey = randomBytes(32);

  constructor(parts: SessionParts) {
    this.#parts = parts;
    this.#resources = new Map(this.lab.resources.map((resource) => [resource.address, resource]));
    const { lab, root } = this;
    this.#around = new Surroundings({
      ...parts,
      lab,
      root,
      resources: this.#resources,
      sources: this.#staticSources(new Map()),
    });
  }

  get lab(): Lab {
    return this.#parts.loaded.lab;
  }
  get root(): string {
    return this.#parts.loaded.root;
  }
  get warnings(): LabSession["warnings"] {
    return this.#parts.loaded.warnings;
  }
  get kinds(): ReadonlyMap<string, Kind> {
    return this.#parts.kinds;
  }
  get store(): StateStore {
    return this.#parts.store;
  }
  get bus(): EventBus {
    return this.#parts.bus;
  }

  async plan(options: PlanOptions): Promise<Plan> {
    const { bus, kinds } = this.#parts;
    const view = await readScopes(this.store, this.#scopes);
    refuseOtherLab(this.lab, view);
    this.#around.state = view;
    const seal = await this.#openSeal(options.durableSeal === true);
    const moved = applyMoves(view.rows, this.lab.moved);
    const resources = this.#restored(options.restore);
    const byAddress =
      options.restore === undefined
        ? this.#resources
        : new Map(resources.map((resource) => [resource.address, resource]));
    this.#around.experimental = options.experimental;
    refuseExperimental(this.kinds, resources, moved.rows, options.experimental);
    const imports = new Map([...this.lab.imports, ...(options.imports ?? [])].map((one) => [one.address, one.id]));
    checkImports(imports, this.#resources, kinds);
    const graph = dependencyGraph(resources, moved.rows);
    const selected = new Set(
      [...selectAddresses(graph, options, options.mode)].filter((address) => this.#owns(address, view, moved.from)),
    );
    const secrets = await resolveSecrets(this.lab, selected, this.#resources, this.#parts.secret);
    const signal = options.signal ?? new AbortController().signal;

    const reading = this.#clock("read");
    const wanted = new Set([...selected].filter((address) => options.mode === "normal" || moved.rows.has(address)));
    await this.#around.machines.prepare(moved.rows, this.#machinesFor(wanted));
    const looked = await readAll({
      addresses: wanted,
      // What is only looked at, or taken away, is what the state has: files that its spec names may be gone by now.
      resources: options.mode === "normal" ? byAddress : new Map(),
      rows: moved.rows,
      kinds,
      sources: this.#staticSources(secrets),
      imports,
      newId,
      context: (address, bounded) => this.#around.context(address, bounded),
      signal,
      parallelism: options.refresh ? options.parallelism : 0,
    });
    const readings: Readings = options.refresh
      ? looked.readings
      : new Map([...wanted].map((address) => [address, rowReading(moved.rows.get(address))]));
    reading();
    if (options.mode === "normal")
      requireImported(imports, moved.rows, readings, kinds, this.#resources, options.refresh);

    const planning = this.#clock("plan");
    const made = makePlan({
      header: {
        labctl: this.#parts.version,
        id: newId(),
        created_at: new Date().toISOString(),
        lab: this.lab.name,
        spec: this.lab.files,
        scopes: Object.fromEntries(this.lab.scopes.map((scope) => [scope, view.versions[scope] ?? NO_STATE])),
        settings: {
          root: this.root,
          selection: this.#parts.loaded.selection,
          ...(options.batch !== undefined && { batch: options.batch }),
          providers: this.#parts.providerLock.used,
        },
      },
      mode: options.mode,
      resources,
      rows: moved.rows,
      movedFrom: moved.from,
      graph,
      soft: siblingOrder(resources, moved.rows, kinds),
      selected,
      readings,
      derived: looked.derived,
      kinds,
      secret: (name) => secrets.get(name),
      secrets: this.lab.secrets,
      seal,
      removed: this.lab.removed,
      imports,
      replace: options.replace,
      refreshed: options.refresh,
      outputs: this.#ownsLab ? this.lab.outputs : {},
      stateOutputs: this.#ownsLab ? view.outputs : {},
    });
    // Why a machine cannot be reached is told in its own words. Nothing else is touched: what the plan says is carried out.
    const { redactor } = this.#parts;
    const actions = made.actions.map((action) =>
      action.action === "blocked" ? { ...action, reason: redactor.redactDeep(action.reason) } : action,
    );
    const plan: Plan = { ...made, actions };
    planning();
    bus.emit({ type: "plan.made", plan });
    return plan;
  }

  async apply(shown: Plan, options: ApplyOptions): Promise<RunSummary> {
    let plan = shown;
    const started = performance.now();
    const command = plan.mode === "destroy" ? "destroy" : plan.mode === "refresh-only" ? "refresh" : "apply";
    const finish = (result: RunSummary["result"], exit_code: number, more: Partial<RunSummary> = {}): RunSummary => {
      // What goes to listeners is redacted on its way; what is handed back is printed too.
      const summary: RunSummary = this.#parts.redactor.redactDeep({
        command,
        result,
        exit_code,
        duration_ms: Math.round(performance.now() - started),
        results: {},
        problems: [],
        manual_steps: [],
        ...more,
      });
      this.bus.emit({ type: "run.finished", summary });
      return summary;
    };
    let session: ScopedSession | undefined;
    try {
      session = await this.#lock(command, options);
      refuseOtherLab(this.lab, session);
      this.#around.state = session;
      await session.claim(this.lab.name);
      await this.#parts.providerLock.write();
      await this.#parts.pool.keepHostKeys();
      plan = await freshPlan(plan, session, options.replan);
      const planned = new Set(plan.actions.map((action) => action.address));
      await this.#around.machines.prepare(session.rows, this.#machinesFor(planned));
      const done = this.#clock("apply");
      const result = await this.#execute(plan, options, session);
      for (const { address, action } of plan.actions) {
        if (action === "forget" && !session.rows.has(address)) await this.#around.scheduler.release(address);
      }
      done();
      await session.close();
      session = undefined;
      return finish(...verdict(result), {
        results: result.results,
        problems: result.problems,
        manual_steps: result.manualSteps,
      });
    } catch (error) {
      const lab = toLabError(error);
      const problem = toProblem(lab);
      this.bus.emit({ type: "error.raised", problem });
      return finish(lab.code === "E_CANCELLED" ? "cancelled" : "failed", lab.exitCode, { problems: [problem] });
    } finally {
      await session
        ?.close()
        .catch((error: unknown) => this.bus.emit({ type: "error.raised", problem: toProblem(error) }));
    }
  }

  async machine(address: Address, signal: AbortSignal = new AbortController().signal): Promise<Machine> {
    const view = await readScopes(this.store, this.#scopes);
    this.#around.state ??= view;
    const { rows } = view;
    await this.#parts.pool.keepHostKeys();
    const kind = this.kinds.get(this.#resources.get(address)?.kind ?? rows.get(address)?.kind ?? "");
    if (kind?.machine === undefined && kind?.reach !== undefined) return await this.#reached(address, rows, signal);
    await this.#around.machines.prepare(rows, new Set([address]));
    return this.#around.machines.machine(address);
  }

  /** What chooses among the lab's machines may want any of them, also where it alone is planned. */
  #machinesFor(addresses: ReadonlySet<Address>): ReadonlySet<Address> {
    const chooses = [...addresses].some((one) => {
      const kind = this.kinds.get(this.#resources.get(one)?.kind ?? this.#around.state?.rows.get(one)?.kind ?? "");
      return kind !== undefined && "awaits" in kind;
    });
    return chooses ? new Set([...addresses, ...this.#resources.keys()]) : addresses;
  }

  /** The spec's resources, with those that are to be as they were once in place of what it says of them now. */
  #restored(restore: PlanOptions["restore"]): readonly Resource[] {
    if (restore === undefined) return this.lab.resources;
    return this.lab.resources.map((resource) => {
      const good = restore.get(resource.address);
      return good === undefined ? resource : restoredResource(resource, good, this.kinds.get(resource.kind));
    });
  }

  /** What is reached without being a machine of the lab: its kind looks where it is. */
  async #reached(address: Address, rows: ReadonlyMap<Address, Row>, signal: AbortSignal): Promise<Machine> {
    const { kind, item, context } = await this.#looked(address, rows, signal);
    if (kind.reach === undefined) throw new Error(`${address} cannot be reached`);
    return this.#parts.pool.machine(await kind.reach(context, item));
  }

  async cancel(address: Address, signal: AbortSignal): Promise<string | undefined> {
    const view = await readScopes(this.store, this.#scopes);
    this.#around.state ??= view;
    const { kind, item, context } = await this.#looked(address, view.rows, signal);
    return kind.cancel?.(context, item);
  }

  /** One resource as its kind sees it, with all that the kind may want to reach. */
  async #looked(address: Address, rows: ReadonlyMap<Address, Row>, signal: AbortSignal) {
    const secrets = await resolveSecrets(this.lab, new Set([address]), this.#resources, this.#parts.secret);
    const sources = this.#staticSources(secrets);
    const imports = new Map(this.lab.imports.map((one) => [one.address, one.id]));
    const found = itemFor({ resources: this.#resources, rows, kinds: this.kinds, sources, imports, newId }, address);
    if (found === undefined) throw new LabError("E_ADDRESS_UNKNOWN", `there is no ${address}`, { address });
    const on = found.kind.on?.(found.item.desired);
    // Which machine it is on may be known only once it is looked for.
    await this.#around.machines.prepare(
      rows,
      new Set([address, ...(on === undefined ? this.#resources.keys() : [on])]),
    );
    return { ...found, context: this.#around.context(address, signal) };
  }

  redact(text: string): string {
    return this.#parts.redactor.redact(text);
  }

  async close(): Promise<void> {
    await this.#around.scheduler.close();
    await this.#parts.pool.close();
  }

  async #lock(command: string, options: ApplyOptions): Promise<ScopedSession> {
    const { scopes } = this.lab;
    const open = { own: scopes, others: this.#scopes.filter((scope) => !scopes.includes(scope)), route: this.#route };
    const session = await openScopes(this.store, open, {
      holder: `${userInfo().username}@${hostname()}`,
      purpose: `labctl ${command} (run ${this.bus.run})`,
      timeout: options.lockTimeout,
      signal: options.cancellation.soft,
      onWaiting: (holder) =>
        this.bus.emit({ type: "lock.waiting", holder: holder.holder, purpose: holder.purpose, since: holder.since }),
    });
    this.bus.emit({ type: "lock.acquired", token: session.lock.token, takeover: session.takenOver !== undefined });
    return session;
  }

  async #execute(plan: Plan, options: ApplyOptions, session: ScopedSession): Promise<ExecutionResult> {
    this.#around.experimental ||= options.experimental === true;
    this.#around.noWait = options.noWait === true;
    const batch = options.batch ?? plan.settings.batch;
    const seal = await this.#openSeal(true);
    return execute(
      plan,
      {
        session,
        kinds: this.kinds,
        bus: this.bus,
        context: (address, signal) => this.#around.context(address, signal),
        secret: this.#parts.secret,
        resource: (address) => this.#resources.get(address),
        settled: (address, row) => this.#settled(address, row),
        seal,
        run: this.bus.run,
        newId,
        now: () => new Date(),
        monotonic: () => performance.now(),
        defaults: { retry: this.lab.defaults.retry, readTimeout: 2 * this.lab.defaults.timeouts.command },
      },
      {
        parallelism: options.parallelism,
        ...(batch !== undefined && { batch }),
        onFailure: options.onFailure,
        soft: options.cancellation.soft,
        hard: options.cancellation.hard,
        force: options.force,
      },
    );
  }

  /** A machine that was just made or changed is reached as it is now. */
  #settled(address: Address, row: Row | undefined): void {
    if (this.kinds.get(row?.kind ?? "")?.machine === undefined) return;
    this.#around.machines
      .learn(address, row)
      .catch((error: unknown) => this.bus.emit({ type: "error.raised", problem: toProblem(error) }));
  }

  /** Every scope that this spec has something to do with; the lab's, and the pipeline's where there is one. */
  get #scopes(): readonly Scope[] {
    return [...new Set([LAB_SCOPE, ...this.lab.scopes])];
  }

  get #ownsLab(): boolean {
    return this.lab.scopes.includes(LAB_SCOPE);
  }

  readonly #route = (address: Address): Scope => this.#resources.get(address)?.scope ?? LAB_SCOPE;

  /** What an apply of this spec may change: a pipeline reads the lab and leaves it alone. */
  #owns(address: Address, view: ScopedView, from: ReadonlyMap<Address, Address>): boolean {
    const scope = this.#resources.get(address)?.scope ?? view.scopeOf(from.get(address) ?? address);
    return scope === undefined || this.lab.scopes.includes(scope);
  }

  /** The key must be on disk before anything that it made is. */
  async #openSeal(durable: boolean): Promise<Seal> {
    if (this.#seal === undefined || (durable && !this.#sealIsDurable)) {
      this.#seal = openSeal(this.#parts.env, durable, this.#freshKey);
      this.#sealIsDurable = durable;
    }
    return this.#seal;
  }

  /** What references give before anything was read: secrets, and what other resources' specs say. */
  #staticSources(secrets: ReadonlyMap<string, Value>): ReferenceSources {
    const sources: ReferenceSources = {
      secret: (name) => secrets.get(name),
      attribute: (address, path) => {
        const found = dig(this.#resources.get(address)?.desired, path);
        return found === undefined ? undefined : resolveValue(found, sources);
      },
    };
    return sources;
  }

  #clock(phase: "read" | "plan" | "apply"): () => void {
    const started = performance.now();
    this.bus.emit({ type: "phase.started", phase });
    return () => this.bus.emit({ type: "phase.finished", phase, duration_ms: Math.round(performance.now() - started) });
  }
}

/** Ids that nobody else makes: 80 random bits. */
export function newId(): string {
  return randomBytes(10).toString("hex");
}
