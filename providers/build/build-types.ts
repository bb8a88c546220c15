import type { LabError, Sensitive } from "../../src/index.ts";
import type { Compiler, KernelBuild, RunBuild } from "./build-script.ts";
import type { CompileError, MissingTool } from "./compile-errors.ts";
import type { MergedConfig } from "./kernel-config.ts";
import type { BuildPaths } from "./layout.ts";
import type { TreeScan } from "./source-directory.ts";
import type { GitSource, ResolvedGit } from "./source-git.ts";
import type { TarballSource } from "./source-tarball.ts";

export type BuildSource =
  | { readonly type: "git"; readonly source: GitSource; readonly resolved: ResolvedGit; readonly depth?: number }
  | { readonly type: "directory"; readonly scan: TreeScan }
  | { readonly type: "tarball"; readonly source: TarballSource };

export interface BuildRequest {
  readonly paths: BuildPaths;
  /** SHA-256 of all inputs; see buildDigest(). */
  readonly digest: string;
  readonly source: BuildSource;
  readonly work: KernelBuild | RunBuild;
  /** For kernels: what is asked of the configuration. */
  readonly config?: MergedConfig;
  readonly compiler: Compiler;
  /** For the build's own commands. Never on a command line, a disk or in a log. */
  readonly env?: Readonly<Record<string, string | Sensitive<string>>>;
  /** Parallel jobs; absent: as many as there are cores. */
  readonly jobs?: number;
  /** Use ccache where it is installed (default true). */
  readonly ccache?: boolean;
  /** Builds from nothing (default false). */
  readonly clean?: boolean;
  /** Builds again where the same digest was built before and its outputs are still there (default false). */
  readonly again?: boolean;
  /** Milliseconds; the time that it waits for another build of the same tree does not count. Absent: none. */
  readonly timeout?: number;
  /** Milliseconds without a sign of life of labctl after which the server ends the build (default 120,000). */
  readonly lease?: number;
  /** For people: who started it. */
  readonly holder: string;
  /** Bytes to be free before it is tried once more after the disk was full (default 10 GB). */
  readonly makeRoom?: number;
  /** Steps of the last build with the same objects, for progress. */
  readonly expectedSteps?: number;
}

export interface BuildProgress {
  readonly phase: string;
  /** Steps seen so far. */
  readonly steps: number;
  /** 0 to 100; absent where nobody can know. */
  readonly percent?: number;
}

export interface BuildObserver {
  readonly signal?: AbortSignal;
  /** The build runs on the server, and is counted there; also where it ran already. */
  readonly onStarted?: () => void;
  /** The log as it comes, from its first byte; a second try begins with a line of its own. */
  readonly onLog?: (chunk: Buffer) => void;
  readonly onProgress?: (progress: BuildProgress) => void;
  /** Something that people want to know: an attached build, a lost link, a cleaned disk. */
  readonly onNote?: (text: string) => void;
}

export interface BuildOutput {
  readonly name: string;
  /** kernel_image, vmlinux, system_map, kernel_config, kernel_modules, device_tree, device_trees, or as the spec says. */
  readonly type: string;
  /** On the build server. */
  readonly path: string;
  /** What it is called where it was made: `bzImage`. */
  readonly file: string;
  readonly sha256: string;
  readonly size: number;
}

export type BuildOutcome = {
  /** Seconds that the build took; 0 where nothing ran. */
  readonly seconds: number;
  readonly steps: number;
  /** `started` by us, `attached` to one that ran, `reused`: it was built before and is still there. */
  readonly how: "started" | "attached" | "reused";
} & (
  | {
      readonly is: "completed";
      readonly outputs: readonly BuildOutput[];
      /** Of a kernel: what `uname -r` will say. */
      readonly release?: string;
    }
  | {
      readonly is: "failed" | "cancelled";
      readonly error: LabError;
      /** The first errors of compilers and other tools. */
      readonly errors: readonly CompileError[];
      readonly missing: readonly MissingTool[];
    }
);
