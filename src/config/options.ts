import {
  type Defaults,
  isMap,
  type Lifecycle,
  parseDuration,
  type ResourceOptions,
  type RetryPolicy,
  type Value,
  type ValueMap,
} from "../model/index.ts";
import type { Kind } from "../provider/index.ts";
import { check, type CheckContext } from "./check.ts";
import type { Entry, Place } from "./node.ts";
import { OPTIONS } from "./top.ts";

/** Options, and the names in them that are looked up once all resources are known. */
export interface SpokenOptions {
  readonly options: ResourceOptions;
  readonly dependsOn: readonly { readonly text: string; readonly at: Place }[];
  readonly replaceWhen: readonly { readonly text: string; readonly at: Place }[];
}

export function readOptions(
  spoken: ReadonlyMap<string, Entry>,
  kind: Kind,
  ctx: Omit<CheckContext, "known">,
  defaults: Defaults,
): SpokenOptions {
  const dependsOn: { text: string; at: Place }[] = [];
  const replaceWhen: { text: string; at: Place }[] = [];
  const values = new Map<string, Value>();
  for (const [key, entry] of spoken) {
    if (key === "for_each" || key === "matrix") continue;
    const schema = OPTIONS[key];
    if (schema === undefined) continue;
    const places = new Map<string, Place>();
    const value = check(
      entry.value,
      schema,
      { path: "", label: `"${key}"`, at: entry.at },
      {
        ...ctx,
        known: "an option of the resource",
        onPlace: (path, at) => places.set(path, at),
      },
    );
    if (value === undefined) continue;
    values.set(key, value);
    if (key === "depends_on") {
      for (const [i, text] of strings(value).entries()) dependsOn.push({ text, at: places.get(String(i)) ?? entry.at });
    }
    if (key === "lifecycle" && isMap(value)) {
      for (const [i, text] of strings(value["replace_when"]).entries()) {
        replaceWhen.push({ text, at: places.get(`replace_when.${i}`) ?? entry.at });
      }
      checkIgnored(value, places, entry, kind, ctx);
    }
  }
  const timeout = duration(values.get("timeout"));
  const lifecycle = values.get("lifecycle");
  const retry = values.get("retry");
  const optional = values.get("optional");
  return {
    options: {
      ...(isMap(lifecycle) && { lifecycle: lifecycleOf(lifecycle) }),
      ...(timeout !== undefined && { timeout }),
      ...(isMap(retry) && { retry: retryOf(retry, defaults.retry) }),
      ...(typeof optional === "boolean" && { optional }),
    },
    dependsOn,
    replaceWhen,
  };
}

function checkIgnored(
  lifecycle: ValueMap,
  places: ReadonlyMap<string, Place>,
  entry: Entry,
  kind: Kind,
  ctx: Omit<CheckContext, "known">,
): void {
  const known = [...Object.keys(kind.schema.properties), ...Object.keys(kind.attributes.properties)];
  for (const [i, path] of strings(lifecycle["ignore_changes"]).entries()) {
    const [first = ""] = path.split(".");
    if (known.includes(first)) continue;
    ctx.problems.error(
      "E_SPEC_VALUE",
      `a ${kind.kind} has no property "${first}" to ignore`,
      places.get(`ignore_changes.${i}`) ?? entry.at,
      ctx.problems.suggest(first, known),
    );
  }
}

function lifecycleOf(value: ValueMap): Lifecycle {
  const prevent = value["prevent_destroy"];
  const [ignored, replaced] = [value["ignore_changes"], value["replace_when"]];
  return {
    ...(typeof prevent === "boolean" && { prevent_destroy: prevent }),
    ...(ignored !== undefined && { ignore_changes: strings(ignored) }),
    ...(replaced !== undefined && { replace_when: strings(replaced) }),
  };
}

/** What the spec leaves out of a `retry:` is as `fallback` says. Milliseconds. */
export function retryOf(value: ValueMap, fallback: RetryPolicy): RetryPolicy {
  const attempts = value["attempts"];
  const delay = duration(value["delay"]) ?? fallback.delay;
  return {
    attempts: typeof attempts === "number" ? attempts : fallback.attempts,
    delay,
    max_delay: Math.max(delay, duration(value["max_delay"]) ?? fallback.max_delay),
  };
}

export function duration(value: Value | undefined): number | undefined {
  return typeof value === "string" ? parseDuration(value) : undefined;
}

function strings(value: Value | undefined): string[] {
  return Array.isArray(value) ? (value as readonly Value[]).filter((one) => typeof one === "string") : [];
}
