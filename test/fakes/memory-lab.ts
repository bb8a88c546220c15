import { createArtifactStore } from "../../src/artifacts/index.ts";
import { execute, type ExecuteOptions, type ExecutionResult } from "../../src/apply/index.ts";
import { LabError } from "../../src/diagnostics/index.ts";
import { siblingOrder } from "../../src/engine/order.ts";
import { readAll } from "../../src/engine/reader.ts";
import {
  type Address,
  type EventBody,
  type Move,
  type OutputDeclaration,
  type Plan,
  type PlanMode,
  parentAddress,
  parseAddress,
  type Removal,
  type Resource,
  type ResourceOptions,
  Sensitive,
  type ValueMap,
} from "../../src/model/index.ts";
import { applyMoves, dependencyGraph, makePlan, rowReading, selectAddresses } from "../../src/plan/index.ts";
import type { Kind } from "../../src/provider/index.ts";
import { createScheduler, type Scheduler } from "../../src/scheduling/index.ts";
import type { StateSession } from "../../src/state/port.ts";

export interface Declaration {
  readonly desired?: ValueMap;
  readonly depends?: readonly Address[];
  readonly options?: ResourceOptions;
}

const AT = { file: "lab.yaml", line: 1, column: 1 };

export function resource(address: Address, declaration: Declaration = {}): Resource {
  const last = parseAddress(address)?.at(-1);
  const parent = parentAddress(address);
  return {
    address,
    kind: last?.kind ?? "",
    scope: "lab",
    ...(parent !== undefined && { parent }),
    desired: { name: last?.key ?? "", ...declaration.desired },
    depends: [...(declaration.depends ?? [])].sort(),
    options: declaration.options ?? {},
    at: AT,
    places: {},
  };
}

export interface PlanRequest {
  readonly mode?: PlanMode;
  readonly targets?: readonly string[];
  readonly excludes?: readonly string[];
  readonly replace?: readonly string[];
  readonly refresh?: boolean;
  readonly moved?: readonly Omit<Move, "at">[];
  readonly removed?: readonly Omit<Removal, "at">[];
  readonly imports?: ReadonlyMap<Address, string>;
  readonly outputs?: Readonly<Record<string, Omit<OutputDeclaration, "at">>>;
  readonly secrets?: Readonly<Record<string, string>>;
}

export const seal = (text: string): string => `test:${Buffer.from(text).toString("base64").length}:${text.length}`;

/** The engine's way through, without files: resources and kinds in, plan and execution out, over a given state session. */
export class MemoryLab {
  readonly events: EventBody[] = [];
  readonly kinds: ReadonlyMap<string, Kind>;
  readonly session: StateSession;
  readonly scheduler: Scheduler;
  #ids = 0;

  constructor(kinds: readonly Kind[], session: StateSession, scheduler?: Scheduler) {
    const rules = { limits: {}, groups: {} };
    this.scheduler = scheduler ?? createScheduler({ dir: "/nonexistent", owner: "test/lab", run: "run", rules });
    this.kinds = new Map(kinds.map((kind) => [kind.kind, kind]));
    this.session = session;
  }

  async plan(resources: readonly Resource[], request: PlanRequest = {}): Promise<Plan> {
    const moved = applyMoves(
      this.session.rows,
      (request.moved ?? []).map((one) => ({ ...one, at: AT })),
    );
    const graph = dependencyGraph(resources, moved.rows);
    const mode = request.mode ?? "normal";
    const selected = selectAddresses(graph, { targets: request.targets ?? [], excludes: request.excludes ?? [] }, mode);
    const table = new Map(resources.map((one) => [one.address, one]));
    const secret = (name: string) =>
      request.secrets?.[name] === undefined ? undefined : new Sensitive(request.secrets[name]);
    const wanted = new Set([...selected].filter((address) => mode === "normal" || moved.rows.has(address)));
    const looked = await readAll({
      addresses: wanted,
      resources: table,
      rows: moved.rows,
      kinds: this.kinds,
      sources: { secret, attribute: () => undefined },
      imports: request.imports ?? new Map(),
      newId: () => this.#id(),
      context: (address, signal) => this.#context(address, signal),
      signal: new AbortController().signal,
      parallelism: 4,
    });
    return makePlan({
      header: {
        labctl: "test",
        id: this.#id(),
        created_at: "2026-01-01T00:00:00.000Z",
        lab: "test",
        spec: [],
        scopes: { lab: { lineage: this.session.lineage, serial: this.session.serial } },
        settings: { root: "/", selection: { vars: {}, var_files: [] }, providers: [] },
      },
      mode,
      resources,
      rows: moved.rows,
      movedFrom: moved.from,
      graph,
      soft: siblingOrder(resources, moved.rows, this.kinds),
      selected,
      readings:
        request.refresh === false
          ? new Map([...wanted].map((address) => [address, rowReading(moved.rows.get(address))]))
          : looked.readings,
      derived: looked.derived,
      kinds: this.kinds,
      secret,
      secrets: {},
      seal,
      removed: (request.removed ?? []).map((one) => ({ ...one, at: AT })),
      imports: request.imports ?? new Map(),
      replace: request.replace ?? [],
      refreshed: request.refresh !== false,
      outputs: Object.fromEntries(
        Object.entries(request.outputs ?? {}).map(([name, one]) => [name, { ...one, at: AT }]),
      ),
      stateOutputs: this.session.outputs,
    });
  }

  async apply(
    plan: Plan,
    options: Partial<ExecuteOptions> & { secrets?: Readonly<Record<string, string>> } = {},
  ): Promise<ExecutionResult> {
    const never = new AbortController().signal;
    return execute(
      plan,
      {
        session: this.session,
        kinds: this.kinds,
        bus: { run: "run", emit: (event) => void this.events.push(event), on: () => () => undefined },
        context: (address, signal) => this.#context(address, signal),
        secret: async (name) =>
          options.secrets?.[name] === undefined ? undefined : new Sensitive(options.secrets[name]),
        resource: () => undefined,
        settled: () => undefined,
        seal,
        run: "run",
        newId: () => this.#id(),
        now: () => new Date("2026-01-01T00:00:00Z"),
        monotonic: () => performance.now(),
        defaults: { retry: { attempts: 0, delay: 1, max_delay: 2 }, readTimeout: 5000 },
      },
      { parallelism: 4, onFailure: "continue", soft: never, hard: never, force: false, ...options },
    );
  }

  #id(): string {
    this.#ids += 1;
    return `id-${this.#ids}`;
  }

  #context(address: Address, signal: AbortSignal) {
    const no = (): never => {
      throw new LabError("E_INTERNAL", `a kind in memory needs no machine: ${address}`);
    };
    const lab = { name: "test", root: "/", state: "/", limits: {}, groups: {}, scope: "lab", run: "run" };
    const inventory = { all: () => [], get: () => undefined };
    const artifacts = createArtifactStore({ root: "/nonexistent" });
    return {
      signal,
      lab,
      inventory,
      artifacts,
      scheduler: this.scheduler,
      machine: no,
      around: no,
      guest: no,
      local: { resolve: no, read: no, digest: no },
      log: () => undefined,
    };
  }
}

/** Actions by address, noop left out. */
export function shown(plan: Plan): Record<string, string> {
  return Object.fromEntries(
    plan.actions.filter((one) => one.action !== "noop").map((one) => [one.address, one.action]),
  );
}
