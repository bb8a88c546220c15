export { lockedDatabase } from "./database.ts";
export { type Env, type EnvOptions, makeEnv } from "./env.ts";
export type { Fs, FsFile, FsStat } from "./fs.ts";
export { ifThere, nodeFs, readError } from "./fs.ts";
export type { Liveness, ProcessIdentity, ProcessTable } from "./identity.ts";
export { acquireLock, type HeldLock } from "./lock.ts";
export { Names } from "./names.ts";
export type { LockRequest, RepairReport, StateSession, StateStore, StateView } from "./port.ts";
export { createFileStore, type FileStoreOptions } from "./store.ts";
