import {
  type Address,
  defineKind,
  type Infer,
  type KindContext,
  LabError,
  type ObjectSchema,
  type Reading,
} from "../../src/index.ts";
import { DEFAULT_URI, hasLibvirt, qemuHost } from "./host-facts.ts";
import { plainHost } from "./plain/host.ts";
import { listMachines } from "./plain/machines.ts";
import { DomainList } from "./rpc/index.ts";

const schema = {
  type: "object",
  properties: {
    libvirt: {
      type: "boolean",
      default: true,
      description:
        "Whether it has libvirt. Without, labctl runs `vms:` there as QEMU processes of its own; networks, volumes and environments need it.",
      examples: [false],
    },
    uri: {
      type: "string",
      pattern: "^(qemu|lxc):///(system|session)?(\\?socket=.+)?$",
      default: DEFAULT_URI,
      description: "Which libvirt of the host, as it is called there. The host itself is reached by its own `ssh:`.",
      examples: ["qemu:///session"],
    },
    max_vms: {
      type: "integer",
      minimum: 1,
      description: "Machines at once, whoever made them. Default: no limit but memory.",
      examples: [10],
    },
    max_utilization: {
      type: ["string", "number"],
      default: "85%",
      description: "Above this share of the host's memory no new machine comes.",
      examples: ["85%"],
    },
  },
  additionalProperties: false,
} as const satisfies ObjectSchema;

const attributes = {
  type: "object",
  properties: {
    libvirt: { type: "string", description: "Version of libvirt; absent: there is none." },
    hypervisor: { type: "string", description: "Version of QEMU." },
    arch: { type: "string", description: "Processor." },
    arches: { type: "array", items: { type: "string" }, description: "What machines it can run, emulated ones too." },
    kvm: { type: "boolean", description: "Whether KVM works, found out by using it." },
    cpus: { type: "integer", description: "Processors." },
    memory: { type: "integer", description: "Bytes.", "x-labctl": { volatile: true } },
    machines: {
      type: "integer",
      description: "Machines that are defined there: in libvirt, or without it by labctl.",
      "x-labctl": { volatile: true },
    },
    running: { type: "integer", description: "Machines that run there.", "x-labctl": { volatile: true } },
  },
  required: ["hypervisor"],
  additionalProperties: false,
} as const satisfies ObjectSchema;

type Observed = Infer<typeof attributes>;

/** How often libvirt is asked again before the host counts as degraded. */
const RETRIES = 2;

async function readWithout(ctx: KindContext, address: Address): Promise<Reading<Observed>> {
  try {
    const host = await plainHost(ctx, address);
    const machines = await listMachines(ctx, host);
    const { arch, cpus, memory, guests } = host.facts.host;
    return {
      is: "present",
      value: {
        hypervisor: host.version,
        ...(arch !== undefined && { arch }),
        arches: [...new Set(guests.map((one) => one.arch))].sort(),
        kvm: host.facts.kvm,
        cpus,
        memory,
        machines: machines.length,
        running: machines.filter((one) => one.running).length,
      },
    };
  } catch (error) {
    if (!(error instanceof LabError) || ctx.signal.aborted) throw error;
    return { is: "unreachable", why: error };
  }
}

async function read(ctx: KindContext, host: Address): Promise<Reading<Observed>> {
  if (!hasLibvirt(ctx, host)) return await readWithout(ctx, host);
  for (let attempt = 0; ; attempt++) {
    try {
      const { libvirt, facts } = await qemuHost(ctx, host);
      const options = { signal: ctx.signal };
      const [version, hypervisor, all, running] = await Promise.all([
        libvirt.libVersion(options),
        libvirt.version(options),
        libvirt.domains.list(options),
        libvirt.domains.list({ ...options, flags: DomainList.ACTIVE }),
      ]);
      return {
        is: "present",
        value: {
          libvirt: version,
          hypervisor,
          ...(facts.host.arch !== undefined && { arch: facts.host.arch }),
          arches: [...new Set(facts.host.guests.filter((one) => one.os === "hvm").map((one) => one.arch))].sort(),
          kvm: facts.kvm,
          cpus: facts.host.cpus,
          memory: facts.host.memory,
          machines: all.length,
          running: running.length,
        },
      };
    } catch (error) {
      if (!(error instanceof LabError) || ctx.signal.aborted) throw error;
      if (error.code !== "E_LIBVIRT" || attempt >= RETRIES) return { is: "unreachable", why: degraded(host, error) };
      ctx.log("warn", `${host}: ${error.message}; asking libvirt again (retry ${attempt + 1})`);
    }
  }
}

/** The machine answers, and its libvirt does not: that is another thing than a machine that is off. */
function degraded(host: Address, error: LabError): LabError {
  if (error.code !== "E_LIBVIRT") return error;
  return new LabError("E_LIBVIRT", `${host} is degraded: ${error.message}`, {
    address: host,
    cause: error,
    retryable: true,
    ...(error.hint !== undefined && { hint: error.hint }),
  });
}

export const qemuHostKind = defineKind({
  kind: "qemu_host",
  title: "A host of virtual machines",
  description: `A host that runs virtual machines through libvirt. labctl speaks libvirt's own protocol over the SSH connection: nothing
need be installed for it here.

KVM counts only where it was found to work, by using it: /dev/kvm may be there and hang. Everywhere else machines are
emulated, which is slow and works.

With \`libvirt: false\` the host needs QEMU, qemu-img and util-linux's flock, and nothing else: labctl starts, asks (through QEMU's monitor, QMP)
and ends the machines of \`vms:\` itself.`,
  section: { name: "qemu_host", within: "host", shape: "one" },
  schema,
  attributes,
  ownership: "shared",

  /** After everything else on the host: packages bring libvirt, services start it. */
  after: (_desired, siblings, address) => siblings.map((one) => one.address).filter((one) => one !== address),

  async readMany(ctx, items) {
    for (const { address, desired } of items) refuseUri(address, desired);
    return new Map(
      await Promise.all(items.map(async (item) => [item.address, await read(ctx, hostOf(item))] as const)),
    );
  },

  diff: () => [],

  async reconcile(ctx, item) {
    const reading = await read(ctx, hostOf(item));
    if (reading.is === "unreachable") throw reading.why;
    if (reading.is !== "present") throw new LabError("E_INTERNAL", "a host is there, or out of reach");
    return reading.value;
  },

  /** Nothing was made there: what ran goes on. */
  delete: async () => undefined,
});

/** E_SPEC_VALUE for a place of libvirt where there is none. */
function refuseUri(address: Address, desired: Infer<typeof schema>): void {
  if (desired.libvirt !== false || desired.uri === undefined || desired.uri === DEFAULT_URI) return;
  throw new LabError("E_SPEC_VALUE", "`uri` says which libvirt, and `libvirt: false` that there is none", {
    address,
    hint: "leave one of them out",
  });
}

function hostOf(item: { readonly address: Address; readonly parent: Address | undefined }): Address {
  if (item.parent !== undefined) return item.parent;
  throw new LabError("E_INTERNAL", "a QEMU host is a host's, and this one has none", { address: item.address });
}
