import { type Address, LabError } from "../../src/index.ts";
import type { VmDesired } from "./model/vm-schema.ts";

/**
 * What a machine asks for that no test has shown on a guest that really ran, in words; empty: all of it was. Definitions of these are
 * read back from a real libvirt; what a guest makes of them was not seen. `plain`: on a host without libvirt.
 */
export function unprovenParts(desired: VmDesired, plain = false): string[] {
  const firmware = typeof desired.firmware === "object" ? desired.firmware.type : desired.firmware;
  // Their guests were x86_64's; others have another firmware and another card.
  const foreign = plain || (desired.arch !== undefined && desired.arch !== "x86_64");
  return [
    ...(typeof desired.firmware === "object" && desired.firmware.secure_boot === true ? ["secure boot"] : []),
    ...(foreign && firmware === "uefi" ? ["UEFI firmware"] : []),
    ...(plain && (desired.shares ?? []).length > 0 ? ["a share (virtiofs, 9p)"] : []),
    ...(plain && desired.hugepages !== undefined && desired.hugepages !== false ? ["huge pages"] : []),
    ...(foreign && desired.tpm === true ? ["a TPM"] : []),
    ...(plain && desired.watchdog !== undefined && desired.watchdog !== "none" ? ["a watchdog card"] : []),
    ...(desired.vsock === undefined || desired.vsock === false ? [] : ["vsock"]),
    ...(plain && (desired.networks ?? []).some((one) => typeof one !== "string" && one.bridge !== undefined)
      ? ["a bridge without libvirt (QEMU's own helper, which /etc/qemu/bridge.conf has to allow)"]
      : []),
  ];
}

/** E_EXPERIMENTAL for a machine with such parts, unless the user allowed it. */
export function refuseUnproven(
  item: { readonly address: Address; readonly desired: VmDesired },
  allowed: boolean,
  plain = false,
): void {
  const parts = unprovenParts(item.desired, plain);
  if (allowed || parts.length === 0) return;
  throw new LabError("E_EXPERIMENTAL", `${parts.join(", ")} of a machine: this way is experimental`, {
    address: item.address,
    hint: "no guest that really ran has shown that it works; run with --experimental to use it all the same",
  });
}
