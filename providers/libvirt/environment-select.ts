import {
  type Address,
  type Allocation,
  type AllocationRequest,
  type Candidate,
  type KindContext,
  LabError,
  lastSegment,
  type OperationContext,
  parseSize,
  passes,
  type Plain,
  readRequirements,
  type Requirements,
  type Selection,
  type SelectionRequest,
  standingOf,
  type Unmet,
  waitingText,
} from "../../src/index.ts";
import type { EnvironmentDesired } from "./environment-model.ts";
import { hostCapacity } from "./host-capacity.ts";
import { hasLibvirt } from "./host-facts.ts";
import type { Arch } from "./model/arch.ts";
import { whereThingsAre } from "./things.ts";

/** Above this share of a host's memory nothing new comes. */
const UTILIZATION = 0.85;

/** Of a host, not of what is put on it: another host may do. */
export const HOST_FAILURES: ReadonlySet<string> = new Set([
  "E_LIBVIRT",
  "E_CONNECT",
  "E_DISCONNECTED",
  "E_TIMEOUT",
  "E_DISK_FULL",
  "E_SUDO",
  "E_AUTH",
  "E_SOCKET",
]);
/** What is against a host without libvirt. */
function withoutLibvirt(needs: readonly string[]): readonly Unmet[] {
  if (needs.length === 0) return [];
  return [{ what: "libvirt", text: `it has no libvirt, which is needed for ${needs.join("; ")}`, permanent: true }];
}

/** Every QEMU host of the lab, as it is found now. `own`: the instance whose machine does not count against itself. */
async function candidates(ctx: KindContext, { arch, instance_id: own, libvirt }: Guest): Promise<readonly Candidate[]> {
  const hosts = ctx.inventory.all("qemu_host").filter((one) => one.parent !== undefined);
  return Promise.all(
    hosts.map(async (entry): Promise<Candidate> => {
      const address = entry.parent ?? "";
      const host = ctx.inventory.get(address);
      const { max_vms, max_utilization } = entry.desired;
      const labels = host?.desired["labels"];
      const group = host?.desired["group"];
      const base = {
        address,
        name: lastSegment(address).key ?? address,
        max_utilization: share(max_utilization),
        ...(labels !== null && typeof labels === "object" && { labels: labels as Readonly<Record<string, string>> }),
        ...(typeof group === "string" && { group }),
        ...(!hasLibvirt(ctx, address) && { against: withoutLibvirt(libvirt) }),
      };
      const standing = standingOf(host, Date.now());
      try {
        const { facts, ...defined } = await hostCapacity(ctx, address, own);
        const arches = [...new Set(facts.host.guests.filter((one) => one.os === "hvm").map((one) => one.arch))];
        return {
          ...base,
          status: "online",
          ...standing,
          arch: facts.host.arch ?? arch,
          also: arches,
          kvm: facts.kvm,
          nested_virt: facts.kvm && host?.observed?.["nested_virt"] === "yes",
          total: {
            // Emulated processors share the real ones: only a machine that wants more than there are does not fit.
            cpus: facts.host.cpus,
            memory: facts.host.memory,
            ...(typeof max_vms === "number" && { slots: max_vms }),
          },
          reserved: { memory: defined.memory, slots: defined.machines },
          load: defined.cpus / Math.max(1, facts.host.cpus * 8),
        };
      } catch (error) {
        if (ctx.signal.aborted) throw error;
        return {
          ...base,
          status: "offline",
          why: error instanceof Error ? error.message : String(error),
          ...standing,
          arch: text(host?.desired["arch"]) ?? arch,
          also: [arch],
          total: {},
          reserved: {},
        };
      }
    }),
  );
}

/** A machine that looks for a QEMU host. */
export interface Guest {
  readonly address: Address;
  readonly instance_id: string;
  readonly arch: Arch;
  readonly cpus: number;
  /** Bytes. */
  readonly memory: number;
  readonly requires: Requirements;
  /** The name of the only host that will do. */
  readonly host?: string;
  /** Environments of the lab's `limits:` that it counts for. */
  readonly environments: 0 | 1;
  /** What it needs libvirt for, in words; empty: QEMU alone does. */
  readonly libvirt: readonly string[];
}

/** The name of the only host that will do: where its networks are, or the one that it names. @throws LabError E_SPEC_VALUE */
export function hostFor(ctx: KindContext, address: Address, { vm }: EnvironmentDesired): string | undefined {
  const only = whereThingsAre(ctx, address, { volumes: [], networks: vm.networks ?? [] });
  if (only === undefined || vm.host === undefined || vm.host === only) return vm.host ?? only;
  throw new LabError(
    "E_SPEC_VALUE",
    `network.${vm.networks?.[0] ?? ""} is on ${only}, and the machine is to be on ${vm.host}`,
    { address, hint: `leave \`host\` out, or name ${only}` },
  );
}

/** @throws LabError E_SPEC_VALUE */
export function guestOf(ctx: KindContext, address: Address, instance_id: string, desired: EnvironmentDesired): Guest {
  const { vm } = desired;
  const host = hostFor(ctx, address, desired);
  return {
    address,
    instance_id,
    arch: vm.arch ?? "x86_64",
    cpus: vm.cpus ?? 1,
    memory: parseSize(vm.memory ?? "1GiB") ?? 0,
    requires: readRequirements(vm.requires as Parameters<typeof readRequirements>[0]),
    ...(host !== undefined && { host }),
    environments: 1,
    // Its console and its end are followed through libvirt.
    libvirt: ["environments"],
  };
}

function requestOf(guest: Guest, sticky: Address | undefined): AllocationRequest {
  const { address, arch, cpus, memory, requires } = guest;
  return {
    what: address,
    requires: {
      ...requires,
      arch,
      cpus: Math.max(cpus, requires.cpus ?? 0),
      memory: Math.max(memory, requires.memory ?? 0),
    },
    // Emulated processors share the real ones: none are taken from others.
    amounts: { memory, slots: 1 },
    counts: { cpus, memory, ...(guest.environments > 0 && { slots: guest.environments }) },
    ...(sticky !== undefined && { sticky }),
  };
}

async function allowed(ctx: KindContext, guest: Guest): Promise<readonly Candidate[]> {
  const all = await candidates(ctx, guest);
  return guest.host === undefined ? all : all.filter((one) => one.name === guest.host);
}

/** What would be chosen now: for plans. Takes nothing. */
export async function previewHost(
  ctx: KindContext,
  guest: Guest,
): Promise<{ readonly request: SelectionRequest; readonly selection: Selection }> {
  const request = requestOf(guest, undefined);
  return { request, selection: await ctx.scheduler.preview(request, await allowed(ctx, guest)) };
}

/** Leases room on a host, and the guest's share of what the lab may use; waits for it where others have it. */
export async function allocateHost(
  ctx: OperationContext,
  guest: Guest,
  options: {
    readonly sticky?: Address | undefined;
    readonly failed?: ReadonlySet<Address>;
    /** Default: as the run may. */
    readonly wait?: boolean;
  } = {},
): Promise<Allocation> {
  return await ctx.scheduler.allocate(requestOf(guest, options.sticky), {
    candidates: () => allowed(ctx, guest),
    wait: ctx.noWait !== true && options.wait !== false,
    waitFor: passes,
    signal: ctx.signal,
    ...(options.failed !== undefined && { failed: options.failed }),
    onWaiting: (waiting) => {
      const text = waitingText(waiting);
      ctx.progress(undefined, text);
      // Told at once, also where progress is only shown now and then: this may take an hour.
      ctx.log("warn", text);
    },
  });
}

function share(value: Plain | undefined): number {
  if (typeof value === "number") return value > 1 ? value / 100 : value;
  const percent = typeof value === "string" ? /^(\d+(?:\.\d+)?)%$/.exec(value)?.[1] : undefined;
  return percent === undefined ? UTILIZATION : Number(percent) / 100;
}

function text(value: Plain | undefined): string | undefined {
  return typeof value === "string" ? value : undefined;
}
