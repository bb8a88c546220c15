import type { Infer, ObjectSchema, Plain } from "../../src/index.ts";
import type { NetworkDesired } from "./model/network-schema.ts";
import { HOST_ATTRIBUTE } from "./on-host.ts";
import { asPropertyDiffs, diffNetwork, type NetworkModel, resolveNetwork } from "./model/network.ts";

const text = { type: "string" } as const;

export const networkAttributes = {
  type: "object",
  properties: {
    host: HOST_ATTRIBUTE,
    libvirt_name: { ...text, description: "Its name in libvirt." },
    uuid: { ...text, description: "Its UUID in libvirt." },
    forward: { ...text, description: "How machines reach what lies beyond the host." },
    bridge: { ...text, description: "The host's interface of it." },
    cidr: { ...text, description: "Its IPv4 addresses." },
    gateway: { ...text, description: "The host's own IPv4 address on it." },
    dhcp: { type: ["object", "boolean"], description: "The addresses that are given out, or false." },
    ipv6: { ...text, description: "Its IPv6 addresses." },
    gateway6: { ...text, description: "The host's own IPv6 address on it." },
    dns: { type: "object", description: "Whether the host answers for names, and which." },
    hosts: { type: "object", description: "Machines of others with their fixed addresses." },
    reservations: {
      type: "object",
      description: "Fixed addresses of the lab's own machines.",
      "x-labctl": { volatile: true },
    },
    mtu: { type: "integer", description: "Largest packet in bytes." },
    autostart: { type: "boolean", description: "Whether it starts when the host starts." },
    running: { type: "boolean", description: "Whether it is there now." },
    outdated: { type: "boolean", description: "Whether it runs otherwise than it is defined." },
  },
  required: ["libvirt_name", "uuid", "forward", "bridge", "dns", "autostart", "running", "outdated"],
  additionalProperties: false,
} as const satisfies ObjectSchema;

export type NetworkObserved = Infer<typeof networkAttributes>;

/** A network as its attributes say it. */
export function observedOf(model: NetworkModel, outdated: boolean): NetworkObserved {
  const { ipv4, ipv6, dns } = model;
  return {
    libvirt_name: model.name,
    uuid: model.uuid,
    forward: model.forward,
    bridge: model.bridge,
    ...(ipv4 !== undefined && {
      cidr: ipv4.cidr,
      gateway: ipv4.gateway,
      dhcp: ipv4.range === undefined ? false : { ...ipv4.range },
    }),
    ...(ipv6 !== undefined && { ipv6: ipv6.cidr, gateway6: ipv6.gateway }),
    dns: {
      enabled: dns.enabled,
      ...(dns.domain !== undefined && { domain: dns.domain }),
      forwarders: [...dns.forwarders],
      hosts: { ...dns.hosts },
    },
    hosts: Object.fromEntries(Object.entries(model.hosts).map(([name, host]) => [name, { ...host }])),
    reservations: { ...model.reservations },
    ...(model.mtu !== undefined && { mtu: model.mtu }),
    autostart: model.autostart,
    running: model.running,
    outdated,
  };
}

/** The network that the attributes speak of: the reverse of {@link observedOf}. */
export function modelOf(observed: NetworkObserved): NetworkModel {
  const { cidr, gateway, ipv6, gateway6, mtu, dhcp } = observed;
  const dns = observed.dns as unknown as NetworkModel["dns"];
  const range = typeof dhcp === "object" ? (dhcp as unknown as { start: string; end: string }) : undefined;
  return {
    name: observed.libvirt_name,
    uuid: observed.uuid,
    forward: observed.forward,
    bridge: observed.bridge,
    ...(cidr !== undefined &&
      gateway !== undefined && { ipv4: { cidr, gateway, ...(range !== undefined && { range }) } }),
    ...(ipv6 !== undefined && gateway6 !== undefined && { ipv6: { cidr: ipv6, gateway: gateway6 } }),
    dns,
    hosts: (observed.hosts ?? {}) as unknown as NetworkModel["hosts"],
    reservations: (observed.reservations ?? {}) as unknown as NetworkModel["reservations"],
    ...(mtu !== undefined && { mtu }),
    autostart: observed.autostart,
    running: observed.running,
  };
}

interface Identity {
  readonly lab: string;
  readonly address: string;
  readonly instance_id: string;
  readonly lineage: string;
}

/** The network that is wanted, under the names that what is there has already. */
export function wantedNetwork(
  desired: NetworkDesired,
  identity: Identity,
  observed: NetworkObserved | undefined,
): NetworkModel {
  const context = {
    ...identity,
    ...(observed !== undefined && {
      name: observed.libvirt_name,
      reservations: modelOf(observed).reservations,
    }),
  };
  const model = resolveNetwork(desired, context);
  if (observed === undefined) return model;
  // Nobody asked for a name of the bridge: the one that it has does.
  const bridge = desired.bridge === undefined && observed.bridge !== "" ? observed.bridge : model.bridge;
  return { ...model, uuid: observed.uuid, bridge };
}

const NOBODY: Identity = { lab: "lab", address: "network", instance_id: "", lineage: "" };

/** What differs, by the names of the spec. */
export function diffOf(desired: NetworkDesired, observed: NetworkObserved) {
  const wanted = wantedNetwork(desired, NOBODY, observed);
  const changes = asPropertyDiffs(diffNetwork(wanted, modelOf(observed)));
  if (!observed.outdated || changes.some((change) => change.effect === "restart") || !wanted.running) return changes;
  const before: Plain = "as it was defined before";
  return [...changes, { path: "outdated", before, after: "as it is defined", effect: "restart" as const }];
}
