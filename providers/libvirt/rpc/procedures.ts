/**
 * The calls of libvirt's REMOTE program that labctl makes: number, arguments, reply. The facts are those of
 * src/remote/remote_protocol.x (libvirt 9.0; numbers and structures never change once released). One more call is one more line.
 */
import {
  dhcpLease,
  domain,
  interfaceAddresses,
  LIST_MAX,
  maybeString,
  namedValue,
  network,
  nodeInfo,
  pool,
  statsRecord,
  string,
  uuid,
  volume,
} from "./shapes.ts";
import { type Codec, flag, int, list, nothing, optional, quantity, struct, uint } from "./xdr.ts";

export interface Procedure<A, R> {
  readonly name: string;
  readonly number: number;
  readonly args: Codec<A>;
  readonly reply: Codec<R>;
  /** May take long by its nature: copies, formats or allocates. */
  readonly slow: boolean;
}

const slowly = true;

function proc<A, R>(number: number, args: Codec<A>, reply: Codec<R>, slow = false): Omit<Procedure<A, R>, "name"> {
  return { number, args, reply, slow };
}

const flags = uint;
/** `need_results` is 1: the list and not only its length. */
const listing = struct({ need: int, flags });
const onDomain = struct({ domain });
const domainFlags = struct({ domain, flags });
const domainXml = struct({ domain, xml: string, flags });
const onNetwork = struct({ network });
const onPool = struct({ pool });
const poolFlags = struct({ pool, flags });
const onVolume = struct({ volume });
const transfer = struct({ volume, offset: quantity, length: quantity, flags });
const xmlFlags = struct({ xml: string, flags });
const byName = struct({ name: string });
const byUuid = struct({ uuid });

const TABLE = {
  authList: proc(66, nothing, struct({ types: list(int, 20) })),
  authPolkit: proc(70, nothing, struct({ complete: flag })),
  connectOpen: proc(1, struct({ name: maybeString, flags }), nothing),
  connectClose: proc(2, nothing, nothing),
  connectGetType: proc(3, nothing, struct({ type: string })),
  connectGetVersion: proc(4, nothing, struct({ version: quantity })),
  connectGetLibVersion: proc(157, nothing, struct({ version: quantity })),
  connectGetHostname: proc(59, nothing, struct({ hostname: string })),
  connectGetCapabilities: proc(7, nothing, struct({ xml: string })),
  connectGetDomainCapabilities: proc(
    342,
    struct({ emulator: maybeString, arch: maybeString, machine: maybeString, virttype: maybeString, flags }),
    struct({ xml: string }),
  ),
  connectGetAllDomainStats: proc(
    344,
    struct({ domains: list(domain, LIST_MAX), stats: uint, flags }),
    struct({ records: list(statsRecord, LIST_MAX) }),
  ),
  connectDomainEventCallbackRegisterAny: proc(
    316,
    struct({ event: int, domain: optional(domain) }),
    struct({ callback: int }),
  ),
  connectDomainEventCallbackDeregisterAny: proc(317, struct({ callback: int }), nothing),

  nodeGetInfo: proc(6, nothing, nodeInfo),
  nodeGetMemoryStats: proc(
    228,
    struct({ count: int, cell: int, flags }),
    struct({ params: list(namedValue, 16), count: int }),
  ),
  nodeGetCpuStats: proc(
    227,
    struct({ cpu: int, count: int, flags }),
    struct({ params: list(namedValue, 16), count: int }),
  ),
  nodeGetFreeMemory: proc(102, nothing, struct({ bytes: quantity })),

  connectListAllDomains: proc(273, listing, struct({ domains: list(domain, LIST_MAX), count: uint })),
  domainLookupByName: proc(23, byName, onDomain),
  domainLookupByUuid: proc(24, byUuid, onDomain),
  domainDefineXmlFlags: proc(350, xmlFlags, onDomain),
  domainCreateXml: proc(10, xmlFlags, onDomain),
  domainCreateWithFlags: proc(196, domainFlags, onDomain),
  domainShutdownFlags: proc(258, domainFlags, nothing),
  domainReboot: proc(27, domainFlags, nothing),
  domainReset: proc(245, domainFlags, nothing),
  domainDestroyFlags: proc(234, domainFlags, nothing),
  domainUndefineFlags: proc(231, domainFlags, nothing),
  domainSuspend: proc(34, onDomain, nothing),
  domainResume: proc(28, onDomain, nothing),
  domainGetXmlDesc: proc(14, domainFlags, struct({ xml: string })),
  domainGetState: proc(212, domainFlags, struct({ state: int, reason: int })),
  domainGetInfo: proc(
    16,
    onDomain,
    struct({ state: uint, maxMemory: quantity, memory: quantity, vcpus: uint, cpuTime: quantity }),
  ),
  domainGetVcpusFlags: proc(200, domainFlags, struct({ count: int })),
  domainSetVcpusFlags: proc(199, struct({ domain, vcpus: uint, flags }), nothing),
  domainSetMemoryFlags: proc(204, struct({ domain, kib: quantity, flags }), nothing),
  domainGetAutostart: proc(15, onDomain, struct({ autostart: flag })),
  domainSetAutostart: proc(29, struct({ domain, autostart: flag }), nothing),
  domainIsActive: proc(150, onDomain, struct({ active: flag })),
  domainIsPersistent: proc(151, onDomain, struct({ persistent: flag })),
  domainAttachDeviceFlags: proc(160, domainXml, nothing),
  domainDetachDeviceFlags: proc(161, domainXml, nothing),
  domainUpdateDeviceFlags: proc(174, domainXml, nothing),
  domainGetMetadata: proc(265, struct({ domain, type: int, uri: maybeString, flags }), struct({ metadata: string })),
  domainSetMetadata: proc(
    264,
    struct({ domain, type: int, metadata: maybeString, key: maybeString, uri: maybeString, flags }),
    nothing,
  ),
  domainBlockResize: proc(251, struct({ domain, disk: string, size: quantity, flags }), nothing, slowly),
  domainGetBlockInfo: proc(
    194,
    struct({ domain, path: string, flags }),
    struct({ allocation: quantity, capacity: quantity, physical: quantity }),
  ),
  domainInterfaceAddresses: proc(
    353,
    struct({ domain, source: uint, flags }),
    struct({ interfaces: list(interfaceAddresses, 2048) }),
  ),
  domainOpenConsole: proc(201, struct({ domain, device: maybeString, flags }), nothing),

  connectListAllNetworks: proc(283, listing, struct({ networks: list(network, LIST_MAX), count: uint })),
  networkLookupByName: proc(46, byName, onNetwork),
  networkLookupByUuid: proc(47, byUuid, onNetwork),
  networkDefineXml: proc(41, struct({ xml: string }), onNetwork),
  networkCreate: proc(39, onNetwork, nothing),
  networkDestroy: proc(42, onNetwork, nothing),
  networkUndefine: proc(49, onNetwork, nothing),
  networkGetXmlDesc: proc(43, struct({ network, flags }), struct({ xml: string })),
  networkGetAutostart: proc(44, onNetwork, struct({ autostart: flag })),
  networkSetAutostart: proc(48, struct({ network, autostart: flag }), nothing),
  networkUpdate: proc(
    291,
    struct({ network, command: uint, section: uint, parentIndex: int, xml: string, flags }),
    nothing,
  ),
  networkIsActive: proc(152, onNetwork, struct({ active: flag })),
  networkIsPersistent: proc(153, onNetwork, struct({ persistent: flag })),
  networkGetBridgeName: proc(45, onNetwork, struct({ name: string })),
  networkGetDhcpLeases: proc(
    341,
    struct({ network, mac: maybeString, need: int, flags }),
    struct({ leases: list(dhcpLease, 65_536), count: uint }),
  ),

  connectListAllStoragePools: proc(281, listing, struct({ pools: list(pool, LIST_MAX), count: uint })),
  storagePoolLookupByName: proc(84, byName, onPool),
  storagePoolLookupByUuid: proc(85, byUuid, onPool),
  storagePoolLookupByVolume: proc(86, onVolume, onPool),
  storagePoolDefineXml: proc(77, xmlFlags, onPool),
  storagePoolBuild: proc(79, poolFlags, nothing, slowly),
  storagePoolCreate: proc(78, poolFlags, nothing, slowly),
  storagePoolRefresh: proc(83, poolFlags, nothing, slowly),
  storagePoolDestroy: proc(80, onPool, nothing),
  storagePoolDelete: proc(81, poolFlags, nothing, slowly),
  storagePoolUndefine: proc(82, onPool, nothing),
  storagePoolGetInfo: proc(
    87,
    onPool,
    struct({ state: uint, capacity: quantity, allocation: quantity, available: quantity }),
  ),
  storagePoolGetXmlDesc: proc(88, poolFlags, struct({ xml: string })),
  storagePoolGetAutostart: proc(89, onPool, struct({ autostart: flag })),
  storagePoolSetAutostart: proc(90, struct({ pool, autostart: flag }), nothing),
  storagePoolIsActive: proc(154, onPool, struct({ active: flag })),

  storagePoolListAllVolumes: proc(
    282,
    struct({ pool, need: int, flags }),
    struct({ volumes: list(volume, LIST_MAX), count: uint }),
  ),
  storageVolCreateXml: proc(93, struct({ pool, xml: string, flags }), onVolume, slowly),
  storageVolCreateXmlFrom: proc(125, struct({ pool, xml: string, from: volume, flags }), onVolume, slowly),
  storageVolDelete: proc(94, struct({ volume, flags }), nothing, slowly),
  storageVolGetInfo: proc(98, onVolume, struct({ type: int, capacity: quantity, allocation: quantity })),
  storageVolGetXmlDesc: proc(99, struct({ volume, flags }), struct({ xml: string })),
  storageVolGetPath: proc(100, onVolume, struct({ path: string })),
  storageVolLookupByName: proc(95, struct({ pool, name: string }), onVolume),
  storageVolLookupByPath: proc(97, struct({ path: string }), onVolume),
  storageVolResize: proc(260, struct({ volume, capacity: quantity, flags }), nothing, slowly),
  storageVolUpload: proc(208, transfer, nothing),
  storageVolDownload: proc(209, transfer, nothing),
};

type Named<T> = { readonly [K in keyof T]: T[K] & { readonly name: K } };

export const procedures = Object.fromEntries(
  Object.entries(TABLE).map(([name, procedure]) => [name, { ...procedure, name }]),
) as Named<typeof TABLE>;

/** Messages that the server sends by itself, by procedure number. */
export const messages = {
  lifecycle: { number: 318, body: struct({ callback: int, domain, event: int, detail: int }) },
  reboot: { number: 319, body: struct({ callback: int, domain }) },
} as const;
