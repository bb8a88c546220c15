import { defineProvider } from "../../src/index.ts";
import { environment } from "./environment.ts";
import { networkKind } from "./network.ts";
import { qemuHostKind } from "./qemu-host.ts";
import { vmKind } from "./vm.ts";
import { volumeKind } from "./volume.ts";

/** Virtual machines through libvirt, and the environments that run on them. */
export const libvirtProvider = defineProvider({
  name: "libvirt",
  version: "0.1.0",
  kinds: [qemuHostKind, networkKind, volumeKind, vmKind, environment],
});
