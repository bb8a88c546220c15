import { BlockList } from "node:net";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  cidrsOverlap,
  formatCidr,
  formatIp,
  ipv4Mask,
  lastIp,
  parseCidr,
  parseIp,
  prefixOfMask,
} from "../../providers/libvirt/model/ip.ts";
import { diffNetwork, type NetworkModel, resolveNetwork } from "../../providers/libvirt/model/network.ts";
import type { NetworkDesired } from "../../providers/libvirt/model/network-schema.ts";
import { overlapErrors, routesUsed } from "../../providers/libvirt/model/overlap.ts";
import { buildNetwork, observeNetwork } from "../../providers/libvirt/xml/network.ts";
import { networkDesired, networkModel } from "./network-arbitrary.ts";

const RUNS = { numRuns: 300 };
const v4 = fc.tuple(fc.ipV4(), fc.integer({ min: 8, max: 32 })).map(([ip, prefix]) => `${ip}/${prefix}`);
const v6 = fc.tuple(fc.ipV6(), fc.integer({ min: 16, max: 128 })).map(([ip, prefix]) => `${ip}/${prefix}`);
// Narrow ranges of random addresses hardly ever meet: some of them come from one corner.
const near4 = fc
  .tuple(fc.integer({ min: 0, max: 3 }), fc.integer({ min: 0, max: 3 }), fc.integer({ min: 14, max: 32 }))
  .map(([a, b, prefix]) => `10.${a}.${b * 64}.0/${prefix}`);
const near6 = fc
  .tuple(fc.integer({ min: 0, max: 3 }), fc.integer({ min: 30, max: 128 }))
  .map(([a, prefix]) => `fd00:${a}::/${prefix}`);

describe("addresses", () => {
  test("property: Address Forms: what is written is read back, and equal addresses have one form", () => {
    fc.assert(
      fc.property(fc.oneof(fc.ipV4(), fc.ipV6()), (text) => {
        const ip = parseIp(text);
        if (ip === undefined) throw new Error(`not read: ${text}`);
        const form = formatIp(ip);
        expect(parseIp(form)).toEqual(ip);
        // The form that the URL standard has (WHATWG), by another implementation.
        if (ip.family === 6) expect(new URL(`http://[${text}]/`).hostname).toBe(`[${form}]`);
        else expect(form).toBe(text);
      }),
      RUNS,
    );
  });

  test("property: Network Overlap Detection: two ranges overlap just where an address of one lies in the other", () => {
    const pair = fc.oneof(
      fc.tuple(near4, near4),
      fc.tuple(near6, near6),
      fc.tuple(v4, v4),
      fc.tuple(v6, v6),
      fc.tuple(v4, v6),
    );
    fc.assert(
      fc.property(pair, ([left, right]) => {
        const [a, b] = [parseCidr(left), parseCidr(right)];
        if (a === undefined || b === undefined) throw new Error("not read");
        const list = new BlockList();
        list.addSubnet(formatIp({ family: b.family, value: b.base }), b.prefix, b.family === 4 ? "ipv4" : "ipv6");
        const other = new BlockList();
        other.addSubnet(formatIp({ family: a.family, value: a.base }), a.prefix, a.family === 4 ? "ipv4" : "ipv6");
        // Ranges are nested or apart, so the first address of one decides.
        const expected =
          a.family === b.family &&
          (list.check(formatIp({ family: a.family, value: a.base }), a.family === 4 ? "ipv4" : "ipv6") ||
            other.check(formatIp({ family: b.family, value: b.base }), b.family === 4 ? "ipv4" : "ipv6"));
        expect(cidrsOverlap(a, b)).toBe(expected);
        const wanted = [
          { address: "network.a", bridge: "a", [a.family === 4 ? "ipv4" : "ipv6"]: { cidr: left } },
          { address: "network.b", bridge: "b", [b.family === 4 ? "ipv4" : "ipv6"]: { cidr: right } },
        ];
        const errors = overlapErrors(wanted, []);
        expect(errors.map((error) => [error.code, error.address])).toEqual(
          expected ? [["E_NETWORK_OVERLAP", "network.b"]] : [],
        );
        // What is proposed is free.
        const free = /^(\S+) is free$/.exec(errors[0]?.hint ?? "")?.[1];
        const proposal = free === undefined ? undefined : parseCidr(free);
        if (proposal !== undefined) {
          expect(proposal.prefix).toBe(b.prefix);
          expect(cidrsOverlap(proposal, a)).toBe(false);
        }
      }),
      { numRuns: 500 },
    );
  });

  test("masks and prefixes", () => {
    for (let prefix = 0; prefix <= 32; prefix += 1) expect(prefixOfMask(ipv4Mask(prefix))).toBe(prefix);
    expect(ipv4Mask(24)).toBe("255.255.255.0");
    for (const not of ["255.0.255.0", "0.0.0.1", "x", "255.255.255.256"]) expect(prefixOfMask(not)).toBeUndefined();
    const whole = parseCidr("10.0.0.0/24");
    expect(whole && formatIp({ family: 4, value: lastIp(whole) })).toBe("10.0.0.255");
    expect(whole && formatCidr(whole)).toBe("10.0.0.0/24");
    for (const not of ["10.0.0.0", "10.0.0.0/33", "10.0.0/24", "fe80::1%eth0/64", "/24", "10.0.0.0/-1"]) {
      expect(parseCidr(not)).toBeUndefined();
    }
  });
});

describe("a network and what its host reaches already", () => {
  const network = (cidr: string, bridge = "lab-1") => ({ address: "network.a", bridge, ipv4: { cidr } });
  const routes = routesUsed([
    { dst: "default", gateway: "10.0.2.2", dev: "eth0" },
    { dst: "10.0.2.0/24", dev: "eth0" },
    { dst: "192.168.5.7", dev: "wg0" },
    { dst: "fe80::/64", dev: "eth0" },
    { dst: "ff00::/8", dev: "eth0", type: "multicast" },
    { dst: "192.168.9.0/24", dev: "lab-1" },
  ]);

  test("names what is in the way, and a range that is free", () => {
    const [error] = overlapErrors([network("10.0.0.0/16")], routes);
    expect(error?.message).toBe("10.0.0.0/16 overlaps 10.0.2.0/24, which is the route by eth0");
    expect(error?.hint).toBe("10.1.0.0/16 is free");
    expect(overlapErrors([network("192.168.5.0/24")], routes)[0]?.message).toContain("192.168.5.7/32");
  });

  test("a default route, link-local ranges and the network's own bridge are not in its way", () => {
    expect(overlapErrors([network("172.16.0.0/24"), network("192.168.9.0/24")], routes)).toEqual([]);
    expect(overlapErrors([network("192.168.9.0/24", "lab-2")], routes)).toHaveLength(1);
  });

  test("routes that are no routes are passed over", () => {
    expect(routesUsed("x")).toEqual([]);
    expect(routesUsed([null, 3, { dst: 3 }, { dst: "nonsense", dev: "x" }])).toEqual([]);
  });
});

type Edit = readonly [path: string, edit: (model: NetworkModel) => NetworkModel | undefined, effect: string];
const EDITS: readonly Edit[] = [
  ["forward", (model) => ({ ...model, forward: model.forward === "nat" ? "route" : "nat" }), "restart"],
  ["bridge", (model) => ({ ...model, bridge: "another" }), "restart"],
  ["cidr", (model) => model.ipv4 && { ...model, ipv4: { cidr: "172.31.0.0/24", gateway: "172.31.0.1" } }, "restart"],
  ["gateway", (model) => model.ipv4 && { ...model, ipv4: { ...model.ipv4, gateway: "10.255.255.251" } }, "restart"],
  [
    "dhcp",
    (model) =>
      model.ipv4 && {
        ...model,
        ipv4: model.ipv4.range
          ? { ...model.ipv4, range: { ...model.ipv4.range, end: model.ipv4.range.start } }
          : { ...model.ipv4, range: { start: "10.0.0.5", end: "10.0.0.9" } },
      },
    "restart",
  ],
  ["ipv6", (model) => ({ ...model, ipv6: { cidr: "fd99::/64", gateway: "fd99::1" } }), "restart"],
  ["dns.enabled", (model) => ({ ...model, dns: { ...model.dns, enabled: !model.dns.enabled } }), "restart"],
  ["dns.domain", (model) => ({ ...model, dns: { ...model.dns, domain: "another.test" } }), "restart"],
  [
    "dns.forwarders",
    (model) => ({ ...model, dns: { ...model.dns, forwarders: [...model.dns.forwarders, "192.0.2.99"] } }),
    "restart",
  ],
  [
    "dns.hosts.another",
    (model) => ({ ...model, dns: { ...model.dns, hosts: { ...model.dns.hosts, another: "192.0.2.98" } } }),
    "live",
  ],
  [
    "hosts.another",
    (model) =>
      model.ipv4?.range && {
        ...model,
        hosts: { ...model.hosts, another: { mac: "52:54:99:99:99:99", address: "10.9.9.9" } },
      },
    "live",
  ],
  ["mtu", (model) => ({ ...model, mtu: 1279 }), "restart"],
  ["autostart", (model) => ({ ...model, autostart: !model.autostart }), "live"],
];

describe("networks as models and as XML", () => {
  test("property: Network Round Trip: what is read back of a definition is what was defined", () => {
    fc.assert(
      fc.property(networkDesired, fc.uuid(), (desired, id) => {
        const model = networkModel(desired, id);
        const observed = observeNetwork(buildNetwork(model), { running: model.running, autostart: model.autostart });
        expect(observed).toEqual(model);
        expect(diffNetwork(model, observed)).toEqual([]);
      }),
      RUNS,
    );
  });

  test("property: Network Change Exactness: one edit is one change, with its effect", () => {
    const hit = new Set<string>();
    fc.assert(
      fc.property(networkDesired, fc.uuid(), (desired, id) => {
        const model = { ...networkModel(desired, id), running: true };
        for (const [path, edit, effect] of EDITS) {
          const wanted = edit(model);
          if (wanted === undefined) continue;
          hit.add(path);
          const observed = observeNetwork(buildNetwork(model), { running: true, autostart: model.autostart });
          expect(diffNetwork(wanted, observed).map((change) => [change.path, change.effect])).toEqual([[path, effect]]);
        }
        const [name] = Object.keys(model.hosts);
        const host = name === undefined ? undefined : model.hosts[name];
        if (name !== undefined && host !== undefined) {
          hit.add("hosts.*.address");
          const moved = { ...model, hosts: { ...model.hosts, [name]: { ...host, address: "10.9.9.8" } } };
          expect(diffNetwork(moved, model).map((change) => [change.path, change.effect])).toEqual([
            [`hosts.${name}.address`, "live"],
          ]);
        }
      }),
      RUNS,
    );
    expect(hit.size).toBe(EDITS.length + 1);
  });

  test("property: DHCP Range: addresses that are given out are machines' own, and never the host's", () => {
    fc.assert(
      fc.property(networkDesired, fc.uuid(), (desired, id) => {
        const { ipv4 } = networkModel(desired, id);
        if (ipv4?.range === undefined) return;
        const cidr = parseCidr(ipv4.cidr);
        const [start, end, gateway] = [ipv4.range.start, ipv4.range.end, ipv4.gateway].map(
          (one) => parseIp(one)?.value ?? -1n,
        );
        if (cidr === undefined || start === undefined || end === undefined || gateway === undefined)
          throw new Error("?");
        expect(start > cidr.base && start <= end && end < lastIp(cidr)).toBe(true);
        expect(gateway < start || gateway > end).toBe(true);
        expect(gateway > cidr.base && gateway < lastIp(cidr)).toBe(true);
      }),
      RUNS,
    );
  });
});

describe("networks that cannot be", () => {
  const resolve = (desired: Partial<NetworkDesired>) =>
    resolveNetwork({ name: "a", host: "h", ...desired } as NetworkDesired, {
      lab: "l",
      address: "network.a",
      instance_id: "i",
      lineage: "l",
    });
  test.each([
    [{ isolated: true, forward: "nat" }, /contradict/],
    [{ forward: "bridge" }, /needs `bridge:`/],
    [{ forward: "route" }, /needs `cidr` or `ipv6`/],
    [{ forward: "bridge", bridge: "br0", cidr: "10.0.0.0/24" }, /has no cidr/],
    [{ cidr: "10.0.0.5/24" }, /is an address in 10\.0\.0\.0\/24/],
    [{ cidr: "10.0.0.0/31" }, /no room/],
    [{ cidr: "fd00::/64" }, /no range of IPv4/],
    [{ cidr: "10.0.0.0/24", gateway: "10.0.1.1" }, /not an address that the host can have/],
    [{ cidr: "10.0.0.0/24", gateway: "10.0.0.255" }, /not an address that the host can have/],
    [{ cidr: "10.0.0.0/24", dhcp: { start: "10.0.0.9", end: "10.0.0.5" } }, /comes after/],
    [{ cidr: "10.0.0.0/24", dhcp: { start: "10.0.0.1", end: "10.0.0.5" } }, /includes the host's own/],
    [{ dhcp: { start: "10.0.0.1", end: "10.0.0.5" } }, /which is missing/],
    [{ ipv6: "fd00::/48" }, /in a \/64 only/],
    [{ cidr: "10.0.0.0/24", hosts: { a: { mac: "52:54:00:00:00:01", address: "10.0.1.1" } } }, /is no address of/],
    [
      { cidr: "10.0.0.0/24", dhcp: false, hosts: { a: { mac: "52:54:00:00:00:01", address: "10.0.0.9" } } },
      /by DHCP, which is off/,
    ],
    [
      {
        cidr: "10.0.0.0/24",
        hosts: {
          a: { mac: "52:54:00:00:00:01", address: "10.0.0.9" },
          b: { mac: "52:54:00:00:00:01", address: "10.0.0.8" },
        },
      },
      /given to a and to b/,
    ],
    [{ dns: { forwarders: ["dns.example"] } }, /is no address/],
  ] as const)("%j", (desired, message) => {
    expect(() => resolve(desired as Partial<NetworkDesired>)).toThrow(message);
  });

  test("the least that is needed: a name and a host", () => {
    expect(resolve({})).toMatchObject({
      name: "l-a",
      forward: "none",
      autostart: true,
      running: true,
      dns: { enabled: true },
    });
    expect(resolve({ cidr: "10.0.0.0/24" }).ipv4).toEqual({
      cidr: "10.0.0.0/24",
      gateway: "10.0.0.1",
      range: { start: "10.0.0.2", end: "10.0.0.254" },
    });
    expect(resolve({ forward: "bridge", bridge: "br0" })).toMatchObject({ bridge: "br0", dns: { enabled: false } });
  });
});
