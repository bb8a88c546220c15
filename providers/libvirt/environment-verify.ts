import { setTimeout as pause } from "node:timers/promises";
import { type ConsoleEvent, LabError, type Machine, sh, watchConsole } from "../../src/index.ts";

export type Ready = "init" | "login" | "ssh" | { readonly marker: string };

/** What the kernel of a machine that was logged in to says that it is; or why nobody can log in (yet), in words. */
export type Login =
  | { readonly is: "in"; readonly release: string | undefined; readonly builder: string | undefined }
  | { readonly is: "out"; readonly why: string };

export interface VerifyOptions {
  readonly address: string;
  /** File on the host that records the console. */
  readonly console: string;
  readonly ready: Ready;
  /** What the kernel must say that it is. */
  readonly release?: string;
  /** What it must say after `labctl@`: the beginning of its build's digest. */
  readonly buildId?: string;
  /** Milliseconds. */
  readonly timeout: number;
  readonly silence: number;
  readonly signal: AbortSignal;
  readonly onConsole: (chunk: Buffer) => void;
  readonly onStep: (title: string) => void;
  /** Whether the machine still runs: one that stopped does not become ready. */
  readonly running: () => Promise<boolean>;
  /** Tries once to log in: where `ready` is `ssh`. */
  readonly logIn: (signal: AbortSignal) => Promise<Login>;
}

export interface Verified {
  readonly release: string | undefined;
  /** Defects that the kernel survived. */
  readonly defects: readonly ConsoleEvent[];
}

/** A kernel that is up for so long after its sign of life without dying counts as up. Milliseconds. */
const SETTLE = 1_000;
const CHECK = 1_000;
const LINES = 12;

/** True where this event is what the environment waits for: nothing on a console says that somebody can log in. */
export function isReady(event: ConsoleEvent, ready: Ready): boolean {
  if (ready === "ssh") return false;
  if (ready === "init") return event.kind === "init" || event.kind === "login" || event.kind === "marker";
  return ready === "login" ? event.kind === "login" : event.kind === "marker";
}

export function watcherOptions(ready: Ready): { readonly markers?: readonly string[] } {
  return typeof ready === "object" ? { markers: [ready.marker] } : {};
}

/**
 * Follows a console from its first byte until the machine is up, or will not be: a panic, a hang, silence, a machine that stopped and
 * a kernel that is another one are seen at once. Rejects with E_BOOT_CRASHED, E_BOOT_HUNG,
 * E_BOOT_STALE, E_CANCELLED, and with E_BOOT_UNVERIFIED where the time is over and nothing of that was seen.
 */
export async function verifyBoot(machine: Machine, options: VerifyOptions): Promise<Verified> {
  const { address, ready } = options;
  const ended = new AbortController();
  const defects: ConsoleEvent[] = [];
  let verdict: LabError | "up" | undefined;
  let settled: NodeJS.Timeout | undefined;
  let login: Login | undefined;
  const decide = (what: LabError | "up"): void => {
    verdict ??= what;
    ended.abort();
  };
  const fail = (code: "E_BOOT_CRASHED" | "E_BOOT_HUNG", event: { title: string; lines: readonly string[] }): void =>
    decide(bootError(code, address, event.title, event.lines));
  const watched = watchConsole({ ...watcherOptions(ready), silence: options.silence }, (event) => {
    if (event.kind === "silence") {
      // Services that start need not say so on the console.
      const { stage } = watched.watcher.status;
      if (ready === "ssh" && (stage === "init" || stage === "up")) return undefined;
      return fail("E_BOOT_HUNG", event);
    }
    if (event.severity === "fatal") return fail("E_BOOT_CRASHED", event);
    if (event.severity === "error") defects.push(event);
    options.onStep(event.title);
    if (isReady(event, ready)) settled ??= setTimeout(() => decide("up"), ready === "init" ? SETTLE : 0);
  });
  const late = setTimeout(() => {
    decide(unverified(address, options.timeout, watched.watcher.tail(LINES), login));
  }, options.timeout);
  const alive = setInterval(() => {
    void options.running().then(
      (running) => {
        if (running || ended.signal.aborted) return;
        // What it said last may still be on its way.
        setTimeout(
          () => fail("E_BOOT_CRASHED", { title: "the machine stopped", lines: watched.watcher.tail(LINES) }),
          SETTLE,
        );
      },
      () => undefined,
    );
  }, CHECK);
  if (ready === "ssh") {
    const signal = AbortSignal.any([options.signal, ended.signal]);
    void untilIn(options.logIn, signal, (what) => {
      if (what.is === "out" && what.why !== (login?.is === "out" ? login.why : undefined)) options.onStep(what.why);
      login = what;
      if (what.is === "in") decide("up");
    }).catch((error: unknown) => {
      if (!signal.aborted)
        decide(error instanceof LabError ? error : new LabError("E_INTERNAL", String(error), { cause: error }));
    });
  }
  try {
    // Where the file system cannot tell of changes (overlayfs), tail looks once a second unless told otherwise; busybox knows no tenths.
    const follow = sh`s=; if tail -s 0.1 /dev/null 2>/dev/null; then s='-s 0.1'; fi; exec tail $s -c +1 -F -- ${options.console} 2>/dev/null`;
    await machine.exec(follow, {
      signal: AbortSignal.any([options.signal, ended.signal]),
      timeout: options.timeout + 30_000,
      keep: 0,
      onStdout: (chunk) => {
        options.onConsole(chunk);
        watched.write(chunk);
      },
    });
  } catch (error) {
    if (verdict === undefined) throw error;
  } finally {
    clearTimeout(late);
    clearTimeout(settled);
    clearInterval(alive);
    watched.close();
  }
  if (verdict === undefined) {
    throw new LabError("E_DISCONNECTED", `${address}: its console cannot be followed any more`, {
      address,
      retryable: true,
    });
  }
  if (verdict !== "up") throw verdict;
  const { release, builder } = watched.watcher.status;
  requireKernelPlaced(address, options, { release, builder });
  if (login?.is !== "in") return { release, defects };
  requireKernelPlaced(address, options, login);
  return { release: login.release ?? release, defects };
}

/** Tries to log in until it is told to end or somebody is in, with a second between two tries. */
async function untilIn(
  logIn: VerifyOptions["logIn"],
  signal: AbortSignal,
  onTried: (login: Login) => void,
): Promise<void> {
  while (!signal.aborted) {
    const login = await logIn(signal);
    if (signal.aborted) return;
    onTried(login);
    if (login.is === "in") return;
    await pause(CHECK, undefined, { signal }).catch(() => undefined);
  }
}

/** Who a kernel says built it, where labctl did: see KBUILD_BUILD_USER in the build provider. */
const BUILDER = /^labctl@([0-9a-f]{16})$/;

/** The build that a kernel says it is of: `user@host` of its "Linux version". Pure. */
export function buildIdIn(builder: string | undefined): string | undefined {
  return BUILDER.exec(builder ?? "")?.[1];
}

/**
 * The right kernel, or none: what booted is compared with what was placed. A console without "Linux version" (`quiet` with a console
 * that starts late) proves nothing. Throws E_BOOT_STALE. Pure.
 */
export function requireKernelPlaced(
  address: string,
  placed: { readonly release?: string; readonly buildId?: string },
  found: { readonly release: string | undefined; readonly builder: string | undefined },
): void {
  if (found.release === undefined) return;
  const stale = (is: string, wanted: string): LabError =>
    new LabError("E_BOOT_STALE", `${address}: another kernel came up: it is ${is}, and ${wanted} was placed`, {
      address,
      hint: "look at what the machine boots from (a boot loader, a disk), or at `boot: { release }`",
    });
  if (placed.release !== undefined && found.release !== placed.release) throw stale(found.release, placed.release);
  if (placed.buildId === undefined || buildIdIn(found.builder) === placed.buildId) return;
  throw stale(`${found.release} built by ${found.builder ?? "nobody knows whom"}`, `the build ${placed.buildId}`);
}

/** Neither up nor dead: it goes on saying things, and not what it should. */
function unverified(address: string, timeout: number, tail: readonly string[], login: Login | undefined): LabError {
  const title = `${address}: not shown to be up after ${Math.round(timeout / 1000)} s`;
  const why = login?.is === "out" ? `; ${login.why}` : "";
  return new LabError("E_BOOT_UNVERIFIED", `${title}${why}\n${linesOf(tail)}`, {
    address,
    hint: "see `boot: { ready, timeout }`: what is waited for, and how long",
  });
}

function linesOf(lines: readonly string[]): string {
  return lines.length === 0 ? "its console said nothing" : lines.slice(0, LINES).join("\n");
}

function bootError(
  code: "E_BOOT_CRASHED" | "E_BOOT_HUNG",
  address: string,
  title: string,
  lines: readonly string[],
): LabError {
  return new LabError(code, `${address}: ${title}\n${linesOf(lines)}`, {
    address,
    hint: `the whole console is in the run's log: labctl logs last ${address}`,
  });
}

export interface ConsoleReading {
  readonly ready: boolean;
  readonly release: string | undefined;
  /** The build that the kernel says it is of. */
  readonly buildId: string | undefined;
  readonly problem: string | undefined;
  /** Whether the start of a kernel was seen. */
  readonly started: boolean;
}

/** What a recorded console says of the machine, piece by piece. */
export function consoleReader(ready: Ready): { write(chunk: Uint8Array): void; end(): ConsoleReading } {
  let up = false;
  let problem: string | undefined;
  const watched = watchConsole(watcherOptions(ready), (event) => {
    if (event.kind === "kernel") up = false;
    if (event.severity === "fatal") problem = event.title;
    if (isReady(event, ready)) up = true;
  });
  return {
    write: (chunk) => watched.write(chunk),
    end: () => {
      watched.close();
      const { release, builder, boots } = watched.watcher.status;
      const is = { release, buildId: buildIdIn(builder), problem, started: boots > 0 };
      return { ...is, ready: up && problem === undefined };
    },
  };
}
