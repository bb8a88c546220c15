import { createInterface } from "node:readline/promises";
import { LabError } from "../diagnostics/index.ts";
import type { Terminal } from "./terminal.ts";

/** Asks a question that only the whole word "yes" answers. The end of the input means no. */
export async function approve(term: Terminal, question: string, signal: AbortSignal): Promise<boolean> {
  const lines = createInterface({ input: term.io.stdin, output: term.io.stdout });
  // Readline takes Ctrl-C for itself while it reads: hand it on, as a cancellation.
  const interrupted = new AbortController();
  lines.on("SIGINT", () => interrupted.abort());
  const closed = new Promise<string>((resolve) => lines.once("close", () => resolve("")));
  try {
    const asked = lines.question(`\n${question}`, { signal: AbortSignal.any([signal, interrupted.signal]) });
    const answer = await Promise.race([asked, closed]);
    return answer.trim().toLowerCase() === "yes";
  } catch (error) {
    if (signal.aborted || interrupted.signal.aborted) {
      term.out("\n");
      throw new LabError("E_CANCELLED", "cancelled: nothing was changed");
    }
    throw error;
  } finally {
    lines.close();
  }
}
