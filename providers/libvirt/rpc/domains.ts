import type { Duplex } from "node:stream";
import { absentAs, type Calls, type FlagOptions } from "./calls.ts";
import type { CallOptions } from "./client.ts";
import { BLOCK_RESIZE_BYTES, domainState, type DomainState, MetadataType } from "./constants.ts";
import { procedures as call } from "./procedures.ts";
import type { Domain, ParamValue } from "./shapes.ts";
import { VirErr } from "./virterror.ts";

export interface DomainInfo {
  readonly state: DomainState;
  /** KiB: most, and what it has now. */
  readonly maxMemory: number;
  readonly memory: number;
  readonly vcpus: number;
  /** Nanoseconds. */
  readonly cpuTime: number;
}

/** One domain's part of stats in bulk: `"state.state": 1`, `"balloon.current": 1048576` (see virConnectGetAllDomainStats). */
export interface DomainStatsRecord {
  readonly domain: Domain;
  readonly stats: Readonly<Record<string, ParamValue>>;
}

export interface GuestInterface {
  readonly name: string;
  readonly mac: string | undefined;
  readonly addresses: readonly {
    readonly family: "ipv4" | "ipv6";
    readonly address: string;
    readonly prefix: number;
  }[];
}

/** Calls on domains. All reject as RpcClient.call does. `Affect` says whether the running or the stored definition is meant. */
export class Domains {
  readonly #calls: Calls;

  constructor(calls: Calls) {
    this.#calls = calls;
  }

  get #client(): Calls["client"] {
    return this.#calls.client;
  }

  /** Flags of DomainList narrow it down; without: all. */
  async list({ flags = 0, ...options }: FlagOptions = {}): Promise<readonly Domain[]> {
    return (await this.#client.call(call.connectListAllDomains, { need: 1, flags }, options)).domains;
  }

  async lookupByName(name: string, options?: CallOptions): Promise<Domain> {
    return (await this.#client.call(call.domainLookupByName, { name }, options)).domain;
  }

  async lookupByUuid(uuid: string, options?: CallOptions): Promise<Domain> {
    return (await this.#client.call(call.domainLookupByUuid, { uuid }, options)).domain;
  }

  /** Undefined where there is none of this name. */
  find(name: string, options?: CallOptions): Promise<Domain | undefined> {
    return absentAs([VirErr.NO_DOMAIN], this.lookupByName(name, options));
  }

  /** Defines it, or changes what is stored where its UUID exists already. Flags: DomainDefine. */
  async define(xml: string, { flags = 0, ...options }: FlagOptions = {}): Promise<Domain> {
    return (await this.#client.call(call.domainDefineXmlFlags, { xml, flags }, options)).domain;
  }

  /** Starts a transient one, of which nothing is left when it stops. Flags: DomainStart. */
  async createXml(xml: string, { flags = 0, ...options }: FlagOptions = {}): Promise<Domain> {
    return (await this.#client.call(call.domainCreateXml, { xml, flags }, options)).domain;
  }

  /** Starts it. Flags: DomainStart. The domain that comes back has its id. */
  async create(domain: Domain, { flags = 0, ...options }: FlagOptions = {}): Promise<Domain> {
    return (await this.#client.call(call.domainCreateWithFlags, { domain, flags }, options)).domain;
  }

  /** Asks it to shut down; whether and when it does is its own affair. Flags: DomainShutdown. */
  shutdown(domain: Domain, { flags = 0, ...options }: FlagOptions = {}): Promise<void> {
    return this.#client.call(call.domainShutdownFlags, { domain, flags }, options);
  }

  /** Asks it to restart. Flags: DomainShutdown. */
  reboot(domain: Domain, { flags = 0, ...options }: FlagOptions = {}): Promise<void> {
    return this.#client.call(call.domainReboot, { domain, flags }, options);
  }

  /** Its reset button. */
  reset(domain: Domain, options?: CallOptions): Promise<void> {
    return this.#client.call(call.domainReset, { domain, flags: 0 }, options);
  }

  /** Its power cord. Flags: DomainDestroy. */
  destroy(domain: Domain, { flags = 0, ...options }: FlagOptions = {}): Promise<void> {
    return this.#client.call(call.domainDestroyFlags, { domain, flags }, options);
  }

  /** Flags: DomainUndefine. */
  undefine(domain: Domain, { flags = 0, ...options }: FlagOptions = {}): Promise<void> {
    return this.#client.call(call.domainUndefineFlags, { domain, flags }, options);
  }

  suspend(domain: Domain, options?: CallOptions): Promise<void> {
    return this.#client.call(call.domainSuspend, { domain }, options);
  }

  resume(domain: Domain, options?: CallOptions): Promise<void> {
    return this.#client.call(call.domainResume, { domain }, options);
  }

  /** Flags: DomainXml. */
  async xml(domain: Domain, { flags = 0, ...options }: FlagOptions = {}): Promise<string> {
    return (await this.#client.call(call.domainGetXmlDesc, { domain, flags }, options)).xml;
  }

  /** `reason` is a number of virDomain*Reason, of another enumeration for each state. */
  async state(
    domain: Domain,
    options?: CallOptions,
  ): Promise<{ readonly state: DomainState; readonly reason: number }> {
    const { state, reason } = await this.#client.call(call.domainGetState, { domain, flags: 0 }, options);
    return { state: domainState(state), reason };
  }

  async info(domain: Domain, options?: CallOptions): Promise<DomainInfo> {
    const info = await this.#client.call(call.domainGetInfo, { domain }, options);
    return { ...info, state: domainState(info.state) };
  }

  async isActive(domain: Domain, options?: CallOptions): Promise<boolean> {
    return (await this.#client.call(call.domainIsActive, { domain }, options)).active;
  }

  async isPersistent(domain: Domain, options?: CallOptions): Promise<boolean> {
    return (await this.#client.call(call.domainIsPersistent, { domain }, options)).persistent;
  }

  async autostart(domain: Domain, options?: CallOptions): Promise<boolean> {
    return (await this.#client.call(call.domainGetAutostart, { domain }, options)).autostart;
  }

  setAutostart(domain: Domain, autostart: boolean, options?: CallOptions): Promise<void> {
    return this.#client.call(call.domainSetAutostart, { domain, autostart }, options);
  }

  /** Flags: Affect. */
  async vcpus(domain: Domain, { flags = 0, ...options }: FlagOptions = {}): Promise<number> {
    return (await this.#client.call(call.domainGetVcpusFlags, { domain, flags }, options)).count;
  }

  /** Flags: Affect. */
  setVcpus(domain: Domain, vcpus: number, { flags = 0, ...options }: FlagOptions = {}): Promise<void> {
    return this.#client.call(call.domainSetVcpusFlags, { domain, vcpus, flags }, options);
  }

  /** KiB. Flags: Affect; live, the guest's balloon driver has to follow. */
  setMemory(domain: Domain, kib: number, { flags = 0, ...options }: FlagOptions = {}): Promise<void> {
    return this.#client.call(call.domainSetMemoryFlags, { domain, kib, flags }, options);
  }

  /** XML of one device. Flags: Affect. */
  attachDevice(domain: Domain, xml: string, { flags = 0, ...options }: FlagOptions = {}): Promise<void> {
    return this.#client.call(call.domainAttachDeviceFlags, { domain, xml, flags }, options);
  }

  /** Live, a device on PCI goes only when the guest lets go of it, which may be later or never. Flags: Affect. */
  detachDevice(domain: Domain, xml: string, { flags = 0, ...options }: FlagOptions = {}): Promise<void> {
    return this.#client.call(call.domainDetachDeviceFlags, { domain, xml, flags }, options);
  }

  /** Flags: Affect. */
  updateDevice(domain: Domain, xml: string, { flags = 0, ...options }: FlagOptions = {}): Promise<void> {
    return this.#client.call(call.domainUpdateDeviceFlags, { domain, xml, flags }, options);
  }

  /** The element of a namespace under `<metadata>`; undefined where there is none. Flags: Affect. */
  metadata(domain: Domain, uri: string, { flags = 0, ...options }: FlagOptions = {}): Promise<string | undefined> {
    const args = { domain, type: MetadataType.ELEMENT, uri, flags };
    return absentAs(
      [VirErr.NO_DOMAIN_METADATA],
      this.#client.call(call.domainGetMetadata, args, options).then((reply) => reply.metadata),
    );
  }

  /** Sets it (`xml`: one element, without the namespace, which libvirt adds under the prefix `key`), or removes it. Flags: Affect. */
  setMetadata(
    domain: Domain,
    uri: string,
    content: { readonly key: string; readonly xml: string } | undefined,
    { flags = 0, ...options }: FlagOptions = {},
  ): Promise<void> {
    const args = { domain, type: MetadataType.ELEMENT, metadata: content?.xml, key: content?.key, uri, flags };
    return this.#client.call(call.domainSetMetadata, args, options);
  }

  /** Bytes. `disk`: its target (`vda`) or its path. */
  blockResize(domain: Domain, disk: string, bytes: number, options?: CallOptions): Promise<void> {
    return this.#client.call(call.domainBlockResize, { domain, disk, size: bytes, flags: BLOCK_RESIZE_BYTES }, options);
  }

  /** Bytes. `disk`: its target or its path. */
  blockInfo(
    domain: Domain,
    disk: string,
    options?: CallOptions,
  ): Promise<{ readonly allocation: number; readonly capacity: number; readonly physical: number }> {
    return this.#client.call(call.domainGetBlockInfo, { domain, path: disk, flags: 0 }, options);
  }

  /** `source`: AddressSource. */
  async interfaceAddresses(domain: Domain, source: number, options?: CallOptions): Promise<readonly GuestInterface[]> {
    const { interfaces } = await this.#client.call(
      call.domainInterfaceAddresses,
      { domain, source, flags: 0 },
      options,
    );
    return interfaces.map(({ name, mac, addresses }) => ({
      name,
      mac,
      addresses: addresses.map(({ type, address, prefix }) => ({
        family: type === 0 ? "ipv4" : "ipv6",
        address,
        prefix,
      })),
    }));
  }

  /**
   * Stats of many domains in one call. `stats`: DomainStats joined with `|`, 0 for all that there is; `domains`: these only, else all
   * that `flags` (DomainList) allow.
   */
  async stats(
    stats: number,
    { flags = 0, domains = [], ...options }: FlagOptions & { readonly domains?: readonly Domain[] } = {},
  ): Promise<readonly DomainStatsRecord[]> {
    const { records } = await this.#client.call(call.connectGetAllDomainStats, { domains, stats, flags }, options);
    return records.map(({ domain, params }) => ({
      domain,
      stats: Object.fromEntries(params.map(({ field, value }) => [field, value.value])),
    }));
  }

  /**
   * Its serial console, both ways, on a connection of its own. `device`: the alias of a console or serial device, else the first.
   * Flags: DomainConsole. What the guest prints while nobody is connected is lost here, and so may be what it prints last before
   * QEMU ends, which hangs up the terminal; a `<log file>` in its XML keeps everything.
   * The stream ends when the domain stops, and is closed with end() or destroy().
   */
  async openConsole(
    domain: Domain,
    { flags = 0, device, signal, ...options }: FlagOptions & { readonly device?: string } = {},
  ): Promise<Duplex> {
    const callOptions = { ...options, ...(signal && { signal }) };
    const client = await this.#calls.aside(callOptions);
    try {
      return await client.openStream(
        call.domainOpenConsole,
        { domain, device, flags },
        { mode: "both", onClose: () => client.close() },
        callOptions,
      );
    } catch (error) {
      client.close();
      throw error;
    }
  }
}
