import { LabError } from "../diagnostics/index.ts";
import { canonicalText, type Plain, type PlannedAction, type PropertyChange, sameEncoded } from "../model/index.ts";

/**
 * Refuses what the plan did not show. `now` is the difference found just before the action; undefined: absent.
 * Returns normally where the action may go ahead.
 */
export function assertInsideEnvelope(action: PlannedAction, now: readonly PropertyChange[] | undefined): void {
  const refuse = (why: string): never => {
    throw new LabError("E_OUTSIDE_ENVELOPE", `${action.address} is not as it was when the plan was made: ${why}`, {
      address: action.address,
      hint: "plan again, look at the difference, and apply that",
    });
  };
  const { envelope } = action;
  if (now === undefined) {
    if (envelope.action === "update" && envelope.exact) refuse("it is gone");
    return;
  }
  if (envelope.action === "create") {
    if (envelope.exact && now.length > 0)
      refuse(`it was not there, and now it is, with another ${list(now.map((change) => change.path))}`);
    return;
  }
  const unplanned = now.filter((change) => !covered(envelope.properties, change.path));
  if (unplanned.length > 0 && envelope.action === "update")
    refuse(`${list(unplanned.map((change) => change.path))} changed since`);
  if (!envelope.exact || envelope.action !== "update") return;
  for (const change of now) {
    const shown = action.changes.find((planned) => planned.path === change.path);
    if (shown === undefined || isUnknown(shown.after)) continue;
    if (!sameEncoded(shown.before, change.before)) refuse(`${change.path} changed since`);
  }
}

function covered(properties: readonly string[], path: string): boolean {
  return properties.some((one) => path === one || path.startsWith(`${one}.`) || one.startsWith(`${path}.`));
}

function list(paths: readonly string[]): string {
  return paths.join(", ");
}

function isUnknown(value: Plain | undefined): boolean {
  return typeof value === "object" && value !== null && "$unknown" in value;
}

/**
 * Refuses values that came out differently from what the plan showed: a secret that was rotated, a source file that was
 * edited. What was unknown may be anything; what cannot be compared (no key at plan time) is let through.
 */
export function assertAsPlanned(action: PlannedAction, resolved: Plain): void {
  const path = firstMismatch(action.after ?? null, resolved, "");
  if (path === undefined) return;
  throw new LabError(
    "E_PLAN_STALE",
    `${action.address}: ${path === "" ? "the resource" : path} is not what it was when the plan was made`,
    {
      address: action.address,
      ...(action.at && { at: action.at }),
      hint: "a secret, a variable or a local file changed since; plan again",
    },
  );
}

function firstMismatch(planned: Plain, now: Plain, path: string): string | undefined {
  if (isUnknown(planned)) return undefined;
  const [a, b] = [sealedDigest(planned), sealedDigest(now)];
  if (a !== undefined || b !== undefined)
    return a === undefined || b === undefined || a === "" || b === "" || a === b ? undefined : path;
  if (isObject(planned) && isObject(now)) {
    for (const key of new Set([...Object.keys(planned), ...Object.keys(now)])) {
      const found = firstMismatch(planned[key] ?? null, now[key] ?? null, path === "" ? key : `${path}.${key}`);
      if (found !== undefined) return found;
    }
    return undefined;
  }
  return canonicalText(planned) === canonicalText(now) ? undefined : path;
}

function isObject(value: Plain): value is { readonly [key: string]: Plain } {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** The keyed digest of a sealed value; "" where it has none; undefined where the value is not sealed. */
function sealedDigest(value: Plain): string | undefined {
  const sealed = isObject(value) ? value["$sensitive"] : undefined;
  if (sealed === undefined || !isObject(sealed)) return undefined;
  return typeof sealed["hmac"] === "string" ? sealed["hmac"] : "";
}
