export { lockedDatabase } from "./database.ts";
export { type Env, type EnvOptions, makeEnv } from "./env.ts";
export type { Fs, FsFile, FsStat } from "./fs.ts";
export { errorCode, ifThere, nodeFs, randomTag, readError } from "./fs.ts";
export { type Liveness, type ProcessIdentity, type ProcessTable, systemProcesses } from "./identity.ts";
export { acquireLock, type HeldLock } from "./lock.ts";
export { Names } from "./names.ts";
export type {
  LockRequest,
  RepairReport,
  StateChanges,
  StateContent,
  StateSession,
  StateStore,
  StateView,
} from "./port.ts";
export { openScopes, readScopes, type ScopedSession, type ScopedView, type ScopesToOpen } from "./scopes.ts";
export { createFileStore, type FileStoreOptions } from "./store.ts";
