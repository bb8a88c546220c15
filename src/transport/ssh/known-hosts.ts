import { createHash, createHmac, timingSafeEqual } from "node:crypto";
import { wildcardSource } from "./config-file.ts";
import { SshReader } from "./wireformat.ts";

/** One line of a known_hosts file (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT). */
export interface KnownHost {
  readonly file: string;
  readonly line: number;
  readonly marker: "revoked" | "cert-authority" | undefined;
  /** The first field as it stands. */
  readonly names: string;
  readonly type: string;
  readonly key: Buffer;
}

/** Lines that cannot be read are passed over, as ssh does. */
export function parseKnownHosts(text: string, file: string): KnownHost[] {
  const entries: KnownHost[] = [];
  for (const [i, raw] of text.split("\n").entries()) {
    const line = raw.trim();
    if (line === "" || line.startsWith("#")) continue;
    const fields = line.split(/\s+/);
    const marker = fields[0]?.startsWith("@") ? fields.shift()?.slice(1) : undefined;
    if (marker !== undefined && marker !== "revoked" && marker !== "cert-authority") continue;
    const [names, type, base64] = fields;
    if (names === undefined || type === undefined || base64 === undefined) continue;
    const key = Buffer.from(base64, "base64");
    if (keyType(key) !== type) continue;
    entries.push({ file, line: i + 1, marker, names, type, key });
  }
  return entries;
}

/** The type inside a public key's blob. */
export function keyType(key: Buffer): string {
  return new SshReader(key).string()?.toString() ?? "";
}

/** `SHA256:...`, as ssh-keygen -l prints it. */
export function hostKeyFingerprint(key: Buffer): string {
  return `SHA256:${createHash("sha256").update(key).digest("base64").replace(/=+$/, "")}`;
}

/** How known_hosts names a host. */
export function knownHostName(host: string, port: number): string {
  return port === 22 ? host.toLowerCase() : `[${host.toLowerCase()}]:${port}`;
}

export function matchesHost(entry: KnownHost, name: string): boolean {
  if (entry.names.startsWith("|1|")) return matchesHashed(entry.names, name);
  let matched = false;
  for (const pattern of entry.names.toLowerCase().split(",")) {
    const negated = pattern.startsWith("!");
    const source = wildcardSource(negated ? pattern.slice(1) : pattern);
    if (!new RegExp(`^${source}$`, "s").test(name)) continue;
    if (negated) return false;
    matched = true;
  }
  return matched;
}

function matchesHashed(field: string, name: string): boolean {
  const [, , salt, hash] = field.split("|");
  if (salt === undefined || hash === undefined) return false;
  const expected = Buffer.from(hash, "base64");
  const actual = createHmac("sha1", Buffer.from(salt, "base64")).update(name).digest();
  return expected.length === actual.length && timingSafeEqual(expected, actual);
}

export type Verdict =
  | { readonly is: "known"; readonly entry: KnownHost }
  | { readonly is: "unknown" }
  /** Other keys are known for this host. */
  | { readonly is: "changed"; readonly entries: readonly KnownHost[] }
  | { readonly is: "revoked"; readonly entry: KnownHost };

/** Judges the key that a server shows. Pure. */
export function judgeHostKey(entries: readonly KnownHost[], host: string, port: number, key: Buffer): Verdict {
  const revoked = entries.find(
    (entry) =>
      entry.marker === "revoked" &&
      entry.key.equals(key) &&
      namesFor(host, port).some((name) => matchesHost(entry, name)),
  );
  if (revoked) return { is: "revoked", entry: revoked };
  const plain = entries.filter((entry) => entry.marker === undefined);
  const own = plain.filter((entry) => matchesHost(entry, knownHostName(host, port)));
  const same = own.find((entry) => entry.key.equals(key));
  if (same) return { is: "known", entry: same };
  if (own.length > 0) return { is: "changed", entries: own };
  // As ssh: a key known for the host itself serves on any of its ports.
  const portless = plain.find(
    (entry) => port !== 22 && entry.key.equals(key) && matchesHost(entry, knownHostName(host, 22)),
  );
  return portless ? { is: "known", entry: portless } : { is: "unknown" };
}

function namesFor(host: string, port: number): string[] {
  return port === 22 ? [knownHostName(host, 22)] : [knownHostName(host, port), knownHostName(host, 22)];
}

/** The types of the keys that are known for a host. */
export function knownTypes(entries: readonly KnownHost[], host: string, port: number): Set<string> {
  const types = new Set<string>();
  for (const name of namesFor(host, port)) {
    for (const entry of entries) if (entry.marker === undefined && matchesHost(entry, name)) types.add(entry.type);
    if (types.size > 0) break;
  }
  return types;
}

export function knownHostsLine(host: string, port: number, key: Buffer): string {
  return `${knownHostName(host, port)} ${keyType(key)} ${key.toString("base64")}`;
}
