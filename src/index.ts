/** The public API: what a third party needs to write a provider, and to embed labctl. See docs/providers.md. */
export type {
  Artifact,
  ArtifactStore,
  ArtifactType,
  BlobInfo,
  BlobSource,
  BuildMaterial,
  BuildQuery,
  BuildRecord,
  BuildStatus,
  FetchedArtifact,
  HostTarget,
  HostTransferOptions,
  PutOptions,
  SentArtifact,
  StoredBlob,
  TransferProgress,
} from "./artifacts/index.ts";
export { ARTIFACT_TYPES, BUILD_STATUSES, provenanceOf } from "./artifacts/index.ts";
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
  SocketOptions,
  Sockets,
  SshConnection,
  TransferOptions,
  UploadResult,
  UploadSource,
  UploadTarget,
} from "./transport/index.ts";
export { quoteWord, sh, shCommand, shJoin, ShellText, userScript } from "./transport/index.ts";
export {
  type ConsoleEvent,
  type ConsoleKind,
  type ConsoleOptions,
  type ConsoleSeverity,
  type ConsoleStatus,
  ConsoleWatcher,
  type WatchedConsole,
  watchConsole,
} from "./console/index.ts";
export {
  type Amounts,
  type Candidate,
  cordonOf,
  type MachineStatus,
  nextCandidate,
  type Ranked,
  readRequirements,
  type Requirements,
  REQUIRES_SCHEMA,
  select,
  type Selection,
  selectionError,
  type SelectionRequest,
} from "./scheduling/index.ts";
