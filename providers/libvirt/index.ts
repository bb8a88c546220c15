import { defineProvider } from "../../src/index.ts";
import { environment } from "./environment.ts";
import { qemuHostKind } from "./qemu-host.ts";

/** Virtual machines through libvirt, and the environments that run on them. */
export const libvirtProvider = defineProvider({
  name: "libvirt",
  version: "0.1.0",
  kinds: [qemuHostKind, environment],
});
