import type { OperationContext } from "../../src/index.ts";
import { machineOf, requireSuccess, runScript } from "./common.ts";
import { fileFailure } from "./file-errors.ts";
import { type FileItem, holdsContent, managesContent, type Observed } from "./file-model.ts";
import {
  type FileWork,
  filesScript,
  keepId,
  parseFilesOutput,
  removalScript,
  type StepFailure,
  temporaryName,
} from "./file-script.ts";

export async function remove(ctx: OperationContext, item: FileItem): Promise<void> {
  const { path } = item.desired;
  const { observed } = item;
  const original = item.prior?.original;
  const base = { path, temporary: temporaryName(path, item.instance_id), keepId: keepId(path, item.instance_id) };
  const machine = machineOf(ctx, item);
  const managed = holdsContent(item) || managesContent(item.prior?.desired ?? {});
  if (observed !== undefined && (observed.type === "directory" || observed.type === "other")) {
    ctx.log(
      "warn",
      `${path} is a ${observed.type === "directory" ? "directory" : "special file"} by now and is left alone`,
    );
  } else if (original !== undefined) {
    await restore(ctx, item, original, managed);
  }
  const gone = original === undefined && managed && observed?.type !== "directory" && observed?.type !== "other";
  if (original === undefined && !managed && observed !== undefined) {
    ctx.log("warn", `${path} stays: labctl managed its mode and owner, and did not make it`);
  }
  const result = requireSuccess(
    await runScript(machine, removalScript({ ...base, remove: gone }), { signal: ctx.signal }),
    `removing ${path}`,
  );
  const failed = parseFilesOutput(result.stdout.toString("utf8")).failures.get(0);
  if (failed !== undefined) throw fileFailure(failed, path, item.address);
}

async function restore(ctx: OperationContext, item: FileItem, original: Observed, managed: boolean): Promise<void> {
  const { path } = item.desired;
  const run = async (work: FileWork): Promise<StepFailure | undefined> => {
    const script = filesScript([work], []);
    const result = requireSuccess(
      await runScript(machineOf(ctx, item), script, { signal: ctx.signal }),
      `restoring ${path}`,
    );
    return parseFilesOutput(result.stdout.toString("utf8")).failures.get(0);
  };
  const work = restoration(item, original, managed);
  if (work === undefined) {
    ctx.log("info", `${path} is as it was before labctl; nothing to restore`);
    return;
  }
  let failed = await run(work);
  // The state knows no digests of sensitive files. Where no copy was kept, the content was never overwritten by labctl.
  if (failed?.step === "lost" && original.digest === undefined) {
    ctx.log("warn", `no former content of ${path} is kept; only its mode and owner are restored`);
    const { content: _content, ...meta } = work;
    failed = item.observed?.type === "file" ? await run(meta) : undefined;
  }
  if (failed !== undefined) throw fileFailure(failed, path, item.address);
}

/** The work that brings back what was there; undefined: it is there. */
function restoration(item: FileItem, original: Observed, managed: boolean): FileWork | undefined {
  const { path } = item.desired;
  const { observed } = item;
  const base = { path, temporary: temporaryName(path, item.instance_id), keepId: keepId(path, item.instance_id) };
  const ownership = { owner: String(original.uid), group: String(original.gid) };
  if (original.type === "link") {
    if (observed?.type === "link" && observed.target === original.target) return undefined;
    return { ...base, content: { from: "link", target: original.target ?? "" }, ...ownership };
  }
  const meta = { ...ownership, mode: original.mode };
  const sameMeta =
    observed?.type === "file" &&
    observed.mode === original.mode &&
    observed.uid === original.uid &&
    observed.gid === original.gid;
  if (!managed) return observed?.type !== "file" || sameMeta ? undefined : { ...base, ...meta };
  const intact = observed?.type === "file" && observed.digest !== undefined && observed.digest === original.digest;
  if (intact) return sameMeta ? undefined : { ...base, ...meta };
  // Never changed by labctl, and gone or changed by others since: not labctl's to bring back.
  const ours = item.prior?.observed?.digest;
  if (ours !== undefined && ours === original.digest) {
    return observed?.type === "file" && !sameMeta ? { ...base, ...meta } : undefined;
  }
  return { ...base, content: { from: "kept" }, ...meta };
}
