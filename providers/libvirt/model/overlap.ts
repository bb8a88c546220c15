import { LabError } from "../../../src/index.ts";
import { type Cidr, cidrsOverlap, formatCidr, parseCidr } from "./ip.ts";

/** A range of addresses that is in use on a host, and what uses it. */
export interface UsedRange {
  readonly cidr: string;
  /** For the message: `network.test`, `libvirt's network default`, `the route by eth0`. */
  readonly by: string;
  /** Interface that it is reached by; a network's own bridge does not stand in its own way. */
  readonly device?: string;
}

export interface WantedNetwork {
  readonly address: string;
  readonly ipv4?: { readonly cidr: string };
  readonly ipv6?: { readonly cidr: string };
  readonly bridge: string;
}

/**
 * E_NETWORK_OVERLAP for each network of one host whose addresses are also those of another one, or of something that the host
 * reaches otherwise. Default routes are no obstacle: everything lies in them.
 */
export function overlapErrors(wanted: readonly WantedNetwork[], used: readonly UsedRange[]): LabError[] {
  const errors: LabError[] = [];
  const taken: { readonly range: Cidr; readonly by: string; readonly device: string | undefined }[] = [];
  for (const { cidr, by, device } of used) {
    const range = parseCidr(cidr);
    if (range !== undefined && range.prefix > 0) taken.push({ range, by, device });
  }
  for (const network of wanted) {
    for (const cidr of [network.ipv4?.cidr, network.ipv6?.cidr]) {
      const range = cidr === undefined ? undefined : parseCidr(cidr);
      if (range === undefined) continue;
      const clash = taken.find((one) => one.device !== network.bridge && cidrsOverlap(one.range, range));
      if (clash !== undefined) {
        const free = freeRange(
          range,
          taken.map((one) => one.range),
        );
        errors.push(
          new LabError(
            "E_NETWORK_OVERLAP",
            `${formatCidr(range)} overlaps ${formatCidr(clash.range)}, which is ${clash.by}`,
            {
              address: network.address,
              hint: free === undefined ? "choose another range" : `${formatCidr(free)} is free`,
            },
          ),
        );
      }
      taken.push({ range, by: network.address, device: network.bridge });
    }
  }
  return errors;
}

/** Ranges that are nobody's in public (RFC 1918, RFC 4193): where a free one is looked for. */
const PRIVATE = ["192.168.0.0/16", "10.0.0.0/8", "172.16.0.0/12", "fd00::/16"];

/** The first range of the same size, after the wanted one and then anywhere private, that overlaps none of `taken`. */
export function freeRange(wanted: Cidr, taken: readonly Cidr[]): Cidr | undefined {
  const step = 1n << BigInt((wanted.family === 4 ? 32 : 128) - wanted.prefix);
  const pools = PRIVATE.map(parseCidr).filter(
    (pool): pool is Cidr => pool !== undefined && pool.family === wanted.family && pool.prefix <= wanted.prefix,
  );
  pools.sort((a, b) => Number(cidrsOverlap(b, wanted)) - Number(cidrsOverlap(a, wanted)));
  for (const pool of pools) {
    const start = cidrsOverlap(pool, wanted) ? wanted.base + step : pool.base;
    // More tries than there are obstacles cannot be needed; the bound is for pools with more ranges than that.
    let base = start;
    for (let tries = 0; tries <= taken.length; tries += 1) {
      const range: Cidr = { family: wanted.family, base, prefix: wanted.prefix };
      if (!cidrsOverlap(range, pool)) break;
      const clash = taken.find((one) => cidrsOverlap(one, range));
      if (clash === undefined) return range;
      const end = clash.base + (1n << BigInt((clash.family === 4 ? 32 : 128) - clash.prefix));
      base = (((end > base ? end : base + step) + step - 1n) / step) * step;
    }
  }
  return undefined;
}

/**
 * The ranges that a host reaches, from `ip -json route` (both families' output, parsed). Default routes are left out.
 */
export function routesUsed(routes: unknown): UsedRange[] {
  if (!Array.isArray(routes)) return [];
  const out: UsedRange[] = [];
  for (const route of routes as readonly unknown[]) {
    if (typeof route !== "object" || route === null) continue;
    const { dst, dev, type } = route as { dst?: unknown; dev?: unknown; type?: unknown };
    if (typeof dst !== "string" || dst === "default" || type === "multicast") continue;
    const cidr = dst.includes("/") ? dst : `${dst}/${dst.includes(":") ? 128 : 32}`;
    // Every interface has a link-local range of its own; they are told apart by the interface.
    if (parseCidr(cidr) === undefined || /^fe80:/i.test(cidr)) continue;
    const device = typeof dev === "string" ? dev : undefined;
    out.push({
      cidr,
      by: device === undefined ? "a route" : `the route by ${device}`,
      ...(device !== undefined && { device }),
    });
  }
  return out;
}
