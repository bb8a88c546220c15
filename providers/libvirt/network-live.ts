import type { NetworkModel } from "./model/network.ts";
import { type CallOptions, type Libvirt, type Network, NetworkSection, NetworkUpdate } from "./rpc/index.ts";
import { buildDhcpHost, buildDnsHost } from "./xml/network.ts";

/** Brings fixed addresses and names of a running network to what its definition says, without stopping it. */
export async function changeEntries(
  libvirt: Libvirt,
  network: Network,
  before: NetworkModel,
  after: NetworkModel,
  options: CallOptions,
): Promise<void> {
  const update = (command: number, section: number, xml: string): Promise<void> =>
    libvirt.networks.update(network, { command, section, xml }, options);
  const [oldHosts, newHosts] = [dhcpLines(before), dhcpLines(after)];
  const [oldNames, newNames] = [dnsLines(before), dnsLines(after)];
  // What goes first: an address may be another's afterwards.
  for (const xml of oldHosts) {
    if (!newHosts.has(xml)) await update(NetworkUpdate.DELETE, NetworkSection.IP_DHCP_HOST, xml);
  }
  for (const xml of oldNames) {
    if (!newNames.has(xml)) await update(NetworkUpdate.DELETE, NetworkSection.DNS_HOST, xml);
  }
  for (const xml of newHosts) {
    if (!oldHosts.has(xml)) await update(NetworkUpdate.ADD_LAST, NetworkSection.IP_DHCP_HOST, xml);
  }
  for (const xml of newNames) {
    if (!oldNames.has(xml)) await update(NetworkUpdate.ADD_LAST, NetworkSection.DNS_HOST, xml);
  }
}

function dhcpLines({ hosts }: NetworkModel): ReadonlySet<string> {
  return new Set(Object.entries(hosts).map(([name, { mac, address }]) => buildDhcpHost(mac, address, name)));
}

function dnsLines({ dns }: NetworkModel): ReadonlySet<string> {
  const byAddress = new Map<string, string[]>();
  for (const [name, address] of Object.entries(dns.hosts)) {
    byAddress.set(address, [...(byAddress.get(address) ?? []), name]);
  }
  return new Set([...byAddress].map(([address, names]) => buildDnsHost(address, names.toSorted())));
}
