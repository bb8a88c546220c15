import type { Client, ParsedKey } from "ssh2";
import { SshReader, sshString } from "./wireformat.ts";

/** What an OpenSSH user certificate says (PROTOCOL.certkeys). */
export interface Certificate {
  /** `ssh-ed25519-cert-v01@openssh.com` and the like. */
  readonly type: string;
  /** The type of the key inside. */
  readonly keyType: string;
  readonly blob: Buffer;
  readonly principals: readonly string[];
  /** Seconds since 1970. */
  readonly validAfter: bigint;
  readonly validBefore: bigint;
}

const SUFFIX = "-cert-v01@openssh.com";
/** How many strings of the public key stand before the serial number, by key type. */
const KEY_PARTS: Readonly<Record<string, number>> = {
  "ssh-ed25519": 1,
  "ssh-rsa": 2,
  "ecdsa-sha2-nistp256": 2,
  "ecdsa-sha2-nistp384": 2,
  "ecdsa-sha2-nistp521": 2,
};
const USER_CERTIFICATE = 1;

/** Parses the text of a `KEY-cert.pub` file; undefined where it is no user certificate of a kind that is known. */
export function parseCertificate(text: string): Certificate | undefined {
  const [type = "", base64 = ""] = text.trim().split(/\s+/);
  if (!type.endsWith(SUFFIX)) return undefined;
  const keyType = type.slice(0, -SUFFIX.length);
  const blob = Buffer.from(base64, "base64");
  const reader = new SshReader(blob);
  if (reader.string()?.toString() !== type) return undefined;
  const parts = KEY_PARTS[keyType];
  if (parts === undefined) return undefined;
  for (let i = 0; i < parts + 1; i++) if (reader.string() === undefined) return undefined;
  reader.skip(8);
  const kindAt = reader.offset;
  reader.skip(4);
  if (kindAt + 4 > blob.length || blob.readUInt32BE(kindAt) !== USER_CERTIFICATE) return undefined;
  reader.string();
  const names = reader.string();
  const validAfter = reader.uint64();
  const validBefore = reader.uint64();
  if (names === undefined || validAfter === undefined || validBefore === undefined) return undefined;
  const principals: string[] = [];
  const list = new SshReader(names);
  for (let name = list.string(); name !== undefined; name = list.string()) principals.push(name.toString());
  return { type, keyType, blob, principals, validAfter, validBefore };
}

/** Why a certificate cannot serve now, or undefined. */
export function certificateProblem(certificate: Certificate, now: Date): string | undefined {
  const seconds = BigInt(Math.floor(now.getTime() / 1000));
  if (seconds < certificate.validAfter) return "it is not valid yet (does the clock of this machine go right?)";
  if (seconds >= certificate.validBefore) return "it has expired";
  return undefined;
}

/** The key with its certificate in the place of the public half. RSA certificates sign with SHA-512. */
export function certifiedKey(key: ParsedKey, certificate: Certificate): ParsedKey {
  const certified = Object.create(key) as ParsedKey;
  const type = certificate.keyType === "ssh-rsa" ? `rsa-sha2-512${SUFFIX}` : certificate.type;
  Object.defineProperty(certified, "type", { value: type, enumerable: true });
  Object.defineProperty(certified, "getPublicSSH", { value: () => certificate.blob });
  return certified;
}

/** ssh2 converts ECDSA signatures only for the types that it knows: DER to two mpints (RFC 5656, section 3.1.2). */
export function ecdsaSignature(signature: Buffer): Buffer {
  if (signature[0] !== 0x30) return signature;
  let at = 2;
  if ((signature[1] ?? 0) > 0x80) at += (signature[1] ?? 0) - 0x80;
  const numbers: Buffer[] = [];
  for (let i = 0; i < 2; i++) {
    const length = signature[at + 1] ?? 0;
    numbers.push(sshString(signature.subarray(at + 2, at + 2 + length)));
    at += 2 + length;
  }
  return Buffer.concat(numbers);
}

const USERAUTH_REQUEST = 50;

/**
 * ssh2 names the signature after the key's algorithm; with certificates OpenSSH wants the plain algorithm there
 * (PROTOCOL.certkeys: signatures are of the plain key's format). ssh2 has no way to say so, so the one packet is
 * rewritten before it is encrypted. Without certificates nothing is touched.
 */
export function nameCertificateSignatures(client: Client): void {
  const writer = packetWriter(client);
  const finalize = writer.finalize.bind(writer);
  writer.finalize = (packet, force) => {
    const payload = packet.subarray(writer.allocStart);
    const fixed = payload[0] === USERAUTH_REQUEST ? rewrite(payload) : undefined;
    if (fixed === undefined) return finalize(packet, force);
    const replaced = writer.alloc(fixed.length);
    fixed.copy(replaced, writer.allocStart);
    return finalize(replaced, force);
  };
}

function rewrite(payload: Buffer): Buffer | undefined {
  const reader = new SshReader(payload, 1);
  reader.string();
  reader.string();
  if (reader.string()?.toString() !== "publickey" || reader.byte() !== 1) return undefined;
  const algorithm = reader.string()?.toString();
  if (!algorithm?.endsWith(SUFFIX) || reader.string() === undefined) return undefined;
  const head = payload.subarray(0, reader.offset);
  const signature = reader.string();
  if (signature === undefined) return undefined;
  const inner = new SshReader(signature);
  inner.string();
  const value = inner.string();
  if (value === undefined) return undefined;
  const plain = algorithm.slice(0, -SUFFIX.length);
  return Buffer.concat([head, sshString(Buffer.concat([sshString(plain), sshString(value)]))]);
}

interface PacketWriter {
  readonly allocStart: number;
  alloc(size: number): Buffer;
  finalize: (packet: Buffer, force?: boolean) => Buffer;
}

function packetWriter(client: Client): PacketWriter {
  const internals = client as unknown as {
    readonly _protocol?: { readonly _packetRW?: { readonly write?: PacketWriter } };
  };
  const writer = internals._protocol?._packetRW?.write;
  if (writer === undefined) throw new TypeError("this version of ssh2 has no packet writer to attach certificates to");
  return writer;
}
