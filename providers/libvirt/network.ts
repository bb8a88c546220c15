import {
  type Address,
  defineKind,
  type Item,
  type KindContext,
  LabError,
  type Machine,
  type OperationContext,
  type Reading,
  sh,
} from "../../src/index.ts";
import { uuidOf } from "./model/ids.ts";
import { type NetworkDesired, networkSchema } from "./model/network-schema.ts";
import { diffNetwork, type NetworkModel } from "./model/network.ts";
import { overlapErrors, routesUsed, type UsedRange, type WantedNetwork } from "./model/overlap.ts";
import { isOwn } from "./model/owner.ts";
import {
  diffOf,
  modelOf,
  networkAttributes,
  type NetworkObserved,
  observedOf,
  wantedNetwork,
} from "./network-model.ts";
import { changeEntries } from "./network-live.ts";
import {
  byName,
  hostAddress,
  hostChange,
  libvirtOf,
  notOwned,
  readByHost,
  requireHost,
  seenUuid,
  whereabouts,
} from "./on-host.ts";
import { DomainList, isLibvirtError, type Libvirt, type Network, VirErr } from "./rpc/index.ts";
import { buildNetwork, observeNetwork } from "./xml/network.ts";
import { all, attrAt, find, parseXml } from "./xml/tree.ts";

type NetworkItem = Item<NetworkDesired, NetworkObserved>;

/** A network of the host, with what its definition says. */
interface Found {
  readonly network: Network;
  readonly model: NetworkModel;
  /** Its persistent definition. */
  readonly stored: string;
  readonly outdated: boolean;
}

async function look(libvirt: Libvirt, network: Network, signal: AbortSignal): Promise<Found | undefined> {
  const { networks } = libvirt;
  try {
    const [running, autostart, stored] = await Promise.all([
      networks.isActive(network, { signal }),
      networks.autostart(network, { signal }),
      networks.xml(network, { inactive: true, signal }),
    ]);
    const model = observeNetwork(stored, { running, autostart });
    const now = running ? observeNetwork(await networks.xml(network, { signal }), { running, autostart }) : model;
    return { network, model, stored, outdated: differs(now, model) };
  } catch (error) {
    // It went while it was looked at.
    if (isLibvirtError(error, VirErr.NO_NETWORK)) return undefined;
    throw error;
  }
}

/** Fixed addresses of machines come and go with them; a bridge without a name in the definition gets one when it starts. */
function differs(running: NetworkModel, stored: NetworkModel): boolean {
  return diffNetwork({ ...stored, bridge: running.bridge }, running).length > 0;
}

/**
 * By UUID where this state made it or saw it, never by name: the name may be somebody else's by now. Without anything of it in the
 * state by name: then it is not labctl's, unless somebody imports it.
 */
async function findNetwork(ctx: KindContext, libvirt: Libvirt, item: NetworkItem): Promise<Found | undefined> {
  const all = await libvirt.networks.list({ signal: ctx.signal });
  const uuid = seenUuid(item.prior) ?? uuidOf(item.instance_id);
  const ours = all.find((one) => one.uuid === uuid);
  if (ours !== undefined) return await look(libvirt, ours, ctx.signal);
  if (item.prior !== undefined) return undefined;
  const named = byName(ctx, item, all);
  return named === undefined ? undefined : await look(libvirt, named, ctx.signal);
}

function identity(ctx: KindContext, item: NetworkItem) {
  return { lab: ctx.lab.name, address: item.address, instance_id: item.instance_id, lineage: ctx.lab.scope };
}

/** What the host reaches already, besides by networks that this lab has there or is about to take away. */
async function usedRanges(ctx: KindContext, libvirt: Libvirt, host: Address): Promise<UsedRange[]> {
  const own = new Set<string>();
  const used: UsedRange[] = [];
  for (const network of await libvirt.networks.list({ signal: ctx.signal })) {
    const found = await look(libvirt, network, ctx.signal);
    if (found === undefined) continue;
    const { model } = found;
    if (model.owner?.lab === ctx.lab.name && model.owner.lineage === ctx.lab.scope) {
      own.add(model.bridge);
      continue;
    }
    for (const cidr of [model.ipv4?.cidr, model.ipv6?.cidr]) {
      if (cidr !== undefined) used.push({ cidr, by: `libvirt's network ${model.name}`, device: model.bridge });
    }
  }
  return [...used, ...(await routes(ctx.machine(host), ctx.signal)).filter((one) => !own.has(one.device ?? ""))];
}

async function routes(machine: Machine, signal: AbortSignal): Promise<UsedRange[]> {
  const out: UsedRange[] = [];
  for (const family of ["-4", "-6"]) {
    const said = await machine.exec(sh`PATH=$PATH:/usr/sbin:/sbin; ip -json ${family} route show 2>/dev/null`, {
      root: false,
      signal,
    });
    // A host without iproute2 tells nothing of its routes; libvirt itself looks at them again when the network starts.
    if (said.code !== 0) continue;
    out.push(...routesUsed(parsed(said.stdout.toString("utf8"))));
  }
  return out;
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function wantedOf(address: Address, model: NetworkModel): WantedNetwork {
  return {
    address,
    bridge: model.bridge,
    ...(model.ipv4 && { ipv4: model.ipv4 }),
    ...(model.ipv6 && { ipv6: model.ipv6 }),
  };
}

/** E_NETWORK_OVERLAP for what does not fit beside what the host has; all other networks of the lab there count as well. */
async function refuseOverlap(ctx: KindContext, libvirt: Libvirt, host: Address, item: NetworkItem): Promise<void> {
  const model = resolved(ctx, item);
  if (model.ipv4 === undefined && model.ipv6 === undefined) return;
  const [error] = overlapErrors([wantedOf(item.address, model)], await usedRanges(ctx, libvirt, host));
  if (error !== undefined) throw error;
}

function resolved(ctx: KindContext, item: NetworkItem): NetworkModel {
  return wantedNetwork(item.desired, identity(ctx, item), item.prior?.observed);
}

async function readOne(
  ctx: KindContext,
  libvirt: Libvirt,
  host: Address,
  item: NetworkItem,
): Promise<Reading<NetworkObserved>> {
  const found = await findNetwork(ctx, libvirt, item);
  if (found !== undefined) return { is: "present", value: observedOf(found.model, found.outdated) };
  // Known before anything is touched: a plan ends with it.
  if (item.prior === undefined && item.unknown.size === 0) await refuseOverlap(ctx, libvirt, host, item);
  return { is: "absent" };
}

/** Ends the running network and starts it as it is defined now; machines on it lose it for a moment, and keep their cards. */
async function restart(ctx: OperationContext, libvirt: Libvirt, found: Found, bridge: string): Promise<void> {
  const said = await ctx
    .machine(libvirt.address)
    .exec(sh`ls -- ${`/sys/class/net/${found.model.bridge}/brif`} 2>/dev/null`, { signal: ctx.signal });
  const plugged = said.stdout.toString("utf8").split("\n");
  await libvirt.networks.destroy(found.network, { signal: ctx.signal });
  await start(ctx, libvirt, found.network, bridge, plugged);
}

/** Starts it, and plugs in the cards of machines that run: `plugged` before, and those that are on it by their definition. */
async function start(
  ctx: OperationContext,
  libvirt: Libvirt,
  network: Network,
  bridge: string,
  plugged: readonly string[] = [],
): Promise<void> {
  await libvirt.networks.create(network, { signal: ctx.signal });
  const known = [...plugged, ...(await cardsOn(libvirt, network.name, ctx.signal))];
  const cards = [...new Set(known)].filter((name) => /^(vnet|tap|macvtap)[0-9]+$/.test(name));
  if (cards.length === 0) return;
  const done = await ctx
    .machine(libvirt.address)
    .exec(
      sh`PATH=$PATH:/usr/sbin:/sbin; for card in ${cards}; do ip link set dev "$card" master ${bridge} up || exit 1; done`,
      { signal: ctx.signal },
    );
  if (done.code === 0) return;
  ctx.log(
    "warn",
    `machines on ${network.name} must be restarted to be on it again: ${done.stderr.toString("utf8").trim()}`,
  );
}

/** What the host calls the cards of machines that run and are in this network. */
async function cardsOn(libvirt: Libvirt, name: string, signal: AbortSignal): Promise<string[]> {
  const running = await libvirt.domains.list({ flags: DomainList.ACTIVE, signal });
  const texts = await Promise.all(
    running.map((domain) =>
      libvirt.domains.xml(domain, { signal }).catch((error: unknown) => {
        // It ended meanwhile.
        if (!isLibvirtError(error, VirErr.NO_DOMAIN)) throw error;
        return undefined;
      }),
    ),
  );
  return texts.flatMap((text) => {
    if (text === undefined) return [];
    const nics = all(find(parseXml(text, "domain"), "devices"), "interface");
    return nics
      .filter((nic) => attrAt(nic, ["source"], "network") === name)
      .flatMap((nic) => attrAt(nic, ["target"], "dev") ?? []);
  });
}

async function reconcile(ctx: OperationContext, item: NetworkItem): Promise<NetworkObserved> {
  const host = requireHost(item);
  const libvirt = await libvirtOf(ctx, host);
  const options = { signal: ctx.signal };
  const found = await findNetwork(ctx, libvirt, item);
  const before = found && observedOf(found.model, found.outdated);
  const wanted = wantedNetwork(item.desired, identity(ctx, item), before);
  const moved =
    found === undefined || found.model.ipv4?.cidr !== wanted.ipv4?.cidr || found.model.ipv6?.cidr !== wanted.ipv6?.cidr;
  if (moved) await refuseOverlap(ctx, libvirt, host, item);
  const stranger = found === undefined ? await libvirt.networks.find(wanted.name, options) : undefined;
  if (stranger !== undefined) {
    const theirs = await look(libvirt, stranger, ctx.signal);
    throw notOwned(item.address, `a network ${wanted.name}`, host, theirs?.model.owner);
  }
  const changes = before === undefined ? [] : diffOf(item.desired, before);
  const redefine = found === undefined || !isOwn(found.model.owner, item.instance_id) || changes.length > 0;
  const network = redefine
    ? await libvirt.networks.define(buildNetwork(wanted, found?.stored), options)
    : found.network;
  if ((await libvirt.networks.autostart(network, options)) !== wanted.autostart) {
    await libvirt.networks.setAutostart(network, wanted.autostart, options);
  }
  const running = await libvirt.networks.isActive(network, options);
  if (running && !wanted.running) await libvirt.networks.destroy(network, options);
  else if (!running && wanted.running) await start(ctx, libvirt, network, wanted.bridge);
  else if (running && found !== undefined && redefine) {
    const live = changes.every((change) => change.effect === "update");
    if (live) await changeEntries(libvirt, network, found.model, wanted, options);
    else await restart(ctx, libvirt, found, wanted.bridge);
  }
  const after = await look(libvirt, network, ctx.signal);
  const observed = after && observedOf(after.model, after.outdated);
  const left = observed === undefined ? ["running"] : diffOf(item.desired, observed).map((one) => one.path);
  if (observed !== undefined && left.length === 0) return observed;
  throw new LabError("E_MISMATCH", `${left.join(", ")} of ${wanted.name} did not become what was asked for`, {
    address: item.address,
    hint: `compare with \`virsh net-dumpxml ${wanted.name}\` on ${host}`,
  });
}

async function remove(ctx: OperationContext, item: NetworkItem, host: Address): Promise<void> {
  const libvirt = await libvirtOf(ctx, host);
  const found = await findNetwork(ctx, libvirt, item);
  if (found === undefined) return;
  const options = { signal: ctx.signal };
  const { original } = item.prior ?? {};
  if (original !== undefined) {
    // It was there before labctl came: its definition goes back to what it was.
    const { owner: _mine, ...model } = { ...found.model, ...modelOf(original) };
    await libvirt.networks.define(buildNetwork(model, found.stored), options);
    await libvirt.networks.setAutostart(found.network, model.autostart, options);
    if (found.model.running) await restart(ctx, libvirt, found, model.bridge);
    return;
  }
  try {
    if (found.model.running) await libvirt.networks.destroy(found.network, options);
    await libvirt.networks.undefine(found.network, options);
  } catch (error) {
    if (!isLibvirtError(error, VirErr.NO_NETWORK)) throw error;
  }
}

export const networkKind = defineKind({
  kind: "network",
  title: "A network of virtual machines",
  description: `A network on a QEMU host, run by libvirt: a bridge with the host's own address on it, DHCP and DNS, and the way out.

Ranges that the host has in use otherwise are refused before anything is touched. Fixed addresses of machines and names change while
it runs; all else cuts its machines off for a moment.`,
  section: { name: "networks", shape: "map", key: "name" },
  schema: networkSchema,
  attributes: networkAttributes,
  ownership: "exclusive",
  importId: "its name or its UUID in libvirt on its `host`",

  on: hostAddress,

  /** What is wrong with it alone, and against the lab's other networks, is known without the host. */
  async prepare(ctx, item) {
    const wanted = [wantedOf(item.address, resolved(ctx, item))];
    const others = ctx.inventory
      .all("network")
      .filter((one) => one.address !== item.address && one.desired["host"] === item.desired.host);
    const used = others.flatMap(({ address, desired }): UsedRange[] =>
      ["cidr", "ipv6"].flatMap((key) => {
        const cidr = desired[key];
        return typeof cidr === "string" ? [{ cidr, by: address }] : [];
      }),
    );
    const [error] = overlapErrors(wanted, used);
    if (error !== undefined) throw error;
    return await Promise.resolve({});
  },

  readMany: (ctx, items) =>
    readByHost(
      ctx,
      items,
      async (libvirt, host) => await Promise.resolve({ libvirt, host }),
      ({ libvirt, host }, item) => readOne(ctx, libvirt, host, item),
    ),

  diff: ({ desired, observed }) => [...hostChange(desired, observed), ...diffOf(desired, observed)],

  reconcile,

  async delete(ctx, item) {
    for (const host of whereabouts(item)) await remove(ctx, item, host);
  },

  manualCleanup: (item) => {
    const name = item.prior?.observed?.libvirt_name ?? item.desired.name;
    return `on ${whereabouts(item)[0] ?? "the host"}: virsh net-destroy ${name}; virsh net-undefine ${name}`;
  },
});
