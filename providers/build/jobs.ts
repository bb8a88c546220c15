import { LabError, type Machine, sh } from "../../src/index.ts";
import { cancelScript, statusScript } from "./job-script.ts";
import { jobDirectory } from "./layout.ts";
import { requireSuccess, runScript } from "./text.ts";

export interface JobResult {
  /** `exit`: its script ended; the others: the supervisor ended it. */
  readonly end: "exit" | "timeout" | "cancelled" | "lease";
  /** Of the script; absent where it was ended. */
  readonly code?: number;
  /** Seconds since 1970, by the server's clock. */
  readonly started: number;
  readonly finished: number;
  readonly seconds: number;
  /** Least bytes that were free while it ran; absent where it never ran. */
  readonly lowest?: number;
}

export interface Job {
  readonly digest: string;
  /** `lost`: it had begun, and neither it nor a result is there: the server restarted, or its supervisor was killed. */
  readonly state: "running" | "finished" | "lost" | "unstarted";
  /** Seconds since the last sign of life of a labctl. */
  readonly lease_age: number;
  /** waiting, source, configure, build, modules, dtbs, collect. */
  readonly phase: string;
  /** As the labctl that started it called itself. */
  readonly holder: string;
  readonly result?: JobResult;
  /** Lines of fields: see ProblemWord. */
  readonly problems: readonly (readonly string[])[];
}

/** Reads what statusScript() printed; undefined where it was cut short. */
export function parseJobs(text: string): readonly Job[] | undefined {
  interface Draft {
    readonly job: Omit<Job, "result" | "problems">;
    readonly result: Map<string, string>;
    readonly problems: string[][];
  }
  const drafts: Draft[] = [];
  let complete = false;
  for (const line of text.split("\n")) {
    const [what, ...fields] = line.split("\t");
    const last = drafts.at(-1);
    if (what === "job") {
      const [digest = "", state = "", age = "0", phase = "", ...holder] = fields;
      if (state !== "running" && state !== "finished" && state !== "lost" && state !== "unstarted") continue;
      drafts.push({
        job: { digest, state, lease_age: Number(age), phase, holder: holder.join(" ") },
        result: new Map(),
        problems: [],
      });
    } else if (what === "result" && last !== undefined) {
      const [key = "", value = ""] = (fields[0] ?? "").split("=");
      last.result.set(key, value);
    } else if (what === "problem" && last !== undefined) last.problems.push(fields);
    else if (line === "end") complete = true;
  }
  if (!complete) return undefined;
  return drafts.map(({ job, result, problems }) => {
    const parsed = resultOf(result);
    return { ...job, problems, ...(parsed && { result: parsed }) };
  });
}

function resultOf(values: ReadonlyMap<string, string>): JobResult | undefined {
  const end = values.get("end");
  if (end !== "exit" && end !== "timeout" && end !== "cancelled" && end !== "lease") return undefined;
  const number = (key: string): number => Number(values.get(key) ?? "0");
  const low = values.get("low_kib");
  return {
    end,
    ...(end === "exit" && { code: number("code") }),
    started: number("started"),
    finished: number("finished"),
    seconds: number("seconds"),
    ...(low !== undefined && low !== "" && { lowest: Number(low) * 1024 }),
  };
}

/** All builds that a server knows of, whoever started them. One round trip; changes nothing. */
export async function listJobs(machine: Machine, workdir: string, signal?: AbortSignal): Promise<readonly Job[]> {
  return await readJobs(machine, workdir, undefined, signal);
}

/** The build of a digest; undefined where the server knows of none. */
export async function findJob(
  machine: Machine,
  workdir: string,
  digest: string,
  signal?: AbortSignal,
): Promise<Job | undefined> {
  return (await readJobs(machine, workdir, digest, signal))[0];
}

async function readJobs(
  machine: Machine,
  workdir: string,
  digest: string | undefined,
  signal: AbortSignal | undefined,
): Promise<readonly Job[]> {
  const result = requireSuccess(
    machine,
    await runScript(machine, statusScript(workdir, digest), { ...(signal && { signal }) }),
    "looking for builds",
  );
  const jobs = parseJobs(result.stdout.toString("utf8"));
  if (jobs === undefined) {
    throw new LabError("E_COMMAND_FAILED", "the list of builds was cut short", {
      address: machine.address,
      retryable: true,
      hint: "run again",
    });
  }
  return jobs;
}

/** For what ends a build to come to its end: TERM, KILL, and slow disks. */
const CANCEL_MS = 60_000;

/**
 * Ends the build of a digest with all that it started, whoever started it, and waits until nothing of it is left; its log and
 * objects stay. True: one was running. Throws E_TIMEOUT where something of it cannot be ended.
 */
export async function cancelJob(machine: Machine, workdir: string, digest: string): Promise<boolean> {
  const result = requireSuccess(
    machine,
    await runScript(machine, cancelScript(jobDirectory(workdir, digest), digest), { timeout: CANCEL_MS }),
    "ending a build",
  );
  const answer = result.stdout.toString("utf8").trim();
  if (answer === "stuck") {
    throw new LabError("E_TIMEOUT", "a build does not end: a process of it survives being killed", {
      address: machine.address,
      hint: "it waits for a disk or a network file system: look at the server (`ps -eo pid,stat,wchan,args`)",
    });
  }
  return answer === "ended";
}

/** The log of a build so far; at most `limit` bytes, of the end. */
export async function readJobLog(machine: Machine, workdir: string, digest: string, limit = 16 << 20): Promise<Buffer> {
  const result = await runScript(
    machine,
    sh`[ ! -f ${`${jobDirectory(workdir, digest)}/log`} ] || tail -c ${limit} -- ${`${jobDirectory(workdir, digest)}/log`}`,
    { keep: limit + 1 },
  );
  return requireSuccess(machine, result, "reading a build's log").stdout;
}
