import { dirname } from "node:path/posix";
import {
  type Address,
  defineKind,
  type Item,
  type KindContext,
  LabError,
  type OperationContext,
  type Placement,
  type Reading,
  type ReconcileItem,
  sh,
} from "../../src/index.ts";
import { removeConsole } from "./console-record.ts";
import { requireDiskLimit } from "./disk-limit.ts";
import { type GuestType, qemuHost, type QemuHost } from "./host-facts.ts";
import { uuidOf } from "./model/ids.ts";
import type { VmDesired } from "./model/vm-schema.ts";
import { requireSupport } from "./model/vm-support.ts";
import type { VmModel } from "./model/vm.ts";
import { byName, hostAddress, notOwned, readOnHosts, seenUuid, typeThere, whereabouts } from "./on-host.ts";
import { findPool } from "./pools.ts";
import { reachVm } from "./reach.ts";
import { type Domain, DomainStart, DomainUndefine, DomainXml, isLibvirtError, VirErr } from "./rpc/index.ts";
import { reserveAddresses } from "./vm-addresses.ts";
import { changeLive } from "./vm-live.ts";
import { look } from "./vm-look.ts";
import {
  convergePlain,
  isPlain,
  plainCleanup,
  type PlainOn,
  plainOn,
  readPlain,
  refuseOnPlain,
  refusePlain,
  removePlain,
} from "./plain/vm.ts";
import { removeFiles } from "./vm-files.ts";
import { giveBack, inheritedOf } from "./vm-inherited.ts";
import { changesOf, diffOf, vmAttributes, type VmObserved } from "./vm-model.ts";
import { type Cargo, type MadeWith, madeOf, place, requireParts, VM_FILES, wantedVm } from "./vm-place.ts";
import { powerOff } from "./vm-power.ts";
import { refuseUnproven } from "./vm-proven.ts";
import { bringUp, choose, refuseGrowth, requireNear, withinRoom } from "./vm-room.ts";
import { supply } from "./vm-supply.ts";
import { vmSchema } from "./model/vm-schema.ts";
import { buildDomain } from "./xml/domain.ts";
import { observeDomain } from "./xml/domain-observe.ts";

type VmItem = Item<VmDesired, VmObserved>;

async function hostAt(ctx: KindContext, item: VmItem, address: Address, type: GuestType): Promise<QemuHost> {
  const { arch, machine } = item.desired;
  const want = { ...(arch !== undefined && { arch }), ...(machine !== undefined && { machine }) };
  return await qemuHost(ctx, address, type === "container" ? [] : [want], type);
}

/** `domain`: what was found of it. */
async function placed(
  ctx: KindContext,
  host: QemuHost,
  item: VmItem,
  domain: Domain | undefined,
): Promise<{ made: MadeWith; cargo: Cargo }> {
  const pools = new Map<string, string>();
  for (const pool of await host.libvirt.pools.list({ signal: ctx.signal })) {
    const found = await findPool(host.libvirt, pool.name, ctx.signal);
    if (found !== undefined) pools.set(pool.name, found.path);
  }
  const former = item.prior?.observed?.made_with as MadeWith | undefined;
  const theirs = item.prior === undefined && domain !== undefined && domain.uuid !== uuidOf(item.instance_id);
  const inherited = theirs ? await inheritedOf(host, domain, ctx.signal) : former?.inherited;
  const { made, cargo } = await place(ctx, item, host, pools, { inherited });
  const name = theirs ? domain.name : item.prior?.observed?.libvirt_name;
  return { made: name === undefined ? made : { ...made, name }, cargo };
}

/** By UUID where this state made it or saw it; without anything of it in the state by name, and then it is somebody's. */
async function findDomain(ctx: KindContext, host: QemuHost, item: VmItem): Promise<Domain | undefined> {
  const all = await host.libvirt.domains.list({ signal: ctx.signal });
  const uuid = seenUuid(item.prior) ?? uuidOf(item.instance_id);
  const ours = all.find((one) => one.uuid === uuid);
  if (ours !== undefined || item.prior !== undefined) return ours;
  return byName(ctx, item, all);
}

async function readOne(ctx: KindContext, item: VmItem, on: PlainOn): Promise<Reading<VmObserved>> {
  const { address } = on;
  if (isPlain(ctx, item, address)) {
    const reading = await readPlain(ctx, item, await on.host());
    if (reading.is === "absent" && item.prior === undefined) await refuseUnfit(ctx, item);
    return reading;
  }
  const host = await hostAt(ctx, item, address, typeThere(item));
  const domain = await findDomain(ctx, host, item);
  if (domain === undefined) {
    if (item.prior === undefined) await refuseUnfit(ctx, item);
    return { is: "absent" };
  }
  const made = await madeOf(item, () => placed(ctx, host, item, domain));
  const value = await look(ctx, host, domain, item.desired, made);
  return value === undefined ? { is: "absent" } : { is: "present", value };
}

async function read(ctx: KindContext, items: readonly VmItem[]): Promise<ReadonlyMap<Address, Reading<VmObserved>>> {
  // Nothing of them is anywhere, and where they will be is to be selected.
  const homeless = items.filter((item) => whereabouts(item).length === 0);
  const placements = new Map(
    await Promise.all(homeless.map(async (item) => [item.address, await refuseUnfit(ctx, item)] as const)),
  );
  const readings = await readOnHosts(
    items,
    async (host) => await Promise.resolve(plainOn(ctx, host, items)),
    (on, item) => readOne(ctx, item, on),
  );
  const withPlacement = (address: Address, reading: Reading<VmObserved>): Reading<VmObserved> =>
    reading.is === "absent" ? { ...reading, placement: placements.get(address) } : reading;
  return new Map([...readings].map(([address, reading]) => [address, withPlacement(address, reading)]));
}

/**
 * What is wrong with a machine that is not there yet, as far as the lab and the host that it would go to can say before they are
 * changed: a plan ends with it. Else where it would go, where that is labctl's choice.
 */
async function refuseUnfit(ctx: KindContext, item: VmItem): Promise<Placement | undefined> {
  if (item.unknown.size > 0) return undefined;
  const { host: address, placement } = await choose(ctx, item);
  if (address === undefined) return placement;
  requireNear(ctx, item, address);
  // A host that gets packages may be able to do more once it has them.
  const growing = ctx.inventory.all("package").some((one) => one.parent === address);
  if (isPlain(ctx, item, address)) {
    await refusePlain(ctx, item, address, growing);
    return placement;
  }
  const host = await hostAt(ctx, item, address, item.desired.type ?? "vm");
  const { made } = await placed(ctx, host, item, undefined);
  if (!growing) requireSupport(wantedVm(item.desired, made), host.facts, item.address);
  return placement;
}

async function reconcile(ctx: OperationContext, item: ReconcileItem<VmDesired, VmObserved>): Promise<VmObserved> {
  const [there] = item.observed === undefined ? [] : [item.observed.host ?? whereabouts(item)[0]];
  if (there !== undefined && item.observed !== undefined) {
    return await withinRoom(ctx, item, there, item.observed, () => converge(ctx, item, there));
  }
  return await bringUp(
    ctx,
    item,
    async (host, defined) => {
      requireNear(ctx, item, host);
      return await converge(ctx, item, host, defined);
    },
    (host) => remove(ctx, item, host),
  );
}

/** `defined` is called where it is new, once it is defined. */
async function converge(
  ctx: OperationContext,
  item: VmItem,
  address: Address,
  defined?: () => Promise<void>,
): Promise<VmObserved> {
  if (isPlain(ctx, item, address)) return await convergePlain(ctx, item, address, defined);
  const host = await hostAt(ctx, item, address, item.desired.type ?? "vm");
  const { domains } = host.libvirt;
  const options = { signal: ctx.signal };
  const found = await findDomain(ctx, host, item);
  const { made, cargo } = await placed(ctx, host, item, found);
  const before = found && (await look(ctx, host, found, item.desired, made));
  const plan = wantedVm(item.desired, made);
  const wanted: VmModel = before === undefined ? plan : { ...plan, uuid: before.uuid, name: before.libvirt_name };
  requireSupport(wanted, host.facts, item.address);
  const stranger = found === undefined ? await domains.find(wanted.name, options) : undefined;
  if (stranger !== undefined) throw notOwned(item.address, `a machine ${wanted.name}`, host.address, undefined);
  const runs = found !== undefined && (await domains.isActive(found, options));
  await supply(ctx, host, { desired: item.desired, runs }, made, cargo);
  const cards = [...wanted.networks, ...(before === undefined ? [] : (before.now as unknown as VmModel).networks)];
  await reserveAddresses(host.libvirt, cards, wanted.networks, options);
  const log = wanted.console.log;
  if (log !== undefined) await host.machine.exec(sh`mkdir -p -- ${dirname(log)}`, options);
  const changes = before === undefined ? [] : changesOf(item.desired, before);
  const live = changes.every((change) => change.effect === "live");
  // With the passwords of displays, which would be lost where it is written anew.
  const flags = DomainXml.INACTIVE | DomainXml.SECURE;
  const stored = found && (await domains.xml(found, { ...options, flags }));
  let domain = await domains.define(buildDomain(wanted, stored), options);
  await defined?.();
  if ((await domains.autostart(domain, options)) !== wanted.autostart) {
    await domains.setAutostart(domain, wanted.autostart, options);
  }
  const running = await domains.isActive(domain, options);
  if (running && (!live || !wanted.running)) await powerOff(ctx, host, domain, wanted.type);
  else if (running && before !== undefined) {
    await changeLive(ctx, host.libvirt, domain, before.now as unknown as VmModel, wanted, changes);
    if (before.paused !== undefined) await domains.resume(domain, options);
  }
  if (wanted.running && !(await domains.isActive(domain, options))) {
    // A memory that was saved (as hosts do when they go down) is that of another machine by now.
    const other = wanted.type === "vm" && changes.some(({ path }) => path !== "running" && path !== "autostart");
    domain = await domains.create(domain, { ...options, flags: other ? DomainStart.FORCE_BOOT : 0 });
  }
  const after = await look(ctx, host, domain, item.desired, made);
  const left = after === undefined ? ["running"] : changesOf(item.desired, after).map((one) => one.path);
  if (after !== undefined && left.length === 0) return after;
  throw new LabError("E_MISMATCH", `${left.join(", ")} of ${wanted.name} did not become what was asked for`, {
    address: item.address,
    hint: `compare with \`virsh dumpxml ${wanted.name}\` on ${host.address}, and see its console`,
  });
}

/** Takes away what is there of it. */
async function remove(ctx: OperationContext, item: VmItem, address: Address): Promise<void> {
  if (isPlain(ctx, item, address)) {
    await removePlain(ctx, item, address);
    return;
  }
  const host = await qemuHost(ctx, address, [], typeThere(item));
  const domain = await findDomain(ctx, host, item);
  const seen = item.prior?.observed?.made_with as unknown as MadeWith | undefined;
  const paths = (seen?.disks ?? []).map((disk) => disk.source);
  if (seen?.seed !== undefined) paths.push(seen.seed);
  if (domain !== undefined) {
    const xml = await host.libvirt.domains.xml(domain, { flags: DomainXml.INACTIVE, signal: ctx.signal });
    const model = observeDomain(xml, { running: false, autostart: false });
    paths.push(...model.disks.flatMap((disk) => disk.source ?? []));
    if (model.cloud_init !== undefined) paths.push(model.cloud_init);
    // One that was there before labctl stays.
    const { original } = item.prior ?? {};
    if (original !== undefined) {
      if (seen?.inherited === undefined) return;
      await giveBack(ctx, host, domain, model, seen.inherited, original);
      await removeFiles(ctx, host, item, paths);
      return;
    }
    await powerOff(ctx, host, domain, model.type);
    await reserveAddresses(host.libvirt, model.networks, [], { signal: ctx.signal });
    if (model.console.log !== undefined)
      await host.machine.exec(removeConsole(model.console.log), { signal: ctx.signal });
    // libvirt removes what a TPM of its definition holds, and not that of one which left it.
    await host.machine.exec(sh`rm -rf -- ${`/var/lib/libvirt/swtpm/${model.uuid}`}`, { signal: ctx.signal });
    // A container has none of these, and its driver refuses to hear of them.
    const flags =
      model.type === "container"
        ? 0
        : DomainUndefine.MANAGED_SAVE | DomainUndefine.SNAPSHOTS_METADATA | DomainUndefine.NVRAM;
    try {
      await host.libvirt.domains.undefine(domain, { flags, signal: ctx.signal });
    } catch (error) {
      if (!isLibvirtError(error, VirErr.NO_DOMAIN)) throw error;
    }
  }
  await removeFiles(ctx, host, item, paths);
}

export const vmKind = defineKind({
  kind: "vm",
  title: "A virtual machine",
  description: `A machine on a QEMU host. What can change while it runs does; a plan says what restarts it and what makes it anew. Its
console is recorded on the host from the first byte.

libvirt runs it; on a host whose \`qemu_host\` says \`libvirt: false\` labctl starts QEMU itself. There a machine has a folder of its own,
/var/lib/labctl/vms/INSTANCE_ID (or below the home of a login that is not root), with its definition (machine.json), its disks, QEMU's
sockets, and its console's record (console.log; that of the start before is console.log.1). It outlives labctl, and ends with its host.
Such machines have disks of \`image\` or \`size\`, and cards on QEMU's own network (\`user: true\`) or a \`bridge\` (experimental), through which \`labctl ssh\`
and \`labctl exec\` reach them; volumes, networks, UEFI, TPM, virtiofs, containers and \`autostart\` need libvirt. Memory up to its \`max\` and
growing disks change live, everything else restarts them. One that was made stays with what made it.

A disk that leaves the spec is unplugged; its layer stays, and comes back with the disk. Deleting lets the machine shut down, for a while,
and removes what it alone has: all its layers, its seed, its kernels, its fixed addresses.

\`type: container\` is a container of libvirt's LXC driver on the same host: its \`root\` is a directory there, which is used as it is
and stays. It has processors, memory, cards, and shares, and no disks, kernel or firmware.

A machine that was there before (\`labctl import vm.NAME NAME-OR-UUID\`) keeps its name, its disks (\`size\` alone speaks of the one
in that place), the addresses of its cards, and devices that no spec speaks of; deleting it brings its definition back and leaves it there.

Secure boot and vsock are experimental: no guest that really ran has shown them, and they need \`--experimental\`.
So are UEFI and TPM on other processors than x86_64, and shares, huge pages and the watchdog where there is no libvirt.

It names its \`host\`, or what the host must have: then labctl selects one when the machine is made, and where that fails the next that
fits.`,
  section: { name: "vms", shape: "map", key: "name" },
  schema: vmSchema,
  attributes: vmAttributes,
  ownership: "exclusive",
  importId: "its name or its UUID in libvirt on the `host` that its spec names",

  on: hostAddress,

  /** A host is selected among those that are ready. */
  awaits: ({ host }, lab) =>
    host === undefined ? lab.filter((one) => one.kind === "qemu_host").map((one) => one.address) : [],

  reach: reachVm,

  async prepare(ctx, item) {
    await requireParts(ctx, item);
    await requireDiskLimit(ctx, item.address);
    const host = hostAddress(item.desired) ?? whereabouts(item)[0];
    if (host !== undefined && isPlain(ctx, item, host)) refuseOnPlain(ctx, item, host);
    const seen = item.prior?.observed;
    if (seen?.host !== undefined && item.unknown.size === 0) {
      await refuseGrowth(ctx, item, seen.host as Address, seen);
    }
    return {};
  },

  readMany: (ctx, items) => {
    for (const item of items) refuseUnproven(item, ctx.experimental === true);
    return read(ctx, items);
  },

  diff: ({ desired, observed }) => diffOf(desired, observed),

  reconcile,

  async delete(ctx, item) {
    for (const host of whereabouts(item)) await remove(ctx, item, host);
    await ctx.scheduler.release(item.address);
  },

  manualCleanup: (item) => {
    const byHand = plainCleanup(item);
    if (byHand !== undefined) return byHand;
    const name = item.prior?.observed?.libvirt_name ?? item.desired.name;
    return `on ${whereabouts(item)[0] ?? ("the host" satisfies Address)}: virsh destroy ${name}; virsh undefine --nvram --managed-save ${name}; rm -r ${VM_FILES}/${item.instance_id}`;
  },
});
