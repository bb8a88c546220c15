import { randomBytes } from "node:crypto";
import { LabError } from "../diagnostics/index.ts";
import { Sensitive } from "../model/index.ts";
import { quoteWord } from "./shell.ts";

/**
 * How a script reaches a shell. What stands on a command line is always this one constant text, which sh, bash, fish and
 * csh pass on alike (no single quote, newline or exclamation mark in it); the script, its environment and secrets travel over
 * stdin. The first line names a nonce and a mode: `a`, the rest of stdin is the script, which ends with the nonce; a number, so many lines
 * are, and what follows is the command's own stdin. `read` takes single bytes from a pipe in every POSIX shell, whereas
 * a shell that reads a script from stdin reads ahead, so data can never follow `sh -s`.
 *
 * The nonce and the wrapper's process id are printed on both outputs before the script starts: all text before is noise
 * of login files, and the id is what is killed with its session when time is up.
 */
export const WRAPPER = [
  "IFS= read -r labctl_h || exit 125;",
  "labctl_n=${labctl_h#labctl:}; labctl_m=${labctl_n#*:}; labctl_n=${labctl_n%%:*};",
  'echo "$labctl_n $$"; echo "$labctl_n $$" >&2;',
  // $(...) drops newlines at the end, and the nonce ends with none. A command by itself costs a fork less than a list.
  'if [ "$labctl_m" = a ]; then labctl_s=$(cat);',
  // A link that broke in the middle must not run half a script: `rm -rf /srv/x` cut short is another command.
  'case "$labctl_s" in *"#$labctl_n") ;; *) exit 125;; esac;',
  "else labctl_s=; labctl_x=$(echo; echo x); labctl_x=${labctl_x%x};",
  'while [ "$labctl_m" -gt 0 ]; do IFS= read -r labctl_l || exit 125;',
  'labctl_s="$labctl_s$labctl_l$labctl_x"; labctl_m=$((labctl_m-1)); done; fi;',
  'eval "$labctl_s"',
].join(" ");

/** Printed by sudo when it wants a password; the password is never sent before. */
export const SUDO_PROMPT = "labctl-sudo-prompt:";
/** Printed by the wrapper under a sudo that may ask: from here on stdin is the wrapper's. */
export const SUDO_READY = "labctl-sudo-ready";

export type Elevation = "none" | "sudo" | "sudo-password";

/** The command line, as words. Constant but for the way to root. */
export function commandWords(elevation: Elevation): string[] {
  switch (elevation) {
    case "none":
      return ["sh", "-c", WRAPPER];
    case "sudo":
      return ["sudo", "-n", "-H", "--", "sh", "-c", WRAPPER];
    case "sudo-password":
      // -k: a password that sudo still remembers is not used, so that every run takes the same path.
      return ["sudo", "-S", "-k", "-H", "-p", SUDO_PROMPT, "--", "sh", "-c", `echo ${SUDO_READY}; ${WRAPPER}`];
  }
}

/** The same for a login shell of any kind: single quotes around what is not plain. */
export function commandLine(words: readonly string[]): string {
  return `exec ${words.map((word) => (/^[A-Za-z0-9_:/-]+$/.test(word) ? word : `'${word}'`)).join(" ")}`;
}

export interface ScriptParts {
  readonly script: string;
  readonly env?: Readonly<Record<string, string | Sensitive<string>>>;
  readonly cwd?: string;
}

const ENV_NAME = /^[A-Za-z_][A-Za-z0-9_]*$/;

/** The script with its environment and directory. Throws E_SPEC_VALUE for what no shell can carry. */
export function fullScript(parts: ScriptParts): string {
  const lines = ["unset -v labctl_h labctl_n labctl_m labctl_s labctl_l labctl_x"];
  for (const [name, value] of Object.entries(parts.env ?? {})) {
    if (!ENV_NAME.test(name)) {
      throw new LabError("E_SPEC_VALUE", `${JSON.stringify(name)} is not a name for an environment variable`, {
        hint: "use letters, digits and underscores, and no digit first",
      });
    }
    const text = value instanceof Sensitive ? value.reveal() : value;
    if (text.includes("\0")) throw nulByte(`the environment variable ${name}`);
    lines.push(`export ${name}=${quoteWord(text)}`);
  }
  if (parts.cwd !== undefined) {
    if (parts.cwd.includes("\0")) throw nulByte("the working directory");
    lines.push(`CDPATH= cd -- ${quoteWord(parts.cwd === "-" ? "./-" : parts.cwd)} || exit 125`);
  }
  if (parts.script.includes("\0")) throw nulByte("the script");
  lines.push(parts.script);
  return lines.join("\n");
}

function nulByte(what: string): LabError {
  return new LabError("E_SPEC_VALUE", `${what} holds a NUL byte, which no shell can carry`);
}

export function newNonce(): string {
  return randomBytes(12).toString("hex");
}

/** What goes to stdin before the command's own data. */
export function encodeScript(nonce: string, script: string, hasStdin: boolean): Buffer {
  if (!hasStdin) return Buffer.from(`labctl:${nonce}:a\nexec </dev/null\n${script}\n#${nonce}`);
  return Buffer.from(`labctl:${nonce}:${script.split("\n").length}\n${script}\n`);
}

/** Drops what login files print before the wrapper's marker line, and takes the process id from it. */
export class StartFilter {
  readonly #marker: Buffer;
  #held: Buffer | undefined = Buffer.alloc(0);
  /** Process id of the wrapper: the leader of the command's session. */
  pid: number | undefined;

  constructor(nonce: string) {
    this.#marker = Buffer.from(`${nonce} `);
  }

  /** What came before the marker: all there is where the wrapper never started. */
  get preamble(): string {
    return this.#held?.toString("utf8") ?? "";
  }

  get started(): boolean {
    return this.#held === undefined;
  }

  /** The part of the chunk that is the command's own. */
  push(chunk: Buffer): Buffer | undefined {
    if (this.#held === undefined) return chunk;
    this.#held = Buffer.concat([this.#held, chunk]);
    const at = this.#held.indexOf(this.#marker);
    const end = at < 0 ? -1 : this.#held.indexOf("\n", at);
    if (end < 0) {
      // Endless noise is not kept: the marker and its line are short.
      if (at < 0 && this.#held.length > 1 << 20) this.#held = this.#held.subarray(-(1 << 16));
      return undefined;
    }
    this.pid = Number.parseInt(this.#held.toString("latin1", at + this.#marker.length, end), 10);
    const rest = this.#held.subarray(end + 1);
    this.#held = undefined;
    return rest.length > 0 ? rest : undefined;
  }
}

/**
 * Ends a command with all that it started: its session, its process group, its descendants also where they have
 * groups of their own (timeout(1), sudo). TERM, then KILL after two seconds. Ends itself within four.
 */
export function killScript(pid: number): string {
  return `p=${pid}; l=" $p "
find_all() {
  more=1
  while [ $more = 1 ]; do
    more=0
    for f in /proc/[0-9]*/stat; do
      { IFS= read -r st <"$f"; } 2>/dev/null || continue
      i=\${st%% *}; st=\${st##*) }
      case $l in *" $i "*) continue ;; esac
      set -- $st
      [ "$1" = Z ] && continue
      if [ "$3" = $p ] || [ "$4" = $p ]; then l="$l$i "; more=1; continue; fi
      case $l in *" $2 "*) l="$l$i "; more=1 ;; esac
    done
  done
}
alive() {
  for i in $l; do
    { IFS= read -r st <"/proc/$i/stat"; } 2>/dev/null || continue
    st=\${st##*) }
    case $st in Z*|X*) ;; *) return 0 ;; esac
  done
  return 1
}
for s in TERM KILL; do
  find_all
  kill -$s $l 2>/dev/null
  n=0
  while [ $n -lt 20 ]; do
    find_all
    alive || exit 0
    [ $s = KILL ] && kill -KILL $l 2>/dev/null
    sleep 0.1 2>/dev/null || { sleep 1; n=$((n+9)); }
    n=$((n+1))
  done
done
exit 1`;
}
