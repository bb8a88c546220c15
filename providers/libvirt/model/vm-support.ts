import { formatSize, LabError } from "../../../src/index.ts";
import { domainFacts, type HostFacts } from "./facts.ts";
import { hypervisorOf } from "./vm-resolve.ts";
import { hasPci, type VmModel } from "./vm.ts";

/**
 * All that a machine asks for and the host has not, in words; empty: the host can run it. Nothing is asked of the host for this:
 * it is what its capabilities say.
 */
export function unsupported(model: VmModel, facts: HostFacts): string[] {
  const type = hypervisorOf(model.acceleration);
  const os = model.type === "container" ? "exe" : "hvm";
  const guest = facts.host.guests.find((one) => one.arch === model.arch && one.os === os);
  if (guest === undefined) {
    const there = [...new Set(facts.host.guests.filter((one) => one.os === os).map((one) => one.arch))];
    return [
      `${model.type === "container" ? "containers" : "machines"} of ${model.arch} (it has ${there.join(", ") || "none at all"})`,
    ];
  }
  const not: string[] = [];
  if (!guest.types.includes(type)) not.push(`${type} for ${model.arch}`);
  else if (type === "kvm" && !facts.kvm) not.push("KVM (libvirt offers it, and it does not work)");
  if (model.memory.max > facts.host.memory) {
    not.push(`${formatSize(model.memory.max)} of memory (it has ${formatSize(facts.host.memory)})`);
  }
  if (model.type === "container") return not;
  const machine = guest.machines.find((one) => one.name === model.machine || one.canonical === model.machine);
  if (machine === undefined) {
    const there = guest.machines
      .map((one) => one.name)
      .filter((name) => /^(q35|pc|microvm|virt)$/.test(name))
      .sort();
    return [...not, `the machine type ${model.machine} (it has ${there.join(", ") || "none that labctl knows"})`];
  }
  const max = machine.max_cpus;
  if (max !== undefined && model.cpus.max > max) not.push(`${model.cpus.max} processors (at most ${max})`);
  not.push(...misplaced(model));
  if (model.hugepages !== undefined && model.hugepages > 0) {
    const pages = facts.host.pages.find((one) => one.size === model.hugepages);
    if (pages === undefined) not.push(`huge pages of ${formatSize(model.hugepages)}`);
  }
  const can = domainFacts(facts, model.arch, model.machine, type);
  // An older libvirt, or one that was not asked: it will say so itself.
  if (can === undefined) return not;
  if (model.firmware.type === "uefi" && !can.uefi) not.push("UEFI firmware (the package ovmf or qemu-efi-aarch64)");
  else if (model.firmware.secure_boot && !can.secure_boot) not.push("UEFI firmware with secure boot");
  not.push(...cpuMissing(model.cpus.model, can.cpu_modes, can.cpu_models));
  const buses = new Set(model.disks.map((disk) => disk.bus));
  for (const bus of buses) if (!can.disk_buses.includes(bus)) not.push(`disks on ${bus}`);
  const shares = new Set(model.shares.map((share) => share.type));
  if (shares.has("virtiofs") && !can.filesystems.includes("virtiofs")) not.push("virtiofs");
  if (shares.has("virtiofs") && !can.memory_sources.includes("memfd"))
    not.push("shared memory (memfd), which virtiofs needs");
  if (shares.has("9p") && !can.filesystems.includes("path")) not.push("9p");
  if (model.tpm && !can.tpm_backends.includes("emulator"))
    not.push("an emulated TPM (the packages swtpm and swtpm-tools)");
  if (model.rng && !can.rng) not.push("a random number generator");
  if (model.vsock !== undefined && can.vsock === false) not.push("vsock");
  return not;
}

/** What a machine without PCI cannot have, on any host. */
function misplaced(model: VmModel): string[] {
  if (hasPci(model)) return [];
  return [
    ...(model.disks.some((disk) => disk.bus !== "virtio") ? ["disks that are not virtio on a microvm"] : []),
    ...(model.networks.some((nic) => nic.model !== "virtio") ? ["network cards that are not virtio on a microvm"] : []),
    ...(model.watchdog === undefined ? [] : ["a watchdog card on a microvm"]),
    ...(model.tpm ? ["a TPM on a microvm"] : []),
    ...(model.firmware.type === "uefi" ? ["UEFI on a microvm"] : []),
  ];
}

function cpuMissing(model: string | undefined, modes: readonly string[], names: readonly string[]): string[] {
  if (model === undefined) return [];
  const mode = model === "max" ? "maximum" : model === "host-passthrough" ? model : "custom";
  if (!modes.includes(mode)) return [`processors of the model ${model}`];
  return mode === "custom" && !names.includes(model)
    ? [`processors of the model ${model} (see virsh domcapabilities)`]
    : [];
}

/** E_VM_UNSUPPORTED with all of it, unless the host can run the machine. */
export function requireSupport(model: VmModel, facts: HostFacts, address: string): void {
  const not = unsupported(model, facts);
  if (not.length === 0) return;
  throw new LabError("E_VM_UNSUPPORTED", `its host has not what it takes: ${not.join("; ")}`, {
    address,
    hint: "change the machine, or put it on another host",
  });
}
