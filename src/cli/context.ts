import { userInfo } from "node:os";
import { LabError } from "../diagnostics/index.ts";
import type { SpecSelection } from "../engine/port.ts";
import { parseDuration } from "../model/index.ts";
import type { Services } from "./services.ts";
import type { Signals } from "./signals.ts";
import type { Terminal } from "./terminal.ts";

/** Flags that every command takes. */
export interface GlobalOptions {
  readonly file: readonly string[];
  readonly profile?: string;
  readonly instance?: string;
  readonly var: readonly string[];
  readonly varFile: readonly string[];
  readonly json?: boolean;
  readonly color: boolean;
  readonly verbose: number;
  readonly logFormat: "text" | "json";
  readonly parallelism: number;
  /** Milliseconds. */
  readonly lockTimeout: number;
  readonly experimental?: boolean;
}

/** What a command works with. */
export interface Context {
  readonly term: Terminal;
  readonly services: Services;
  readonly signals: Signals;
  readonly globals: GlobalOptions;
  /** Words after `labctl`, as typed. */
  readonly argv: readonly string[];
}

/** Which spec the flags and the positional argument name. */
export function selectionOf(context: Context, spec?: string): SpecSelection {
  const { globals, term } = context;
  const vars: Record<string, string> = {};
  for (const text of globals.var) {
    const at = text.indexOf("=");
    if (at < 1) {
      throw new LabError("E_USAGE", `--var takes NAME=VALUE, not ${JSON.stringify(text)}`, {
        hint: "for example --var ssh_key=~/.ssh/lab",
      });
    }
    vars[text.slice(0, at)] = text.slice(at + 1);
  }
  return {
    paths: [...(spec === undefined ? [] : [spec]), ...globals.file],
    ...(globals.profile !== undefined && { profile: globals.profile }),
    ...(globals.instance !== undefined && { instance: instanceName(globals.instance) }),
    vars,
    varFiles: globals.varFile,
    cwd: term.io.cwd,
    env: term.io.env,
  };
}

function instanceName(text: string): string {
  if (/^[a-z0-9][a-z0-9-]*$/.test(text) && text.length <= 64) return text;
  throw new LabError("E_USAGE", `--instance takes a name, not ${JSON.stringify(text)}`, {
    hint: "lower-case letters, digits and -, for example --instance pr-1234",
  });
}

export function whoAmI(env: Readonly<Record<string, string | undefined>>): string {
  try {
    return userInfo().username;
  } catch {
    // No entry in passwd for this uid, as in many containers.
    return env["USER"] ?? env["LOGNAME"] ?? "unknown";
  }
}

/** @throws LabError E_USAGE */
export function durationOption(name: string, text: string): number {
  const value = /^[0-9]+$/.test(text) ? Number(text) * 1000 : parseDuration(text);
  if (value === undefined) {
    throw new LabError("E_USAGE", `${name} takes a duration, not ${JSON.stringify(text)}`, {
      hint: "for example 30s, 5m or 1h30m",
    });
  }
  return value;
}

/** @throws LabError E_USAGE */
export function countOption(name: string, text: string): number {
  const value = /^[0-9]{1,6}$/.test(text) ? Number(text) : 0;
  if (value < 1) throw new LabError("E_USAGE", `${name} takes a whole number from 1 on, not ${JSON.stringify(text)}`);
  return value;
}
