import type { OperationContext } from "../../src/index.ts";
import type { QemuHost } from "./host-facts.ts";
import { diffVm } from "./model/vm-diff.ts";
import type { Inherited } from "./model/vm-resolve.ts";
import type { VmModel } from "./model/vm.ts";
import { type Domain, DomainXml } from "./rpc/index.ts";
import { reserveAddresses } from "./vm-addresses.ts";
import type { VmObserved } from "./vm-model.ts";
import { powerOff } from "./vm-power.ts";
import { observeDomain } from "./xml/domain-observe.ts";

/** What a machine has that labctl did not make. */
export async function inheritedOf(host: QemuHost, domain: Domain, signal: AbortSignal): Promise<Inherited> {
  const { domains } = host.libvirt;
  const stored = await domains.xml(domain, { flags: DomainXml.INACTIVE, signal });
  const { networks, disks } = observeDomain(stored, { running: false, autostart: false });
  return {
    definition: stored,
    macs: networks.map((nic) => nic.mac),
    disks: Object.fromEntries(
      disks.flatMap(({ target, source, kind, format }) =>
        source === undefined ? [] : [[target, { source, kind, format }] as const],
      ),
    ),
  };
}

/** Brings a machine back to what it was before labctl; where it runs otherwise it starts anew. */
export async function giveBack(
  ctx: OperationContext,
  host: QemuHost,
  domain: Domain,
  now: VmModel,
  { definition }: Inherited,
  original: VmObserved,
): Promise<void> {
  const { domains } = host.libvirt;
  const options = { signal: ctx.signal };
  const was = observeDomain(definition, { running: false, autostart: false });
  const differs = diffVm(was, now).length > 0;
  if (differs || !original.running) await powerOff(ctx, host, domain, now.type);
  if (differs || now.owner !== undefined) {
    await reserveAddresses(host.libvirt, now.networks, was.networks, options);
    await domains.define(definition, options);
  }
  await domains.setAutostart(domain, original.autostart, options);
  if (original.running && !(await domains.isActive(domain, options))) await domains.create(domain, options);
}
