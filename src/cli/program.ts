import { Command, Help, Option } from "commander";
import { countOption, durationOption, type Context, type GlobalOptions } from "./context.ts";
import { registerAgain } from "./commands/again.ts";
import { registerApply } from "./commands/apply.ts";
import { registerArtifact } from "./commands/artifact.ts";
import { registerAuthor } from "./commands/author.ts";
import { registerBoot } from "./commands/boot.ts";
import { registerBuild } from "./commands/build.ts";
import { registerCancel } from "./commands/cancel.ts";
import { registerCompletion } from "./commands/completion.ts";
import { registerDecommission } from "./commands/decommission.ts";
import { registerHost } from "./commands/host.ts";
import { registerLease } from "./commands/lease.ts";
import { registerLook } from "./commands/look.ts";
import { registerPlan } from "./commands/plan.ts";
import { registerRuns } from "./commands/runs.ts";
import { registerSsh } from "./commands/ssh.ts";
import { registerState } from "./commands/state.ts";
import { registerVm } from "./commands/vm.ts";
import { registerWhy } from "./commands/why.ts";
import { registerValidate } from "./commands/validate.ts";
import type { Services } from "./services.ts";
import type { Io } from "./terminal.ts";
import { version } from "./version.ts";

/** What a command's file gets to hang its handler into. */
export interface Host {
  readonly io: Io;
  readonly services: Services;
  /** Takes help texts and the version. */
  readonly print: (text: string) => void;
  /** Runs a handler with the context that the flags of this call make. */
  readonly invoke: (handler: (context: Context) => Promise<number>, command: Command) => Promise<void>;
}

export function buildProgram(host: Host): Command {
  const program = new Command("labctl")
    .description("Declarative infrastructure as code for kernel and BSP test labs")
    .usage("[options] COMMAND")
    .version(version(), "-V, --version", "print the version")
    .helpOption("-h, --help", "what a command does, with examples")
    .exitOverride()
    .showSuggestionAfterError(true)
    .allowExcessArguments(false)
    .helpCommand("help [command]", "the same as COMMAND --help")
    .configureOutput({
      writeOut: (text) => host.print(text),
      writeErr: (text) => void host.io.stderr.write(text),
      // Errors are rendered once, by run(): see usageError().
      outputError: () => undefined,
      getOutHelpWidth: () => Math.min(host.io.stdout.columns ?? 100, 110),
    })
    .configureHelp({
      showGlobalOptions: true,
      subcommandTerm: (command) => plainTerm(command),
      optionDescription: (option) => new Help().optionDescription(option).replace(" (default: [])", ""),
    });
  addGlobalOptions(program);
  for (const register of [
    registerAuthor,
    registerValidate,
    registerPlan,
    registerApply,
    registerLook,
    registerRuns,
    registerCancel,
    registerBuild,
    registerAgain,
    registerWhy,
    registerState,
    registerHost,
    registerSsh,
    registerVm,
    registerLease,
    registerDecommission,
    registerBoot,
    registerArtifact,
    registerCompletion,
  ]) {
    register(program, host);
  }
  return program;
}

function plainTerm(command: Command): string {
  return new Help().subcommandTerm(command).replace(" [options]", "");
}

const collect = (value: string, previous: readonly string[]): string[] => [...previous, value];

function addGlobalOptions(program: Command): void {
  program
    .option(
      "-f, --file <path>",
      "a spec file or folder (repeatable; default: lab.yaml and pipeline.yaml here)",
      collect,
      [],
    )
    .option("--instance <name>", "which of several instances of the pipeline that run at once")
    .option("--profile <name>", "merge lab.NAME.yaml and pipeline.NAME.yaml over the spec")
    .option("--var <name=value>", "set a variable (repeatable)", collect, [])
    .option("--var-file <path>", "set variables from a YAML or JSON file (repeatable)", collect, [])
    .option("--json", "machine-readable output")
    .option("--no-color", "no colour (also NO_COLOR=1)")
    .option("-v, --verbose", "show more (-vv: still more)", (_: string, previous: number) => previous + 1, 0)
    .addOption(new Option("--log-format <format>", "logs on stderr").choices(["text", "json"]).default("text"))
    .option("--parallelism <n>", "most operations at one time", (text) => countOption("--parallelism", text), 10)
    .addOption(
      new Option("--lock-timeout <duration>", "how long to wait for the state's lock")
        .argParser((text) => durationOption("--lock-timeout", text))
        .default(0, "refuse at once"),
    )
    .option("--experimental", "allow kinds that are not proven on real hardware yet");
}

/** The flags of the whole program, wherever on the line they stood. */
export function globalsOf(command: Command): GlobalOptions {
  const options: unknown = command.optsWithGlobals();
  // Shaped by addGlobalOptions() above: every flag has its parser or default there.
  return options as GlobalOptions;
}
