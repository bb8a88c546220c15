import { Argument, type Command } from "commander";
import { bashReplies, splitBashLine } from "../completion/bash.ts";
import { complete } from "../completion/complete.ts";
import { completionScript, SHELLS, type Shell } from "../completion/scripts.ts";
import type { Context } from "../context.ts";
import type { Host } from "../program.ts";

export function registerCompletion(program: Command, host: Host): void {
  const completion = program
    .command("completion")
    .addArgument(new Argument("<shell>", "which shell").choices([...SHELLS]))
    .summary("completion for bash, zsh and fish")
    .description("Prints a script that makes the shell complete commands, flags, and addresses from the state.")
    .addHelpText(
      "after",
      `
Examples:
  source <(labctl completion bash)                                     # now; in ~/.bashrc for always
  labctl completion zsh > "\${fpath[1]}/_labctl"                        # then start zsh anew
  labctl completion fish > ~/.config/fish/completions/labctl.fish`,
    );
  completion.action(async (shell: Shell) => {
    await host.invoke(async ({ term }) => {
      term.out(completionScript(shell));
      return 0;
    }, completion);
  });

  // What the scripts call: the words up to the cursor, the last one perhaps empty. Never an error, never slow.
  const query = program.command("__complete", { hidden: true }).argument("[words...]").helpOption(false);
  query.action(async () => {
    await host.invoke(async (context) => {
      const words = context.argv.slice(context.argv.indexOf("__complete") + 1);
      for (const line of await answer(program, words, context)) context.term.out(line);
      return 0;
    }, query);
  });
}

/** `bash -- CURRENT LINE`, or `words -- WORD...` from shells that split the line themselves. */
async function answer(program: Command, argv: readonly string[], context: Context): Promise<string[]> {
  const [how, , ...words] = argv;
  if (how === "bash") {
    const line = splitBashLine(words[1] ?? "");
    return bashReplies(line, words[0] ?? "", await complete(program, line.words.slice(1), context));
  }
  const found = await complete(program, words, context);
  return found.map(({ value, description }) => (description === "" ? value : `${value}\t${description}`));
}
