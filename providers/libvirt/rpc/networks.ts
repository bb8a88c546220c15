import { absentAs, type Calls } from "./calls.ts";
import type { CallOptions } from "./client.ts";
import { procedures as call } from "./procedures.ts";
import type { Network } from "./shapes.ts";
import { VirErr } from "./virterror.ts";

export interface DhcpLease {
  /** The bridge. */
  readonly iface: string;
  /** Seconds since 1970; 0: never. */
  readonly expires: number;
  readonly family: "ipv4" | "ipv6";
  readonly mac: string | undefined;
  readonly address: string;
  readonly prefix: number;
  readonly hostname: string | undefined;
  readonly clientId: string | undefined;
}

/** The first place that fits. */
const ANYWHERE = -1;

/** Calls on virtual networks. All reject as RpcClient.call does. */
export class Networks {
  readonly #calls: Calls;

  constructor(calls: Calls) {
    this.#calls = calls;
  }

  get #client(): Calls["client"] {
    return this.#calls.client;
  }

  async list(options?: CallOptions): Promise<readonly Network[]> {
    return (await this.#client.call(call.connectListAllNetworks, { need: 1, flags: 0 }, options)).networks;
  }

  async lookupByName(name: string, options?: CallOptions): Promise<Network> {
    return (await this.#client.call(call.networkLookupByName, { name }, options)).network;
  }

  async lookupByUuid(uuid: string, options?: CallOptions): Promise<Network> {
    return (await this.#client.call(call.networkLookupByUuid, { uuid }, options)).network;
  }

  /** Undefined where there is none of this name. */
  find(name: string, options?: CallOptions): Promise<Network | undefined> {
    return absentAs([VirErr.NO_NETWORK], this.lookupByName(name, options));
  }

  /** Defines it, or changes what is stored where its UUID exists already; one that runs takes it up when started anew. */
  async define(xml: string, options?: CallOptions): Promise<Network> {
    return (await this.#client.call(call.networkDefineXml, { xml }, options)).network;
  }

  create(network: Network, options?: CallOptions): Promise<void> {
    return this.#client.call(call.networkCreate, { network }, options);
  }

  destroy(network: Network, options?: CallOptions): Promise<void> {
    return this.#client.call(call.networkDestroy, { network }, options);
  }

  undefine(network: Network, options?: CallOptions): Promise<void> {
    return this.#client.call(call.networkUndefine, { network }, options);
  }

  /** `inactive`: as it is stored, not as it runs. */
  async xml(
    network: Network,
    { inactive = false, ...options }: CallOptions & { readonly inactive?: boolean } = {},
  ): Promise<string> {
    // VIR_NETWORK_XML_INACTIVE.
    const flags = inactive ? 1 : 0;
    return (await this.#client.call(call.networkGetXmlDesc, { network, flags }, options)).xml;
  }

  async autostart(network: Network, options?: CallOptions): Promise<boolean> {
    return (await this.#client.call(call.networkGetAutostart, { network }, options)).autostart;
  }

  setAutostart(network: Network, autostart: boolean, options?: CallOptions): Promise<void> {
    return this.#client.call(call.networkSetAutostart, { network, autostart }, options);
  }

  /**
   * Changes one entry of a network. Flags: Affect; default LIVE: what is stored stays as it is. Servers before 7.2 take command and section in the
   * other order (VIR_DRV_FEATURE_NETWORK_UPDATE_HAS_CORRECT_ORDER), which shows as E_LIBVIRT.
   */
  update(
    network: Network,
    {
      command,
      section,
      xml,
      flags = 1,
    }: { readonly command: number; readonly section: number; readonly xml: string; readonly flags?: number },
    options?: CallOptions,
  ): Promise<void> {
    const args = { network, command, section, parentIndex: ANYWHERE, xml, flags };
    return this.#client.call(call.networkUpdate, args, options);
  }

  async isActive(network: Network, options?: CallOptions): Promise<boolean> {
    return (await this.#client.call(call.networkIsActive, { network }, options)).active;
  }

  async isPersistent(network: Network, options?: CallOptions): Promise<boolean> {
    return (await this.#client.call(call.networkIsPersistent, { network }, options)).persistent;
  }

  /** The bridge's name. E_LIBVIRT where the network has none. */
  async bridgeName(network: Network, options?: CallOptions): Promise<string> {
    return (await this.#client.call(call.networkGetBridgeName, { network }, options)).name;
  }

  /** What its DHCP server has given out; `mac`: to this one only. */
  async leases(
    network: Network,
    { mac, ...options }: CallOptions & { readonly mac?: string } = {},
  ): Promise<readonly DhcpLease[]> {
    const { leases } = await this.#client.call(call.networkGetDhcpLeases, { network, mac, need: 1, flags: 0 }, options);
    return leases.map(({ type, expires, iaid: _iaid, ...lease }) => ({
      ...lease,
      expires: Number(expires),
      family: type === 0 ? "ipv4" : "ipv6",
    }));
  }
}
