import type { VmModel } from "../../providers/libvirt/model/vm.ts";
import type { LiveFacts } from "../../providers/libvirt/xml/domain-observe.ts";

/** What libvirt tells besides the XML of a machine. */
export function liveOf(model: VmModel): LiveFacts {
  return {
    running: model.running,
    autostart: model.autostart,
    disks: Object.fromEntries(
      model.disks.map((disk) => [
        disk.target,
        {
          ...(disk.size !== undefined && { size: disk.size }),
          ...(disk.backing !== undefined && { backing: disk.backing }),
        },
      ]),
    ),
    addresses: Object.fromEntries(
      model.networks.flatMap((nic) => (nic.address === undefined ? [] : [[nic.mac, nic.address]])),
    ),
  };
}
