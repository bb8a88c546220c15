import { defineKind } from "../../src/index.ts";
import { PATH_PATTERN, readByMachine } from "./common.ts";
import { asText, entriesScript, entryReading, parseEntries, sha256 } from "./entries.ts";
import { attributes, diffFile, isSecret, request, schema } from "./file-model.ts";
import { remove } from "./file-remove.ts";
import { keepId } from "./file-script.ts";
import { reconcile, reconcileMany } from "./file-write.ts";
import { afterForPath } from "./order.ts";

/** The largest source whose text is put into a diff. */
const TEXT_LIMIT = 64 * 1024;

export const file = defineKind({
  kind: "file",
  title: "A file on a host",
  description: [
    "A regular file with given content, mode and owner. Writing is atomic: the content is written beside its place, gets",
    "its mode and owner, is made safe on disk and renamed, so that no reader ever sees half a file. Small files of a host",
    "are written together in one round trip; large ones are sent only where a file of that digest is not there yet.",
    "",
    "What was there before labctl changed it is kept on the host itself (`/var/lib/labctl/originals`, for root only) and",
    "comes back when the resource is deleted; a file that labctl made is removed. A directory or a device at the path is an",
    "error and is never replaced; a symbolic link is replaced by the file, and restored on delete. The folder that holds it",
    "must exist: declare it under `directories`.",
  ].join("\n"),
  section: {
    name: "files",
    within: "host",
    shape: "map",
    key: "path",
    keySchema: { type: "string", pattern: PATH_PATTERN },
  },
  schema,
  attributes,
  ownership: "shared",

  async prepare(ctx, item) {
    const { source } = item.desired;
    if (source === undefined || item.unknown.has("source")) return {};
    const { sha256: digest, size, bytes } = await ctx.local.digest(source, TEXT_LIMIT);
    if (size > TEXT_LIMIT || isSecret(item)) return { digest };
    const text = asText(bytes ?? (await ctx.local.read(source)));
    return { digest, ...(text !== undefined && sha256(text) === digest && { text }) };
  },
  taints(sensitive, desired) {
    return isSecret({ desired, sensitive }) ? ["content", "digest", "text"] : [];
  },
  after: (desired, siblings, address) => afterForPath("file", desired, siblings, address),
  readMany(ctx, items) {
    return readByMachine(ctx, items, {
      script: (group) => entriesScript(group.map(request)),
      parse: (lines, group) =>
        parseEntries(lines, group.map(request)).map((answer, i) => {
          const item = group[i];
          return item === undefined ? undefined : entryReading(answer, item);
        }),
    });
  },
  diff: diffFile,
  reconcile,
  reconcileMany,
  delete: remove,
  manualCleanup: (item) =>
    item.prior?.original === undefined
      ? `on the host, remove ${item.desired.path}`
      : `on the host, restore ${item.desired.path} from /var/lib/labctl/originals/${keepId(item.desired.path, item.instance_id)}-*`,
  fromImportId: (id) => ({ path: id }),
});
