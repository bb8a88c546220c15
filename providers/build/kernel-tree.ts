import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { LabError } from "../../src/index.ts";
import { CONFIG_TARGETS, defconfigWords, KERNEL_ARCHS, type KernelArch } from "./build-script.ts";
import { defconfigError } from "./kernel-config.ts";
import type { TreeScan } from "./source-directory.ts";
import { nearest } from "./text.ts";

/**
 * For plan time, where the source is a directory here: proves that it is a kernel's, and that it has the defconfig. The build asks
 * the same of every source, as its first step. Throws E_SOURCE_UNRESOLVED, E_KCONFIG_DEFCONFIG.
 */
export async function checkKernelTree(scan: TreeScan, arch: KernelArch, defconfig: string): Promise<void> {
  const paths = new Set(scan.entries.map((entry) => entry.path));
  const { srcarch } = KERNEL_ARCHS[arch];
  if (!paths.has("Kconfig") || !paths.has("Makefile")) {
    throw new LabError(
      "E_SOURCE_UNRESOLVED",
      `${scan.root} holds no Linux kernel: there is no Kconfig and Makefile in it`,
      {
        hint: "name the top of the kernel's tree; what is not a kernel is built with `run` and `outputs`",
      },
    );
  }
  if (!paths.has(`arch/${srcarch}/Makefile`)) {
    throw new LabError(
      "E_SOURCE_UNRESOLVED",
      `the kernel in ${scan.root} has no arch/${srcarch}, which ${arch} takes`,
      {
        hint: "see what git ignores there, or build for another `arch:`",
      },
    );
  }
  const own = `arch/${srcarch}/configs/`;
  const makefile = await readFile(join(scan.root, `arch/${srcarch}/Makefile`), "utf8");
  for (const word of defconfigWords(defconfig)) {
    const there =
      CONFIG_TARGETS.includes(word) ||
      paths.has(own + word) ||
      paths.has(`kernel/configs/${word}`) ||
      makefile.includes(`\n${word}:`);
    if (there) continue;
    const names = [...paths].flatMap((path) => (path.startsWith(own) ? [path.slice(own.length)] : []));
    const elsewhere = [...paths].flatMap((path) => {
      const found = /^arch\/([^/]+)\/configs\/([^/]+)$/.exec(path);
      return found?.[2] === word ? [`${word} (of ${found[1] ?? ""})`] : [];
    });
    throw defconfigError(word, arch, names, [...elsewhere, ...nearest(word, names)]);
  }
}
