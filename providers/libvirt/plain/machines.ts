import { type KindContext, sh } from "../../../src/index.ts";
import { parseDefinition } from "./definition.ts";
import type { PlainHost } from "./host.ts";

/** A machine that some labctl made on a host without libvirt, whoever it was. */
export interface PlainEntry {
  readonly uuid: string;
  /** Most that it can have. */
  readonly cpus: number;
  /** Bytes, at most. */
  readonly memory: number;
  readonly running: boolean;
}

/** All machines that labctl made there, those of other labs and states too, and which of them run. */
export async function listMachines(ctx: KindContext, host: PlainHost): Promise<readonly PlainEntry[]> {
  const said = await host.machine.probe(
    sh`LC_ALL=C; export LC_ALL
for f in ${host.root}/*/machine.json; do [ ! -e "$f" ] || printf 'machine %s\n' "$(base64 <"$f" | tr -d '\n')"; done
grep -szlxF -e -uuid /proc/[0-9]*/cmdline | while IFS= read -r f; do
  printf 'argv %s\n' "$(base64 <"$f" 2>/dev/null | tr -d '\n')"
done`,
    { signal: ctx.signal },
  );
  return readMachines(said.stdout.toString("utf8"));
}

/** Pure. What that printed. */
export function readMachines(text: string): readonly PlainEntry[] {
  const of = (key: string): string[] =>
    [...text.matchAll(new RegExp(`^${key} (\\S+)$`, "gm"))].map((match) =>
      Buffer.from(match[1] ?? "", "base64").toString("utf8"),
    );
  const running = new Set(
    of("argv").flatMap((argv) => {
      const words = argv.split("\0");
      return words[words.indexOf("-uuid") + 1] ?? [];
    }),
  );
  return of("machine").flatMap((json) => {
    const model = parseDefinition(json)?.model;
    if (model === undefined) return [];
    return [{ uuid: model.uuid, cpus: model.cpus.max, memory: model.memory.max, running: running.has(model.uuid) }];
  });
}
