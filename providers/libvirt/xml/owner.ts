import type { Owner } from "../model/owner.ts";
import { el, find, type XmlElement } from "./tree.ts";

/** Namespace of labctl's element in `<metadata>`; also the URI for virDomainSetMetadata. */
export const OWNER_NS = "urn:labctl:owner:1";
export const OWNER_PREFIX = "labctl";
export const PREFIXES: Readonly<Record<string, string>> = { [OWNER_NS]: OWNER_PREFIX };

/** The element that says whose a domain or a network is. */
export function ownerElement(owner: Owner): XmlElement {
  const { lab, address, instance_id, lineage, digest } = owner;
  return { ...el("owner", { lab, address, instance: instance_id, lineage, digest }), ns: OWNER_NS };
}

export function metadataElement(owner: Owner | undefined): XmlElement | undefined {
  return owner === undefined ? undefined : el("metadata", {}, ownerElement(owner));
}

/** The owner that a domain or a network names; undefined: none, so it is not labctl's. */
export function observeOwner(root: XmlElement): Owner | undefined {
  const found = find(root, "metadata")?.children.find((one) => one.name === "owner" && one.ns === OWNER_NS);
  if (found === undefined) return undefined;
  const { lab, address, instance, lineage, digest } = found.attrs;
  if (lab === undefined || address === undefined || instance === undefined || lineage === undefined) return undefined;
  return { lab, address, instance_id: instance, lineage, ...(digest !== undefined && { digest }) };
}
