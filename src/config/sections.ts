import { resolve } from "node:path";
import {
  type Defaults,
  isMap,
  type OutputDeclaration,
  type Reference,
  type SecretSource,
  type StateSettings,
  type Value,
  type ValueMap,
} from "../model/index.ts";
import { check, type CheckContext } from "./check.ts";
import { keyFits } from "./check-map.ts";
import { WORD_PATTERN } from "./check-base.ts";
import { entryOf, isNull, type MapNode, type Place, rangeOf } from "./node.ts";
import { duration, retryOf } from "./options.ts";
import { secretOfVariable } from "./scope.ts";
import { OUTPUT_DECLARATION } from "./top.ts";
import { mismatch } from "./check-base.ts";

/** The checked values of the sections that no kind brings. */
export type Sections = ReadonlyMap<string, Value>;

const BUILT_IN = {
  connect: 10_000,
  command: 300_000,
  boot: 180_000,
  retry: { attempts: 3, delay: 1000, max_delay: 30_000 },
} as const;

function mapOf(value: Value | undefined): ValueMap {
  return isMap(value) ? value : {};
}

function textOf(value: Value | undefined): string | undefined {
  return typeof value === "string" ? value : undefined;
}

export function readDefaults(values: Sections): Defaults {
  const said = mapOf(values.get("defaults"));
  const timeouts = mapOf(said["timeouts"]);
  return {
    ssh: mapOf(said["ssh"]),
    timeouts: {
      connect: duration(timeouts["connect"]) ?? BUILT_IN.connect,
      command: duration(timeouts["command"]) ?? BUILT_IN.command,
      boot: duration(timeouts["boot"]) ?? BUILT_IN.boot,
    },
    retry: retryOf(mapOf(said["retry"]), BUILT_IN.retry),
  };
}

interface ReadGroup {
  readonly description?: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly policy: Readonly<Record<string, never>>;
}

/** Groups by name, their members not yet known. Names stand also where the rest of a group is wrong. */
export function readGroups(values: Sections, lab: MapNode | undefined): [string, ReadGroup][] {
  const section = entryOf(lab, "groups")?.value;
  const said = mapOf(values.get("groups"));
  const names = section?.type === "map" ? [...section.entries.keys()] : [];
  return names.map((name) => {
    const one = mapOf(Object.hasOwn(said, name) ? said[name] : undefined);
    const description = textOf(one["description"]);
    const labels = Object.entries(mapOf(one["labels"])).map(([key, value]) => [key, textOf(value) ?? ""] as const);
    return [
      name,
      { ...(description !== undefined && { description }), labels: Object.fromEntries(labels), policy: {} },
    ];
  });
}

export function readState(values: Sections, root: string): StateSettings {
  const path = textOf(mapOf(values.get("state"))["path"]);
  return { backend: "file", path: resolve(root, path ?? ".labctl") };
}

/** Sources of the declared secrets, and of sensitive variables under names that no secret can have. */
export function readSecrets(values: Sections, sensitive: ReadonlyMap<string, string>): Record<string, SecretSource> {
  const out: [string, SecretSource][] = [];
  for (const [name, source] of Object.entries(mapOf(values.get("secrets")))) {
    const { env, file, command } = mapOf(source) as { env?: Value; file?: Value; command?: Value };
    if (typeof env === "string") out.push([name, { env }]);
    else if (typeof file === "string") out.push([name, { file }]);
    else if (Array.isArray(command))
      out.push([name, { command: (command as readonly Value[]).map((one) => textOf(one) ?? "") }]);
  }
  for (const name of sensitive.keys()) out.push([secretOfVariable(name), { variable: name }]);
  return Object.fromEntries(out);
}

/** An output is a value, or a map that says `value` and more about it. */
export function readOutputs(
  lab: MapNode | undefined,
  ctx: CheckContext,
  onReference: (reference: Reference, at: Place) => void,
): Record<string, OutputDeclaration> {
  const section = entryOf(lab, "outputs");
  if (section === undefined || isNull(section.value)) return {};
  if (section.value.type !== "map") {
    mismatch(section.value, { type: "object" }, { path: "", label: '"outputs"', at: section.at }, ctx);
    return {};
  }
  const out: [string, OutputDeclaration][] = [];
  for (const [name, entry] of section.value.entries) {
    if (!keyFits(name, entry, { type: "string", pattern: WORD_PATTERN }, ctx)) continue;
    const declared = entryOf(entry.value, "value") !== undefined;
    const spot = { path: "", label: `"${name}"`, at: entry.at };
    const said = check(entry.value, declared ? OUTPUT_DECLARATION : {}, spot, { ...ctx, onReference });
    if (said === undefined) continue;
    const description = declared ? textOf(mapOf(said)["description"]) : undefined;
    const value = declared ? (mapOf(said)["value"] ?? null) : said;
    out.push([name, { value, ...(description !== undefined && { description }), at: rangeOf(entry.at) }]);
  }
  return Object.fromEntries(out);
}
