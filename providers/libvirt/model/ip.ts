import { isIPv4, isIPv6 } from "node:net";

/** An address as a number, with its family: 4 has 32 bits, 6 has 128. */
export interface Ip {
  readonly family: 4 | 6;
  readonly value: bigint;
}

/** The addresses that share the first `prefix` bits. `base` is the first of them. */
export interface Cidr {
  readonly family: 4 | 6;
  readonly base: bigint;
  readonly prefix: number;
}

const BITS = { 4: 32, 6: 128 } as const;

/** An address in any of its forms (RFC 4291 section 2.2), without a zone; undefined: it is none. */
export function parseIp(text: string): Ip | undefined {
  if (isIPv4(text)) return { family: 4, value: ipv4Value(text) };
  if (!isIPv6(text) || text.includes("%")) return undefined;
  const dotted = /^(.*:)(\d+\.\d+\.\d+\.\d+)$/.exec(text);
  let rest = text;
  if (dotted !== null) {
    const low = ipv4Value(dotted[2] ?? "");
    rest = `${dotted[1]}${(low >> 16n).toString(16)}:${(low & 0xffffn).toString(16)}`;
  }
  const [head = "", tail] = rest.split("::");
  const left = head === "" ? [] : head.split(":");
  const right = tail === undefined || tail === "" ? [] : tail.split(":");
  const zeros = tail === undefined ? [] : Array.from({ length: 8 - left.length - right.length }, () => "0");
  let value = 0n;
  for (const group of [...left, ...zeros, ...right]) value = (value << 16n) | BigInt(`0x${group}`);
  return { family: 6, value };
}

function ipv4Value(text: string): bigint {
  return text.split(".").reduce((value, part) => (value << 8n) | BigInt(part), 0n);
}

/** The one form of an address (RFC 5952): lower case, the longest run of zero groups shortened. */
export function formatIp({ family, value }: Ip): string {
  if (family === 4) return [24n, 16n, 8n, 0n].map((shift) => (value >> shift) & 0xffn).join(".");
  const groups = Array.from({ length: 8 }, (_, i) => ((value >> BigInt(112 - 16 * i)) & 0xffffn).toString(16));
  let best = { at: 0, length: 0 };
  for (let at = 0; at < 8; at += 1) {
    let length = 0;
    while (at + length < 8 && groups[at + length] === "0") length += 1;
    if (length > best.length) best = { at, length };
  }
  if (best.length < 2) return groups.join(":");
  return `${groups.slice(0, best.at).join(":")}::${groups.slice(best.at + best.length).join(":")}`;
}

/** `10.0.0.0/24`. Bits behind the prefix are dropped; undefined: it is no such range. */
export function parseCidr(text: string): Cidr | undefined {
  const match = /^([^/]+)\/(\d{1,3})$/.exec(text);
  const ip = match === null ? undefined : parseIp(match[1] ?? "");
  const prefix = Number(match?.[2]);
  if (ip === undefined || prefix > BITS[ip.family]) return undefined;
  return { family: ip.family, base: (ip.value >> hostBits(ip.family, prefix)) << hostBits(ip.family, prefix), prefix };
}

function hostBits(family: 4 | 6, prefix: number): bigint {
  return BigInt(BITS[family] - prefix);
}

export function formatCidr(cidr: Cidr): string {
  return `${formatIp({ family: cidr.family, value: cidr.base })}/${cidr.prefix}`;
}

/** The last address of the range; in IPv4 that of broadcasts. */
export function lastIp(cidr: Cidr): bigint {
  return cidr.base + (1n << hostBits(cidr.family, cidr.prefix)) - 1n;
}

export function cidrHolds(cidr: Cidr, ip: Ip): boolean {
  return cidr.family === ip.family && ip.value >= cidr.base && ip.value <= lastIp(cidr);
}

export function cidrsOverlap(a: Cidr, b: Cidr): boolean {
  return a.family === b.family && a.base <= lastIp(b) && b.base <= lastIp(a);
}

/** The n-th address after the first of the range; undefined: it lies outside. */
export function nthIp(cidr: Cidr, n: bigint): Ip | undefined {
  const value = cidr.base + n;
  return value > lastIp(cidr) ? undefined : { family: cidr.family, value };
}

/** The dotted mask of a prefix: 255.255.255.0 for 24. */
export function ipv4Mask(prefix: number): string {
  const ones = (1n << 32n) - 1n;
  return formatIp({ family: 4, value: ones ^ ((1n << BigInt(32 - prefix)) - 1n) });
}

/** The prefix of a dotted mask; undefined: its ones do not stand together. */
export function prefixOfMask(mask: string): number | undefined {
  if (!isIPv4(mask)) return undefined;
  const bits = ipv4Value(mask).toString(2).padStart(32, "0");
  return /^1*0*$/.test(bits) ? bits.replaceAll("0", "").length : undefined;
}
