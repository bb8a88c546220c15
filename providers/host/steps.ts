import { type Item, type OperationContext, sh, ShellText, shJoin } from "../../src/index.ts";
import { machineOf, requireSuccess, runScript } from "./common.ts";

/** `labctl_try STEP COMMAND...`: the first step that fails is printed as `E STEP TEXT` and ends the script. */
const TRY = new ShellText(String.raw`labctl_try() {
  labctl_step=$1
  shift
  labctl_m=$("$@" 2>&1) && return 0
  printf 'E %s ' "$labctl_step"
  printf %s "$labctl_m" | tr '\n\r' '  '
  echo
  exit 0
}
labctl_write() {
  rm -f -- "$1.labctl-new" && ( set -C; printf %s "$2" | base64 -d >"$1.labctl-new" ) && chmod 0644 "$1.labctl-new" &&
    labctl_sync "$1.labctl-new" && mv -f -- "$1.labctl-new" "$1" && labctl_sync "${"$"}{1%/*}"
}
# Of a file its content, of a folder its names: without it a power failure takes back what was reported as done.
labctl_sync() { sync -- "$1" 2>/dev/null || sync; }
labctl_into() { printf '%s\n' "$2" >"$1"; }`);

export interface StepError {
  readonly step: string;
  readonly text: string;
}

/** A step of {@link runSteps}: a command or function with its arguments, each quoted. */
export function step(name: string, ...words: readonly (string | number)[]): ShellText {
  return sh`labctl_try ${name} ${words}`;
}

/** A step that writes a small file of labctl's own, atomically and readable by all. */
export function writeStep(name: string, path: string, content: string): ShellText {
  return sh`labctl_try ${name} labctl_write ${path} ${Buffer.from(content).toString("base64")}`;
}

/** Runs steps on the item's machine, in order; undefined: all went well. */
export async function runSteps(
  ctx: OperationContext,
  item: Pick<Item<unknown, unknown>, "address" | "parent">,
  steps: readonly ShellText[],
  what: string,
  timeout?: number,
): Promise<StepError | undefined> {
  if (steps.length === 0) return undefined;
  const result = requireSuccess(
    await runScript(machineOf(ctx, item), shJoin([TRY, ...steps]), {
      signal: ctx.signal,
      ...(timeout !== undefined && { timeout }),
    }),
    what,
  );
  const failed = /^E (\S+) (.*)$/m.exec(result.stdout.toString("utf8"));
  return failed === null ? undefined : { step: failed[1] ?? "", text: (failed[2] ?? "").trim() };
}
