export { type AccelFinding, type AccelOptions, findAccel, hostArch } from "./accel.ts";
export { bootKernel } from "./boot.ts";
export type { BootReport, BootRequest, BootStreams, BootVerdict } from "./boot-types.ts";
export { parseArch, readKernel } from "./image.ts";
export {
  type Accel,
  type GuestArch,
  type GuestDisk,
  type GuestPort,
  type GuestShare,
  type GuestSpec,
  machineFeatures,
  type MachineType,
  option,
  optionValue,
  qemuCommand,
} from "./machine.ts";
export { QmpClient, type QmpEvent, type QmpStatus } from "./qmp.ts";
export { type Guest, type GuestOptions, startGuest } from "./runner.ts";
