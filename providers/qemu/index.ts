export { type AccelFinding, type AccelOptions, findAccel, hostArch } from "./accel.ts";
export { bootKernel } from "./boot.ts";
export type { BootReport, BootRequest, BootStreams, BootVerdict } from "./boot-types.ts";
export type { Accel, GuestArch, GuestDisk, GuestPort, GuestShare, GuestSpec, MachineType } from "./machine.ts";
export { type Guest, type GuestOptions, startGuest } from "./runner.ts";
