import fc from "fast-check";
import { expect, test } from "vitest";
import { qemuArgv, type QemuRuntime } from "../../providers/libvirt/model/qemu-argv.ts";
import { observeArgv } from "../../providers/libvirt/model/qemu-observe.ts";
import type { VmModel } from "../../providers/libvirt/model/vm.ts";
import { present, vmArbitrary } from "./vm-arbitrary.ts";

const RUNTIME: QemuRuntime = {
  qmp: "/run/a, b/qmp",
  console: "/run/a, b/console",
  uefi: { code: "/usr/share/code,x.fd", vars: "/run/vars" },
  tpm: "/run/tpm",
  program: "/usr/bin/qemu",
  forward: { port: 20022, guest: 22 },
};

/** A machine as a host without libvirt can have it. */
function without(model: VmModel): VmModel {
  return {
    ...model,
    agent: false,
    vsock: model.vsock === 0 ? 3 : (model.vsock as number),
    networks: model.networks.map(({ network: _network, mtu: _mtu, address: _address, ...nic }) => ({
      ...nic,
      link: true,
      ...(nic.bridge === undefined && { user: true as const }),
    })),
    shares: model.shares.map((share) => ({ ...share, type: "9p" as const })),
  };
}

test("a machine is read back from the command line that it was started with", () => {
  fc.assert(
    fc.property(vmArbitrary({ type: "vm" }), (raw) => {
      const model = without(raw);
      const program = `/opt/qemu/qemu-system-${model.arch === "arm64" ? "aarch64" : model.arch === "armv7" ? "arm" : model.arch}`;
      const { args } = qemuArgv(model, RUNTIME);
      const { owner: _o, autostart: _a, running: _r, ...rest } = model;
      const expected = present({
        ...rest,
        emulator: program,
        memory: { size: model.memory.max, max: model.memory.max },
        disks: model.disks.map(({ size: _size, backing: _backing, ...disk }) => disk),
      });
      const argv = [program, ...args, "-daemonize", "-pidfile", "/run/pid"];
      expect(observeArgv(argv)).toEqual(expected);
    }),
    { numRuns: 500 },
  );
});
