import { defineKind, type Kind, type ObjectSchema } from "../../../src/index.ts";

const unused = {
  ownership: "shared",
  readMany: () => Promise.resolve(new Map()),
  reconcile: () => Promise.reject(new Error("not called by the loader")),
  delete: () => Promise.resolve(),
} as const;

const ABSOLUTE = "^(/(?!\\.{1,2}(/|$))[^/\\u0000]+)+$";
const nothing = { type: "object", properties: {} } as const satisfies ObjectSchema;

/** Kinds with one of everything that a schema can ask for, so that the loader's tests do not move with the built-in ones. */
export const host = defineKind({
  ...unused,
  kind: "host",
  title: "A machine",
  description: "A machine.\n\nMore of it.",
  section: { name: "hosts", shape: "map", key: "name" },
  schema: {
    type: "object",
    properties: {
      name: { type: "string", "x-labctl": { identity: true } },
      address: { type: "string", minLength: 1, description: "Where it is.", examples: ["10.0.0.11"] },
      connection: { type: "string", enum: ["ssh", "local"] },
      ssh: {
        type: "object",
        properties: {
          port: { type: "integer", minimum: 1, maximum: 65535 },
          user: { type: "string" },
          key: { type: "string", "x-labctl": { path: true } },
          jump: { type: "string", "x-labctl": { refers: "host" } },
        },
        additionalProperties: false,
      },
      sudo: {
        anyOf: [
          { type: "boolean" },
          { type: "object", properties: { password: { type: "string" } }, additionalProperties: false },
        ],
      },
      labels: { type: "object", additionalProperties: { type: "string" } },
      group: { type: "string", minLength: 1 },
      disk_free: { type: "string", "x-labctl": { unit: "size" } },
    },
    required: ["name"],
    anyOf: [{ required: ["address"] }, { required: ["connection"] }],
    additionalProperties: false,
  },
  attributes: {
    type: "object",
    properties: { address: { type: "string" }, kernel: { type: "string" }, cores: { type: "integer" } },
  },
  machine: () => undefined,
});

export const file = defineKind({
  ...unused,
  kind: "file",
  title: "A file on a host",
  description: "A file.",
  section: {
    name: "files",
    within: "host",
    shape: "map",
    key: "path",
    keySchema: { type: "string", pattern: ABSOLUTE },
  },
  schema: {
    type: "object",
    properties: {
      path: { type: "string", pattern: ABSOLUTE, "x-labctl": { identity: true } },
      content: { type: "string", description: "What it holds." },
      source: { type: "string", minLength: 1, "x-labctl": { path: true } },
      mode: { type: "string", pattern: "^[0-7]{3,4}$", "x-labctl": { octal: true } },
      owner: { type: "string", pattern: "^[^:\\n]+$" },
      validate: { type: "string", "x-labctl": { shell: true } },
      digest: { type: "string", "x-labctl": { derived: true } },
    },
    required: ["path"],
    not: { required: ["content", "source"] },
    additionalProperties: false,
  },
  attributes: { type: "object", properties: { digest: { type: "string" }, size: { type: "integer" } } },
});

export const packageKind = defineKind({
  ...unused,
  kind: "package",
  title: "A package on a host",
  description: "A package.",
  section: {
    name: "packages",
    within: "host",
    shape: "list",
    key: "name",
    keySchema: { type: "string", pattern: "^[a-z0-9][a-z0-9.+-]*$" },
  },
  schema: {
    type: "object",
    properties: { name: { type: "string", "x-labctl": { identity: true } }, version: { type: "string" } },
    required: ["name"],
    additionalProperties: false,
  },
  attributes: nothing,
});

export const command = defineKind({
  ...unused,
  kind: "command",
  title: "A command on a host",
  description: "A command.",
  section: { name: "commands", within: "host", shape: "map", key: "name" },
  schema: {
    type: "object",
    properties: {
      name: { type: "string", "x-labctl": { identity: true } },
      run: { type: "string", "x-labctl": { shell: true } },
      script: { type: "string", "x-labctl": { path: true } },
      unless: { type: "string", "x-labctl": { shell: true } },
      creates: { type: "string" },
      env: { type: "object", additionalProperties: { type: "string" } },
      after: { type: "string", "x-labctl": { refers: "command" } },
    },
    required: ["name"],
    oneOf: [{ required: ["run"] }, { required: ["script"] }],
    anyOf: [{ required: ["unless"] }, { required: ["creates"] }],
    dependentRequired: { env: ["run"] },
    additionalProperties: false,
  },
  attributes: nothing,
});

export const sysctl = defineKind({
  ...unused,
  kind: "widget",
  title: "A widget",
  description: "Of a third party, at the top level.",
  section: { name: "widgets", shape: "map", key: "name" },
  schema: {
    type: "object",
    properties: {
      name: { type: "string", "x-labctl": { identity: true } },
      value: { type: ["string", "integer", "boolean"] },
      ratio: { type: "number", minimum: 0, maximum: 1 },
      list: { type: "array", items: { type: "integer" }, minItems: 1, maxItems: 3, uniqueItems: true },
      any: {},
      on: { type: "string", "x-labctl": { refers: "host" } },
      choice: {
        oneOf: [
          {
            type: "object",
            properties: { git: { type: "string" }, ref: { type: "string" } },
            required: ["git"],
            additionalProperties: false,
          },
          {
            type: "object",
            properties: { path: { type: "string", "x-labctl": { path: true } } },
            required: ["path"],
            additionalProperties: false,
          },
        ],
      },
    },
    additionalProperties: false,
  },
  attributes: {
    type: "object",
    properties: { nested: { type: "object", properties: { deep: { type: "string" } }, additionalProperties: false } },
  },
});

export const kinds: readonly Kind[] = [host, file, packageKind, command, sysctl];
