import { LabError } from "../../../src/index.ts";
import type { VmDesired } from "../model/vm-schema.ts";
import { qemuArgv, type QemuRuntime } from "../model/qemu-argv.ts";
import type { VmModel } from "../model/vm.ts";
import type { PlainFiles } from "./definition.ts";

/** What only libvirt provides, all of it by name, as far as the spec says it. */
export function needsLibvirt(desired: VmDesired): readonly string[] {
  const networks = (desired.networks ?? []).flatMap((one) => (typeof one === "string" ? one : (one.network ?? [])));
  const firmware = typeof desired.firmware === "object" ? desired.firmware.type : desired.firmware;
  return [
    ...(desired.type === "container" ? ["containers"] : []),
    ...(desired.disks ?? []).flatMap((disk) =>
      disk.volume === undefined ? [] : [`the volume ${disk.volume} (\`image\` does)`],
    ),
    ...networks.map((name) => `the network ${name} (\`bridge\` or \`user: true\` do)`),
    ...((desired.shares ?? []).some((share) => share.type === "virtiofs") ? ["virtiofs (`type: 9p` does)"] : []),
    ...(firmware === "uefi" ? ["UEFI firmware"] : []),
    ...(desired.tpm === true ? ["a TPM"] : []),
    ...(desired.agent === true ? ["a channel to the guest agent"] : []),
    ...(desired.vsock === true ? ["the choice of vsock ids (name one)"] : []),
    ...(desired.autostart === true ? ["`autostart`: nobody there would start it"] : []),
  ];
}

/** E_VM_UNSUPPORTED where there is any such thing. */
export function refuseWithoutLibvirt(address: string, host: string, desired: VmDesired): void {
  const not = needsLibvirt(desired);
  if (not.length === 0) return;
  throw new LabError("E_VM_UNSUPPORTED", `${host} has no libvirt, which it needs for: ${not.join("; ")}`, {
    address,
    hint: "change the machine, or put it on a host with libvirt",
  });
}

/** Sockets of a machine, for its command line. */
export function runtimeOf(files: PlainFiles, forward?: QemuRuntime["forward"]): QemuRuntime {
  return { qmp: files.qmp, console: files.console, ...(forward !== undefined && { forward }) };
}

/** E_VM_UNSUPPORTED for what is left, which only the whole machine shows: cables, MTU. */
export function requirePlain(model: VmModel, files: PlainFiles): void {
  qemuArgv(model, runtimeOf(files));
}
