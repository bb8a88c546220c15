import type { OperationContext } from "../../src/index.ts";
import type { VmChange } from "./model/vm-diff.ts";
import type { VmModel } from "./model/vm.ts";
import { Affect, type Domain, type Libvirt } from "./rpc/index.ts";
import { buildDisk, buildNic } from "./xml/domain.ts";

/**
 * Brings a running machine to what its new definition says, without stopping it. Only for changes that are all `live`; `now` is what
 * runs. Devices that nobody asked for go when the guest lets go of them.
 */
export async function changeLive(
  ctx: OperationContext,
  libvirt: Libvirt,
  domain: Domain,
  now: VmModel,
  wanted: VmModel,
  changes: readonly VmChange[],
): Promise<void> {
  const options = { flags: Affect.LIVE, signal: ctx.signal };
  const { domains } = libvirt;
  if (changes.some((one) => one.path === "cpus.count") && wanted.cpus.count > now.cpus.count) {
    await domains.setVcpus(domain, wanted.cpus.count, options);
  }
  if (changes.some((one) => one.path === "memory.size")) {
    await domains.setMemory(domain, wanted.memory.size / 1024, options);
  }
  for (const nic of now.networks) {
    if (!wanted.networks.some((one) => one.mac === nic.mac)) await domains.detachDevice(domain, buildNic(nic), options);
  }
  for (const nic of wanted.networks) {
    const there = now.networks.find((one) => one.mac === nic.mac);
    if (there === undefined) await domains.attachDevice(domain, buildNic(nic), options);
    else if (buildNic(there) !== buildNic(nic)) await domains.updateDevice(domain, buildNic(nic), options);
  }
  for (const disk of now.disks) {
    const kept = wanted.disks.some((one) => one.target === disk.target);
    if (!kept) await domains.detachDevice(domain, buildDisk(disk), options);
  }
  for (const disk of wanted.disks) {
    const there = now.disks.find((one) => one.target === disk.target);
    if (there === undefined) await domains.attachDevice(domain, buildDisk(disk), options);
    else if (disk.device === "cdrom" && there.source !== disk.source)
      await domains.updateDevice(domain, buildDisk(disk), options);
    else if (disk.size !== undefined && disk.size > (there.size ?? 0))
      await domains.blockResize(domain, disk.target, disk.size, { signal: ctx.signal });
  }
}
