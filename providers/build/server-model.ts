import type { Infer, ObjectSchema } from "../../src/index.ts";
import { ARCHS } from "./toolchains.ts";

export const DEFAULT_WORKDIR = "/var/lib/labctl/build";
export const DEFAULT_MIN_FREE = "10GB";
export const DEFAULT_MAX_BUILDS = 1;

export const serverSchema = {
  type: "object",
  properties: {
    max_builds: {
      type: "integer",
      minimum: 1,
      maximum: 1000,
      default: DEFAULT_MAX_BUILDS,
      description: "Builds at once; more wait in a queue, by priority and age.",
      examples: [4],
    },
    workdir: {
      type: "string",
      pattern: "^(/(?!\\.{1,2}(/|$))[^/\\u0000\\n]+)+/?$",
      default: DEFAULT_WORKDIR,
      description:
        "Folder for mirrors, sources, object files and what builds make. Builds run as the user who logs in; where that user may not make the folder, root makes it for them.",
      examples: ["/srv/build"],
      "x-labctl": { replace: true },
    },
    min_free_disk: {
      type: "string",
      default: DEFAULT_MIN_FREE,
      description: "Below so much free disk: a warning, and no new builds (see `on_low_disk`).",
      examples: ["20GB"],
      "x-labctl": { unit: "size" },
    },
    on_low_disk: {
      type: "string",
      enum: ["refuse", "warn"],
      default: "refuse",
      description: "Whether builds still come when the disk is low.",
    },
    toolchains: {
      type: "array",
      description:
        "Toolchains are detected. Those listed here must be there: the server is not in order without them, and a build may count on one that is installed by the same apply.",
      items: {
        type: "object",
        properties: {
          name: {
            type: "string",
            pattern: "^[A-Za-z0-9][A-Za-z0-9_.+-]*$",
            description: "As the compiler is called.",
            examples: ["gcc", "clang-16", "aarch64-linux-gnu-gcc"],
          },
          arch: { type: "string", enum: ARCHS, description: "What it compiles for." },
          cross_compile: {
            type: "string",
            description: "The value of CROSS_COMPILE, where it is not what stands before `gcc` in the name.",
            examples: ["aarch64-linux-gnu-"],
          },
          version: { type: "string", description: "What its version begins with.", examples: ["12.2"] },
        },
        required: ["name", "arch"],
        additionalProperties: false,
      },
      examples: [[{ name: "gcc", arch: "x86_64" }]],
    },
  },
  additionalProperties: false,
} as const satisfies ObjectSchema;

const BYTES = "Bytes.";

export const serverAttributes = {
  type: "object",
  properties: {
    workdir: { type: "string", description: "The folder, where it is there and the login may write to it." },
    machine: { type: "string", description: "As `uname -m` says." },
    arch: { type: "string", description: "The same in labctl's words." },
    cores: { type: "integer", description: "Processors." },
    memory: { type: "integer", description: BYTES },
    memory_available: { type: "integer", description: BYTES, "x-labctl": { volatile: true } },
    disk_total: { type: "integer", description: `${BYTES} Of the file system of the work directory.` },
    disk_free: { type: "integer", description: BYTES, "x-labctl": { volatile: true } },
    load: { type: "number", description: "Mean of the last minute.", "x-labctl": { volatile: true } },
    active_builds: { type: "integer", description: "Builds that run there now.", "x-labctl": { volatile: true } },
    toolchains: {
      type: "array",
      items: {
        type: "object",
        properties: {
          name: { type: "string" },
          arch: { type: "string" },
          version: { type: "string" },
          path: { type: "string" },
          cross_compile: { type: "string" },
          available: { type: "boolean" },
          family: { type: "string", enum: ["gcc", "clang"] },
          machine: { type: "string" },
          suffix: { type: "string" },
          hosted: { type: "boolean" },
          llvm_tools: { type: "boolean" },
          why: { type: "string" },
        },
        required: [
          "name",
          "arch",
          "version",
          "path",
          "cross_compile",
          "available",
          "family",
          "machine",
          "suffix",
          "hosted",
          "llvm_tools",
        ],
        additionalProperties: false,
      },
      description: "Compilers that were found: `name`, `arch`, `version`, `path`, `cross_compile`, `available`.",
    },
    tools: {
      type: "array",
      items: { type: "string" },
      description: "Programs that builds ask for and that are there.",
    },
  },
  required: ["machine", "cores", "memory", "disk_free", "toolchains"],
  additionalProperties: false,
} as const satisfies ObjectSchema;

export type ServerDesired = Infer<typeof serverSchema>;
export type ServerObserved = Infer<typeof serverAttributes>;
