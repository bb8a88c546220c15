import { DURATION_PATTERN, SIZE_PATTERN } from "../model/index.ts";
import type { Kind, Schema } from "../provider/index.ts";
import { ARTIFACTS } from "./artifacts.ts";
import { NAME_PATTERN, WORD_PATTERN } from "./check-base.ts";

/** Sections of SPEC.md that this version does not serve: naming one is an error that says so. */
export const LATER_LAB: readonly string[] = [
  "networks",
  "volumes",
  "vms",
  "power",
  "board_types",
  "boards",
  "stacks",
  "monitoring",
  "notifiers",
  "alerts",
  "server",
  "results",
];
export const LATER_PIPELINE: readonly string[] = [
  "builds",
  "environments",
  "domains",
  "test_defaults",
  "tests",
  "reports",
];
/** Keys inside the entries of a section that are not served yet. */
export const LATER_WITHIN: Readonly<Record<string, readonly string[]>> = {
  hosts: ["build_server", "qemu_host"],
  groups: ["policy"],
};

const DURATION: Schema = { type: "string", pattern: DURATION_PATTERN, "x-labctl": { unit: "duration" } };
const SIZE: Schema = { type: "string", pattern: SIZE_PATTERN, "x-labctl": { unit: "size" } };

const retry: Schema = {
  type: "object",
  description: "Retries with exponential backoff.",
  properties: {
    attempts: { type: "integer", minimum: 0, maximum: 1000, description: "Attempts after the first.", examples: [3] },
    delay: { ...DURATION, description: "Wait before the first retry; it doubles each time.", examples: ["1s"] },
    max_delay: { ...DURATION, description: "The longest wait between two attempts.", examples: ["30s"] },
  },
  additionalProperties: false,
};

/** What every resource can have besides its own properties. */
export const OPTIONS: Readonly<Record<string, Schema>> = {
  depends_on: {
    type: "array",
    items: { type: "string", minLength: 1 },
    description: 'Addresses that come first: `host.a`, `host.a/file["/x"]`, or `file["/x"]` on the same parent.',
    examples: [["host.gateway"]],
  },
  for_each: {
    type: ["array", "object"],
    items: { type: ["string", "integer", "number", "boolean"] },
    description:
      "A list or a map: one resource for each entry, as `NAME-KEY`; `${each.key}` and `${each.value}` name it.",
    examples: [["a", "b"]],
  },
  matrix: {
    type: "object",
    additionalProperties: { type: "array", items: { type: ["string", "integer", "number", "boolean"] }, minItems: 1 },
    description: "From names to lists: one resource for each combination, as `NAME-VALUE`; `${matrix.NAME}` names it.",
    examples: [{ arch: ["x86_64", "arm64"] }],
  },
  lifecycle: {
    type: "object",
    description: "How labctl treats it over time.",
    properties: {
      prevent_destroy: {
        type: "boolean",
        description: "Refuse every plan that deletes or replaces it.",
        examples: [true],
      },
      ignore_changes: {
        type: "array",
        items: { type: "string", minLength: 1 },
        description: "Properties whose difference is left alone, as dotted paths.",
        examples: [["mode"]],
      },
      replace_when: {
        type: "array",
        items: { type: "string", minLength: 1 },
        description: "Addresses, or `ADDRESS.property`: replaced when one of them changes.",
        examples: [["host.builder-1"]],
      },
    },
    additionalProperties: false,
  },
  timeout: { ...DURATION, description: "How long one attempt may take.", examples: ["5m"] },
  retry,
  optional: {
    type: "boolean",
    description: "Its failure is a warning, and what depends on it goes on.",
    examples: [true],
  },
};

function mapOf(names: string, entry: Schema, description: string): Schema {
  return {
    type: ["object", "null"],
    description,
    propertyNames: { type: "string", pattern: names },
    additionalProperties: entry,
  };
}

const TEXT: Schema = { type: "string", minLength: 1 };

export const LABCTL: Schema = {
  type: "integer",
  const: 1,
  description: "Version of the spec language.",
  examples: [1],
};
export const LAB_NAME: Schema = {
  type: "string",
  pattern: NAME_PATTERN,
  maxLength: 64,
  description: "Name of the lab.",
  examples: ["kernel-lab"],
};

const variables = mapOf(
  WORD_PATTERN,
  {
    type: ["object", "null"],
    properties: {
      default: { description: "Its value where none is given.", examples: ["~/.ssh/id_ed25519"] },
      type: {
        type: "string",
        enum: ["string", "number", "boolean", "list", "map"],
        description: "What it must be. Default: what `default` is.",
      },
      description: { type: "string", description: "What it is for." },
      sensitive: { type: "boolean", description: "Never show or store its value." },
    },
    additionalProperties: false,
  },
  "Values that differ between uses of one spec: `${var.NAME}`. Set with `--var`, `--var-file`, `LABCTL_VAR_NAME`.",
);

const secrets = mapOf(
  WORD_PATTERN,
  {
    type: "object",
    properties: {
      env: { ...TEXT, description: "An environment variable.", examples: ["PDU_WRITE_COMMUNITY"] },
      file: {
        ...TEXT,
        description: "A file that only its owner can read. One newline at its end is dropped.",
        examples: ["./secrets/token"],
        "x-labctl": { path: true },
      },
      command: {
        type: "array",
        items: { type: "string" },
        minItems: 1,
        description: "A command and its arguments, run without a shell; its output is the value.",
        examples: [["pass", "show", "lab/db"]],
      },
    },
    oneOf: [{ required: ["env"] }, { required: ["file"] }, { required: ["command"] }],
    additionalProperties: false,
  },
  "Where secrets come from, never their values: `${secret.NAME}`. They are read at use.",
);

const limits: Schema = {
  type: ["object", "null"],
  description: "Of all that labctl makes in this lab.",
  properties: {
    memory: { ...SIZE, description: "Memory.", examples: ["16GiB"] },
    cpus: { type: "integer", minimum: 1, description: "Processors.", examples: [16] },
    disk: {
      ...SIZE,
      description: "Disks and volumes, as machines see them: also what is not filled yet.",
      examples: ["100GiB"],
    },
    environments: { type: "integer", minimum: 1, description: "Environments at once.", examples: [8] },
  },
  additionalProperties: false,
};

const providers = mapOf(
  NAME_PATTERN,
  {
    type: "object",
    properties: {
      source: {
        ...TEXT,
        description: "`npm:NAME`, or a path relative to the file that names it.",
        examples: ["npm:labctl-provider-acme"],
      },
      version: { ...TEXT, description: "A semver range.", examples: ["^2"] },
    },
    required: ["source"],
    additionalProperties: false,
  },
  "Providers that are not built in.",
);

const groups = mapOf(
  NAME_PATTERN,
  {
    type: ["object", "null"],
    properties: {
      description: { type: "string", description: "Whose it is, and for what." },
      labels: {
        type: "object",
        additionalProperties: { type: "string" },
        description: "Names with values, to select machines by.",
        examples: [{ tier: "gold" }],
      },
    },
    additionalProperties: false,
  },
  "Groups of machines; a machine names its own with `group:`.",
);

const state: Schema = {
  type: ["object", "null"],
  description: "Where labctl keeps what it knows.",
  properties: {
    backend: { type: "string", enum: ["file"], description: "Default: file.", examples: ["file"] },
    path: {
      ...TEXT,
      description: "Folder of the state. Default: `.labctl` beside the spec.",
      examples: [".labctl"],
      "x-labctl": { path: true },
    },
  },
  additionalProperties: false,
};

const removed = {
  type: ["object", "null"],
  description: "What has left the spec.",
  additionalProperties: {
    type: ["object", "null"],
    properties: {
      forget: {
        type: "boolean",
        description: "Drop it from the state and leave the world as it is.",
        examples: [true],
      },
    },
    additionalProperties: false,
  },
  examples: [{ "host.dead-1": { forget: true } }],
} as const satisfies Schema;

const outputs: Schema = {
  type: ["object", "null"],
  description: "Values to show after an apply and under `labctl output`.",
  propertyNames: { type: "string", pattern: WORD_PATTERN },
  additionalProperties: {
    description: "A value, or a map of `value` and `description`.",
    examples: ["${host.builder-1.address}"],
  },
};

/** The form of an output that says more than its value. */
export const OUTPUT_DECLARATION: Schema = {
  type: "object",
  properties: { value: {}, description: { type: "string" } },
  required: ["value"],
  additionalProperties: false,
};

/** `defaults: { ssh }` has the form of the property `ssh` of kinds that are machines. */
function defaults(kinds: readonly Kind[]): Schema {
  const ssh = kinds.find((kind) => kind.machine !== undefined && kind.schema.properties["ssh"] !== undefined);
  return {
    type: ["object", "null"],
    description: "Of all that the spec does not say for itself.",
    properties: {
      ssh: ssh?.schema.properties["ssh"] ?? { type: "object", description: "How to log in." },
      timeouts: {
        type: "object",
        properties: {
          connect: { ...DURATION, description: "To reach a machine. Default: 10s.", examples: ["10s"] },
          command: { ...DURATION, description: "For one command. Default: 5m.", examples: ["5m"] },
          boot: { ...DURATION, description: "For a machine to come back. Default: 3m.", examples: ["3m"] },
        },
        additionalProperties: false,
        description: "How long things may take.",
      },
      retry: { ...retry, description: "Default: 3 attempts, after 1s, doubling up to 30s." },
    },
    additionalProperties: false,
  };
}

/** The sections of lab.yaml that no kind brings. */
export function fixedSections(kinds: readonly Kind[]): Readonly<Record<string, Schema>> {
  return {
    labctl: LABCTL,
    name: LAB_NAME,
    include: {
      type: "array",
      items: TEXT,
      description: "Other files that make up this lab, as paths or globs relative to this file.",
      examples: [["./boards/*.yaml"]],
    },
    variables,
    secrets,
    defaults: defaults(kinds),
    limits,
    providers,
    groups,
    artifacts: ARTIFACTS,
    state,
    import: {
      type: ["object", "null"],
      additionalProperties: TEXT,
      description: "Take over what exists: address to id.",
      examples: [{ 'host.a/file["/etc/motd"]': "/etc/motd" }],
    },
    moved: {
      type: ["object", "null"],
      additionalProperties: TEXT,
      description: "Renames: old address to new.",
      examples: [{ "host.old-name": "host.builder-1" }],
    },
    removed,
    outputs,
  };
}

export const PIPELINE_SECTIONS: Readonly<Record<string, Schema>> = {
  labctl: LABCTL,
  name: { ...LAB_NAME, description: "Name of the pipeline.", examples: ["kernel-ci"] },
  lab: {
    ...TEXT,
    description: "Where lab.yaml is, when not beside this file.",
    examples: ["."],
    "x-labctl": { path: true },
  },
};
