import {
  type Address,
  type Item,
  type KindContext,
  LabError,
  lastSegment,
  type PropertyDiff,
  type Reading,
} from "../../src/index.ts";
import { driverOf, type GuestType, hasLibvirt } from "./host-facts.ts";
import { objectName } from "./model/ids.ts";
import type { Owner } from "./model/owner.ts";
import type { Libvirt } from "./rpc/index.ts";

/** What networks, volumes and machines have in common: they are made on a host, which their spec may name. */
interface OnHost {
  readonly host?: string | undefined;
}

/** The host that something was found on, among its attributes. */
export const HOST_ATTRIBUTE = {
  type: "string",
  description: "Address of the host that it is on.",
  "x-labctl": { volatile: true },
} as const;

/** The host of `host: kvm-1`. */
export function hostAddress(desired: OnHost): Address | undefined {
  return desired.host === undefined ? undefined : `host.${desired.host}`;
}

export function requireHost(item: { readonly address: Address; readonly desired: OnHost }): Address {
  const host = hostAddress(item.desired);
  if (host !== undefined) return host;
  throw new LabError("E_SPEC_VALUE", "it says nothing of the host that it is to be on", {
    address: item.address,
    hint: "`host:` with the name of one of `hosts:`",
  });
}

/**
 * Where something may be: where it was seen, where an interrupted operation was to put it, where its spec said, and where it says
 * now. Empty: nowhere yet.
 */
export function whereabouts<D extends OnHost>(item: Pick<Item<D, unknown>, "desired" | "prior">): Address[] {
  const { desired, prior } = item;
  const all = [
    hostIn(prior?.observed),
    hostIn(prior?.checkpoint?.data),
    ...(prior === undefined ? [] : [prior.desired, ...(prior.attempted ?? [])].map(hostAddress)),
    hostAddress(desired),
  ];
  return [...new Set(all)].filter((one): one is Address => one !== undefined);
}

function hostIn(value: unknown): Address | undefined {
  if (typeof value !== "object" || value === null || !("host" in value)) return undefined;
  return typeof value.host === "string" ? value.host : undefined;
}

/** What is on another host than its spec names is made anew there; where none is named it stays where it is. Pure. */
export function hostChange(desired: OnHost, observed: { readonly host?: string }): PropertyDiff[] {
  const wanted = hostAddress(desired);
  if (wanted === undefined || observed.host === undefined || observed.host === wanted) return [];
  const before = lastSegment(observed.host).key ?? observed.host;
  return [{ path: "host", before, after: lastSegment(wanted).key ?? wanted, effect: "replace" }];
}

/** Rejects with E_VM_UNSUPPORTED where the spec says that the host has none, and as sharedLibvirt() does. */
export async function libvirtOf(ctx: KindContext, host: Address, type: GuestType = "vm"): Promise<Libvirt> {
  if (!hasLibvirt(ctx, host)) {
    throw new LabError("E_VM_UNSUPPORTED", `${host} has no libvirt (\`qemu_host: { libvirt: false }\`)`, {
      address: host,
      hint: "networks, volumes, and machines that were made with libvirt need a host that has it; machines of QEMU alone take `image`, `bridge` and `user: true`",
    });
  }
  return await driverOf(ctx, host, type);
}

/** Errors that say something of the spec or of labctl, and not of a host that cannot be read. */
const NOT_OF_A_HOST = new Set([
  "E_BUSY",
  "E_CANCELLED",
  "E_DISK_FIT",
  "E_IMAGE_ARCH",
  "E_INTERNAL",
  "E_NETWORK_OVERLAP",
  "E_NEVER_FITS",
  "E_SPEC_VALUE",
  "E_VM_UNSUPPORTED",
]);

/** {@link readOnHosts} through libvirt. */
export function readByHost<D extends OnHost, O extends { readonly host?: string }, C>(
  ctx: KindContext,
  items: readonly Item<D, O>[],
  begin: (libvirt: Libvirt, host: Address) => Promise<C>,
  read: (on: C, item: Item<D, O>) => Promise<Reading<O>>,
): Promise<ReadonlyMap<Address, Reading<O>>> {
  return readOnHosts(items, async (host) => await begin(await libvirtOf(ctx, host), host), read);
}

/**
 * Reads items where they may be, hosts beside each other. What is found nowhere is absent; but where one of its hosts cannot be
 * asked nobody knows.
 */
export async function readOnHosts<D extends OnHost, O extends { readonly host?: string }, C>(
  items: readonly Item<D, O>[],
  begin: (host: Address) => Promise<C>,
  read: (on: C, item: Item<D, O>) => Promise<Reading<O>>,
): Promise<ReadonlyMap<Address, Reading<O>>> {
  const begun = new Map<Address, Promise<C>>();
  const on = (host: Address): Promise<C> => {
    const there = begun.get(host) ?? begin(host);
    begun.set(host, there);
    return there;
  };
  const readOne = async (item: Item<D, O>): Promise<Reading<O>> => {
    let why: LabError | undefined;
    for (const host of whereabouts(item)) {
      try {
        const reading = await read(await on(host), item);
        if (reading.is === "present") return { is: "present", value: { ...reading.value, host } };
        if (reading.is !== "absent") return reading;
      } catch (error) {
        if (!(error instanceof LabError) || NOT_OF_A_HOST.has(error.code)) throw error;
        why ??= error;
      }
    }
    return why === undefined ? { is: "absent" } : { is: "unreachable", why };
  };
  return new Map(await Promise.all(items.map(async (item) => [item.address, await readOne(item)] as const)));
}

/** What is said of something that has the name and is not this state's. */
export function notOwned(address: Address, what: string, host: Address, owner: Owner | undefined): LabError {
  const whose = owner === undefined ? "nobody says whose it is" : `it is ${owner.address} of the lab ${owner.lab}`;
  return new LabError("E_NOT_OWNED", `${host} has ${what} already, and labctl did not make it here: ${whose}`, {
    address,
    hint: "import it, give this one another name, or take that one away",
  });
}

/**
 * What nothing is known of yet: by the id of an import, its name or its UUID in libvirt, else by the name that labctl gives. What was
 * imported keeps the name that it has.
 */
export function byName<T extends { readonly name: string; readonly uuid: string }>(
  ctx: KindContext,
  item: { readonly import_id?: string; readonly desired: { readonly name: string } },
  all: readonly T[],
): T | undefined {
  const id = item.import_id;
  const called = id === undefined ? undefined : all.find((one) => one.name === id || one.uuid === id.toLowerCase());
  // By the spec's own name an import means the one that labctl would make, too.
  if (called !== undefined || (id !== undefined && id !== item.desired.name)) return called;
  return all.find((one) => one.name === objectName(ctx.lab.name, item.desired.name));
}

/** The driver that has what is there: one whose spec says another type now is still the old one's. */
export function typeThere(item: {
  readonly desired: { readonly type?: GuestType };
  readonly prior: { readonly desired: { readonly type?: GuestType }; readonly observed?: unknown } | undefined;
}): GuestType {
  const { prior } = item;
  const now = prior?.observed as { readonly now?: { readonly type?: GuestType } } | undefined;
  return now?.now?.type ?? (prior ?? item).desired.type ?? "vm";
}

/** The uuid under which libvirt knows it: what was last seen (it may have been imported), else the one it is made with. */
export function seenUuid(prior: { readonly observed?: unknown } | undefined): string | undefined {
  const observed = prior?.observed;
  if (typeof observed !== "object" || observed === null || !("uuid" in observed)) return undefined;
  return typeof observed.uuid === "string" ? observed.uuid : undefined;
}

/** Whether libvirt found no file where it remembers one (VIR_ERR_SYSTEM_ERROR says so in words only). */
export function absentOf(error: unknown): boolean {
  return error instanceof LabError && error.code === "E_LIBVIRT" && /No such file or directory/.test(error.message);
}
