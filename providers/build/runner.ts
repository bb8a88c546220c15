import { gunzipSync } from "node:zlib";
import { LabError, type Machine, quoteWord, Sensitive, sh } from "../../src/index.ts";
import { buildScript, type Compiler, KERNEL_ARCHS, type KernelBuild, type RunBuild } from "./build-script.ts";
import { type Cleaned, cleanServer } from "./clean.ts";
import { type CompileError, ErrorScanner, formatCompileError, type MissingTool } from "./compile-errors.ts";
import { followJob } from "./follow.ts";
import { startScript } from "./job-script.ts";
import { cancelJob, findJob, type Job } from "./jobs.ts";
import { explainDropped } from "./kconfig-explain.ts";
import { parseKconfig } from "./kconfig.ts";
import { defconfigError, droppedError, type MergedConfig, parseConfig, verifyConfig } from "./kernel-config.ts";
import type { BuildPaths } from "./layout.ts";
import { prepareDirectory, type TreeScan } from "./source-directory.ts";
import { type GitSource, prepareGit, type ResolvedGit } from "./source-git.ts";
import type { PreparedSource } from "./source-script.ts";
import { prepareTarball, type TarballSource } from "./source-tarball.ts";
import { lastLines, list, nearest, requireSuccess, runScript } from "./text.ts";

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

const LEASE_MS = 120_000;
const ROOM = 10e9;
/** How often a source is prepared anew because somebody else changed the tree meanwhile. */
const STALE_TRIES = 3;
/** Below so much a disk counts as full, whatever tools said (bytes). */
const FULL_BELOW = 1 << 20;
const START_MS = 180_000;
const TAIL = 16 * 1024;

/**
 * Builds on a server: brings the source there, starts the build or attaches to one of the same digest that runs already, and
 * follows it to its end. A build that fails, is cancelled or runs out of time is an outcome; its log stays on the server.
 * Throws what preparing the source throws, E_BUILD_TOOL where the server lacks what labctl itself needs, and what the
 * machine rejects with when it stays out of reach: the server then ends the build when its lease is over.
 */
export async function runBuild(
  machine: Machine,
  request: BuildRequest,
  observer: BuildObserver = {},
): Promise<BuildOutcome> {
  return await new Build(machine, request, observer).run();
}

class Build {
  readonly #machine: Machine;
  readonly #request: BuildRequest;
  readonly #observer: BuildObserver;
  #cleaned: Cleaned | undefined;
  #scanner = new ErrorScanner();
  #tail = "";
  #phase = "";

  constructor(machine: Machine, request: BuildRequest, observer: BuildObserver) {
    this.#machine = machine;
    this.#request = request;
    this.#observer = observer;
  }

  async run(): Promise<BuildOutcome> {
    for (let stale = 0; ; ) {
      this.#scanner = new ErrorScanner();
      this.#tail = "";
      const how = await this.#begin();
      if (how === "reused") return await this.#completed(how, 0);
      const job = await this.#follow();
      const seconds = job.result?.seconds ?? 0;
      if (job.result?.end === "exit" && job.result.code === 0) return await this.#completed(how, seconds);
      if (job.problems[0]?.[0] === "stale" && ++stale < STALE_TRIES) {
        this.#observer.onNote?.("the tree changed while its source was sent: preparing it again");
        continue;
      }
      if (this.#ranFull(job) && this.#cleaned === undefined) {
        await this.#makeRoom();
        continue;
      }
      return await this.#failed(how, job, seconds);
    }
  }

  /** Starts the build, unless it runs or is done. */
  async #begin(): Promise<BuildOutcome["how"]> {
    const { paths, digest } = this.#request;
    const { signal } = this.#observer;
    const known = await findJob(this.#machine, paths.workdir, digest, signal);
    if (known?.state === "running") {
      this.#observer.onNote?.(`attached to the build that ${known.holder === "" ? "somebody" : known.holder} started`);
      return "attached";
    }
    const source = await this.#prepared();
    const answer = await this.#start(source);
    const [word = "", ...rest] = answer.trim().split(" ");
    if (word === "started") return "started";
    if (word === "running") return "attached";
    if (word === "done") return "reused";
    if (word === "full" && this.#cleaned === undefined) {
      await this.#makeRoom();
      return await this.#begin();
    }
    throw this.#notStarted(word, rest.join(" "));
  }

  #notStarted(word: string, said: string): LabError {
    const { address } = this.#machine;
    if (word === "missing") {
      return new LabError("E_BUILD_TOOL", `${address} has no ${said}, which labctl needs to run builds there`, {
        address,
        hint: "add the package that brings it to `packages:` of that host (util-linux, coreutils, findutils, tar, gawk)",
      });
    }
    if (word === "full") return this.#diskError(said);
    const denied = /permission denied|not permitted|read-only/i.test(said);
    return new LabError("E_COMMAND_FAILED", `a build cannot be started on ${address}: ${said}`, {
      address,
      hint: denied
        ? `the login must be allowed to write below ${this.#request.paths.workdir}: declare it under \`directories:\` with its owner`
        : "look at the build server, then run again",
    });
  }

  async #prepared(): Promise<PreparedSource> {
    try {
      return await this.#prepare();
    } catch (error) {
      if (!(error instanceof LabError) || error.code !== "E_DISK_FULL") throw error;
      if (this.#cleaned !== undefined) throw this.#diskError(error.message);
      await this.#makeRoom();
      try {
        return await this.#prepare();
      } catch (again) {
        throw again instanceof LabError && again.code === "E_DISK_FULL" ? this.#diskError(again.message) : again;
      }
    }
  }

  async #prepare(): Promise<PreparedSource> {
    const { source, paths } = this.#request;
    const { signal } = this.#observer;
    const common = signal ? { signal } : {};
    this.#progress("source");
    switch (source.type) {
      case "git":
        return (
          await prepareGit(this.#machine, paths.workdir, source.source, source.resolved, {
            ...common,
            ...(source.depth !== undefined && { depth: source.depth }),
          })
        ).prepared;
      case "directory":
        return (await prepareDirectory(this.#machine, paths, source.scan, common)).prepared;
      case "tarball":
        return (await prepareTarball(this.#machine, paths.workdir, source.source, common)).prepared;
    }
  }

  async #start(source: PreparedSource): Promise<string> {
    const request = this.#request;
    const { config, work } = request;
    const script = buildScript({
      paths: request.paths,
      digest: request.digest,
      source,
      work,
      compiler: request.compiler,
      ccache: request.ccache ?? true,
      clean: request.clean ?? false,
      ...(request.jobs !== undefined && { jobs: request.jobs }),
    });
    const files: Record<string, string> = {};
    if (work.type === "kernel") {
      files["requested"] = config?.table ?? "";
      files["fragment"] = config?.fragment ?? "";
      if ("config" in work.base) files["base.config"] = work.base.config;
    }
    const result = await runScript(
      this.#machine,
      startScript({
        paths: request.paths,
        digest: request.digest,
        script,
        holder: request.holder.replaceAll(/\p{Cc}/gu, " "),
        lease: Math.max(1, Math.ceil((request.lease ?? LEASE_MS) / 1000)),
        timeout: Math.ceil((request.timeout ?? 0) / 1000),
        files,
        again: request.again ?? false,
      }),
      {
        stdin: exportLines(request.env ?? {}),
        timeout: START_MS,
        ...(this.#observer.signal && { signal: this.#observer.signal }),
      },
    );
    return requireSuccess(this.#machine, result, "starting a build").stdout.toString("utf8");
  }

  /** To the end of the job; where that is cancelled here, the job is too. */
  async #follow(): Promise<Job> {
    const { paths, digest } = this.#request;
    const { signal } = this.#observer;
    const lease = this.#request.lease ?? LEASE_MS;
    try {
      await followJob(this.#machine, {
        job: paths.job,
        heartbeat: Math.max(200, Math.min(10_000, lease / 4)),
        patience: lease,
        ...(signal && { signal }),
        onLog: (chunk) => {
          this.#scanner.push(chunk);
          this.#tail = (this.#tail + chunk.toString("utf8")).slice(-TAIL);
          this.#observer.onLog?.(chunk);
          this.#progress(this.#phase);
        },
        onPhase: (phase) => this.#progress(phase),
        onLost: (error) =>
          this.#observer.onNote?.(`the link to the build server broke (${error.message}); the build goes on there`),
      });
    } catch (error) {
      if (signal?.aborted !== true) throw error;
      await cancelJob(this.#machine, paths.workdir, digest);
    }
    this.#scanner.end();
    // Without the signal: what became of it is wanted also after a cancellation.
    const job = await findJob(this.#machine, paths.workdir, digest);
    if (job === undefined) throw this.#lost("its directory on the server was removed");
    return job;
  }

  #progress(phase: string): void {
    this.#phase = phase;
    const { steps, percent } = this.#scanner;
    const expected = this.#request.expectedSteps;
    const share =
      percent ?? (expected !== undefined && expected > 0 ? Math.min(99, (100 * steps) / expected) : undefined);
    this.#observer.onProgress?.({ phase, steps, ...(share !== undefined && { percent: Math.floor(share) }) });
  }

  #ranFull(job: Job): boolean {
    if (job.result?.end !== "exit" || job.result.code === 0) return false;
    return this.#scanner.full || (job.result.lowest !== undefined && job.result.lowest < FULL_BELOW);
  }

  async #makeRoom(): Promise<void> {
    const { paths } = this.#request;
    const room = this.#request.makeRoom ?? ROOM;
    this.#observer.onNote?.(`the disk of ${paths.workdir} is full: removing old objects`);
    this.#cleaned = await cleanServer(this.#machine, paths.workdir, room, [paths], this.#observer.signal);
    this.#observer.onNote?.(
      `removed ${list(this.#cleaned.removed.map(({ path }) => path))}; ${Math.floor(this.#cleaned.free / 1e6)} MB are free now`,
    );
  }

  async #completed(how: BuildOutcome["how"], seconds: number): Promise<BuildOutcome> {
    const { outputs } = this.#request.paths;
    const result = requireSuccess(
      this.#machine,
      await runScript(this.#machine, sh`cat -- ${`${outputs}/outputs.tsv`} || exit 1`),
      "reading what a build made",
    );
    return {
      is: "completed",
      how,
      seconds,
      steps: this.#scanner.steps,
      ...parseOutputs(result.stdout.toString("utf8"), outputs),
    };
  }

  async #failed(how: BuildOutcome["how"], job: Job, seconds: number): Promise<BuildOutcome> {
    const { errors, missing, steps } = this.#scanner;
    const end = job.result?.end;
    const common = { how, seconds, steps, errors, missing } as const;
    if (end === "cancelled" || (end === undefined && this.#observer.signal?.aborted === true)) {
      return {
        is: "cancelled",
        ...common,
        error: new LabError("E_CANCELLED", "the build was cancelled", { address: this.#machine.address }),
      };
    }
    return { is: "failed", ...common, error: await this.#errorOf(job) };
  }

  async #errorOf(job: Job): Promise<LabError> {
    const { address } = this.#machine;
    const { result } = job;
    if (result === undefined) return this.#lost("the server restarted, or something killed what supervised it");
    if (result.end === "lease") return this.#lost("no labctl gave a sign of life for longer than its lease");
    if (result.end === "timeout") {
      return new LabError(
        "E_BUILD_TIMEOUT",
        `the build took longer than ${Math.round((this.#request.timeout ?? 0) / 1000)} s and was ended in the phase ${job.phase}`,
        {
          address,
          retryable: true,
          hint: "give it a longer `timeout`, or a server with more cores; what was compiled is kept, and the next try goes on there",
        },
      );
    }
    const [word, ...fields] = job.problems[0] ?? [];
    if (this.#ranFull(job)) return this.#diskError(lastLines(this.#tail, 3));
    if (word === "defconfig") return this.#noDefconfig(fields[0] ?? "", job);
    if (word === "dropped") return (await this.#dropped()).atAddress(address);
    if (word === "output") return this.#noOutput(fields, job);
    if (word === "source") {
      return new LabError("E_SOURCE_CORRUPT", `${fields.join(" ")}: ${lastLines(this.#tail, 3)}`, {
        address,
        hint: "the source is there and cannot be put in place: look at the log",
      });
    }
    if (word === "stale") {
      return new LabError("E_SOURCE_CORRUPT", "the tree of this build is changed by somebody else all the time", {
        address,
        retryable: true,
        hint: "two labctls build the same thing from different sources: let one end first",
      });
    }
    return this.#compileFailure(result.code ?? 1, word === "step" ? fields.join(" ") : job.phase);
  }

  #compileFailure(code: number, step: string): LabError {
    const { address } = this.#machine;
    const { errors, missing } = this.#scanner;
    if (missing.length > 0) {
      const packages = missing.flatMap((one) => one.package ?? []);
      return new LabError("E_BUILD_TOOL", `the build server lacks ${missing.map(({ name }) => name).join(", ")}`, {
        address,
        hint: `add ${packages.join(", ")} to \`packages:\` of that host (names of Debian's packages)`,
      });
    }
    const { tree, objects } = this.#request.paths;
    const lines = errors.slice(0, 5).map((error) => formatCompileError(error, [tree, objects]));
    const said = lines.length > 0 ? lines.join("\n") : lastLines(this.#tail, 5);
    return new LabError(
      "E_BUILD_FAILED",
      `the build failed in the step ${step} (exit code ${code})${said === "" ? "" : `:\n${said}`}`,
      {
        address,
        hint: "the whole log is kept with the build; correct the source and run again",
      },
    );
  }

  #lost(why: string): LabError {
    return new LabError("E_BUILD_LOST", `the build ended without a result: ${why}`, {
      address: this.#machine.address,
      retryable: true,
      hint: "run again: what was compiled is not compiled again",
    });
  }

  #diskError(said: string): LabError {
    const removed = this.#cleaned?.removed ?? [];
    const bytes = removed.reduce((sum, one) => sum + one.bytes, 0);
    return new LabError(
      "E_BUILD_DISK",
      `the disk of ${this.#request.paths.workdir} is full, also after ${removed.length} old things (${Math.ceil(bytes / 1e6)} MB) were removed${said === "" ? "" : `: ${said}`}`,
      {
        address: this.#machine.address,
        retryable: true,
        hint: "free some space there, or ask for it: `requires: { disk: ... }`",
      },
    );
  }

  #noDefconfig(name: string, job: Job): LabError {
    const names = near(job);
    const { arch } = this.#request.work;
    return defconfigError(
      name,
      arch,
      names.filter((one) => !one.includes(" ")),
      [
        ...names.filter((one) => one.includes(" (of ")),
        ...nearest(
          name,
          names.filter((one) => !one.includes(" ")),
        ),
      ],
    ).atAddress(this.#machine.address);
  }

  #noOutput(fields: readonly string[], job: Job): LabError {
    const [name = "", path = "", why = ""] = fields;
    const made = near(job);
    const close = nearest(path, made);
    const show = close.length > 0 ? close : made.slice(0, 8);
    return new LabError(
      "E_BUILD_OUTPUT",
      `the output ${name}: ${path} ${why === "directory" ? "is a directory" : "is not there"} after the build`,
      {
        address: this.#machine.address,
        hint:
          why === "directory"
            ? "pack it in `run:` (`tar -cf`), and name the archive"
            : `files that the build wrote: ${list(show)}`,
      },
    );
  }

  /** Reads the configuration that came out and the kernel's Kconfig files, to say why. */
  async #dropped(): Promise<LabError> {
    const { paths, work, config } = this.#request;
    const final = await runScript(this.#machine, sh`cat -- ${`${paths.job}/config`} || exit 1`, { keep: 8 << 20 });
    const values = parseConfig(
      requireSuccess(this.#machine, final, "reading the configuration").stdout.toString("utf8"),
    );
    const dropped = config === undefined ? [] : verifyConfig(config, values);
    const srcarch = work.type === "kernel" ? KERNEL_ARCHS[work.arch].srcarch : "";
    return droppedError(
      dropped,
      explainDropped(dropped, values, parseKconfig(await this.#kconfigFiles(srcarch), srcarch)),
    );
  }

  async #kconfigFiles(srcarch: string): Promise<ReadonlyMap<string, string>> {
    const result = await runScript(
      this.#machine,
      sh`cd -- ${this.#request.paths.tree} || exit 1
find . -name 'Kconfig*' -type f ! -path './.git/*' \\( ! -path './arch/*' -o -path ./arch/Kconfig -o -path ${`./arch/${srcarch}/*`} \\) -print0 | xargs -0 awk 'FNR == 1 { print "\\001" FILENAME } { print }' | gzip -c`,
      { keep: 64 << 20 },
    );
    if (result.code !== 0 || result.stdout.length === 0) return new Map();
    const text = gunzipSync(result.stdout).toString("utf8");
    return new Map(
      text
        .split("\u0001")
        .slice(1)
        .map((file) => {
          const end = file.indexOf("\n");
          return [file.slice(2, end), file.slice(end + 1)] as const;
        }),
    );
  }
}

function near(job: Job): readonly string[] {
  return job.problems.flatMap(([word, name]) => (word === "near" && name !== undefined ? [name] : []));
}

/** Reads the list of what a build made. */
export function parseOutputs(
  text: string,
  directory: string,
): { readonly outputs: readonly BuildOutput[]; readonly release?: string } {
  const outputs: BuildOutput[] = [];
  let release: string | undefined;
  for (const line of text.split("\n")) {
    const [type = "", name = "", sha256 = "", size = "", file = ""] = line.split("\t");
    if (type === "release") release = name;
    else if (file !== "") outputs.push({ name, type, sha256, size: Number(size), path: `${directory}/${file}` });
  }
  return { outputs, ...(release !== undefined && { release }) };
}

/** The build's environment as text for a shell. Throws E_SPEC_VALUE for what no shell can carry. */
export function exportLines(env: Readonly<Record<string, string | Sensitive<string>>>): string {
  return Object.entries(env)
    .map(([name, value]) => {
      const text = value instanceof Sensitive ? value.reveal() : value;
      if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(name) || text.includes("\0")) {
        throw new LabError(
          "E_SPEC_VALUE",
          `the environment variable ${JSON.stringify(name)} cannot be set by a shell`,
          {
            hint: "use letters, digits and underscores in its name, and no NUL byte in its value",
          },
        );
      }
      return `export ${name}=${quoteWord(text)}\n`;
    })
    .join("");
}
