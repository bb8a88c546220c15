import type { Plain } from "../model/index.ts";
import type { BuildRecord } from "./types.ts";

/** https://github.com/in-toto/attestation/blob/main/spec/v1/resource_descriptor.md */
export interface ResourceDescriptor {
  readonly name?: string;
  readonly uri?: string;
  readonly digest?: Readonly<Record<string, string>>;
  readonly annotations?: Readonly<Record<string, Plain>>;
}

/** An in-toto Statement v1 with SLSA provenance v1 as its predicate: https://slsa.dev/spec/v1.0/provenance */
export interface ProvenanceStatement {
  readonly _type: "https://in-toto.io/Statement/v1";
  readonly subject: readonly ResourceDescriptor[];
  readonly predicateType: "https://slsa.dev/provenance/v1";
  readonly predicate: {
    readonly buildDefinition: {
      readonly buildType: string;
      readonly externalParameters: Readonly<Record<string, Plain>>;
      readonly internalParameters: Readonly<Record<string, Plain>>;
      readonly resolvedDependencies: readonly ResourceDescriptor[];
    };
    readonly runDetails: {
      readonly builder: { readonly id: string; readonly version?: Readonly<Record<string, string>> };
      readonly metadata: {
        readonly invocationId?: string;
        readonly startedOn?: string;
        readonly finishedOn?: string;
      };
      readonly byproducts: readonly ResourceDescriptor[];
    };
  };
}

/** Says how the inputs are to be read: docs/reference of the kind `build`. */
const BUILD_TYPE = "https://labctl.dev/build/v1";

/** How a build came about, for others to read. Not signed. Pure. */
export function provenanceOf(record: BuildRecord, labctl: string): ProvenanceStatement {
  return {
    _type: "https://in-toto.io/Statement/v1",
    subject: Object.entries(record.artifacts).map(([name, artifact]) => ({
      name: artifact.file,
      digest: { sha256: artifact.sha256 },
      annotations: {
        artifact: name,
        type: artifact.type,
        arch: artifact.arch ?? record.arch,
        ...(artifact.partial && { partial: true }),
      },
    })),
    predicateType: "https://slsa.dev/provenance/v1",
    predicate: {
      buildDefinition: {
        buildType: BUILD_TYPE,
        externalParameters: {
          name: record.name,
          arch: record.arch,
          ...(record.branch !== undefined && { ref: record.branch }),
          inputs: record.inputs,
        },
        internalParameters: {
          build: record.id,
          ...(record.toolchain && { toolchain: { ...record.toolchain } }),
        },
        resolvedDependencies: (record.materials ?? []).map(({ uri, digest, name }) => ({
          ...(name !== undefined && { name }),
          uri,
          ...(digest && { digest }),
        })),
      },
      runDetails: {
        builder: { id: `labctl:${record.server ?? "local"}`, version: { labctl } },
        metadata: {
          ...(record.run !== undefined && { invocationId: record.run }),
          ...(record.started_at !== undefined && { startedOn: record.started_at }),
          ...(record.finished_at !== undefined && { finishedOn: record.finished_at }),
        },
        byproducts: record.log === undefined ? [] : [{ name: "build.log", digest: { sha256: record.log } }],
      },
    },
  };
}
