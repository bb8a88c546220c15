import type { DiffInput, Infer, ObjectSchema, PropertyDiff, ReconcileItem } from "../../src/index.ts";
import { PATH_PATTERN } from "./common.ts";
import { keyIdentity, keyLines, type UserState } from "./user-script.ts";

export const USER_PATTERN = "^[A-Za-z_][A-Za-z0-9_.-]{0,31}$";
const KEY_PATTERN =
  "^([^#\\n]*\\s)?(ssh|ecdsa|sk-ssh|sk-ecdsa)-[A-Za-z0-9@.-]+\\s+AAAA[A-Za-z0-9+/=]+([ \\t][^\\n]*)?$";

export const schema = {
  type: "object",
  properties: {
    name: {
      type: "string",
      pattern: USER_PATTERN,
      description: "Login name.",
      "x-labctl": { identity: true },
    },
    uid: {
      type: "integer",
      minimum: 0,
      maximum: 4294967293,
      description: "Number of the user. Default: left as it is; the next free one for a new user.",
      examples: [1500],
    },
    groups: {
      type: "array",
      items: { type: "string", pattern: USER_PATTERN },
      uniqueItems: true,
      description:
        "Groups that it must be in besides its own. Others that it is in are left; what labctl added and is no longer listed is taken away.",
      examples: [["kvm", "dialout"]],
    },
    shell: {
      type: "string",
      pattern: PATH_PATTERN,
      description: "Login shell. Default: left as it is; the system's for a new user.",
      examples: ["/bin/bash"],
    },
    home: {
      type: "string",
      pattern: PATH_PATTERN,
      description: "Home directory; made for a new user, never moved. Default: left as it is.",
      examples: ["/srv/build"],
    },
    system: {
      type: "boolean",
      default: false,
      description: "Make a new user a system user: a low number, and a home only where `home` names one.",
    },
    comment: {
      type: "string",
      pattern: "^[^:\\n]*$",
      description: "The comment (GECOS) field. Default: left as it is.",
      examples: ["builds kernels"],
    },
    authorized_keys: {
      type: "array",
      items: {
        anyOf: [
          { type: "string", pattern: KEY_PATTERN },
          { type: "string", pattern: "^(~|\\.{1,2})?/|\\.pub$", "x-labctl": { path: true } },
        ],
      },
      description:
        "SSH public keys that may log in: lines of authorized_keys, or local files that hold such lines. Other keys there are left, unless `authorized_keys_exclusive`; what labctl added and is no longer listed is removed.",
      examples: [["./keys/ci.pub"]],
    },
    authorized_keys_exclusive: {
      type: "boolean",
      default: false,
      description: "Remove all keys that are not listed.",
    },
    remove_home: {
      type: "boolean",
      default: false,
      description: "When labctl deletes a user that it made, remove its home and mail with it.",
    },
    keys: {
      type: "array",
      items: { type: "string" },
      description: "The lines of authorized_keys that are wanted.",
      "x-labctl": { derived: true },
    },
  },
  required: ["name"],
  additionalProperties: false,
} as const satisfies ObjectSchema;

export const attributes = {
  type: "object",
  properties: {
    uid: { type: "integer", description: "Number of the user." },
    gid: { type: "integer", description: "Number of its own group." },
    groups: {
      type: "array",
      items: { type: "string" },
      description: "Names of all groups that it is in, its own included.",
    },
    shell: { type: "string", description: "Login shell." },
    home: { type: "string", description: "Home directory." },
    comment: { type: "string", description: "The comment field." },
    authorized_keys: {
      type: "array",
      items: { type: "string" },
      description: "Lines of authorized_keys that hold a key.",
    },
  },
  required: ["uid", "gid", "groups", "shell", "home", "comment", "authorized_keys"],
  additionalProperties: false,
} as const satisfies ObjectSchema;

export type Desired = Infer<typeof schema>;
/** The schema's arrays are mutable in its inferred type; nothing here changes one. */
export type Observed = Infer<typeof attributes>;
export type UserItem = ReconcileItem<Desired, Observed>;

export function observedOf(state: UserState): Observed {
  return {
    uid: state.uid,
    gid: state.gid,
    groups: [...state.groups],
    shell: state.shell,
    home: state.home,
    comment: state.comment,
    authorized_keys: [...state.authorized_keys],
  };
}

export type Fields = { readonly [K in "uid" | "shell" | "home" | "comment"]?: Observed[K] | undefined };

/** The fields of `wanted` that are set and not so now. */
export function fieldChanges(wanted: Fields, now: Fields | undefined): Fields {
  return {
    uid: wanted.uid === now?.uid ? undefined : wanted.uid,
    shell: wanted.shell === now?.shell ? undefined : wanted.shell,
    home: wanted.home === now?.home ? undefined : wanted.home,
    comment: wanted.comment === now?.comment ? undefined : wanted.comment,
  };
}

/** All that labctl may have brought about: what it did, and what it was cut off doing. */
export function everWanted(prior: Memory | undefined): readonly Partial<Desired>[] {
  return prior === undefined ? [] : [prior.desired, ...(prior.attempted ?? [])];
}

interface Memory {
  readonly desired: Partial<Desired>;
  readonly attempted?: readonly Partial<Desired>[] | undefined;
  readonly original: Observed | undefined;
}

/** Groups to add and to take away: what labctl once added, is listed no more, and was not there before. */
export function groupChanges(
  desired: Desired,
  observed: { readonly groups: readonly string[] } | undefined,
  prior: Memory | undefined,
): { readonly add: string[]; readonly remove: string[] } {
  const there = observed?.groups ?? [];
  const wanted = desired.groups ?? [];
  const once = [...new Set(everWanted(prior).flatMap((one) => one.groups ?? []))];
  const before = prior?.original?.groups ?? [];
  return {
    add: wanted.filter((group) => !there.includes(group)),
    remove: once.filter((group) => !wanted.includes(group) && !before.includes(group) && there.includes(group)),
  };
}

/** The lines that are wanted: given as lines, or read by prepare() from files. */
export function wantedKeys(desired: Partial<Desired>): readonly string[] | undefined {
  return desired.authorized_keys === undefined ? undefined : (desired.keys ?? desired.authorized_keys);
}

/**
 * authorized_keys as it should be: wanted lines are there as written (a line with the same key is replaced by it, since
 * its options may differ), others stay in place, comments too.
 */
export function mergeKeys(raw: string, desired: Desired, prior: Memory | undefined): string[] {
  const wanted = wantedKeys(desired);
  const lines = raw === "" ? [] : raw.replace(/\n$/, "").split(/\r?\n/);
  const once = everWanted(prior).flatMap((one) => wantedKeys(one) ?? []);
  if (wanted === undefined && once.length === 0) return lines;
  const list = wanted ?? [];
  const byIdentity = new Map(list.map((line) => [keyIdentity(line), line]));
  const before = new Map((prior?.original?.authorized_keys ?? []).map((line) => [keyIdentity(line), line]));
  const added = new Set(once.map(keyIdentity));
  const seen = new Set<string>();
  const out: string[] = [];
  for (const line of lines) {
    const [key] = keyLines(line);
    if (key === undefined) {
      out.push(line);
      continue;
    }
    const identity = keyIdentity(key);
    const own = byIdentity.get(identity);
    if (own !== undefined) {
      if (!seen.has(identity)) out.push(own);
      seen.add(identity);
    } else if (desired.authorized_keys_exclusive === true && wanted !== undefined) continue;
    else if (!added.has(identity)) out.push(line);
    else if (before.has(identity)) out.push(before.get(identity) ?? line);
  }
  for (const [identity, line] of byIdentity) if (!seen.has(identity)) out.push(line);
  return out;
}

/** authorized_keys as it was before labctl, as far as labctl changed it. */
export function restoreKeys(raw: string, item: UserItem, original: Observed): string[] {
  const exclusive =
    item.desired.authorized_keys_exclusive === true || item.prior?.desired.authorized_keys_exclusive === true;
  const once = [...(wantedKeys(item.desired) ?? []), ...everWanted(item.prior).flatMap((one) => wantedKeys(one) ?? [])];
  const memory = { desired: { authorized_keys: [...once], keys: [...once] }, original };
  const { authorized_keys: _keys, keys: _lines, ...rest } = item.desired;
  const lines = mergeKeys(raw, { ...rest, authorized_keys_exclusive: false }, memory);
  if (!exclusive) return lines;
  const there = new Set(lines.flatMap(keyLines).map(keyIdentity));
  return [...lines, ...original.authorized_keys.filter((line) => !there.has(keyIdentity(line)))];
}

export function diffUser({
  desired,
  observed,
  prior,
}: Pick<DiffInput<Desired, Observed>, "desired" | "observed" | "prior">): PropertyDiff[] {
  const out: PropertyDiff[] = [];
  for (const path of ["uid", "shell", "home", "comment"] as const) {
    const after = desired[path];
    if (after !== undefined && after !== observed[path]) out.push({ path, before: observed[path], after });
  }
  const { add, remove } = groupChanges(desired, observed, prior);
  if (add.length + remove.length > 0) {
    const after = [...observed.groups.filter((group) => !remove.includes(group)), ...add].sort();
    out.push({ path: "groups", before: observed.groups, after });
  }
  const keys = mergeKeys(observed.authorized_keys.map((line) => `${line}\n`).join(""), desired, prior);
  if (keys.join("\n") !== observed.authorized_keys.join("\n")) {
    out.push({ path: "authorized_keys", before: observed.authorized_keys, after: keys });
  }
  return out;
}
