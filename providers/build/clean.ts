import { type Machine, sh, shJoin, type ShellText } from "../../src/index.ts";
import { JOB_FUNCTIONS } from "./job-script.ts";
import type { BuildPaths } from "./layout.ts";
import { requireSuccess, runScript } from "./text.ts";

export interface Cleaned {
  /** Paths below the work directory, in the order of their going, with their sizes in bytes. */
  readonly removed: readonly { readonly path: string; readonly bytes: number }[];
  /** Bytes free afterwards. */
  readonly free: number;
}

/** Outputs and logs that nobody has collected for so long go too (seconds). */
const FORGOTTEN_S = 24 * 3600;
const CLEAN_MS = 1_800_000;

/**
 * Removes old things, the oldest first, until so much is free: what stopped in the middle of being sent, then objects, trees
 * and tarballs by their last use, then outputs and logs that were forgotten. Never what is in use, nor mirrors, nor
 * `keep`. Prints `removed KIB PATH` lines and `free KIB`.
 */
export function cleanScript(workdir: string, freeKib: number, keep: readonly string[]): ShellText {
  return shJoin([
    JOB_FUNCTIONS,
    sh`cd -- ${workdir} || exit 1
PATH=$PATH:/usr/local/bin:/usr/bin:/bin
want=${freeKib}
enough() { [ "$(labctl_free_kib .)" -ge "$want" ]; }
kept() { for k in ${keep.length === 0 ? [""] : keep}; do [ "$k" != "$1" ] || return 0; done; return 1; }
# path, lock
drop() {
  exec 8>>"locks/$2"
  flock -n 8 || return 0
  n=$(du -sk -- "$1" 2>/dev/null | cut -f 1)
  chmod -R u+w -- "$1" 2>/dev/null
  case $1 in trees/*) rm -rf -- "$1" "$1".* ;; *) rm -rf -- "$1" ;; esac
  printf 'removed\\t%s\\t%s\\n' "\${n:-0}" "$1"
  exec 8>&-
}
oldest() { for f do [ -e "$f" ] && stat -c '%Y %n' -- "$f"; done | LC_ALL=C sort -n | cut -d ' ' -f 2-; }
mkdir -p -- locks || exit 1
enough || oldest stage/* | while IFS= read -r p; do
  enough && break
  kept "$p" || drop "$p" "\${p#*/}"
done
enough || oldest objects/* trees/* tarballs/* | while IFS= read -r p; do
  enough && break
  kept "$p" && continue
  case $p in
    *.lock) ;;
    trees/*.manifest|trees/*.stat|trees/*.digest|trees/*.epoch|trees/*.gone) ;;
    tarballs/*) drop "$p" "tarball-\${p#*/}" ;;
    *) l=\${p#*/}; drop "$p" "\${l%%.*}" ;;
  esac
done
enough || oldest jobs/* outputs/* | while IFS= read -r p; do
  enough && break
  kept "$p" && continue
  [ $(($(date +%s) - $(stat -c %Y -- "$p"))) -gt ${FORGOTTEN_S} ] || continue
  if labctl_job_alive "jobs/\${p#*/}"; then continue; fi
  drop "$p" "job-\${p#*/}"
done
printf 'free\\t%s\\n' "$(labctl_free_kib .)"`,
  ]);
}

/** Reads what {@link cleanScript} printed. */
export function parseCleaned(text: string): Cleaned {
  const removed: { path: string; bytes: number }[] = [];
  let free = 0;
  for (const line of text.split("\n")) {
    const [what, kib = "0", ...path] = line.split("\t");
    if (what === "removed") removed.push({ path: path.join("\t"), bytes: Number(kib) * 1024 });
    else if (what === "free") free = Number(kib) * 1024;
  }
  return { removed, free };
}

/** Frees a build server's disk; see {@link cleanScript}. `keep`: the build that asks for room. */
export async function cleanServer(
  machine: Machine,
  workdir: string,
  freeBytes: number,
  keep: readonly BuildPaths[] = [],
  signal?: AbortSignal,
): Promise<Cleaned> {
  const names = keep.flatMap((paths) =>
    [paths.tree, paths.objects, paths.stage, paths.job, paths.outputs].map((path) => path.slice(workdir.length + 1)),
  );
  const result = await runScript(machine, cleanScript(workdir, Math.ceil(freeBytes / 1024), names), {
    timeout: CLEAN_MS,
    ...(signal && { signal }),
  });
  return parseCleaned(requireSuccess(machine, result, "cleaning the work directory").stdout.toString("utf8"));
}
