import { type Machine, sh, type ShellText } from "../../src/index.ts";

/**
 * A console that libvirt records: what fills up becomes `LOG.0`, what was that `LOG.1`, and the oldest goes (virtlogd.conf, max_size and
 * max_backups: 2 MiB and three).
 */
const OLDEST = 2;

/** Reads all that is recorded, the oldest first. True where its beginning may be gone. */
export async function readRecord(
  machine: Machine,
  log: string,
  options: { readonly signal: AbortSignal; readonly onChunk: (chunk: Buffer) => void },
): Promise<boolean> {
  const { stderr } = await machine.exec(
    sh`log=${log}; if [ -e "$log."${String(OLDEST)} ]; then echo full >&2; fi
for i in 9 8 7 6 5 4 3 2 1 0; do if [ -e "$log.$i" ]; then cat -- "$log.$i"; fi; done; cat -- "$log" 2>/dev/null || :`,
    { signal: options.signal, keep: 4096, onStdout: options.onChunk },
  );
  return stderr.toString("utf8").startsWith("full");
}

/** Removes it with all its pieces. */
export function removeConsole(log: string): ShellText {
  return sh`rm -f -- ${log} ${log}.[0-9]`;
}
