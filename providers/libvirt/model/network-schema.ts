import type { Infer, ObjectSchema } from "../../../src/index.ts";

const NAME = "^[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?$";
export const MAC_PATTERN = "^[0-9A-Fa-f][02468ACEace](:[0-9A-Fa-f]{2}){5}$";

/** Properties of `networks:`, as users write them. */
export const networkSchema = {
  type: "object",
  properties: {
    name: { type: "string", description: "Name of the network.", "x-labctl": { identity: true } },
    host: {
      type: "string",
      minLength: 1,
      description: "The QEMU host that it is on.",
      examples: ["kvm-1"],
      "x-labctl": { replace: true, refers: "host" },
    },
    cidr: {
      type: "string",
      description: "Its IPv4 addresses. The host has the first (see `gateway`), machines get the others.",
      examples: ["192.168.100.0/24"],
      "x-labctl": { restart: true },
    },
    ipv6: {
      type: "string",
      description: "Its IPv6 addresses: a /64, of which machines choose addresses themselves.",
      examples: ["fd00:100::/64"],
      "x-labctl": { restart: true },
    },
    gateway: {
      type: "string",
      description: "The host's own IPv4 address on it. Default: the first of `cidr`.",
      examples: ["192.168.100.254"],
      "x-labctl": { restart: true },
    },
    dhcp: {
      anyOf: [
        { type: "boolean" },
        {
          type: "object",
          properties: {
            start: { type: "string", description: "First address that is given out.", examples: ["192.168.100.50"] },
            end: { type: "string", description: "Last address that is given out.", examples: ["192.168.100.99"] },
          },
          required: ["start", "end"],
          additionalProperties: false,
        },
      ],
      default: true,
      description: "Whether machines get IPv4 addresses by DHCP: all but the host's own, or a range.",
      examples: [true, { start: "192.168.100.50", end: "192.168.100.99" }],
      "x-labctl": { restart: true },
    },
    isolated: {
      type: "boolean",
      default: false,
      description: "Machines reach each other and the host, nothing else. The same as `forward: none`.",
      "x-labctl": { restart: true },
    },
    forward: {
      type: "string",
      enum: ["nat", "route", "bridge", "none"],
      description:
        "How machines reach what lies beyond the host: behind its address (nat), by routes that others must know (route), on a bridge that the host has already (bridge), or not at all. Default: nat, and none without `cidr` and `ipv6`.",
      "x-labctl": { restart: true },
    },
    bridge: {
      type: "string",
      pattern: "^[A-Za-z0-9][A-Za-z0-9_.-]{0,14}$",
      description:
        "The host's bridge. Needed with `forward: bridge`; else the name that a new one gets. Default: one that fits.",
      examples: ["br0"],
      "x-labctl": { restart: true },
    },
    dns: {
      anyOf: [
        { type: "boolean" },
        {
          type: "object",
          properties: {
            domain: {
              type: "string",
              pattern: NAME,
              description: "Domain of the machines' names.",
              examples: ["lab.test"],
            },
            forwarders: {
              type: "array",
              items: { type: "string" },
              description: "Servers that are asked for other names. Default: the host's.",
              examples: [["10.0.0.53"]],
            },
            hosts: {
              type: "object",
              propertyNames: { type: "string", pattern: NAME },
              additionalProperties: { type: "string" },
              description: "Further names, with their addresses. These change without a restart.",
              examples: [{ mirror: "192.168.100.1" }],
            },
          },
          additionalProperties: false,
        },
      ],
      default: true,
      description: "Whether the host answers for names, and which.",
      examples: [true, { domain: "lab.test", hosts: { mirror: "192.168.100.1" } }],
      "x-labctl": { restart: true },
    },
    hosts: {
      type: "object",
      propertyNames: { type: "string", pattern: NAME },
      additionalProperties: {
        type: "object",
        properties: {
          mac: { type: "string", pattern: MAC_PATTERN, description: "MAC address of its network card." },
          address: { type: "string", description: "The IPv4 address that it always gets." },
        },
        required: ["mac", "address"],
        additionalProperties: false,
      },
      description: "Machines that are not labctl's and always get the same address by DHCP.",
      examples: [{ board: { mac: "52:54:00:00:00:01", address: "192.168.100.20" } }],
    },
    mtu: {
      type: "integer",
      minimum: 68,
      maximum: 65535,
      description: "Largest packet in bytes. Default: 1500.",
      examples: [9000],
      "x-labctl": { restart: true },
    },
    autostart: { type: "boolean", default: true, description: "Start it when the host starts." },
    running: { type: "boolean", default: true, description: "Whether it is there now." },
  },
  required: ["name", "host"],
  additionalProperties: false,
} as const satisfies ObjectSchema;

export type NetworkDesired = Infer<typeof networkSchema>;
