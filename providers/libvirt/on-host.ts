import { type Address, type Item, type KindContext, LabError, type Reading } from "../../src/index.ts";
import { uriOf } from "./host-facts.ts";
import type { Owner } from "./model/owner.ts";
import { type Libvirt, sharedLibvirt } from "./rpc/index.ts";

/** What networks, volumes and machines have in common: they are made on a host that their spec names. */
interface OnHost {
  readonly host?: string;
}

/** The host of `host: kvm-1`. */
export function hostAddress(desired: OnHost): Address | undefined {
  return desired.host === undefined ? undefined : `host.${desired.host}`;
}

export function requireHost(item: { readonly address: Address; readonly desired: OnHost }): Address {
  const host = hostAddress(item.desired);
  if (host !== undefined) return host;
  throw new LabError("E_SPEC_VALUE", "it says nothing of the host that it is to be on", {
    address: item.address,
    hint: "`host:` with the name of one of `hosts:` (`requires:` alone selects hosts for `environments:` only)",
  });
}

export function libvirtOf(ctx: KindContext, host: Address): Promise<Libvirt> {
  return sharedLibvirt(ctx.machine(host), { uri: uriOf(ctx, host), signal: ctx.signal });
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

/** Reads items host by host, hosts beside each other; where libvirt of one cannot be reached all of its items are unreachable. */
export async function readByHost<D extends OnHost, O, C>(
  ctx: KindContext,
  items: readonly Item<D, O>[],
  begin: (libvirt: Libvirt, host: Address) => Promise<C>,
  read: (on: C, item: Item<D, O>) => Promise<Reading<O>>,
): Promise<ReadonlyMap<Address, Reading<O>>> {
  const hosts = new Map<Address, Item<D, O>[]>();
  for (const item of items) {
    const host = requireHost(item);
    hosts.set(host, [...(hosts.get(host) ?? []), item]);
  }
  const readings = new Map<Address, Reading<O>>();
  await Promise.all(
    [...hosts].map(async ([host, group]) => {
      try {
        const on = await begin(await libvirtOf(ctx, host), host);
        const found = await Promise.all(group.map(async (item) => [item.address, await read(on, item)] as const));
        for (const [address, reading] of found) readings.set(address, reading);
      } catch (error) {
        if (!(error instanceof LabError) || NOT_OF_A_HOST.has(error.code)) throw error;
        for (const item of group) readings.set(item.address, { is: "unreachable", why: error });
      }
    }),
  );
  return readings;
}

/** What is said of something that has the name and is not this state's. */
export function notOwned(address: Address, what: string, host: Address, owner: Owner | undefined): LabError {
  const whose = owner === undefined ? "nobody says whose it is" : `it is ${owner.address} of the lab ${owner.lab}`;
  return new LabError("E_NOT_OWNED", `${host} has ${what} already, and labctl did not make it here: ${whose}`, {
    address,
    hint: "import it, give this one another name, or take that one away",
  });
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
