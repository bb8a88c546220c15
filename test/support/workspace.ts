/**
 * A folder that holds a spec, its state and a home of its own, in which the CLI is run as a process:
 *
 *     const lab = createWorkspace({ env: { LAB_TOKEN: "..." } });
 *     lab.write("lab.yaml", { labctl: 1, ... });             // YAML text, or data
 *     await lab.apply();                                     // expects exit 0, gives the events
 *     expect(await lab.pending()).toEqual({});               // what a plan would do: address -> action and paths
 */
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import type { LabEvent, Plan, RunSummary } from "../../src/model/index.ts";
import { type CliOptions, type CliProcess, type CliResult, labctl, spawnLabctl } from "./cli.ts";
import type { TestMachine } from "./sshd.ts";

export interface WorkspaceOptions {
  readonly env?: Readonly<Record<string, string>>;
  /** A folder to start from. */
  readonly copy?: string;
  /** What runs the program: see CliOptions. */
  readonly wrap?: readonly string[];
}

export interface AppliedRun extends CliResult {
  readonly events: readonly LabEvent[];
  readonly summary: RunSummary;
}

/** What one address would go through: `update content, mode`. */
export type Pending = Readonly<Record<string, string>>;

export interface Workspace {
  readonly cwd: string;
  readonly env: Record<string, string>;
  path(name: string): string;
  write(name: string, content: string | object, mode?: number): void;
  run(args: readonly string[], options?: Partial<CliOptions>): Promise<CliResult>;
  spawn(args: readonly string[], options?: Partial<CliOptions>): CliProcess;
  /** `apply --auto-approve --json` with these further arguments; throws where the exit code is not `code` (default 0). */
  apply(args?: readonly string[], code?: number): Promise<AppliedRun>;
  destroy(args?: readonly string[], code?: number): Promise<AppliedRun>;
  plan(args?: readonly string[], code?: number): Promise<Plan>;
  /** What a plan would do, noops left out. Empty: nothing; then `--detailed-exitcode` gave 0, else 2. */
  pending(args?: readonly string[]): Promise<Pending>;
  /** All regular files below the folder, with their text (latin1, so that every byte is there). */
  files(): ReadonlyMap<string, string>;
  remove(): void;
}

export function createWorkspace(options: WorkspaceOptions = {}): Workspace {
  const cwd = mkdtempSync(join(tmpdir(), "labctl-ws-"));
  if (options.copy !== undefined) cpSync(options.copy, cwd, { recursive: true });
  mkdirSync(join(cwd, "home"), { recursive: true });
  const env: Record<string, string> = { HOME: join(cwd, "home"), USER: "tester", NO_COLOR: "1", ...options.env };
  const given = (more: Partial<CliOptions> | undefined): CliOptions => ({
    cwd,
    ...(options.wrap && { wrap: options.wrap }),
    ...more,
    env: { ...env, ...more?.env },
  });
  const change = async (command: string, args: readonly string[], code: number): Promise<AppliedRun> => {
    const process = spawnLabctl([command, "--auto-approve", "--json", ...args], given({ timeout: 110_000 }));
    const result = await process.done;
    const finished = process.events.findLast((event) => event.type === "run.finished");
    if (result.code !== code || finished?.type !== "run.finished") {
      throw new Error(`${command} exited ${String(result.code)}, not ${code}:\n${explain(process.events, result)}`);
    }
    return { ...result, events: process.events, summary: finished.summary };
  };
  const plan = async (args: readonly string[], code: number): Promise<Plan> => {
    const result = await labctl(["plan", "--json", "--detailed-exitcode", ...args], given(undefined));
    if (result.code !== code) throw new Error(`plan exited ${String(result.code)}, not ${code}:\n${result.output}`);
    return JSON.parse(result.stdout) as Plan;
  };
  return {
    cwd,
    env,
    path: (name) => join(cwd, name),
    write(name, content, mode) {
      mkdirSync(dirname(join(cwd, name)), { recursive: true });
      const text = typeof content === "string" ? content : JSON.stringify(content, undefined, 1);
      writeFileSync(join(cwd, name), text, mode === undefined ? {} : { mode });
    },
    run: (args, more) => labctl(args, given(more)),
    spawn: (args, more) => spawnLabctl(args, given(more)),
    apply: (args = [], code = 0) => change("apply", args, code),
    destroy: (args = [], code = 0) => change("destroy", args, code),
    plan: (args = [], code = 0) => plan(args, code),
    async pending(args = []) {
      const result = await labctl(["plan", "--json", "--detailed-exitcode", ...args], given(undefined));
      if (result.code !== 0 && result.code !== 2)
        throw new Error(`plan exited ${String(result.code)}:\n${result.output}`);
      const out = pendingOf(JSON.parse(result.stdout) as Plan);
      if (Object.keys(out).length > 0 !== (result.code === 2)) {
        throw new Error(`plan exited ${result.code} with ${JSON.stringify(out)}`);
      }
      return out;
    },
    files() {
      const out = new Map<string, string>();
      for (const name of readdirSync(cwd, { recursive: true }).map(String).sort()) {
        const path = join(cwd, name);
        if (statSync(path, { throwIfNoEntry: false })?.isFile()) out.set(name, readFileSync(path, "latin1"));
      }
      return out;
    },
    remove: () => rmSync(cwd, { recursive: true, force: true }),
  };
}

export function pendingOf(plan: Plan): Pending {
  return Object.fromEntries(
    plan.actions
      .filter(({ action }) => action !== "noop")
      .map(({ address, action, changes }) => [
        address,
        action === "update" ? `update ${changes.map(({ path }) => path).join(", ")}` : action,
      ]),
  );
}

/** What the actions of a run came to: address -> result. */
export function resultsOf(events: readonly LabEvent[]): Readonly<Record<string, string>> {
  return Object.fromEntries(
    events.flatMap((event) => (event.type === "action.finished" ? [[event.address, event.result]] : [])),
  );
}

function explain(events: readonly LabEvent[], result: CliResult): string {
  const finished = events.findLast((event) => event.type === "run.finished");
  const problems = finished?.type === "run.finished" ? finished.summary.problems : [];
  return `${problems.map((problem) => `${problem.code} ${problem.address ?? ""} ${problem.message}\n  ${problem.hint ?? ""}`).join("\n")}\n${result.output.slice(-3000)}`;
}

/** What a spec says of a test machine; `defaults.ssh` of a lab whose machines share the test key. */
export function hostOf(machine: TestMachine, more: object = {}): object {
  return {
    address: machine.address,
    sudo: true,
    ssh: {
      user: "lab",
      key: machine.keyPath,
      known_hosts: machine.knownHostsPath,
      host_key: "strict",
      port: machine.port,
    },
    ...more,
  };
}
