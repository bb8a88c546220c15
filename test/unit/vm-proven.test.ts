import { describe, expect, test } from "vitest";
import type { VmDesired } from "../../providers/libvirt/model/vm-schema.ts";
import { targetOf } from "../../providers/libvirt/model/vm-resolve.ts";
import { refuseUnproven, unprovenParts } from "../../providers/libvirt/vm-proven.ts";

const vm = (more: object = {}): VmDesired => ({ name: "a", ...more }) as VmDesired;

describe("parts of machines that no guest has shown", () => {
  test("a plain machine and a container have none, whatever is said to be off", () => {
    expect(unprovenParts(vm())).toEqual([]);
    expect(unprovenParts(vm({ type: "container", container: { root: "/srv/a" } }))).toEqual([]);
    expect(
      unprovenParts(vm({ hugepages: false, tpm: false, vsock: false, watchdog: "none", firmware: "bios", shares: [] })),
    ).toEqual([]);
  });

  test.each([[{ vsock: 42 }, "vsock"]])("%j is refused by name, unless it was allowed", (more, name) => {
    const item = { address: "vm.a", desired: vm(more) };
    expect(unprovenParts(item.desired)).toEqual([name]);
    expect(() => refuseUnproven(item, false)).toThrow(expect.objectContaining({ code: "E_EXPERIMENTAL" }));
    expect(() => refuseUnproven(item, true)).not.toThrow();
  });

  test.each([
    [{ firmware: "uefi" }, "UEFI firmware"],
    [{ shares: [{ source: "/srv", target: "/mnt" }] }, "a share (virtiofs, 9p)"],
    [{ hugepages: "2MiB" }, "huge pages"],
    [{ tpm: true }, "a TPM"],
    [{ watchdog: "reset" }, "a watchdog card"],
  ])("%j was shown with libvirt, and not without", (more, name) => {
    const item = { address: "vm.a", desired: vm(more) };
    expect(unprovenParts(item.desired)).toEqual([]);
    expect(unprovenParts(item.desired, true)).toEqual([name]);
    expect(() => refuseUnproven(item, false, true)).toThrow(expect.objectContaining({ code: "E_EXPERIMENTAL" }));
  });

  test("UEFI and a TPM were shown on x86_64 alone", () => {
    expect(unprovenParts(vm({ arch: "aarch64", firmware: "uefi", tpm: true }))).toEqual(["UEFI firmware", "a TPM"]);
    expect(unprovenParts(vm({ arch: "x86_64", firmware: "uefi", tpm: true }))).toEqual([]);
  });

  test("secure boot was not shown", () => {
    expect(unprovenParts(vm({ firmware: { type: "uefi", secure_boot: true } }))).toEqual(["secure boot"]);
    expect(unprovenParts(vm({ firmware: { type: "uefi" } }))).toEqual([]);
  });
});

test("a bridge is unproven where QEMU alone plugs into it, and only there", () => {
  const item = { address: "vm.a", desired: vm({ networks: [{ user: true }, { bridge: "br0" }] }) };
  expect(unprovenParts(item.desired)).toEqual([]);
  expect(unprovenParts(item.desired, true)).toHaveLength(1);
  expect(() => refuseUnproven(item, false, true)).toThrow(/a bridge without libvirt/);
});

test("layers are named after the disks that the guest sees, also where buses are mixed", () => {
  const disks = [{ bus: "virtio" }, { bus: "sata" }, {}, { target: "vdc" }, { bus: "scsi" }, {}].map((one) => ({
    size: "1GiB",
    ...one,
  })) as unknown as NonNullable<VmDesired["disks"]>;
  expect(disks.map((one, at) => one.target ?? targetOf(disks, at))).toEqual(["vda", "sda", "vdb", "vdc", "sdb", "vdd"]);
});
