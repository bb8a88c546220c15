export type {
  ArtifactStore,
  ArtifactStoreOptions,
  BlobSource,
  CheckFinding,
  CheckReport,
  FetchedArtifact,
  HostTarget,
  HostTransferOptions,
  PutOptions,
  SentArtifact,
  StoredBlob,
  StoreNotice,
} from "./ports.ts";
export type {
  Artifact,
  ArtifactType,
  BlobInfo,
  BuildAlias,
  BuildMaterial,
  BuildQuery,
  BuildRecord,
  BuildStatus,
  GcPlan,
  GcResult,
  RetentionPolicy,
  TransferProgress,
} from "./types.ts";
export { ARTIFACT_TYPES, BUILD_STATUSES } from "./types.ts";
export { aliasesOf, branchesOf, namesOf, withAliases } from "./aliases.ts";
export { demandArtifact, demandBuild, findBuild, latestOfEach, type Lookup } from "./lookup.ts";
export { pinsOf } from "./pins.ts";
export { type ProvenanceStatement, provenanceOf } from "./provenance.ts";
export { blobsOf, digestsIn, planGc } from "./retention.ts";
export { createArtifactStore } from "./store.ts";
