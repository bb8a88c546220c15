import { LabError, type Machine, quoteWord, Sensitive, sh } from "../../src/index.ts";
import { buildScript, KERNEL_ARCHS } from "./build-script.ts";
import type { BuildObserver, BuildOutcome, BuildOutput, BuildRequest } from "./build-types.ts";
import { type Cleaned, cleanServer } from "./clean.ts";
import { ErrorScanner } from "./compile-errors.ts";
import { type Circumstances, diskError, failureOf, lostError } from "./failures.ts";
import { followJob } from "./follow.ts";
import { startScript } from "./job-script.ts";
import { cancelJob, findJob, type Job } from "./jobs.ts";
import { explainOnServer } from "./kconfig-server.ts";
import { prepareDirectory } from "./source-directory.ts";
import { prepareGit } from "./source-git.ts";
import type { PreparedSource } from "./source-script.ts";
import { prepareTarball } from "./source-tarball.ts";
import { list, requireSuccess, runScript } from "./text.ts";

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
    let tries = 0;
    for (let stale = 0; ; ) {
      this.#scanner = new ErrorScanner();
      this.#tail = "";
      const how = await this.#beginAgain(tries++);
      if (how instanceof LabError) return { is: "failed", how: "started", error: how, ...this.#findings(), seconds: 0 };
      if (how === "reused") return await this.#completed(how, 0);
      this.#observer.onStarted?.();
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

  /** A build that has run and finds no room for its second try has failed; before the first it has not begun. */
  async #beginAgain(tries: number): Promise<BuildOutcome["how"] | LabError> {
    try {
      return await this.#begin();
    } catch (error) {
      if (tries > 0 && error instanceof LabError && error.code === "E_BUILD_DISK") return error;
      throw error;
    }
  }

  #findings(): Pick<ErrorScanner, "errors" | "missing" | "steps"> {
    const { errors, missing, steps } = this.#scanner;
    return { errors, missing, steps };
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
    if (word === "full") return diskError(this.#circumstances(), said);
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
      if (this.#cleaned !== undefined) throw diskError(this.#circumstances(), error.message);
      await this.#makeRoom();
      try {
        return await this.#prepare();
      } catch (again) {
        throw again instanceof LabError && again.code === "E_DISK_FULL"
          ? diskError(this.#circumstances(), again.message)
          : again;
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
    if (job === undefined) throw lostError(this.#machine.address, "its directory on the server was removed");
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
    const { missing } = this.#scanner;
    if (missing.length > 0) {
      this.#observer.onNote?.(
        `the build went without ${list(missing.map(({ name }) => name))} (${list(missing.flatMap((one) => one.package ?? []))})`,
      );
    }
    return {
      is: "completed",
      how,
      seconds,
      steps: this.#scanner.steps,
      ...parseOutputs(result.stdout.toString("utf8"), outputs),
    };
  }

  async #failed(how: BuildOutcome["how"], job: Job, seconds: number): Promise<BuildOutcome> {
    const end = job.result?.end;
    const common = { how, seconds, ...this.#findings() } as const;
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
    if (job.problems[0]?.[0] === "dropped" && !this.#ranFull(job)) {
      const { paths, work, config } = this.#request;
      const srcarch = work.type === "kernel" ? KERNEL_ARCHS[work.arch].srcarch : "";
      return (await explainOnServer(this.#machine, paths, config, srcarch)).atAddress(this.#machine.address);
    }
    return failureOf(job, this.#circumstances(job));
  }

  #circumstances(job?: Job): Circumstances {
    const { work, paths, timeout } = this.#request;
    return {
      address: this.#machine.address,
      arch: work.arch,
      paths,
      timeout: timeout ?? 0,
      errors: this.#scanner.errors,
      missing: this.#scanner.missing,
      tail: this.#tail,
      full: job !== undefined && this.#ranFull(job),
      cleaned: this.#cleaned,
    };
  }
}

/** Reads the list of what a build made. */
export function parseOutputs(
  text: string,
  directory: string,
): { readonly outputs: readonly BuildOutput[]; readonly release?: string } {
  const outputs: BuildOutput[] = [];
  let release: string | undefined;
  for (const line of text.split("\n")) {
    const [type = "", name = "", sha256 = "", size = "", kept = "", file = name] = line.split("\t");
    if (type === "release") release = name;
    else if (kept !== "") outputs.push({ name, type, sha256, size: Number(size), path: `${directory}/${kept}`, file });
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
