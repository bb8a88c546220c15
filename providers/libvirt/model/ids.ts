import { createHash } from "node:crypto";

/** Namespace of labctl's UUIDs (RFC 9562, version 5): any fixed one does; another would give every machine another UUID. */
const NAMESPACE = Buffer.from("9c0e9bd1b0b54f1ea7f4d6a84f2f6a31", "hex");

/**
 * The UUID that libvirt is given for what an instance id stands for: a create that was cut off is found again by it, and not
 * made twice. `part` tells apart what belongs to one instance.
 */
export function uuidOf(instanceId: string, part = ""): string {
  const hash = createHash("sha1").update(NAMESPACE).update(`${instanceId}\0${part}`).digest().subarray(0, 16);
  hash.writeUInt8(((hash[6] ?? 0) & 0x0f) | 0x50, 6);
  hash.writeUInt8(((hash[8] ?? 0) & 0x3f) | 0x80, 8);
  const hex = hash.toString("hex");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

/**
 * The MAC address of a network card that has none in the spec. 52:54 marks virtual machines and is locally administered,
 * unicast; the other 32 bits make a clash on a network of a thousand machines a matter of one in ten thousand.
 */
export function macOf(instanceId: string, card: number): string {
  const hash = createHash("sha256").update(`mac\0${instanceId}\0${card}`).digest("hex");
  return ["52", "54", hash.slice(0, 2), hash.slice(2, 4), hash.slice(4, 6), hash.slice(6, 8)].join(":");
}

/** The bridge of a network: names of interfaces have 15 characters at most, so a name from the spec may not fit. */
export function bridgeOf(instanceId: string): string {
  return `lab-${createHash("sha256").update(`bridge\0${instanceId}`).digest("hex").slice(0, 10)}`;
}

/** What a machine or a network is called in libvirt, where it was not imported under another name. */
export function objectName(lab: string, name: string): string {
  return `${lab}-${name}`;
}

/** The mount tag of a share: what fits into 9p's 31 bytes, readable where that goes. */
export function shareTag(target: string): string {
  const plain = target.replaceAll(/[^A-Za-z0-9]+/g, "-").replaceAll(/^-+|-+$/g, "");
  if (plain !== "" && plain.length <= 20 && `/${plain.replaceAll("-", "/")}` === target) return plain;
  const digest = createHash("sha256").update(target).digest("hex").slice(0, 8);
  return plain === "" ? `share-${digest}` : `${plain.slice(0, 20)}-${digest}`;
}
