export type { EnvOptions } from "./env.ts";
export type { Fs, FsFile, FsStat } from "./fs.ts";
export { nodeFs } from "./fs.ts";
export type { Liveness, ProcessIdentity, ProcessTable } from "./identity.ts";
export type { LockRequest, RepairReport, StateSession, StateStore, StateView } from "./port.ts";
export { createFileStore, type FileStoreOptions } from "./store.ts";
