/** The public API: what a third party needs to write a provider, and to embed labctl. See docs/providers.md. */
export { type Code, LabError, type LabErrorInit } from "./diagnostics/index.ts";
export type {
  Address,
  Checkpoint,
  LogLevel,
  Plain,
  SourceRange,
} from "./model/index.ts";
export {
  childAddress,
  DURATION_PATTERN,
  formatAddress,
  formatDuration,
  formatSize,
  lastSegment,
  parentAddress,
  parseAddress,
  parseDuration,
  parseSize,
  Sensitive,
  SIZE_PATTERN,
} from "./model/index.ts";
export * from "./provider/index.ts";
export type {
  Become,
  ConnectionSpec,
  Exec,
  ExecOptions,
  ExecResult,
  FileTransfer,
  LocalConnection,
  Machine,
  MachinePool,
  Reboot,
  ShellPart,
  SshConnection,
  TransferOptions,
  UploadResult,
  UploadSource,
  UploadTarget,
} from "./transport/index.ts";
export { quoteWord, sh, shCommand, shJoin, ShellText, userScript } from "./transport/index.ts";
