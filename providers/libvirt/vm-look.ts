import type { KindContext } from "../../src/index.ts";
import type { QemuHost } from "./host-facts.ts";
import type { VmDesired } from "./model/vm-schema.ts";
import type { VmModel } from "./model/vm.ts";
import { type Domain, DomainXml, isLibvirtError, pausedReason, VirErr } from "./rpc/index.ts";
import { reservationsOf } from "./vm-addresses.ts";
import { observedOf, type VmObserved } from "./vm-model.ts";
import { type MadeWith, wantedVm } from "./vm-place.ts";
import { imageOnHost } from "./vm-supply.ts";
import { observeDomain } from "./xml/domain-observe.ts";
import { observeVolume } from "./xml/storage.ts";

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
      if (!isLibvirtError(error)) throw error;
      // It is gone, which shows, or in no pool, as those of a machine that somebody else made.
      const image = asked?.size === undefined ? undefined : await imageOnHost(ctx, host, disk.source);
      if (image !== undefined) facts[disk.target] = { size: image.size };
    }
  }
  return facts;
}

/** A machine as libvirt has it, running and stored; undefined: it is gone. */
export async function look(
  ctx: KindContext,
  host: QemuHost,
  domain: Domain,
  desired: VmDesired,
  made: MadeWith,
): Promise<VmObserved | undefined> {
  const { domains } = host.libvirt;
  const options = { signal: ctx.signal };
  try {
    const [running, held, persistent, autostart, stored] = await Promise.all([
      domains.isActive(domain, options),
      domains.state(domain, options),
      domains.isPersistent(domain, options),
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
    return {
      ...observedOf(now, running ? config : undefined, made),
      ...(held.state === "paused" && { paused: pausedReason(held.reason) }),
      ...(!persistent && { transient: true }),
      host: host.address,
    };
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
