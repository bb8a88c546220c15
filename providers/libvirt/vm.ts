import { dirname } from "node:path/posix";
import { Readable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
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
import { qemuHost, type QemuHost } from "./host-facts.ts";
import { sendImage } from "./local-image.ts";
import { objectName, uuidOf } from "./model/ids.ts";
import { isOwn, type Owner } from "./model/owner.ts";
import type { VmDesired } from "./model/vm-schema.ts";
import { requireSupport } from "./model/vm-support.ts";
import type { VmModel } from "./model/vm.ts";
import { hostAddress, notOwned, readOnHosts, seenUuid, whereabouts } from "./on-host.ts";
import { findPool, findVolume, openPool, readOwners, withPool, writeOwner } from "./pools.ts";
import { reachVm } from "./reach.ts";
import { type Domain, DomainUndefine, DomainXml, isLibvirtError, VirErr } from "./rpc/index.ts";
import { reservationsOf, reserveAddresses } from "./vm-addresses.ts";
import { changeLive } from "./vm-live.ts";
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
import { poolAt, removeFiles } from "./vm-files.ts";
import { changesOf, diffOf, observedOf, vmAttributes, type VmObserved } from "./vm-model.ts";
import { type Cargo, type MadeWith, madeOf, place, requireParts, VM_FILES, wantedVm } from "./vm-place.ts";
import { refuseUnproven } from "./vm-proven.ts";
import { bringUp, choose, refuseGrowth, requireNear, withinRoom } from "./vm-room.ts";
import { vmSchema } from "./model/vm-schema.ts";
import { buildDomain } from "./xml/domain.ts";
import { observeDomain } from "./xml/domain-observe.ts";
import { observeVolume } from "./xml/storage.ts";
import { buildVolume } from "./xml/storage.ts";

type VmItem = Item<VmDesired, VmObserved>;

/** How long a machine may take to shut down by itself before its power is cut. */
const SHUTDOWN_MS = 20_000;

async function hostAt(ctx: KindContext, item: VmItem, address: Address): Promise<QemuHost> {
  const { arch, machine } = item.desired;
  return await qemuHost(ctx, address, [
    { ...(arch !== undefined && { arch }), ...(machine !== undefined && { machine }) },
  ]);
}

async function placed(ctx: KindContext, host: QemuHost, item: VmItem): Promise<{ made: MadeWith; cargo: Cargo }> {
  const pools = new Map<string, string>();
  for (const pool of await host.libvirt.pools.list({ signal: ctx.signal })) {
    const found = await findPool(host.libvirt, pool.name, ctx.signal);
    if (found !== undefined) pools.set(pool.name, found.path);
  }
  const { made, cargo } = await place(ctx, item, host, pools);
  const name = item.prior?.observed?.libvirt_name;
  return { made: name === undefined ? made : { ...made, name }, cargo };
}

/** By UUID where this state made it or saw it; without anything of it in the state by name, and then it is somebody's. */
async function findDomain(ctx: KindContext, host: QemuHost, item: VmItem): Promise<Domain | undefined> {
  const all = await host.libvirt.domains.list({ signal: ctx.signal });
  const uuid = seenUuid(item.prior) ?? uuidOf(item.instance_id);
  const ours = all.find((one) => one.uuid === uuid);
  if (ours !== undefined || item.prior !== undefined) return ours;
  return all.find((one) => one.name === objectName(ctx.lab.name, item.desired.name));
}

/** What is not in a machine's XML and its spec speaks of: how large disks are, and what lies under them. */
async function diskFacts(ctx: KindContext, host: QemuHost, model: VmModel, wanted: VmModel) {
  const facts: Record<string, { size?: number; backing?: string }> = {};
  for (const disk of model.disks) {
    const asked = wanted.disks.find((one) => one.target === disk.target);
    if (disk.source === undefined || (asked?.size === undefined && asked?.backing === undefined)) continue;
    try {
      const volume = await host.libvirt.volumes.lookupByPath(disk.source, { signal: ctx.signal });
      const info = observeVolume(await host.libvirt.volumes.xml(volume, { signal: ctx.signal }));
      facts[disk.target] = {
        ...(asked.size !== undefined && { size: info.size }),
        ...(info.backing !== undefined && { backing: info.backing.path }),
      };
    } catch (error) {
      // Its file is gone, or no pool's: then nothing is known of it, which shows.
      if (!isLibvirtError(error)) throw error;
    }
  }
  return facts;
}

async function look(
  ctx: KindContext,
  host: QemuHost,
  domain: Domain,
  desired: VmDesired,
  made: MadeWith,
): Promise<VmObserved | undefined> {
  const { domains } = host.libvirt;
  const options = { signal: ctx.signal };
  try {
    const [running, autostart, stored] = await Promise.all([
      domains.isActive(domain, options),
      domains.autostart(domain, options),
      domains.xml(domain, { ...options, flags: DomainXml.INACTIVE }),
    ]);
    const wanted = wantedVm(desired, made);
    const live = { running, autostart };
    const reserved = await reservationsOf(
      host.libvirt,
      [...wanted.networks, ...observeDomain(stored, live).networks],
      ctx.signal,
    );
    const disks = await diskFacts(ctx, host, observeDomain(stored, live), wanted);
    const model = (xml: string, addresses: Readonly<Record<string, string>>): VmModel =>
      trimmed(observeDomain(xml, { ...live, disks, addresses }), wanted);
    const config = model(stored, reserved.stored);
    const now = running ? model(await domains.xml(domain, options), reserved.now) : config;
    return { ...observedOf(now, running ? config : undefined, made), host: host.address };
  } catch (error) {
    if (isLibvirtError(error, VirErr.NO_DOMAIN)) return undefined;
    throw error;
  }
}

/** Without what lies under volumes that are used as they are: that is the volume's. */
function trimmed(model: VmModel, wanted: VmModel): VmModel {
  const disks = model.disks.map((disk) => {
    const asked = wanted.disks.find((one) => one.target === disk.target);
    const { backing: _theirs, ...rest } = disk;
    return asked !== undefined && asked.backing === undefined ? rest : disk;
  });
  return { ...model, disks };
}

async function readOne(ctx: KindContext, item: VmItem, on: PlainOn): Promise<Reading<VmObserved>> {
  const { address } = on;
  if (isPlain(ctx, item, address)) {
    const reading = await readPlain(ctx, item, await on.host());
    if (reading.is === "absent" && item.prior === undefined) await refuseUnfit(ctx, item);
    return reading;
  }
  const host = await hostAt(ctx, item, address);
  const domain = await findDomain(ctx, host, item);
  if (domain === undefined) {
    if (item.prior === undefined) await refuseUnfit(ctx, item);
    return { is: "absent" };
  }
  const made = await madeOf(item, () => placed(ctx, host, item));
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
  const host = await hostAt(ctx, item, address);
  const { made } = await placed(ctx, host, item);
  if (!growing) requireSupport(wantedVm(item.desired, made), host.facts, item.address);
  return placement;
}

function ownerOf(made: MadeWith): Owner {
  const { lab, address, instance_id, lineage } = made;
  return { lab, address, instance_id, lineage };
}

/** Brings kernels, images and the seed to the host, and makes the machine's own layers. */
async function supply(
  ctx: OperationContext,
  host: QemuHost,
  model: VmModel,
  made: MadeWith,
  cargo: Cargo,
): Promise<void> {
  const { libvirt, machine } = host;
  const options = { signal: ctx.signal };
  const folder = `${VM_FILES}/${made.instance_id}`;
  if (cargo.images.size > 0) await machine.exec(sh`umask 022; mkdir -p -- ${folder}`, options);
  for (const [path, image] of cargo.images) await sendImage(ctx, machine, image, path);
  const own = made.disks.filter((disk) => disk.source.split("/").pop()?.startsWith(`${model.name}-`) === true);
  if (own.length === 0 && cargo.seed === undefined) return;
  for (const disk of [...own, ...(made.seed === undefined ? [] : [{ source: made.seed, format: "raw" }])]) {
    const name = await poolAt(ctx, host, dirname(disk.source));
    await withPool(libvirt, name, async () => {
      const pool = await openPool(libvirt, name, undefined, made.address, ctx.signal);
      await libvirt.pools.refresh(pool.pool, options);
      const file = disk.source.slice(pool.path.length + 1);
      const owner = (await readOwners(ctx, host.address, [disk.source])).get(disk.source);
      const there = await findVolume(libvirt, pool, file, ctx.signal);
      if (there !== undefined && !isOwn(owner, made.instance_id)) {
        throw notOwned(made.address, `a disk ${disk.source}`, host.address, owner);
      }
      const asked = "size" in disk ? disk.size : undefined;
      if (there !== undefined && disk.source !== made.seed) {
        if (asked !== undefined && there.info.size < asked && !model.running) {
          await libvirt.volumes.resize(there.volume, asked, options);
        }
        return;
      }
      await writeOwner(ctx, host.address, disk.source, ownerOf(made));
      if (disk.source === made.seed && cargo.seed !== undefined) {
        const size = cargo.seed.image.length;
        const volume =
          there?.volume ??
          (await libvirt.volumes.create(pool.pool, buildVolume({ name: file, format: "raw", size }), options));
        await libvirt.volumes.upload(volume, Readable.from([cargo.seed.image]), options);
        return;
      }
      const backing = "backing" in disk ? disk.backing : undefined;
      const under = backing === undefined ? undefined : await backingOf(ctx, host, made, backing);
      const size = Math.max(asked ?? 0, under?.size ?? 0);
      if (asked !== undefined && under !== undefined && asked < under.size) {
        throw new LabError(
          "E_DISK_FIT",
          `${file} is asked to have ${asked} bytes, and what is under it has ${under.size}`,
          {
            address: made.address,
            hint: "a larger `size`, or none",
          },
        );
      }
      await libvirt.volumes.create(
        pool.pool,
        buildVolume({ name: file, format: "qcow2", size, ...(under !== undefined && { backing: under }) }),
        options,
      );
    });
  }
}

async function backingOf(ctx: KindContext, host: QemuHost, made: MadeWith, path: string) {
  if (path.startsWith(`${VM_FILES}/`)) {
    const said = await host.machine.exec(
      sh`LC_ALL=C; export LC_ALL; od -An -tx1 -v -N32 -- ${path} | tr -d ${" \n"}; echo; stat -c %s -- ${path}`,
      { signal: ctx.signal },
    );
    const [head = "", size = "0"] = said.stdout.toString("utf8").trim().split("\n");
    const qcow2 = head.startsWith("514649fb");
    return {
      path,
      format: qcow2 ? "qcow2" : "raw",
      size: qcow2 ? Number(BigInt(`0x${head.slice(48, 64)}`)) : Number(size),
    };
  }
  try {
    const volume = await host.libvirt.volumes.lookupByPath(path, { signal: ctx.signal });
    const info = observeVolume(await host.libvirt.volumes.xml(volume, { signal: ctx.signal }));
    return { path, format: info.format === "iso" ? "raw" : info.format, size: info.size };
  } catch (error) {
    if (!isLibvirtError(error, VirErr.NO_STORAGE_VOL)) throw error;
    throw new LabError("E_MISMATCH", `${path}, which a disk stands on, is not there`, {
      address: made.address,
      cause: error,
      hint: "apply its volume as well",
    });
  }
}

/** Lets it shut down by itself; what does not hear that, or takes too long, loses its power. */
async function powerOff(ctx: OperationContext, host: QemuHost, domain: Domain): Promise<void> {
  const { domains } = host.libvirt;
  const options = { signal: ctx.signal };
  try {
    if (!(await domains.isActive(domain, options))) return;
    await domains.shutdown(domain, options).catch((error: unknown) => {
      if (!isLibvirtError(error)) throw error;
    });
    const until = performance.now() + SHUTDOWN_MS;
    while (performance.now() < until) {
      if (!(await domains.isActive(domain, options))) return;
      await sleep(250, undefined, options);
    }
    ctx.log("warn", `${domain.name} does not shut down by itself: its power is cut`);
    await domains.destroy(domain, options);
  } catch (error) {
    // It went while it was waited for.
    if (!isLibvirtError(error, VirErr.NO_DOMAIN, VirErr.OPERATION_INVALID)) throw error;
  }
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
  const host = await hostAt(ctx, item, address);
  const { domains } = host.libvirt;
  const options = { signal: ctx.signal };
  const { made, cargo } = await placed(ctx, host, item);
  const found = await findDomain(ctx, host, item);
  const before = found && (await look(ctx, host, found, item.desired, made));
  const plan = wantedVm(item.desired, made);
  const wanted: VmModel = before === undefined ? plan : { ...plan, uuid: before.uuid, name: before.libvirt_name };
  requireSupport(wanted, host.facts, item.address);
  const stranger = found === undefined ? await domains.find(wanted.name, options) : undefined;
  if (stranger !== undefined) throw notOwned(item.address, `a machine ${wanted.name}`, host.address, undefined);
  await supply(ctx, host, wanted, made, cargo);
  const cards = [...wanted.networks, ...(before === undefined ? [] : (before.now as unknown as VmModel).networks)];
  await reserveAddresses(host.libvirt, cards, wanted.networks, options);
  const log = wanted.console.log;
  if (log !== undefined) await host.machine.exec(sh`mkdir -p -- ${dirname(log)}`, options);
  const changes = before === undefined ? [] : changesOf(item.desired, before);
  const live = changes.every((change) => change.effect === "live");
  const stored = found && (await domains.xml(found, { ...options, flags: DomainXml.INACTIVE }));
  let domain = await domains.define(buildDomain(wanted, stored), options);
  await defined?.();
  if ((await domains.autostart(domain, options)) !== wanted.autostart) {
    await domains.setAutostart(domain, wanted.autostart, options);
  }
  const running = await domains.isActive(domain, options);
  if (running && (!live || !wanted.running)) await powerOff(ctx, host, domain);
  else if (running && before !== undefined) {
    await changeLive(ctx, host.libvirt, domain, before.now as unknown as VmModel, wanted, changes);
  }
  if (wanted.running && !(await domains.isActive(domain, options))) domain = await domains.create(domain, options);
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
  const host = await qemuHost(ctx, address);
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
    if (item.prior?.original !== undefined) return;
    await powerOff(ctx, host, domain);
    await reserveAddresses(host.libvirt, model.networks, [], { signal: ctx.signal });
    const flags = DomainUndefine.MANAGED_SAVE | DomainUndefine.SNAPSHOTS_METADATA | DomainUndefine.NVRAM;
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

Containers (LXC), secure boot and vsock are experimental: no guest that really ran has shown them, and they need \`--experimental\`.
So are UEFI and TPM on other processors than x86_64, and shares, huge pages and the watchdog where there is no libvirt.

It names its \`host\`, or what the host must have: then labctl selects one when the machine is made, and where that fails the next that
fits.`,
  section: { name: "vms", shape: "map", key: "name" },
  schema: vmSchema,
  attributes: vmAttributes,
  ownership: "exclusive",

  on: hostAddress,

  /** A host is selected among those that are ready. */
  awaits: ({ host }, lab) =>
    host === undefined ? lab.filter((one) => one.kind === "qemu_host").map((one) => one.address) : [],

  reach: reachVm,

  async prepare(ctx, item) {
    await requireParts(ctx, item);
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
