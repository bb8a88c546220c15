import { type Address, LabError, type OperationContext, type Outcome } from "../../src/index.ts";
import { asError, groupByMachine, machineOf, normalMode, requireSuccess, runScript } from "./common.ts";
import { entryReading, type EntryRequest, parseEntries, sha256 } from "./entries.ts";
import { fileFailure } from "./file-errors.ts";
import {
  diffFile,
  type FileItem,
  isSecret,
  managesContent,
  type Observed,
  request,
  wantedDigest,
} from "./file-model.ts";
import {
  type FileWork,
  filesScript,
  keepId,
  parseFilesOutput,
  type StepFailure,
  temporaryName,
} from "./file-script.ts";

/** Content that the batch script writes itself; what is larger is sent ahead. And the most of one batch. */
const INLINE_LIMIT = 96 * 1024;
const BATCH_BYTES = 2 * 1024 * 1024;
const BATCH_FILES = 200;

type Content = NonNullable<FileWork["content"]>;

/** What was there before labctl: what the state says, or what is found where the state says nothing yet. */
function originalOf(item: FileItem): Observed | undefined {
  return item.prior === undefined ? item.observed : item.prior.original;
}

/** The content to write, checked against what was planned. Large content is sent ahead, to the temporary name. */
async function contentOf(ctx: OperationContext, item: FileItem, temporary: string): Promise<Content> {
  const { desired } = item;
  const target = { path: temporary, mode: "0600" };
  if (desired.content !== undefined) {
    const bytes = Buffer.from(desired.content);
    if (bytes.length <= INLINE_LIMIT) return { from: "inline", bytes };
    await machineOf(ctx, item).upload({ content: bytes, sha256: sha256(bytes) }, target, { signal: ctx.signal });
    return { from: "uploaded" };
  }
  const source = desired.source ?? "";
  const former = await formerContent(ctx, item, source);
  if (former !== undefined) return former;
  const found = await ctx.local.digest(source, INLINE_LIMIT);
  if (desired.digest !== undefined && found.sha256 !== desired.digest) {
    throw new LabError("E_SOURCE_FILE", `${source} changed after the plan was made`, {
      address: item.address,
      hint: "plan again",
    });
  }
  if (found.size <= INLINE_LIMIT) {
    const bytes = found.bytes ?? (await ctx.local.read(source));
    if (found.bytes !== undefined || sha256(bytes) === found.sha256) return { from: "inline", bytes };
    throw new LabError("E_SOURCE_FILE", `${source} changes while it is read`, {
      address: item.address,
      retryable: true,
    });
  }
  await machineOf(ctx, item).upload(
    { file: ctx.local.resolve(source), sha256: found.sha256, size: found.size },
    target,
    {
      signal: ctx.signal,
      onProgress: (sent, total) => ctx.progress(total === 0 ? 1 : sent / total, desired.path),
    },
  );
  return { from: "uploaded" };
}

/** Going back: the local file may be another one by now, or gone. Undefined: it is still what was sent then. */
async function formerContent(ctx: OperationContext, item: FileItem, source: string): Promise<Content | undefined> {
  const { digest, text } = item.desired;
  if (ctx.direction !== "back" || digest === undefined) return undefined;
  try {
    if ((await ctx.local.digest(source)).sha256 === digest) return undefined;
  } catch (error) {
    ctx.log("debug", asError(error).message);
  }
  if (text !== undefined && sha256(text) === digest) return { from: "inline", bytes: Buffer.from(text) };
  return { from: "previous", sha256: digest };
}

async function planWork(ctx: OperationContext, item: FileItem): Promise<FileWork> {
  const { desired, observed } = item;
  const temporary = temporaryName(desired.path, item.instance_id);
  const base = { path: desired.path, temporary, keepId: keepId(desired.path, item.instance_id) };
  const replaces =
    managesContent(desired) && (observed?.type !== "file" || observed.digest !== (wantedDigest(desired) ?? ""));
  const own = {
    ...(desired.owner !== undefined && { owner: desired.owner }),
    ...(desired.group !== undefined && { group: desired.group }),
    ...(desired.mode !== undefined && { mode: normalMode(desired.mode) }),
  };
  if (!replaces) {
    // chown clears set-id bits, also where the mode is not ours to change.
    const keepMode = observed?.type === "file" && (own.owner !== undefined || own.group !== undefined);
    return { ...base, ...(keepMode && { mode: observed.mode }), ...own };
  }
  refuseTarget(item);
  const there = observed?.type === "file" ? observed : undefined;
  const original = originalOf(item);
  const ours = item.prior?.observed?.digest;
  const content = await contentOf(ctx, item, temporary);
  return {
    ...base,
    content,
    mode: there?.mode ?? (isSecret(item) ? "0600" : "0644"),
    ...(there && { owner: String(there.uid), group: String(there.gid) }),
    ...own,
    // What labctl itself wrote is never kept as what was there before labctl.
    keep: original?.type === "file" && (ours === undefined || ours !== there?.digest || ours === original.digest),
    // What was sent from a local file is nowhere else: the state holds its digest, and the file has changed.
    ...(ctx.direction === "reversible" &&
      there?.digest !== undefined &&
      desired.source !== undefined &&
      !isSecret(item) && { keepPrevious: there.digest }),
    ...(desired.validate !== undefined && { validate: desired.validate }),
  };
}

function refuseTarget(item: FileItem): void {
  const type = item.observed?.type;
  if (type === "directory" || type === "other") {
    throw fileFailure(
      { step: type === "directory" ? "directory" : "special", text: "" },
      item.desired.path,
      item.address,
    );
  }
}

/** What is not as wanted after all steps went well: somebody else writes it too, or the file system ignores modes. */
function verify(item: FileItem, found: Observed): Observed {
  const differing = diffFile({ ...item, observed: found }).map((change) => change.path);
  if (differing.length > 0) {
    throw new LabError(
      "E_MISMATCH",
      `${differing.join(", ")} of ${item.desired.path} did not become what was asked for`,
      {
        address: item.address,
        hint: "see whether something else on the host writes it, and whether its file system keeps owners and modes",
        retryable: true,
      },
    );
  }
  const { content: _content, ...kept } = found;
  return kept;
}

async function writeBatch(
  ctx: OperationContext,
  batch: readonly { readonly item: FileItem; readonly work: FileWork }[],
  outcomes: Map<Address, Outcome<Observed>>,
): Promise<void> {
  const [first] = batch;
  if (first === undefined) return;
  const requests = batch.map(({ item }): EntryRequest => {
    const wanted = request(item);
    return { path: wanted.path, digest: wanted.digest === "no" ? "no" : "yes" };
  });
  const result = requireSuccess(
    await runScript(
      machineOf(ctx, first.item),
      filesScript(
        batch.map(({ work }) => work),
        requests,
      ),
      {
        signal: ctx.signal,
        keep: 16 << 20,
        brief: batch.every(({ work }) => work.validate === undefined),
      },
    ),
    "writing files",
  );
  const { failures, entries, complete } = parseFilesOutput(result.stdout.toString("utf8"));
  if (!complete) throw new LabError("E_COMMAND_FAILED", "writing files did not come to its end", { retryable: true });
  const answers = parseEntries(entries, requests);
  for (const [i, { item }] of batch.entries()) {
    const outcome = outcomeOf(item, failures.get(i), entryReading(answers[i], item));
    outcomes.set(item.address, outcome);
  }
}

function outcomeOf(
  item: FileItem,
  failed: StepFailure | undefined,
  reading: ReturnType<typeof entryReading>,
): Outcome<Observed> {
  if (failed !== undefined) return { error: fileFailure(failed, item.desired.path, item.address) };
  if (reading?.is !== "present") {
    return {
      error: new LabError("E_MISMATCH", `${item.desired.path} is not there after it was written`, {
        address: item.address,
        retryable: true,
      }),
    };
  }
  try {
    return { ok: verify(item, reading.value) };
  } catch (error) {
    return { error: asError(error) };
  }
}

export async function reconcileMany(
  ctx: OperationContext,
  items: readonly FileItem[],
): Promise<ReadonlyMap<Address, Outcome<Observed>>> {
  const outcomes = new Map<Address, Outcome<Observed>>();
  for (const group of groupByMachine(items)) {
    let batch: { item: FileItem; work: FileWork }[] = [];
    let bytes = 0;
    const flush = async (): Promise<void> => {
      await guarded(
        batch.map(({ item }) => item),
        outcomes,
        () => writeBatch(ctx, batch, outcomes),
      );
      batch = [];
      bytes = 0;
    };
    for (const item of group) {
      await guarded([item], outcomes, async () => {
        const work = await planWork(ctx, item);
        const size = work.content?.from === "inline" ? work.content.bytes.length : 0;
        if (batch.length >= BATCH_FILES || bytes + size > BATCH_BYTES) await flush();
        batch.push({ item, work });
        bytes += size;
      });
    }
    await flush();
  }
  return outcomes;
}

/** An error is the outcome of all items that it concerns; those that have one keep it. */
async function guarded(
  items: readonly FileItem[],
  outcomes: Map<Address, Outcome<Observed>>,
  work: () => Promise<void>,
): Promise<void> {
  try {
    await work();
  } catch (error) {
    const why = asError(error);
    for (const item of items) if (!outcomes.has(item.address)) outcomes.set(item.address, { error: why });
  }
}

export async function reconcile(ctx: OperationContext, item: FileItem): Promise<Observed> {
  const outcome = (await reconcileMany(ctx, [item])).get(item.address);
  if (outcome === undefined) throw new LabError("E_INTERNAL", "no outcome", { address: item.address });
  if ("error" in outcome) throw outcome.error;
  return outcome.ok;
}
