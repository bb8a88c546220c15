import { type Infer, type ObjectSchema, REQUIRES_SCHEMA } from "../../src/index.ts";
import { INSTRUMENTS } from "./instrumentation-table.ts";
import { ARCHS } from "./toolchains.ts";

const NAME = "^[A-Za-z0-9_][A-Za-z0-9_.-]*$";

const kernel = {
  type: "object",
  description: "A Linux kernel, configured and built out of its tree.",
  properties: {
    defconfig: {
      type: "string",
      pattern: "^[A-Za-z0-9_][A-Za-z0-9_.-]*$",
      default: "defconfig",
      description: "What it begins with: a target such as `tinyconfig`, or a file of `arch/ARCH/configs`.",
      examples: ["tinyconfig", "multi_v7_defconfig"],
    },
    fragments: {
      type: "array",
      items: { type: "string", minLength: 1, "x-labctl": { path: true } },
      description: "Files laid over it, in this order; later ones win.",
      examples: [["./configs/lab.config"]],
    },
    config: {
      type: "object",
      propertyNames: { type: "string", pattern: "^[A-Za-z0-9_]+$" },
      additionalProperties: { type: ["string", "integer", "boolean"] },
      description: "Single symbols, without `CONFIG_`; they win over fragments.",
      examples: [{ IKCONFIG: "y", LOG_BUF_SHIFT: 18 }],
    },
    instrumentation: {
      anyOf: [
        { type: "array", items: { type: "string", enum: Object.keys(INSTRUMENTS) } },
        {
          type: "object",
          propertyNames: { type: "string", pattern: "^[a-z0-9_]+$" },
          additionalProperties: {
            type: ["object", "null"],
            properties: {
              mode: { type: "string", description: "KASAN's mode, for example." },
              style: { type: "string", description: "How it is built in: inline or outline." },
            },
            additionalProperties: false,
          },
        },
      ],
      description:
        "What to build in, by name: the symbols come from labctl's table, for the architecture and version. All of them must survive.",
      examples: [["kasan", "lockdep"]],
    },
    modules: { type: "boolean", default: false, description: "Build modules, as a tar archive `kernel_modules`." },
    dtbs: {
      anyOf: [
        { type: "boolean" },
        { type: "array", items: { type: "string", pattern: "^[A-Za-z0-9_][A-Za-z0-9_./+-]*\\.dtb$" } },
      ],
      description: "Device trees: all of the configuration, or some by name.",
      examples: [true, ["broadcom/bcm2711-rpi-4-b.dtb"]],
    },
    make_args: {
      type: "array",
      items: { type: "string", pattern: "^[A-Za-z_][A-Za-z0-9_]*=[^\\n\\u0000]*$" },
      description: "Variables for make.",
      examples: [["KCFLAGS=-Wno-error"]],
    },
  },
  additionalProperties: false,
} as const;

export const buildSchema = {
  type: "object",
  properties: {
    name: { type: "string", description: "Name of the build.", "x-labctl": { identity: true } },
    source: {
      type: "object",
      description: "What is built: a git repository, a directory, or a tarball.",
      properties: {
        git: {
          type: "string",
          minLength: 1,
          description: "Address of a repository, as the build server reaches it. Credentials may be a secret.",
          examples: ["https://git.example/linux.git"],
        },
        ref: {
          type: "string",
          minLength: 1,
          description:
            "Branch, tag or commit; resolved to a commit when a plan is made. Default: the repository's HEAD.",
          examples: ["linux-6.1.y"],
        },
        depth: {
          type: "integer",
          minimum: 1,
          description: "Commits of history to fetch. Default: all.",
          examples: [1],
        },
        path: {
          type: "string",
          minLength: 1,
          description: "A directory here. Of a git work tree, what git ignores stays out.",
          examples: ["./hello"],
          "x-labctl": { path: true },
        },
        tarball: {
          type: "string",
          minLength: 1,
          description: "An archive: a URL, or a file here. Needs `sha256`.",
          examples: ["https://cdn.example/linux-6.1.tar.xz"],
        },
        sha256: { type: "string", pattern: "^[0-9a-fA-F]{64}$", description: "Of the tarball." },
      },
      oneOf: [{ required: ["git"] }, { required: ["path"] }, { required: ["tarball"] }],
      dependentRequired: { tarball: ["sha256"], sha256: ["tarball"], ref: ["git"], depth: ["git"] },
      additionalProperties: false,
    },
    arch: { type: "string", enum: ARCHS, default: "x86_64", description: "What it is built for." },
    toolchain: {
      type: "string",
      pattern: "^[A-Za-z0-9][A-Za-z0-9_.+-]*$",
      default: "gcc",
      description:
        "A compiler by name. `gcc`, `gcc-12`, `clang` and `clang-16` mean the one of that family and version for `arch`, a cross-compiler where need be.",
      examples: ["gcc", "clang-16"],
    },
    priority: {
      type: "integer",
      minimum: -1000,
      maximum: 1000,
      default: 0,
      description: "Which waiting build goes first: the higher, then the older.",
      examples: [10],
    },
    requires: REQUIRES_SCHEMA,
    kernel,
    run: {
      type: "string",
      minLength: 1,
      description: "Commands that build it, in its folder. For what is no kernel.",
      examples: ["make"],
      "x-labctl": { shell: true },
    },
    outputs: {
      type: "object",
      propertyNames: { type: "string", pattern: "^[a-z][a-z0-9_]*$" },
      additionalProperties: {
        anyOf: [
          { type: "string", minLength: 1 },
          {
            type: "object",
            properties: {
              path: { type: "string", minLength: 1, description: "Below the source." },
              type: { type: "string", pattern: NAME, description: "Its type of artifact, such as `initrd`." },
            },
            required: ["path"],
            additionalProperties: false,
          },
        ],
      },
      description: "What `run` makes: a name and a path below the source, and a type where it has one.",
      examples: [{ binary: "hello" }, { initrd: { path: "out/rootfs.cpio.gz", type: "initrd" } }],
    },
    env: {
      type: "object",
      propertyNames: { type: "string", pattern: "^[A-Za-z_][A-Za-z0-9_]*$" },
      additionalProperties: { type: ["string", "number", "boolean"] },
      description: "Environment of the build's commands, delivered over stdin.",
      examples: [{ LANG: "C" }],
    },
    clean: { type: "boolean", default: false, description: "Build from nothing each time, without kept objects." },
    ccache: { type: "boolean", default: true, description: "Use ccache where the server has it." },
    timeout: {
      type: "string",
      default: "2h",
      description: "How long the build may take. Its log is kept.",
      examples: ["2h"],
      "x-labctl": { unit: "duration" },
    },
    digest: { type: "string", description: "SHA-256 of all that goes into it.", "x-labctl": { derived: true } },
    commit: { type: "string", description: "What the source was resolved to.", "x-labctl": { derived: true } },
    branch: {
      type: "string",
      description: "What it can be found by: `ref`, or the branch that the repository's HEAD names.",
      "x-labctl": { derived: true },
    },
  },
  required: ["name", "source"],
  anyOf: [{ required: ["kernel"] }, { required: ["run"] }],
  not: { required: ["kernel", "run"] },
  dependentRequired: { outputs: ["run"], run: ["outputs"] },
  additionalProperties: false,
} as const satisfies ObjectSchema;

const ARTIFACT = { type: "string", description: "`sha256:` and the digest of the artifact." } as const;

export const buildAttributes = {
  type: "object",
  properties: {
    digest: { type: "string", description: "SHA-256 of all that went into it: the build's id." },
    commit: { type: "string", description: "The commit that was built, of git sources." },
    arch: { type: "string", description: "What it was built for." },
    toolchain_version: { type: "string", description: "The compiler with its version." },
    server: { type: "string", description: "Where it was built.", "x-labctl": { volatile: true } },
    release: { type: "string", description: "Of a kernel: what `uname -r` says." },
    kernel_image: ARTIFACT,
    vmlinux: ARTIFACT,
    system_map: ARTIFACT,
    kernel_config: ARTIFACT,
    kernel_modules: ARTIFACT,
    device_trees: ARTIFACT,
    artifacts: {
      type: "object",
      additionalProperties: { type: "string" },
      description: "All that it made, by name: `sha256:` and a digest. Outputs of `run` have their own names here.",
    },
  },
  required: ["digest", "artifacts"],
  additionalProperties: { type: "string", description: "Outputs of `run`, by name." },
} as const satisfies ObjectSchema;

export type BuildDesired = Infer<typeof buildSchema>;
export type BuildObserved = Infer<typeof buildAttributes>;
