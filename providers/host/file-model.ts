import type { Infer, Item, ObjectSchema, PropertyDiff, ReconcileItem } from "../../src/index.ts";
import { normalMode, PATH_PATTERN } from "./common.ts";
import { type Entry, type EntryRequest, sameOwner, sha256 } from "./entries.ts";

export const OWNER_SCHEMA = { pattern: "^[^:\\n\\u0000]+$" } as const;
export const MODE_SCHEMA = { pattern: "^[0-7]{3,4}$" } as const;

/** What can be seen of anything at a path. */
export const ENTRY_ATTRIBUTES = {
  type: { type: "string", enum: ["file", "link", "directory", "other"], description: "What stands at the path." },
  mode: { type: "string", description: "Four octal digits." },
  owner: { type: "string", description: "User that owns it." },
  group: { type: "string", description: "Group that owns it." },
  uid: { type: "integer", description: "Number of the user that owns it." },
  gid: { type: "integer", description: "Number of the group that owns it." },
} as const;

export const schema = {
  type: "object",
  properties: {
    path: {
      type: "string",
      pattern: PATH_PATTERN,
      description: "Absolute path on the host, without `.`, `..` or doubled slashes.",
      "x-labctl": { identity: true },
    },
    content: {
      type: "string",
      description:
        "What the file holds, as text. Give this or `source`; with neither, only mode and owner are managed.",
      examples: ["managed by labctl\n"],
    },
    source: {
      type: "string",
      minLength: 1,
      description: "A local file to send, relative to the spec that names it. May be binary and of any size.",
      examples: ["./files/limits.conf"],
      "x-labctl": { path: true },
    },
    mode: {
      type: "string",
      ...MODE_SCHEMA,
      description:
        "Permissions in octal, quoted. Default: those of the file that is there, else 0644, or 0600 where the content is sensitive.",
      examples: ["0644", "0600"],
      "x-labctl": { octal: true },
    },
    owner: {
      type: "string",
      ...OWNER_SCHEMA,
      description: "User that owns it, by name or number. Default: left as it is; root for a new file.",
      examples: ["root"],
    },
    group: {
      type: "string",
      ...OWNER_SCHEMA,
      description: "Group that owns it, by name or number. Default: left as it is.",
      examples: ["root"],
    },
    sensitive: {
      type: "boolean",
      default: false,
      description: "Never show the content or its digest: not in plans, state, logs or reports.",
    },
    validate: {
      type: "string",
      minLength: 1,
      description:
        "Shell text that checks the new content before it becomes visible; `$FILE` is where it stands. A non-zero exit leaves the old file in place.",
      examples: ['visudo -cf "$FILE"', 'sshd -t -f "$FILE"'],
      "x-labctl": { shell: true },
    },
    digest: {
      type: "string",
      description: "SHA-256 of the content that is wanted.",
      "x-labctl": { derived: true },
    },
    text: {
      type: "string",
      description: "The text of a small source, for the diff.",
      "x-labctl": { derived: true },
    },
  },
  required: ["path"],
  not: { required: ["content", "source"] },
  additionalProperties: false,
} as const satisfies ObjectSchema;

/** Text that was read for the diff is no attribute: it is seen by the diff and kept nowhere. */
export const attributes = {
  type: "object",
  properties: {
    ...ENTRY_ATTRIBUTES,
    size: { type: "integer", description: "Bytes." },
    digest: { type: "string", description: "SHA-256 (hex) of the content, where the content is managed." },
    target: { type: "string", description: "Where a symbolic link leads." },
  },
  required: ["type", "mode", "owner", "group", "uid", "gid", "size"],
  additionalProperties: false,
} as const satisfies ObjectSchema;

export type Desired = Infer<typeof schema>;
export type Observed = Entry;
export type FileItem = ReconcileItem<Desired, Observed>;

export function managesContent(desired: Partial<Desired>): boolean {
  return desired.content !== undefined || desired.source !== undefined;
}

/** The same, also where the content is secret and only the state speaks of it: then it is named and not there. */
export function holdsContent(item: {
  readonly desired: Partial<Desired>;
  readonly sensitive: ReadonlySet<string>;
}): boolean {
  return managesContent(item.desired) || item.sensitive.has("content") || item.sensitive.has("source");
}

export function isSecret(item: { readonly desired: Desired; readonly sensitive: ReadonlySet<string> }): boolean {
  return (
    item.desired.sensitive === true || ["content", "source", "digest", "text"].some((path) => item.sensitive.has(path))
  );
}

export function wantedDigest(desired: Desired): string | undefined {
  return desired.content === undefined ? desired.digest : sha256(desired.content);
}

export function request(item: Item<Desired, Observed>): EntryRequest {
  const { desired } = item;
  if (item.unknown.has("content") || item.unknown.has("source")) {
    // What is wanted is not known yet: whatever is there may have to be shown.
    return { path: desired.path, digest: isSecret(item) ? "yes" : { unless: "unknown" } };
  }
  if (!holdsContent(item)) return { path: desired.path, digest: "no" };
  const wanted = wantedDigest(desired);
  if (wanted === undefined || isSecret(item)) return { path: desired.path, digest: "yes" };
  return { path: desired.path, digest: { unless: wanted } };
}

export function diffFile(input: {
  readonly desired: Desired;
  readonly observed: Observed;
  readonly sensitive: ReadonlySet<string>;
  readonly unknown: ReadonlySet<string>;
}): PropertyDiff[] {
  const { desired, observed } = input;
  const out: PropertyDiff[] = [];
  if (observed.type !== "file") out.push({ path: "type", before: observed.type, after: "file" });
  else if (managesContent(desired) || input.unknown.has("content") || input.unknown.has("source")) {
    const change = contentDiff(desired, observed, input);
    if (change !== undefined) out.push(change);
  }
  if (observed.type === "link") return out;
  if (desired.mode !== undefined && normalMode(desired.mode) !== observed.mode) {
    out.push({ path: "mode", before: observed.mode, after: normalMode(desired.mode) });
  }
  if (desired.owner !== undefined && !sameOwner(desired.owner, observed.owner, observed.uid)) {
    out.push({ path: "owner", before: observed.owner, after: desired.owner });
  }
  if (desired.group !== undefined && !sameOwner(desired.group, observed.group, observed.gid)) {
    out.push({ path: "group", before: observed.group, after: desired.group });
  }
  return out;
}

function contentDiff(
  desired: Desired,
  observed: Observed,
  input: { readonly sensitive: ReadonlySet<string>; readonly unknown: ReadonlySet<string> },
): PropertyDiff | undefined {
  const wanted = wantedDigest(desired);
  const before = observed.digest === undefined ? "(unreadable)" : `sha256:${observed.digest}`;
  if (wanted === undefined) return { path: "content", before };
  if (wanted === observed.digest) return undefined;
  const text = desired.content ?? desired.text;
  if (observed.content !== undefined && text !== undefined && !isSecret({ desired, sensitive: input.sensitive })) {
    return { path: "content", before: observed.content, after: text, text: true };
  }
  return { path: "content", before, after: `sha256:${wanted}` };
}
