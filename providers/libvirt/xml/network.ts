import { type Cidr, formatCidr, formatIp, ipv4Mask, parseCidr, parseIp, prefixOfMask } from "../model/ip.ts";
import type { NetworkModel } from "../model/network.ts";
import { metadataElement, observeOwner, PREFIXES } from "./owner.ts";
import { all, attrAt, el, find, formatXml, parseXml, textAt, wholeNumber, type XmlElement } from "./tree.ts";

/** Parts of a network that no spec speaks of: whoever gave them to it keeps them. */
const FOREIGN: ReadonlySet<string> = new Set(["mac", "bandwidth", "vlan", "virtualport", "port", "portgroup", "route"]);

/**
 * The XML that defines a network. `current`: the definition that it replaces, whose bridge keeps its MAC address (another one is lost
 * to machines until they ask for it again), and all of which no spec speaks.
 */
export function buildNetwork(model: NetworkModel, current?: string): string {
  const ownBridge = model.forward !== "bridge";
  const kept =
    current === undefined ? [] : parseXml(current, "network").children.filter(({ name }) => FOREIGN.has(name));
  return formatXml(
    el(
      "network",
      {},
      el("name", {}, model.name),
      el("uuid", {}, model.uuid),
      metadataElement(model.owner),
      model.forward !== "none" && el("forward", { mode: model.forward }),
      ownBridge ? el("bridge", { name: model.bridge, stp: "on", delay: 0 }) : el("bridge", { name: model.bridge }),
      model.mtu !== undefined && el("mtu", { size: model.mtu }),
      model.dns.domain !== undefined && el("domain", { name: model.dns.domain, localOnly: "yes" }),
      ownBridge && dnsElement(model),
      model.ipv4 !== undefined && ipv4Element(model, model.ipv4),
      model.ipv6 !== undefined &&
        el("ip", { family: "ipv6", address: model.ipv6.gateway, prefix: parseCidr(model.ipv6.cidr)?.prefix }),
      ...kept,
    ),
    PREFIXES,
  );
}

function dnsElement({ dns }: NetworkModel): XmlElement | undefined {
  const byAddress = new Map<string, string[]>();
  for (const [name, address] of Object.entries(dns.hosts)) {
    byAddress.set(address, [...(byAddress.get(address) ?? []), name]);
  }
  const content = [
    ...dns.forwarders.map((addr) => el("forwarder", { addr })),
    ...[...byAddress].map(([ip, names]) => el("host", { ip }, ...names.map((name) => el("hostname", {}, name)))),
  ];
  if (dns.enabled && content.length === 0) return undefined;
  return el("dns", dns.enabled ? {} : { enable: "no" }, ...content);
}

function ipv4Element(model: NetworkModel, ipv4: NonNullable<NetworkModel["ipv4"]>): XmlElement {
  const netmask = ipv4Mask(parseCidr(ipv4.cidr)?.prefix ?? 0);
  const dhcp =
    ipv4.range === undefined
      ? undefined
      : el(
          "dhcp",
          {},
          el("range", { start: ipv4.range.start, end: ipv4.range.end }),
          ...Object.entries(model.hosts).map(([name, host]) => hostElement(host.mac, host.address, name)),
          ...Object.entries(model.reservations).map(([mac, address]) => hostElement(mac, address)),
        );
  return el("ip", { address: ipv4.gateway, netmask }, dhcp);
}

function hostElement(mac: string, ip: string, name?: string): XmlElement {
  return el("host", { mac, name, ip });
}

/** For virNetworkUpdate: one fixed address of the section `ip-dhcp-host`. Without a name it is a machine's of labctl. */
export function buildDhcpHost(mac: string, address: string, name?: string): string {
  return formatXml(hostElement(mac, address, name));
}

/** For virNetworkUpdate: all names of one address, of the section `dns-host`. */
export function buildDnsHost(address: string, names: readonly string[]): string {
  return formatXml(el("host", { ip: address }, ...names.map((name) => el("hostname", {}, name))));
}

/** What libvirt says of a network; `live` is what its XML does not hold. */
export function observeNetwork(
  xml: string,
  live: { readonly running: boolean; readonly autostart: boolean },
): NetworkModel {
  const root = parseXml(xml, "network");
  const ips = all(root, "ip");
  const four = ips.find((one) => (one.attrs["family"] ?? "ipv4") === "ipv4");
  const six = ips.find((one) => one.attrs["family"] === "ipv6");
  const fixed = all(find(four, "dhcp"), "host");
  const hosts: Record<string, { mac: string; address: string }> = {};
  const reservations: Record<string, string> = {};
  for (const { attrs } of fixed) {
    const { mac, ip, name } = attrs;
    if (mac === undefined || ip === undefined) continue;
    if (name === undefined) reservations[mac.toLowerCase()] = ip;
    else hosts[name] = { mac: mac.toLowerCase(), address: ip };
  }
  const dns = find(root, "dns");
  const names: Record<string, string> = {};
  for (const host of all(dns, "host")) {
    for (const { text } of all(host, "hostname")) names[text] = host.attrs["ip"] ?? "";
  }
  const outward = find(root, "forward");
  const forward = outward === undefined ? "none" : (outward.attrs["mode"] ?? "nat");
  const domain = attrAt(root, ["domain"], "name");
  const mtu = wholeNumber(attrAt(root, ["mtu"], "size"));
  const ipv4 = four === undefined ? undefined : ipv4Of(four);
  const gateway = six?.attrs["address"];
  const ipv6 = six === undefined ? undefined : cidrOf(gateway ?? "", wholeNumber(six.attrs["prefix"]));
  const owner = observeOwner(root);
  return {
    name: textAt(root, "name") ?? "",
    uuid: textAt(root, "uuid") ?? "",
    ...(owner !== undefined && { owner }),
    forward,
    bridge: attrAt(root, ["bridge"], "name") ?? "",
    ...(ipv4 !== undefined && { ipv4 }),
    ...(ipv6 !== undefined &&
      gateway !== undefined && { ipv6: { cidr: formatCidr(ipv6), gateway: canonical(gateway) } }),
    dns: {
      enabled: forward !== "bridge" && dns?.attrs["enable"] !== "no",
      ...(domain !== undefined && { domain }),
      forwarders: all(dns, "forwarder").map((one) => canonical(one.attrs["addr"] ?? "")),
      hosts: names,
    },
    hosts,
    reservations,
    ...(mtu !== undefined && { mtu }),
    ...live,
  };
}

function canonical(address: string): string {
  const ip = parseIp(address);
  return ip === undefined ? address : formatIp(ip);
}

function cidrOf(address: string, prefix: number | undefined): Cidr | undefined {
  return prefix === undefined ? undefined : parseCidr(`${address}/${prefix}`);
}

function ipv4Of(ip: XmlElement): NetworkModel["ipv4"] {
  const { address = "", netmask, prefix } = ip.attrs;
  const cidr = cidrOf(address, netmask === undefined ? wholeNumber(prefix) : prefixOfMask(netmask));
  if (cidr === undefined) return undefined;
  const range = find(ip, "dhcp", "range");
  const { start, end } = range?.attrs ?? {};
  return {
    cidr: formatCidr(cidr),
    gateway: address,
    ...(start !== undefined && end !== undefined && { range: { start, end } }),
  };
}
