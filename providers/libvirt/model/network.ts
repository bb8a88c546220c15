import { LabError, type Plain, type PropertyDiff } from "../../../src/index.ts";
import { bridgeOf, objectName, uuidOf } from "./ids.ts";
import { type Cidr, cidrHolds, formatCidr, formatIp, type Ip, lastIp, nthIp, parseCidr, parseIp } from "./ip.ts";
import type { NetworkDesired } from "./network-schema.ts";
import type { Owner } from "./owner.ts";

export interface NetworkRange {
  readonly start: string;
  readonly end: string;
}

/** A network, whole and in one form: what is defined, and what is read back. */
export interface NetworkModel {
  /** In libvirt. */
  readonly name: string;
  readonly uuid: string;
  readonly owner?: Owner;
  /** nat, route, bridge or none; what libvirt has besides these is only ever observed. */
  readonly forward: string;
  readonly bridge: string;
  readonly ipv4?: { readonly cidr: string; readonly gateway: string; readonly range?: NetworkRange };
  readonly ipv6?: { readonly cidr: string; readonly gateway: string };
  readonly dns: {
    readonly enabled: boolean;
    readonly domain?: string;
    readonly forwarders: readonly string[];
    /** From name to address. */
    readonly hosts: Readonly<Record<string, string>>;
  };
  /** What gets a fixed address, by name. */
  readonly hosts: Readonly<Record<string, { readonly mac: string; readonly address: string }>>;
  /** Fixed addresses of labctl's own machines, from MAC to address: theirs to change, never a change of the network. */
  readonly reservations: Readonly<Record<string, string>>;
  readonly mtu?: number;
  readonly autostart: boolean;
  readonly running: boolean;
}

export interface NetworkContext {
  readonly lab: string;
  readonly address: string;
  readonly instance_id: string;
  readonly lineage: string;
  /** Its name in libvirt, where it was imported. */
  readonly name?: string;
  readonly reservations?: Readonly<Record<string, string>>;
}

/** The network that a spec asks for. Throws E_SPEC_VALUE where its parts do not go together. */
export function resolveNetwork(desired: NetworkDesired, context: NetworkContext): NetworkModel {
  const wrong = (message: string, hint?: string): LabError =>
    new LabError("E_SPEC_VALUE", message, { address: context.address, ...(hint !== undefined && { hint }) });
  if (desired.isolated && desired.forward !== undefined && desired.forward !== "none") {
    throw wrong(
      `\`isolated: true\` and \`forward: ${desired.forward}\` contradict each other`,
      "leave one of them out",
    );
  }
  const addressed = desired.cidr !== undefined || desired.ipv6 !== undefined;
  const forward = desired.isolated ? "none" : (desired.forward ?? (addressed ? "nat" : "none"));
  if (!addressed && (forward === "nat" || forward === "route")) {
    throw wrong(`\`forward: ${forward}\` needs \`cidr\` or \`ipv6\`: it is the addresses that are forwarded`);
  }
  const plain = forward === "bridge";
  if (plain && desired.bridge === undefined) throw wrong("`forward: bridge` needs `bridge:`, one that the host has");
  if (plain) {
    const given = (["cidr", "ipv6", "gateway", "mtu", "hosts"] as const).filter((key) => desired[key] !== undefined);
    if (given.length > 0) {
      throw wrong(`a network on the host's own bridge has no ${given.join(", ")}: whoever runs it there decides`);
    }
  }
  const ipv4 = plain ? undefined : resolveIpv4(desired, wrong);
  const ipv6 = plain ? undefined : resolveIpv6(desired, wrong);
  const hosts = Object.entries(desired.hosts ?? {}).map(([name, host]) => {
    const ip = parseIp(host.address);
    const cidr = ipv4 === undefined ? undefined : parseCidr(ipv4.cidr);
    if (ip === undefined || cidr === undefined || !cidrHolds(cidr, ip)) {
      throw wrong(`${host.address} of ${name} is no address of ${ipv4?.cidr ?? "this network, which has no `cidr`"}`);
    }
    return [name, { mac: host.mac.toLowerCase(), address: formatIp(ip) }] as const;
  });
  if (hosts.length > 0 && ipv4?.range === undefined) throw wrong("`hosts` get their addresses by DHCP, which is off");
  const taken = new Map<string, string>();
  for (const [name, { mac, address }] of hosts) {
    for (const key of [mac, address]) {
      if (taken.has(key)) throw wrong(`${key} is given to ${taken.get(key)} and to ${name}`);
      taken.set(key, name);
    }
  }
  const dns = typeof desired.dns === "object" ? desired.dns : {};
  const address = (text: string): string => {
    const ip = parseIp(text);
    if (ip === undefined) throw wrong(`${JSON.stringify(text)} is no address`);
    return formatIp(ip);
  };
  return {
    name: context.name ?? objectName(context.lab, desired.name),
    uuid: uuidOf(context.instance_id),
    owner: {
      lab: context.lab,
      address: context.address,
      instance_id: context.instance_id,
      lineage: context.lineage,
    },
    forward,
    bridge: desired.bridge ?? bridgeOf(context.instance_id),
    ...(ipv4 !== undefined && { ipv4 }),
    ...(ipv6 !== undefined && { ipv6 }),
    dns: {
      enabled: !plain && desired.dns !== false,
      ...(!plain && dns.domain !== undefined && { domain: dns.domain }),
      forwarders: plain ? [] : (dns.forwarders ?? []).map(address),
      hosts: plain ? {} : Object.fromEntries(Object.entries(dns.hosts ?? {}).map(([name, ip]) => [name, address(ip)])),
    },
    hosts: Object.fromEntries(hosts),
    reservations: context.reservations ?? {},
    ...(desired.mtu !== undefined && { mtu: desired.mtu }),
    autostart: desired.autostart ?? true,
    running: desired.running ?? true,
  };
}

type Wrong = (message: string, hint?: string) => LabError;

function resolveIpv4(desired: NetworkDesired, wrong: Wrong): NetworkModel["ipv4"] {
  if (desired.cidr === undefined) {
    if (typeof desired.dhcp === "object") throw wrong("`dhcp` gives out addresses of `cidr`, which is missing");
    if (desired.gateway !== undefined) throw wrong("`gateway` is an address of `cidr`, which is missing");
    return undefined;
  }
  const cidr = rangeOf(desired.cidr, 4, wrong);
  if (cidr.prefix > 30) throw wrong(`${desired.cidr} has no room for machines`, "a /30 or wider");
  const first = nthIp(cidr, 1n);
  const gateway = desired.gateway === undefined ? first : parseIp(desired.gateway);
  if (gateway === undefined || !isHost(cidr, gateway)) {
    throw wrong(`${desired.gateway} is not an address that the host can have in ${desired.cidr}`);
  }
  const range = desired.dhcp === false ? undefined : dhcpRange(desired.dhcp, cidr, gateway, wrong);
  return { cidr: formatCidr(cidr), gateway: formatIp(gateway), ...(range !== undefined && { range }) };
}

function isHost(cidr: Cidr, ip: Ip): boolean {
  return cidrHolds(cidr, ip) && ip.value !== cidr.base && ip.value !== lastIp(cidr);
}

/** The longer of the stretches below and above the host's own address, or the stretch that was asked for. */
function dhcpRange(dhcp: NetworkDesired["dhcp"], cidr: Cidr, gateway: Ip, wrong: Wrong): NetworkRange {
  if (typeof dhcp === "object") {
    const [start, end] = [parseIp(dhcp.start), parseIp(dhcp.end)];
    if (start === undefined || end === undefined || !isHost(cidr, start) || !isHost(cidr, end)) {
      throw wrong(`${dhcp.start} to ${dhcp.end} are not addresses of machines in ${formatCidr(cidr)}`);
    }
    if (start.value > end.value) throw wrong(`${dhcp.start} comes after ${dhcp.end}`);
    if (gateway.value >= start.value && gateway.value <= end.value) {
      throw wrong(`${dhcp.start} to ${dhcp.end} includes the host's own address ${formatIp(gateway)}`);
    }
    return { start: formatIp(start), end: formatIp(end) };
  }
  const [first, last] = [cidr.base + 1n, lastIp(cidr) - 1n];
  const below = gateway.value - first;
  const above = last - gateway.value;
  const [start, end] = below > above ? [first, gateway.value - 1n] : [gateway.value + 1n, last];
  return { start: formatIp({ family: 4, value: start }), end: formatIp({ family: 4, value: end }) };
}

function resolveIpv6(desired: NetworkDesired, wrong: Wrong): NetworkModel["ipv6"] {
  if (desired.ipv6 === undefined) return undefined;
  const cidr = rangeOf(desired.ipv6, 6, wrong);
  if (cidr.prefix !== 64) throw wrong(`machines choose addresses themselves in a /64 only, not in ${desired.ipv6}`);
  const gateway = nthIp(cidr, 1n);
  return { cidr: formatCidr(cidr), gateway: gateway === undefined ? "" : formatIp(gateway) };
}

function rangeOf(text: string, family: 4 | 6, wrong: Wrong): Cidr {
  const cidr = parseCidr(text);
  const example = family === 4 ? "192.168.100.0/24" : "fd00:100::/64";
  if (cidr?.family !== family) throw wrong(`${JSON.stringify(text)} is no range of IPv${family}`, `like ${example}`);
  if (
    formatIp({ family, value: cidr.base }) !== formatIp(parseIp(text.split("/")[0] ?? "") ?? { family, value: -1n })
  ) {
    throw wrong(`${text} is an address in ${formatCidr(cidr)}`, `write ${formatCidr(cidr)}`);
  }
  return cidr;
}

/** A change to a network: `live` disturbs nobody, `restart` cuts its machines off for a moment. */
export interface NetworkChange {
  readonly path: string;
  readonly before?: Plain;
  readonly after?: Plain;
  readonly effect: "live" | "restart" | "replace";
}

/** What differs, property by property, named as in the spec. Names, ids and the owner are not compared: they identify it. */
export function diffNetwork(desired: NetworkModel, observed: NetworkModel): NetworkChange[] {
  const out: NetworkChange[] = [];
  const restart = observed.running ? "restart" : "live";
  const compare = (
    path: string,
    after: Plain | undefined,
    before: Plain | undefined,
    effect: NetworkChange["effect"],
  ) => {
    if (JSON.stringify(before) === JSON.stringify(after)) return;
    out.push({ path, ...(before !== undefined && { before }), ...(after !== undefined && { after }), effect });
  };
  compare("forward", desired.forward, observed.forward, restart);
  compare("bridge", desired.bridge, observed.bridge, restart);
  compare("cidr", desired.ipv4?.cidr, observed.ipv4?.cidr, restart);
  const moved = desired.ipv4?.cidr !== observed.ipv4?.cidr;
  // Another range brings another gateway and other addresses along; that is said once.
  if (!moved) {
    compare("gateway", desired.ipv4?.gateway, observed.ipv4?.gateway, restart);
    compare("dhcp", rangePlain(desired.ipv4?.range), rangePlain(observed.ipv4?.range), restart);
  }
  compare("ipv6", desired.ipv6?.cidr, observed.ipv6?.cidr, restart);
  compare("dns.enabled", desired.dns.enabled, observed.dns.enabled, restart);
  compare("dns.domain", desired.dns.domain, observed.dns.domain, restart);
  compare("dns.forwarders", [...desired.dns.forwarders], [...observed.dns.forwarders], restart);
  compare("mtu", desired.mtu, observed.mtu, restart);
  byName(desired.dns.hosts, observed.dns.hosts, (name, after, before) =>
    compare(`dns.hosts.${name}`, after, before, "live"),
  );
  byName(desired.hosts, observed.hosts, (name, after, before) => {
    if (after === undefined || before === undefined) {
      compare(`hosts.${name}`, after && { ...after }, before && { ...before }, "live");
      return;
    }
    compare(`hosts.${name}.mac`, after.mac, before.mac, "live");
    compare(`hosts.${name}.address`, after.address, before.address, "live");
  });
  compare("autostart", desired.autostart, observed.autostart, "live");
  compare("running", desired.running, observed.running, desired.running ? "live" : "restart");
  return out;
}

function rangePlain(range: NetworkRange | undefined): Plain {
  return range === undefined ? false : { start: range.start, end: range.end };
}

function byName<T>(
  desired: Readonly<Record<string, T>>,
  observed: Readonly<Record<string, T>>,
  visit: (name: string, after: T | undefined, before: T | undefined) => void,
): void {
  for (const name of [...new Set([...Object.keys(desired), ...Object.keys(observed)])].sort()) {
    visit(name, desired[name], observed[name]);
  }
}

/** Changes as the planner takes them. */
export function asPropertyDiffs(
  changes: readonly { path: string; before?: Plain; after?: Plain; effect: "live" | "restart" | "replace" }[],
): PropertyDiff[] {
  return changes.map(({ effect, ...rest }) => ({ ...rest, effect: effect === "live" ? "update" : effect }));
}
