import { mkdtempSync } from "node:fs";
import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PassThrough, Writable } from "node:stream";
import { run } from "../../src/cli/run.ts";
import type { Services } from "../../src/cli/services.ts";
import type { Signals } from "../../src/cli/signals.ts";
import type { InStream, Io, OutStream } from "../../src/cli/terminal.ts";
import { createArtifactStore } from "../../src/artifacts/index.ts";
import { LabError } from "../../src/diagnostics/index.ts";
import type { ApplyOptions, LabSession, PlanOptions } from "../../src/engine/port.ts";
import type { EventBus } from "../../src/events/port.ts";
import type { Lab, Plan, Resource, RunSummary } from "../../src/model/index.ts";
import type { Kind } from "../../src/provider/index.ts";
import { createLeaseTable } from "../../src/scheduling/index.ts";
import { createFileStore, type StateStore } from "../../src/state/index.ts";
import type { Machine } from "../../src/transport/index.ts";
import { plan as makePlan } from "../golden/streams.ts";

/** A lab behind the session port, scripted: what commands see of the engine. State and run records are real files. */
export class ScriptedLab {
  readonly root = mkdtempSync(join(tmpdir(), "labctl-cli-"));
  readonly statePath = join(this.root, ".labctl");
  readonly store: StateStore = createFileStore({ dir: this.statePath });
  readonly calls: {
    readonly plan: PlanOptions[];
    readonly apply: ApplyOptions[];
    closed: number;
    selections: string[][];
  } = {
    plan: [],
    apply: [],
    closed: 0,
    selections: [],
  };
  resources: Resource[] = [];
  kinds: ReadonlyMap<string, Kind> = new Map();
  onPlan: (options: PlanOptions, bus: EventBus) => Plan | Promise<Plan> = () => makePlan([]);
  onApply: (plan: Plan, options: ApplyOptions, bus: EventBus) => RunSummary | Promise<RunSummary> = () => done();
  onOpen: () => void = () => undefined;
  machine: (address: string) => Machine = (address) => {
    throw new LabError("E_CONNECT", `${address} is not there`);
  };
  secrets: string[] = [];
  onBoot: Services["boot"] = () => {
    throw new LabError("E_QEMU_MISSING", "no QEMU here");
  };
  onCancel: (address: string) => string | undefined = () => undefined;
  onSsh: Services["ssh"] = async () => 255;
  pins: ReadonlySet<string> = new Set();
  now: (() => number) | undefined;

  services(): Services {
    return {
      openLab: async (selection, bus, redactor) => {
        this.calls.selections.push([...selection.paths]);
        this.onOpen();
        for (const secret of this.secrets) redactor.add(secret);
        return this.#session(bus, (text) => redactor.redact(text));
      },
      locateState: async () => ({ backend: "file", path: this.statePath }),
      openStore: async () => this.store,
      openLeases: async () => createLeaseTable({ dir: this.statePath }),
      openArtifacts: async (_selection, settings) =>
        createArtifactStore({
          root: `${settings.path}/artifacts`,
          pins: async () => this.pins,
          ...(this.now !== undefined && { now: this.now }),
        }),
      formatSpec: async (text) => `${text.trimEnd()}\n`,
      initFiles: async (name, folder) => [{ path: "lab.yaml", content: `# ${folder}\nlabctl: 1\nname: ${name}\n` }],
      kinds: async () => this.kinds,
      specSchema: async (which) => ({ $id: which }),
      kindReference: async (kind) => `# ${kind.kind}`,
      boot: async (request, streams) => this.onBoot(request, streams),
      ssh: async (request) => this.onSsh(request),
    };
  }

  #session(bus: EventBus, redact: (text: string) => string): LabSession {
    const lab: Lab = {
      name: "kernel-lab",
      scopes: ["lab"],
      files: [],
      resources: this.resources,
      secrets: {},
      providers: [],
      groups: {},
      limits: {},
      defaults: {
        ssh: {},
        timeouts: { connect: 1, command: 1, boot: 1 },
        retry: { attempts: 0, delay: 0, max_delay: 0 },
      },
      state: { backend: "file", path: this.statePath },
      artifacts: { store: `${this.statePath}/artifacts`, retention: { days: 30, keep_latest: 5 } },
      imports: [],
      moved: [],
      removed: [],
      outputs: {},
    };
    return {
      lab,
      root: this.root,
      warnings: [],
      kinds: this.kinds,
      store: this.store,
      bus,
      plan: async (options) => {
        this.calls.plan.push(options);
        const plan = await this.onPlan(options, bus);
        bus.emit({ type: "plan.made", plan });
        return plan;
      },
      apply: async (plan, options) => {
        this.calls.apply.push(options);
        const summary = await this.onApply(plan, options, bus);
        bus.emit({ type: "run.finished", summary });
        return summary;
      },
      machine: async (address) => this.machine(address),
      cancel: async (address) => this.onCancel(address),
      redact,
      close: async () => {
        this.calls.closed += 1;
      },
    };
  }

  async remove(): Promise<void> {
    await rm(this.root, { recursive: true, force: true });
  }
}

export function done(more: Partial<RunSummary> = {}): RunSummary {
  return {
    command: "apply",
    result: "ok",
    exit_code: 0,
    duration_ms: 5,
    results: { ok: 1 },
    problems: [],
    manual_steps: [],
    ...more,
  };
}

export interface CliOptions {
  readonly tty?: boolean;
  readonly stdin?: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly columns?: number;
  readonly cwd?: string;
  readonly signals?: Signals;
}

export interface CliResult {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

export function fakeSignals(): Signals & { readonly listeners: ((level: 1 | 2) => void)[] } {
  const soft = new AbortController();
  const hard = new AbortController();
  const listeners: ((level: 1 | 2) => void)[] = [];
  return {
    listeners,
    cancellation: { soft: soft.signal, hard: hard.signal },
    onCancel: (listener) => void listeners.push(listener),
    cancel: () => {
      const level = soft.signal.aborted ? 2 : 1;
      for (const listener of listeners) listener(level);
      (level === 1 ? soft : hard).abort();
    },
    dispose: () => undefined,
  };
}

/** Runs one command line as main() would, with everything it prints collected. */
export async function cli(lab: ScriptedLab, argv: readonly string[], options: CliOptions = {}): Promise<CliResult> {
  const texts = { out: "", err: "" };
  const collect = (which: "out" | "err"): OutStream =>
    Object.assign(
      new Writable({
        write(chunk: Buffer, _encoding, callback) {
          texts[which] += chunk.toString("utf8");
          callback();
        },
      }),
      { ...(options.tty === true && { isTTY: true, columns: options.columns ?? 100, rows: 30 }) },
    );
  const input = new PassThrough();
  if (options.stdin !== undefined || options.tty !== true) input.end(options.stdin ?? "");
  const stdin: InStream = Object.assign(input, { ...(options.tty === true && { isTTY: true }) });
  const io: Io = {
    stdin,
    stdout: collect("out"),
    stderr: collect("err"),
    // A terminal that draws nothing: what is asked and answered is looked at here, not what moves.
    env: { ...(options.tty === true && { TERM: "dumb" }), ...options.env },
    cwd: options.cwd ?? lab.root,
    now: () => new Date(),
  };
  const code = await run(argv, io, lab.services(), options.signals ?? fakeSignals());
  return { code, ...texts };
}
