import type {
  Artifact,
  ArtifactStore,
  BuildAlias,
  BuildRecord,
  Machine,
  OperationContext,
  Plain,
} from "../../src/index.ts";
import type { BuildOutcome } from "./build-types.ts";
import type { BuildInputs } from "./digest.ts";
import { readJobLog } from "./jobs.ts";
import type { PreparedBuild } from "./inputs.ts";

type Completed = Extract<BuildOutcome, { is: "completed" }>;

/** What a build is asked for by, as of now. */
export function aliasNow(name: string, branch: string | undefined): BuildAlias {
  return { name, ...(branch !== undefined && { branch }), at: new Date().toISOString() };
}

/** A build as it is queued: what is known before anything ran. */
export function newRecord(
  id: string,
  name: string,
  inputs: BuildInputs,
  prepared: PreparedBuild,
  run: string,
): BuildRecord {
  return {
    id,
    name,
    status: "queued",
    arch: inputs.arch,
    ...(prepared.commit !== undefined && { commit: prepared.commit }),
    ...(prepared.branch !== undefined && { branch: prepared.branch }),
    toolchain: { name: inputs.toolchain.name, version: inputs.toolchain.version },
    created_at: new Date().toISOString(),
    artifacts: {},
    inputs: inputs as unknown as Readonly<Record<string, Plain>>,
    materials: materialsOf(inputs, prepared),
    run,
  };
}

function materialsOf(inputs: BuildInputs, prepared: PreparedBuild): NonNullable<BuildRecord["materials"]> {
  const { source } = inputs;
  const uri = prepared.sourceName;
  if (source.type === "git") return [{ uri: `git+${uri}`, digest: { gitCommit: source.commit } }];
  if (source.type === "directory") return [{ uri: `file://${uri}`, digest: { sha256: source.digest } }];
  return [{ uri, digest: { sha256: source.sha256 } }];
}

/** Brings what a build made into the store, each verified by its digest; `artifacts` gets them one by one. */
export async function collectOutputs(
  ctx: OperationContext,
  machine: Machine,
  outcome: Completed,
  artifacts: Record<string, Artifact>,
): Promise<void> {
  for (const output of outcome.outputs) {
    ctx.progress(undefined, `bringing ${output.name} here`);
    const got = await ctx.artifacts.fetch(machine, output.path, {
      root: false,
      signal: ctx.signal,
      onRetry: (why, attempt, delay) =>
        ctx.log("warn", `${output.name}: ${why}; trying again in ${delay} ms (retry ${attempt})`),
    });
    artifacts[output.name] = {
      type: output.type,
      sha256: got.sha256,
      size: got.size,
      mode: got.mode,
      file: output.file,
    };
  }
}

/** What came of a build that failed while its outputs were brought here: kept to look at. */
export function partialOf(artifacts: Readonly<Record<string, Artifact>>): Record<string, Artifact> {
  return Object.fromEntries(Object.entries(artifacts).map(([name, one]) => [name, { ...one, partial: true }]));
}

/** The log as far as it can be had; a build is not lost for its log. */
export async function collectLog(
  ctx: OperationContext,
  machine: Machine,
  workdir: string,
  id: string,
): Promise<string | undefined> {
  try {
    const log = await readJobLog(machine, workdir, id);
    return log.length === 0 ? undefined : (await ctx.artifacts.put({ content: log })).sha256;
  } catch (error) {
    ctx.log("warn", `the build's log could not be kept: ${error instanceof Error ? error.message : String(error)}`);
    return undefined;
  }
}

/** True where the build is done and everything that it made is in the store. */
export async function isThere(store: ArtifactStore, record: BuildRecord | undefined): Promise<boolean> {
  if (record?.status !== "completed") return false;
  const found = await Promise.all(
    Object.values(record.artifacts).map(
      async (one) => one.corrupted !== true && (await store.info(one.sha256)) !== undefined,
    ),
  );
  return found.every(Boolean);
}
