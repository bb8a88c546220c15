/**
 * A client of libvirt's own RPC (XDR over a stream), without native code: over SSH it needs nothing on this side but the
 * connection that labctl has anyway, and nothing on the host but its daemon.
 *
 *     const libvirt = await openLibvirt(machine, { uri: "qemu:///system" });
 *     const domain = await libvirt.domains.find("web");
 *     if (domain) await libvirt.domains.create(domain);
 *     await libvirt.close();
 *
 * The protocol: docs/internals/rpc.rst and src/remote/remote_protocol.x of libvirt. It is called internal there, and has kept every
 * number and structure since 2007, since clients and servers of different versions have to speak with each other.
 */
export { type Libvirt, openLibvirt, type OpenOptions, sharedLibvirt } from "./libvirt.ts";
export type { ConnectOptions } from "./connect.ts";
export type { CallOptions } from "./client.ts";
export type { FlagOptions } from "./calls.ts";
export type { DomainInfo, Domains, DomainStatsRecord, GuestInterface } from "./domains.ts";
export type { DhcpLease, Networks } from "./networks.ts";
export type { PoolInfo, Pools, StreamCallOptions, VolumeInfo, Volumes } from "./storage.ts";
export type { Node, NodeInfo } from "./node.ts";
export type { Events, LifecycleEvent, Subscription } from "./events.ts";
export type { Domain, Network, ParamValue, Pool, Volume } from "./shapes.ts";
export { isLibvirtError, LibvirtFault, libvirtFault, VirErr } from "./virterror.ts";
export * from "./constants.ts";
