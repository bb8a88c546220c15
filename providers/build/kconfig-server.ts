import { gunzipSync } from "node:zlib";
import { type LabError, type Machine, sh } from "../../src/index.ts";
import { explainDropped } from "./kconfig-explain.ts";
import { parseKconfig } from "./kconfig.ts";
import { droppedError, type MergedConfig, parseConfig, verifyConfig } from "./kernel-config.ts";
import type { BuildPaths } from "./layout.ts";
import { requireSuccess, runScript } from "./text.ts";

/** Reads the configuration that came out, and the kernel's Kconfig files to say why symbols did not survive. */
export async function explainOnServer(
  machine: Machine,
  paths: BuildPaths,
  config: MergedConfig | undefined,
  srcarch: string,
): Promise<LabError> {
  const final = await runScript(machine, sh`cat -- ${`${paths.job}/config`} || exit 1`, { keep: 8 << 20 });
  const values = parseConfig(requireSuccess(machine, final, "reading the configuration").stdout.toString("utf8"));
  const dropped = config === undefined ? [] : verifyConfig(config, values);
  const index = parseKconfig(await kconfigFiles(machine, paths.tree, srcarch), srcarch);
  // Without the files there is no telling why; with them an unknown symbol is news.
  const why = index.definitions.size === 0 ? undefined : explainDropped(dropped, values, index);
  return droppedError(dropped, why);
}

/** All Kconfig files that matter for an architecture, by path below the source. */
export async function kconfigFiles(
  machine: Machine,
  tree: string,
  srcarch: string,
): Promise<ReadonlyMap<string, string>> {
  const result = await runScript(
    machine,
    sh`cd -- ${tree} || exit 1
find . -name 'Kconfig*' -type f ! -path './.git/*' \\( ! -path './arch/*' -o -path ./arch/Kconfig -o -path ${`./arch/${srcarch}/*`} \\) -print0 | xargs -0 awk 'FNR == 1 { print "\\001" FILENAME } { print }' | gzip -c`,
    { keep: 64 << 20 },
  );
  if (result.code !== 0 || result.stdout.length === 0) return new Map();
  const files = gunzipSync(result.stdout).toString("utf8").split("\u0001").slice(1);
  return new Map(
    files.map((file) => {
      const end = file.indexOf("\n");
      return [file.slice(2, end), file.slice(end + 1)] as const;
    }),
  );
}
