import { type Address, LabError } from "../../src/index.ts";
import type { Cleaned } from "./clean.ts";
import { type CompileError, formatCompileError, type MissingTool } from "./compile-errors.ts";
import type { Job } from "./jobs.ts";
import { defconfigError } from "./kernel-config.ts";
import type { BuildPaths } from "./layout.ts";
import { lastLines, list, nearest } from "./text.ts";

/** What is known of a build that has failed, besides its job. */
export interface Circumstances {
  readonly address: Address;
  readonly arch: string;
  readonly paths: BuildPaths;
  /** Milliseconds; 0: none. */
  readonly timeout: number;
  readonly errors: readonly CompileError[];
  readonly missing: readonly MissingTool[];
  /** The end of the log. */
  readonly tail: string;
  /** The disk was full. */
  readonly full: boolean;
  /** What was removed to make room, where that was tried. */
  readonly cleaned: Cleaned | undefined;
}

/** Why a build has failed, from its job and its log. Pure. Symbols that did not survive are told by droppedError(). */
export function failureOf(job: Job, known: Circumstances): LabError {
  const { address } = known;
  const { result } = job;
  if (result === undefined) return lostError(address, "the server restarted, or something killed what supervised it");
  if (result.end === "lease") return lostError(address, "no labctl gave a sign of life for longer than its lease");
  if (result.end === "timeout") {
    return new LabError(
      "E_BUILD_TIMEOUT",
      `the build took longer than ${Math.round(known.timeout / 1000)} s and was ended in the phase ${job.phase}`,
      {
        address,
        hint: "give it a longer `timeout`, or a server with more cores; what was compiled is kept, and the next apply goes on there",
      },
    );
  }
  if (known.full) return diskError(known, lastLines(known.tail, 3));
  const [word, ...fields] = job.problems[0] ?? [];
  if (word === "defconfig") return noDefconfig(fields[0] ?? "", job, known);
  if (word === "output") return noOutput(fields, job, known);
  if (word === "source") {
    return new LabError("E_SOURCE_CORRUPT", `${fields.join(" ")}: ${lastLines(known.tail, 3)}`, {
      address,
      hint: "the source is there and cannot be put in place: look at the log",
    });
  }
  if (word === "tarball") {
    return new LabError("E_SOURCE_CORRUPT", fields.join(" "), {
      address,
      hint: "it has the digest that was announced, so it was damaged when that was taken: fetch it again, and correct `sha256`",
    });
  }
  if (word === "stale") {
    return new LabError("E_SOURCE_CORRUPT", "the tree of this build is changed by somebody else all the time", {
      address,
      retryable: true,
      hint: "two labctls build the same thing from different sources: let one end first",
    });
  }
  return compileFailure(result.code ?? 1, word === "step" ? fields.join(" ") : job.phase, known);
}

function compileFailure(code: number, step: string, known: Circumstances): LabError {
  const { address, errors, missing } = known;
  // Something that is missing may be a mere remark; an error in a file of the source is none.
  const own = errors.filter(
    (error) =>
      ["compiler", "linker", "modpost", "dtc"].includes(error.tool) &&
      !/no such file|file not found/i.test(error.message),
  );
  if (missing.length > 0 && own.length === 0) {
    const packages = missing.flatMap((one) => one.package ?? []);
    return new LabError("E_BUILD_TOOL", `the build server lacks ${list(missing.map(({ name }) => name))}`, {
      address,
      hint: `add ${list(packages)} to \`packages:\` of that host (names of Debian's packages)`,
    });
  }
  const lines = errors.slice(0, 5).map((error) => formatCompileError(error, [known.paths.tree, known.paths.objects]));
  const said = lines.length > 0 ? lines.join("\n") : lastLines(known.tail, 5);
  return new LabError(
    "E_BUILD_FAILED",
    `the build failed in the step ${step} (exit code ${code})${said === "" ? "" : `:\n${said}`}`,
    { address, hint: "the whole log is kept with the build; correct the source and run again" },
  );
}

export function lostError(address: Address, why: string): LabError {
  return new LabError("E_BUILD_LOST", `the build ended without a result: ${why}`, {
    address,
    retryable: true,
    hint: "run again: what was compiled is not compiled again",
  });
}

export function diskError(known: Pick<Circumstances, "address" | "paths" | "cleaned">, said: string): LabError {
  const removed = known.cleaned?.removed ?? [];
  const bytes = removed.reduce((sum, one) => sum + one.bytes, 0);
  return new LabError(
    "E_BUILD_DISK",
    `the disk of ${known.paths.workdir} is full, also after ${removed.length} old things (${Math.ceil(bytes / 1e6)} MB) were removed${said === "" ? "" : `: ${said}`}`,
    {
      address: known.address,
      retryable: true,
      hint: "free some space there, or ask for it: `requires: { disk: ... }`",
    },
  );
}

function near(job: Job): readonly string[] {
  return job.problems.flatMap(([word, name]) => (word === "near" && name !== undefined ? [name] : []));
}

function noDefconfig(name: string, job: Job, known: Circumstances): LabError {
  const names = near(job);
  const own = names.filter((one) => !one.includes(" "));
  const elsewhere = names.filter((one) => one.includes(" (of "));
  return defconfigError(name, known.arch, own, [...elsewhere, ...nearest(name, own)]).atAddress(known.address);
}

function noOutput(fields: readonly string[], job: Job, known: Circumstances): LabError {
  const [name = "", path = "", why = ""] = fields;
  const made = near(job);
  const close = nearest(path, made);
  const show = close.length > 0 ? close : made.slice(0, 8);
  return new LabError(
    "E_BUILD_OUTPUT",
    `the output ${name}: ${path} ${why === "directory" ? "is a directory" : "is not there"} after the build`,
    {
      address: known.address,
      hint:
        why === "directory"
          ? "pack it in `run:` (`tar -cf`), and name the archive"
          : `files that the build wrote: ${list(show)}`,
    },
  );
}
