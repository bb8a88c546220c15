import { type Infer, type ObjectSchema, SIZE_PATTERN, SSH_SCHEMA } from "../../src/index.ts";

export const schema = {
  type: "object",
  properties: {
    name: {
      type: "string",
      description: "Name of the host in the lab.",
      "x-labctl": { identity: true },
    },
    address: {
      type: "string",
      minLength: 1,
      pattern: "^[^\\s/@\\u0000-][^\\s/@\\u0000]*$",
      description: "IP address, DNS name, or a `Host` of ~/.ssh/config. Not needed with `connection: local`.",
      examples: ["10.0.0.11", "builder-1.lab.example"],
    },
    connection: {
      type: "string",
      enum: ["ssh", "local"],
      description: "`local`: the machine that labctl runs on. Default: ssh.",
      examples: ["local"],
    },
    arch: {
      type: "string",
      enum: ["x86_64", "arm64", "armv7", "riscv64"],
      description: "What its processor must be; another one found there is an error. Default: not checked.",
      examples: ["x86_64"],
    },
    ssh: SSH_SCHEMA,
    sudo: {
      anyOf: [
        { type: "boolean" },
        {
          type: "object",
          properties: {
            password: {
              type: "string",
              description: "What sudo asks for: a secret. Absent: sudo must not ask (NOPASSWD).",
              "x-labctl": { sensitive: true },
            },
          },
          additionalProperties: false,
        },
      ],
      description:
        "Whether root is reached through sudo where the login is not root. Default: true over SSH, false with `connection: local`.",
      examples: [true, { password: "${secret.sudo}" }],
    },
    labels: {
      type: "object",
      additionalProperties: { type: "string" },
      description: "Names with values, to select machines by.",
      examples: [{ site: "berlin" }],
    },
    group: {
      type: "string",
      minLength: 1,
      description: "The group that it belongs to.",
      examples: ["builders"],
    },
    maintenance: {
      anyOf: [
        { type: "boolean" },
        {
          type: "object",
          properties: {
            reason: { type: "string", minLength: 1, description: "Why." },
            until: { type: "string", minLength: 1, description: "Until when, as ISO 8601." },
          },
          additionalProperties: false,
        },
      ],
      description: "Cordoned: nothing new is placed on it, and what runs may finish. Default: false.",
      examples: [true, { reason: "new disks", until: "2026-12-01T08:00:00Z" }],
    },
    thresholds: {
      type: "object",
      properties: {
        disk_free: {
          type: "string",
          pattern: SIZE_PATTERN,
          description: "Less free space on the root file system than this is warned about.",
          examples: ["20GiB"],
          "x-labctl": { unit: "size" },
        },
      },
      additionalProperties: false,
      description: "Limits below which there is a warning.",
      examples: [{ disk_free: "20GiB" }],
    },
  },
  required: ["name"],
  anyOf: [{ required: ["address"] }, { required: ["connection"] }],
  additionalProperties: false,
} as const satisfies ObjectSchema;

const YES_NO = { type: "string", enum: ["yes", "no", "unknown"] } as const;

export const attributes = {
  type: "object",
  properties: {
    address: {
      type: "string",
      description: "Where it was reached: the host of the connection, `localhost` for this machine.",
    },
    arch: { type: "string", description: "Processor: x86_64, arm64, armv7, riscv64, or what `uname -m` says." },
    cores: { type: "integer", description: "Processors that are online." },
    memory: { type: "integer", description: "Memory in bytes." },
    disk_total: { type: "integer", description: "Size of the root file system in bytes." },
    disk_free: {
      type: "integer",
      description: "Free space of the root file system in bytes.",
      "x-labctl": { volatile: true },
    },
    kernel: { type: "string", description: "Release of the running kernel." },
    hostname: { type: "string", description: "What it calls itself." },
    distribution: { type: "string", description: "ID of /etc/os-release, e.g. debian." },
    distribution_version: { type: "string", description: "VERSION_ID of /etc/os-release; empty for rolling ones." },
    init: { type: "string", enum: ["systemd", "openrc", "none"], description: "What runs as init." },
    package_manager: { type: "string", enum: ["apt", "dnf", "apk", "other"], description: "What installs packages." },
    virtualization: { type: "string", description: "What it runs on: none, kvm, qemu, vmware, docker, ..." },
    kvm: {
      ...YES_NO,
      description:
        "Whether KVM works, found by running a few instructions in a virtual machine, at hardware speed. That /dev/kvm is there proves nothing.",
    },
    nested_virt: { ...YES_NO, description: "Whether virtual machines on it can use KVM themselves." },
    boot_id: {
      type: "string",
      description: "Another one after every start.",
      "x-labctl": { volatile: true },
    },
    uptime: { type: "integer", description: "Seconds since it started.", "x-labctl": { volatile: true } },
  },
  required: [
    "address",
    "arch",
    "cores",
    "memory",
    "disk_total",
    "disk_free",
    "kernel",
    "hostname",
    "distribution",
    "distribution_version",
    "init",
    "package_manager",
    "virtualization",
    "kvm",
    "nested_virt",
    "boot_id",
    "uptime",
  ],
  additionalProperties: false,
} as const satisfies ObjectSchema;

export type Desired = Infer<typeof schema>;
export type Observed = Infer<typeof attributes>;
