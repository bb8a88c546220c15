import type { Argument, Command, Option } from "commander";
import type { Context } from "../context.ts";
import { valuesFor } from "./sources.ts";

export interface Candidate {
  readonly value: string;
  readonly description: string;
}

/** What may stand at the end of `words`; the last word is what was typed so far of it. */
export async function complete(program: Command, words: readonly string[], context: Context): Promise<Candidate[]> {
  const typed = words.at(-1) ?? "";
  const line = walk(program, words.slice(0, -1));
  if (line.rest) return [{ value: ":files", description: "" }];
  if (line.pending !== undefined) return filter(await valuesOf(line.pending, line, context), typed);
  if (!line.operandsOnly && typed.startsWith("-")) {
    const equals = typed.indexOf("=");
    if (equals > 0) {
      const flag = typed.slice(0, equals);
      const option = optionsOf(line.command).find((one) => one.long === flag);
      if (option === undefined) return [];
      const values = filter(await valuesOf(option, line, context), typed.slice(equals + 1));
      return values.map((one) => (one.value.startsWith(":") ? one : { ...one, value: `${flag}=${one.value}` }));
    }
    return filter(
      optionsOf(line.command)
        .filter((one) => !one.hidden)
        .map(optionCandidate),
      typed,
    );
  }
  const commands = line.operands.length === 0 ? subcommands(line.command) : [];
  if (commands.length > 0) return filter(commands, typed);
  const argument = argumentAt(line.command, line.operands.length);
  return argument === undefined ? [] : filter(await valuesOf(argument, line, context), typed);
}

/** Commands whose last words are a command on another machine. */
const ON_MACHINES: ReadonlySet<string> = new Set(["exec", "boot", "ssh"]);

export interface Line {
  readonly command: Command;
  readonly operands: readonly string[];
  /** An option that waits for its value. */
  readonly pending: Option | undefined;
  /** After `--`. */
  readonly operandsOnly: boolean;
  /** Words that belong to a command on another machine. */
  readonly rest: boolean;
  /** What `-f` and `--file` named so far. */
  readonly files: readonly string[];
}

function walk(program: Command, words: readonly string[]): Line {
  let command = program;
  let pending: Option | undefined;
  let operandsOnly = false;
  const operands: string[] = [];
  const files: string[] = [];
  for (const word of words) {
    if (pending !== undefined) {
      if (pending.long === "--file") files.push(word);
      pending = undefined;
    } else if (operandsOnly) operands.push(word);
    else if (word === "--") operandsOnly = true;
    else if (word.startsWith("-") && word.length > 1) {
      const equals = word.indexOf("=");
      const option = optionsOf(command).find((one) => isCalled(one, equals > 0 ? word.slice(0, equals) : word));
      if (option?.long === "--file" && equals > 0) files.push(word.slice(equals + 1));
      if (option !== undefined && equals < 0 && (option.required || option.optional)) pending = option;
    } else {
      const next = operands.length === 0 ? command.commands.find((one) => one.name() === word) : undefined;
      if (next === undefined) operands.push(word);
      else command = next;
    }
  }
  const rest =
    operandsOnly && (argumentAt(command, operands.length)?.variadic ?? false) && ON_MACHINES.has(command.name());
  return { command, operands, pending, operandsOnly, rest, files };
}

function optionsOf(command: Command): Option[] {
  const all: Option[] = [];
  for (let at: Command | null = command; at !== null; at = at.parent) all.push(...at.options);
  return all;
}

function isCalled(option: Option, flag: string): boolean {
  return option.long === flag || option.short === flag;
}

function optionCandidate(option: Option): Candidate {
  return { value: option.long ?? option.short ?? "", description: option.description };
}

function subcommands(command: Command): Candidate[] {
  return command.commands
    .filter((one) => !one.name().startsWith("__"))
    .map((one) => ({ value: one.name(), description: one.summary() || one.description() }));
}

function argumentAt(command: Command, index: number): Argument | undefined {
  const all = command.registeredArguments;
  const last = all.at(-1);
  return all[index] ?? (last?.variadic === true ? last : undefined);
}

function valuesOf(of: Option | Argument, line: Line, context: Context): Promise<Candidate[]> | Candidate[] {
  if (of.argChoices !== undefined) return of.argChoices.map((value) => ({ value, description: "" }));
  return valuesFor(of, line, context);
}

function filter(candidates: readonly Candidate[], typed: string): Candidate[] {
  return candidates.filter(({ value }) => value.startsWith(":") || value.startsWith(typed));
}
