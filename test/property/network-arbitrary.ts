import fc from "fast-check";
import { formatCidr, formatIp } from "../../providers/libvirt/model/ip.ts";
import { resolveNetwork, type NetworkModel } from "../../providers/libvirt/model/network.ts";
import type { NetworkDesired } from "../../providers/libvirt/model/network-schema.ts";
import { present } from "./vm-arbitrary.ts";

const label = fc.stringMatching(/^[a-z]([a-z0-9-]{0,8}[a-z0-9])?$/);
const mac = fc.integer({ min: 0, max: 0xffffff }).map((n) => {
  const hex = n.toString(16).padStart(6, "0");
  return `52:54:00:${hex.slice(0, 2)}:${hex.slice(2, 4)}:${hex.slice(4)}`;
});

/** Networks as users write them, all valid. */
export const networkDesired: fc.Arbitrary<NetworkDesired> = fc
  .record({
    name: label,
    third: fc.integer({ min: 0, max: 255 }),
    prefix: fc.integer({ min: 16, max: 28 }),
    v4: fc.boolean(),
    v6: fc.boolean(),
    dhcp: fc.constantFrom<boolean | "range">(true, false, "range"),
    top: fc.boolean(),
    forward: fc.constantFrom("nat", "route", "none", undefined),
    isolated: fc.boolean(),
    dns: fc.constantFrom<boolean | "full">(true, false, "full"),
    domain: label.map((one) => `${one}.test`),
    names: fc.uniqueArray(fc.tuple(label, fc.integer({ min: 1, max: 254 })), {
      maxLength: 4,
      selector: ([name]) => name,
    }),
    hosts: fc.uniqueArray(fc.tuple(label, mac), { maxLength: 3, selector: ([name]) => name }),
    mtu: fc.option(fc.integer({ min: 1280, max: 9000 }), { nil: undefined }),
    bridge: fc.option(fc.stringMatching(/^br[a-z0-9]{1,10}$/), { nil: undefined }),
    autostart: fc.boolean(),
    running: fc.boolean(),
  })
  .map((raw): NetworkDesired => {
    const size = 1n << BigInt(32 - raw.prefix);
    const base = (((10n << 24n) + (BigInt(raw.third) << 16n)) / size) * size;
    const ip = (value: bigint): string => formatIp({ family: 4, value });
    const macs = new Set<string>();
    const hosts = raw.hosts.filter(([, one]) => !macs.has(one) && macs.add(one));
    const dhcp = raw.dhcp === "range" ? (raw.v4 ? { start: ip(base + 5n), end: ip(base + 9n) } : true) : raw.dhcp;
    return present<NetworkDesired>({
      name: raw.name,
      host: "kvm-1",
      cidr: raw.v4 ? formatCidr({ family: 4, base, prefix: raw.prefix }) : undefined,
      gateway: raw.v4 && raw.top ? ip(base + size - 2n) : undefined,
      ipv6: raw.v6 ? `fd00:${raw.third.toString(16)}::/64` : undefined,
      dhcp,
      forward: raw.isolated || !(raw.v4 || raw.v6) ? undefined : raw.forward,
      isolated: raw.isolated,
      dns:
        raw.dns === "full"
          ? {
              domain: raw.domain,
              forwarders: ["192.0.2.53"],
              hosts: Object.fromEntries(raw.names.map(([name, n]) => [name, `192.0.2.${n}`])),
            }
          : raw.dns,
      hosts:
        raw.v4 && dhcp !== false
          ? Object.fromEntries(hosts.map(([name, one], i) => [name, { mac: one, address: ip(base + 3n + BigInt(i)) }]))
          : undefined,
      mtu: raw.mtu,
      bridge: raw.bridge,
      autostart: raw.autostart,
      running: raw.running,
    });
  });

export function networkModel(desired: NetworkDesired, id: string): NetworkModel {
  return resolveNetwork(desired, {
    lab: "lab",
    address: `network.${desired.name}`,
    instance_id: id,
    lineage: "l",
    ...(desired.cidr !== undefined &&
      desired.dhcp !== false && { reservations: { "52:54:11:22:33:44": desired.cidr.replace(/\.\d+\/.*/, ".10") } }),
  });
}
