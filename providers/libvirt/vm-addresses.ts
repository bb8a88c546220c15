import { type Address, type KindContext, LabError } from "../../src/index.ts";
import { cidrHolds, formatIp, parseCidr, parseIp } from "./model/ip.ts";
import type { VmDesired } from "./model/vm-schema.ts";
import type { NicModel } from "./model/vm.ts";
import { withPool } from "./pools.ts";
import {
  Affect,
  type CallOptions,
  isLibvirtError,
  type Libvirt,
  type Network,
  NetworkSection,
  NetworkUpdate,
  VirErr,
} from "./rpc/index.ts";
import { buildDhcpHost, observeNetwork } from "./xml/network.ts";

type Addresses = Readonly<Record<string, string>>;

/** From MAC to address: what a network gives out now, and what it will give out when it is started anew. */
interface Reserved {
  readonly now: Addresses;
  readonly stored: Addresses;
}

/** What the networks that these cards are on keep for them. A network that is not there keeps nothing. */
export async function reservationsOf(
  libvirt: Libvirt,
  cards: readonly NicModel[],
  signal: AbortSignal,
): Promise<Reserved> {
  const now: Record<string, string> = {};
  const stored: Record<string, string> = {};
  for (const name of networksOf(cards)) {
    const network = await libvirt.networks.find(name, { signal });
    if (network === undefined) continue;
    const kept = await keptBy(libvirt, network, { signal });
    Object.assign(now, kept.now);
    Object.assign(stored, kept.stored);
  }
  return { now, stored };
}

/**
 * Brings what the networks of `cards` keep for them to what `wanted` says, without stopping a network: addresses that a card has no
 * more are given back, also where it went to another network. Idempotent.
 */
export async function reserveAddresses(
  libvirt: Libvirt,
  cards: readonly NicModel[],
  wanted: readonly NicModel[],
  options: CallOptions,
): Promise<void> {
  const macs = new Set(cards.map((one) => one.mac));
  for (const name of networksOf(cards)) {
    const network = await libvirt.networks.find(name, options);
    if (network === undefined) continue;
    // Machines of one network come beside each other, and dnsmasq reads its list anew at each change.
    const bring = async (): Promise<void> => {
      const kept = await keptBy(libvirt, network, options);
      const asked = new Map(
        wanted.flatMap((one) => (one.network === name && one.address !== undefined ? [[one.mac, one.address]] : [])),
      );
      const parts = [
        { flags: Affect.CONFIG, there: kept.stored },
        ...(kept.running ? [{ flags: Affect.LIVE, there: kept.now }] : []),
      ];
      for (const { flags, there } of parts) {
        const update = (command: number, mac: string, address: string): Promise<void> =>
          libvirt.networks.update(
            network,
            { command, section: NetworkSection.IP_DHCP_HOST, xml: buildDhcpHost(mac, address), flags },
            options,
          );
        for (const [mac, address] of Object.entries(there)) {
          if (macs.has(mac) && asked.get(mac) !== address) await update(NetworkUpdate.DELETE, mac, address);
        }
        for (const [mac, address] of asked) {
          if (there[mac] !== address) await update(NetworkUpdate.ADD_LAST, mac, address);
        }
      }
    };
    // One that went meanwhile keeps nothing for anybody.
    await withPool(libvirt, `network ${name}`, bring).catch((error: unknown) => {
      if (!isLibvirtError(error, VirErr.NO_NETWORK)) throw error;
    });
  }
}

function networksOf(cards: readonly NicModel[]): ReadonlySet<string> {
  return new Set(cards.flatMap((one) => one.network ?? []));
}

async function keptBy(
  libvirt: Libvirt,
  network: Network,
  options: CallOptions,
): Promise<Reserved & { readonly running: boolean }> {
  const running = await libvirt.networks.isActive(network, options);
  const of = async (inactive: boolean): Promise<Addresses> =>
    observeNetwork(await libvirt.networks.xml(network, { ...options, inactive }), { running, autostart: false })
      .reservations;
  const stored = await of(true);
  return { running, stored, now: running ? await of(false) : stored };
}

/** E_SPEC_VALUE for an address that its network cannot give, or that another machine of the lab has there. */
export function refuseAddresses(ctx: KindContext, address: Address, desired: VmDesired): void {
  const wrong = (message: string, hint: string): LabError => new LabError("E_SPEC_VALUE", message, { address, hint });
  const own = fixedOf(desired.networks);
  for (const [at, { network, ip }] of own.entries()) {
    const on = ctx.inventory.get(`network.${network}`);
    const asked = parseIp(ip);
    if (on === undefined || asked === undefined) continue;
    const written = on.desired["cidr"];
    const cidr = typeof written === "string" ? parseCidr(written) : undefined;
    if (on.desired["dhcp"] === false) {
      throw wrong(`${ip} is given by DHCP, which is off on ${on.address}`, "`dhcp: true` there, or no `address` here");
    }
    if (cidr === undefined || !cidrHolds(cidr, asked)) {
      throw wrong(
        `${ip} is no address of ${on.address}, which has ${typeof written === "string" ? written : "none"}`,
        "an address of its `cidr`",
      );
    }
    const others = ctx.inventory
      .all("vm")
      .filter((one) => one.address !== address)
      .flatMap((one) =>
        fixedOf(one.desired["networks"] as VmDesired["networks"]).map((card) => ({ ...card, who: one.address })),
      );
    const rest = own.slice(at + 1).map((card) => ({ ...card, who: "another of its cards" }));
    const twin = [...others, ...rest].find((one) => one.network === network && same(one.ip, ip));
    if (twin !== undefined) throw wrong(`${ip} on ${on.address} is also that of ${twin.who}`, "another address");
  }
}

function same(a: string, b: string): boolean {
  const [one, other] = [parseIp(a), parseIp(b)];
  return one !== undefined && other !== undefined && formatIp(one) === formatIp(other);
}

function fixedOf(networks: VmDesired["networks"] | undefined): { readonly network: string; readonly ip: string }[] {
  return (networks ?? []).flatMap((one) =>
    typeof one === "string" || one.network === undefined || one.address === undefined
      ? []
      : [{ network: one.network, ip: one.address }],
  );
}
