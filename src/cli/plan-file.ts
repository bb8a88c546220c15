import { open, stat } from "node:fs/promises";
import { basename } from "node:path";
import { LabError } from "../diagnostics/index.ts";
import { PLAN_FORMAT, type Plan } from "../model/index.ts";

const LARGEST = 1024 * 1024 * 1024;

/**
 * The plan in a file, where the file is one: a saved plan is told from a spec by its content and not by its name.
 * Undefined: it is something else. @throws LabError E_PLAN_FILE for a plan that cannot be used
 */
export async function readPlanFile(path: string): Promise<Plan | undefined> {
  const info = await stat(path).catch(() => undefined);
  if (info === undefined || !info.isFile() || info.size > LARGEST) return undefined;
  const file = await open(path, "r").catch(() => undefined);
  if (file === undefined) return undefined;
  let text: string;
  try {
    // Saved plans begin with these words: a large YAML file is not read to find out that it is none.
    const head = await file.read(Buffer.alloc(256), 0, 256, 0);
    if (!/^\s*\{\s*"format_version"\s*:/.test(head.buffer.toString("utf8", 0, head.bytesRead))) return undefined;
    const whole = Buffer.alloc(info.size);
    const { bytesRead } = await file.read(whole, 0, info.size, 0);
    text = whole.toString("utf8", 0, bytesRead);
  } finally {
    await file.close();
  }
  return parsePlan(text, path);
}

function parsePlan(text: string, path: string): Plan | undefined {
  const name = basename(path);
  let data: unknown;
  try {
    data = JSON.parse(text);
  } catch (cause) {
    throw new LabError("E_PLAN_FILE", `the saved plan ${name} is cut off or damaged`, {
      cause,
      hint: "plan again with --out",
    });
  }
  if (typeof data !== "object" || data === null || !("actions" in data) || !Array.isArray(data.actions))
    return undefined;
  const version = "format_version" in data ? data.format_version : undefined;
  if (version !== PLAN_FORMAT) {
    throw new LabError(
      "E_PLAN_FILE",
      `the saved plan ${name} is of format ${String(version)}, and this labctl reads ${PLAN_FORMAT}`,
      {
        hint: "plan again with this version of labctl",
      },
    );
  }
  for (const key of ["labctl", "id", "lab", "mode", "state", "settings"]) {
    if (!(key in data)) {
      throw new LabError("E_PLAN_FILE", `the saved plan ${name} has no "${key}"`, { hint: "plan again with --out" });
    }
  }
  // Written by `labctl plan --out`: the fields that apply depends on first were just looked at.
  return data as Plan;
}
