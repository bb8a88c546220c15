import type { VolumeModel } from "../model/volume.ts";
import { attrAt, bytesAt, el, find, formatXml, parseXml, textAt } from "./tree.ts";

/** The XML that makes a volume. libvirt chooses the path in the pool. Without a size it has none yet: upload makes it. */
export function buildVolume(model: Pick<VolumeModel, "name" | "format" | "size" | "backing">): string {
  const { name, format, size = 0, backing } = model;
  return formatXml(
    el(
      "volume",
      { type: "file" },
      el("name", {}, name),
      el("capacity", { unit: "bytes" }, String(size)),
      // Blocks are taken when they are written.
      el("allocation", { unit: "bytes" }, "0"),
      el("target", {}, el("format", { type: format }), format === "qcow2" && el("compat", {}, "1.1")),
      backing !== undefined &&
        el("backingStore", {}, el("path", {}, backing.path), el("format", { type: backing.format })),
    ),
  );
}

/** What libvirt says of a volume. */
export interface ObservedVolume {
  readonly name: string;
  readonly path: string;
  /** libvirt's own key of it: where it has a file, the path. */
  readonly key: string;
  readonly format: string;
  /** Bytes that a machine sees. */
  readonly size: number;
  /** Bytes that it takes on the host now. */
  readonly allocation: number;
  readonly backing?: { readonly path: string; readonly format: string };
}

export function observeVolume(xml: string): ObservedVolume {
  const root = parseXml(xml, "volume");
  const under = textAt(root, "backingStore", "path");
  return {
    name: textAt(root, "name") ?? "",
    path: textAt(root, "target", "path") ?? "",
    key: textAt(root, "key") ?? "",
    format: attrAt(root, ["target", "format"], "type") ?? "raw",
    size: bytesAt(root, ["capacity"], "bytes") ?? 0,
    allocation: bytesAt(root, ["allocation"], "bytes") ?? 0,
    ...(under !== undefined && {
      backing: { path: under, format: attrAt(root, ["backingStore", "format"], "type") ?? "raw" },
    }),
  };
}

/** The XML that defines a pool: a directory on the host. */
export function buildPool(pool: { readonly name: string; readonly uuid: string; readonly path: string }): string {
  return formatXml(
    el(
      "pool",
      { type: "dir" },
      el("name", {}, pool.name),
      el("uuid", {}, pool.uuid),
      el("target", {}, el("path", {}, pool.path)),
    ),
  );
}

/** What libvirt says of a pool. Sizes are bytes, and 0 where it is not active. */
export interface ObservedPool {
  readonly name: string;
  readonly uuid: string;
  /** `dir`, `fs`, `logical`, ... */
  readonly type: string;
  readonly path: string;
  readonly capacity: number;
  readonly allocation: number;
  readonly available: number;
}

export function observePool(xml: string): ObservedPool {
  const root = parseXml(xml, "pool");
  return {
    name: textAt(root, "name") ?? "",
    uuid: textAt(root, "uuid") ?? "",
    type: root.attrs["type"] ?? "",
    path: textAt(find(root, "target"), "path") ?? "",
    capacity: bytesAt(root, ["capacity"], "bytes") ?? 0,
    allocation: bytesAt(root, ["allocation"], "bytes") ?? 0,
    available: bytesAt(root, ["available"], "bytes") ?? 0,
  };
}
