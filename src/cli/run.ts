import type { CommanderError } from "commander";
import { LabError } from "../diagnostics/index.ts";
import type { Context } from "./context.ts";
import { errorJson, exitOf, renderError } from "./errors.ts";
import { buildProgram, globalsOf } from "./program.ts";
import { paintFor } from "./renderers/paint.ts";
import type { Services } from "./services.ts";
import { createSignals, type Signals } from "./signals.ts";
import { type Io, Terminal } from "./terminal.ts";

/** Runs one command in this process and gives the exit code, with all output handed over. */
export async function runProcess(argv: readonly string[]): Promise<number> {
  const signals = createSignals((code) => process.exit(code));
  const io: Io = {
    stdin: process.stdin,
    stdout: process.stdout,
    stderr: process.stderr,
    env: process.env,
    cwd: process.cwd(),
    now: () => new Date(),
  };
  const { wire } = await import("./wiring.ts");
  const code = await run(argv, io, wire(), signals);
  signals.dispose();
  await Promise.all([drained(process.stdout), drained(process.stderr)]);
  // Nothing that is left behind (a socket, a timer of a library) may keep a finished command alive.
  process.exit(code);
}

/** Parses `argv` and runs the command; never throws, and prints what went wrong. */
export async function run(argv: readonly string[], io: Io, services: Services, signals: Signals): Promise<number> {
  let context = quietContext(argv, io, services, signals);
  let exit = 0;
  const printed: string[] = [];
  const program = buildProgram({
    io,
    services,
    print: (text) => void (context.term.options.json ? printed.push(text) : io.stdout.write(text)),
    invoke: async (handler, command) => {
      const globals = globalsOf(command);
      context = { ...context, globals, term: terminalOf(io, globals, context.term) };
      exit = await handler(context);
    },
  });
  try {
    if (argv.length === 0) {
      program.outputHelp();
      return 0;
    }
    await program.parseAsync([...argv], { from: "user" });
    return exit;
  } catch (error) {
    if (isCommanderError(error)) {
      const { json } = context.term.options;
      if (error.exitCode === 0) {
        const text = printed.join("").trimEnd();
        if (json) context.term.json(error.code === "commander.version" ? { version: text } : { help: text });
        return 0;
      }
      // `labctl state`: a command that only has subcommands. Its help has been printed on stderr.
      if (error.code === "commander.help" && !json) return 3;
      return report(error.code === "commander.help" ? incomplete() : usageError(error), context);
    }
    return report(error, context);
  }
}

function report(error: unknown, context: Context): number {
  const { term } = context;
  if (term.options.json) term.line(errorJson(error));
  else term.err(renderError(error, paintFor({ color: term.errColor }), term.options.verbose));
  return exitOf(error);
}

/** Before the flags are parsed: what an error in the flags themselves is shown with. */
function quietContext(argv: readonly string[], io: Io, services: Services, signals: Signals): Context {
  const own = argv.includes("--") ? argv.slice(0, argv.indexOf("--")) : argv;
  const globals = {
    file: [],
    var: [],
    varFile: [],
    json: own.includes("--json"),
    color: !own.includes("--no-color"),
    verbose: 0,
    logFormat: "text",
    parallelism: 10,
    lockTimeout: 0,
  } as const;
  return { term: terminalOf(io, globals), services, signals, globals, argv };
}

function terminalOf(io: Io, globals: Context["globals"], old?: Terminal): Terminal {
  const options = {
    color: globals.color,
    verbose: globals.verbose,
    json: globals.json === true,
    logFormat: globals.logFormat,
  };
  return old === undefined ? new Terminal(io, options) : old.with(options);
}

function isCommanderError(error: unknown): error is CommanderError {
  return error instanceof Error && "code" in error && String(error.code).startsWith("commander.");
}

function incomplete(): LabError {
  return new LabError("E_USAGE", "no command is given, or only half of one", {
    hint: "`labctl help` lists the commands, `labctl help COMMAND` what belongs to one",
  });
}

function usageError(error: CommanderError): LabError {
  const [head = "", ...rest] = error.message.replace(/^error: /, "").split("\n");
  const hint = rest.join(" ").replace(/^\(|\)$/g, "");
  return new LabError("E_USAGE", head, { hint: hint === "" ? "`labctl help` lists the commands" : hint });
}

async function drained(stream: NodeJS.WriteStream): Promise<void> {
  if (stream.destroyed || stream.writableLength === 0) return;
  await new Promise<void>((resolve) => {
    stream.once("error", () => resolve());
    stream.write("", () => resolve());
  });
}
