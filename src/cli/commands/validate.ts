import type { Command } from "commander";
import { DiagnosticsError } from "../../diagnostics/index.ts";
import { type Context, selectionOf } from "../context.ts";
import { renderDiagnostics } from "../errors.ts";
import { summaryOf, withLab } from "../lab.ts";
import type { Host } from "../program.ts";
import { paintFor } from "../renderers/paint.ts";
import { plural, visible } from "../renderers/text.ts";

export function registerValidate(program: Command, host: Host): void {
  const command = program
    .command("validate")
    .argument("[spec]", "a spec file or folder")
    .summary("find every mistake in the spec")
    .description("Loads the spec and reports every problem at once, each with its place. Reaches no machine.")
    .addHelpText("after", "\nExamples:\n  labctl validate\n  labctl validate labs/berlin --profile ci --json")
    .action(async (spec: string | undefined) => {
      await host.invoke((context) => validate(context, spec), command);
    });
}

async function validate(context: Context, spec: string | undefined): Promise<number> {
  const { term } = context;
  const started = performance.now();
  const paint = paintFor({ color: term.color });
  try {
    return await withLab(
      context,
      { command: "validate", selection: selectionOf(context, spec), record: false, stream: false, quiet: true },
      async ({ session }) => {
        const { lab, warnings } = session;
        if (term.options.json)
          term.json({ valid: true, lab: lab.name, resources: lab.resources.length, diagnostics: warnings });
        else {
          if (warnings.length > 0) term.out(`${renderDiagnostics(warnings, paint)}\n`);
          term.out(
            `${paint.green("Valid:")} ${visible(lab.name)}, ${plural(lab.resources.length, "resource")} in ${plural(lab.files.length, "file")}.`,
          );
        }
        return summaryOf("validate", 0, started);
      },
    );
  } catch (error) {
    if (!term.options.json || !(error instanceof DiagnosticsError)) throw error;
    term.json({ valid: false, diagnostics: error.diagnostics });
    return error.exitCode;
  }
}
