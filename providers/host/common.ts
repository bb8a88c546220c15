import {
  type Address,
  type ExecResult,
  type Item,
  type KindContext,
  LabError,
  type Machine,
  type Reading,
  sh,
  ShellText,
  shJoin,
} from "../../src/index.ts";

/**
 * Errors that are not about a machine. All others mean that it could not be read (not reached, no login, no root rights,
 * too slow, cut off): its resources are then `unreachable`, which blocks them and leaves the rest of the lab alone.
 */
const NOT_OF_A_MACHINE = new Set(["E_CANCELLED", "E_INTERNAL", "E_SPEC_VALUE"]);

export function cannotBeRead(error: unknown): error is LabError {
  return error instanceof LabError && !NOT_OF_A_MACHINE.has(error.code);
}

/** Printed at the end of every probe: without it the script was cut off, and silence would read as "absent". */
const END = "labctl-end";

/**
 * Messages are matched and numbers parsed, so tools must not speak the user's language; and the administrator's tools are
 * not on the path of every login.
 */
export const PROLOGUE = sh`LC_ALL=C; PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin; export LC_ALL PATH`;

export interface Probe<D, O> {
  script(items: readonly Item<D, O>[]): ShellText;
  /** One reading for each item, in order; undefined: it changed while it was read, ask again for this one alone. */
  parse(lines: readonly string[], items: readonly Item<D, O>[]): readonly (Reading<O> | undefined)[];
}

/** The machine that holds the resource. */
export function machineOf(ctx: KindContext, item: { readonly address: Address; readonly parent: Address | undefined }) {
  if (item.parent === undefined) {
    throw new LabError("E_INTERNAL", "a resource of this kind stands on a host, and this one has none", {
      address: item.address,
    });
  }
  return ctx.machine(item.parent);
}

export function groupByMachine<T extends { readonly parent: Address | undefined }>(items: readonly T[]): T[][] {
  const groups = new Map<Address | undefined, T[]>();
  for (const item of items) {
    const group = groups.get(item.parent);
    if (group === undefined) groups.set(item.parent, [item]);
    else group.push(item);
  }
  return [...groups.values()];
}

/**
 * Reads items with one probe for each machine. The probes are asked for before the first await, so that they travel
 * together with those of the other kinds.
 */
export async function readByMachine<D, O>(
  ctx: KindContext,
  items: readonly Item<D, O>[],
  probe: Probe<D, O>,
): Promise<ReadonlyMap<Address, Reading<O>>> {
  const readings = new Map<Address, Reading<O>>();
  const started = groupByMachine(items).map(async (group) => {
    const [first] = group;
    if (first === undefined) return;
    const answers = await readByProbe(ctx, machineOf(ctx, first), group, probe);
    for (const [i, item] of group.entries()) {
      const reading = answers[i];
      if (reading !== undefined) readings.set(item.address, reading);
    }
  });
  await Promise.all(started);
  return readings;
}

/** The readings of items on one machine, in order. The probe is asked for before the first await. */
export async function readByProbe<D, O>(
  ctx: KindContext,
  machine: Machine,
  group: readonly Item<D, O>[],
  probe: Probe<D, O>,
  depth = 0,
): Promise<readonly Reading<O>[]> {
  if (group.length === 0) return [];
  let result: ExecResult;
  try {
    result = await machine.probe(shJoin([PROLOGUE, probe.script(group), sh`echo; echo ${END}`]), {
      signal: ctx.signal,
    });
  } catch (error) {
    if (cannotBeRead(error)) return group.map(() => ({ is: "unreachable", why: error }));
    throw error;
  }
  if (result.truncated && group.length > 1 && depth < 16) {
    const half = Math.ceil(group.length / 2);
    return [
      ...(await readByProbe(ctx, machine, group.slice(0, half), probe, depth + 1)),
      ...(await readByProbe(ctx, machine, group.slice(half), probe, depth + 1)),
    ];
  }
  const lines = result.stdout.toString("utf8").trimEnd().split("\n");
  if (lines.pop() !== END || result.truncated) {
    const why = new LabError("E_COMMAND_FAILED", `reading did not come to its end${describeExit(result)}`, {
      address: machine.address,
      hint: "look at what the login shell of this account prints or runs, and at the machine's memory and disk",
      retryable: true,
    });
    return group.map(() => ({ is: "unreachable", why }));
  }
  const answers = probe.parse(lines, group);
  return Promise.all(
    group.map(async (item, i) => {
      const answer = answers[i];
      if (answer !== undefined) return answer;
      const again = depth < 3 ? (await readByProbe(ctx, machine, [item], probe, depth + 1))[0] : undefined;
      if (again !== undefined) return again;
      throw new LabError("E_MISMATCH", "it keeps changing while it is read", {
        address: item.address,
        retryable: true,
      });
    }),
  );
}

function describeExit(result: ExecResult): string {
  const tail = lastLines(result.stderr, 3);
  return `${exitText(result)}${tail === "" ? "" : `: ${tail}`}`;
}

function exitText(result: ExecResult): string {
  if (result.signal !== undefined) return ` (killed by ${result.signal})`;
  return result.code === undefined ? "" : ` (exit code ${result.code})`;
}

/** Refuses a way that has been shown on nothing but text, unless the user allowed it. @throws LabError E_EXPERIMENTAL */
export function refuseUnproven(
  ctx: KindContext,
  item: { readonly address: Address; readonly parent: Address | undefined },
  what: string,
): void {
  if (ctx.experimental === true) return;
  throw new LabError("E_EXPERIMENTAL", `${what} on ${item.parent ?? item.address}: this way is experimental`, {
    address: item.address,
    hint: "it has not been shown to work on anything that labctl's authors did not write; run with --experimental to use it all the same",
  });
}

/** The last lines that say something, joined for an error message. */
export function lastLines(output: Buffer | string, count = 5, longest = 600): string {
  const lines = output
    .toString()
    .split(/\r?\n/)
    .map((line) => line.trim())
    .filter((line) => line !== "");
  const text = lines.slice(-count).join("\n");
  return text.length > longest ? `…${text.slice(-longest)}` : text;
}

/** Throws E_COMMAND_FAILED (or E_DISK_FULL, E_SUDO where the output says so) unless the command ended well. */
export function requireSuccess(result: ExecResult, what: string, hint?: string): ExecResult {
  if (result.code === 0) return result;
  const said = lastLines(result.stderr.length > 0 ? result.stderr : result.stdout);
  throw failure(`${what} failed${exitText(result)}${said === "" ? "" : `: ${said}`}`, said, hint);
}

/** An error for what a tool said on a machine, with the code that its words call for. */
export function failure(message: string, said: string, hint?: string): LabError {
  if (/No space left on device|Disk quota exceeded/i.test(said)) {
    return new LabError("E_DISK_FULL", message, { hint: "free some space on the host and run again" });
  }
  if (/Operation not permitted|Permission denied|must be root|are you root|only root|superuser/i.test(said)) {
    return new LabError("E_SUDO", message, {
      hint: "this needs rights that the login does not have: set `sudo: true` on the host, or log in as root",
    });
  }
  return new LabError("E_COMMAND_FAILED", message, hint === undefined ? {} : { hint });
}

/** Thrown things as Errors, for outcomes. */
export function asError(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error));
}

/**
 * Runs a script of ours. The braces make the shell parse all of it before it runs any: a script that was cut off on its
 * way runs not at all. It ends with 0 unless the shell itself fails; what happened to each part is in its output.
 */
export function runScript(
  machine: Machine,
  script: ShellText,
  options: Parameters<Machine["exec"]>[1] & object,
): Promise<ExecResult> {
  return machine.exec(shJoin([new ShellText("{"), PROLOGUE, script, new ShellText("exit 0\n}\n")]), options);
}

export const PATH_PATTERN = "^(/(?!\\.{1,2}(/|$))[^/\\u0000]+)+$";

export function dirname(path: string): string {
  const cut = path.lastIndexOf("/");
  return cut <= 0 ? "/" : path.slice(0, cut);
}

/** "644" as "0644": as people write modes and as they are compared. */
export function normalMode(mode: string): string {
  const digits = mode.replace(/^0+/, "");
  return digits.padStart(4, "0");
}
