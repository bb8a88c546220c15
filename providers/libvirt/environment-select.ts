import {
  type Address,
  type Candidate,
  cordonOf,
  type KindContext,
  lastSegment,
  parseSize,
  type Plain,
  readRequirements,
  select,
  type Selection,
  type SelectionRequest,
} from "../../src/index.ts";
import type { EnvironmentDesired } from "./environment-model.ts";
import { qemuHost } from "./host-facts.ts";
import type { Arch } from "./model/arch.ts";
import { uuidOf } from "./model/ids.ts";
import { DomainList, DomainStats } from "./rpc/index.ts";

/** Above this share of a host's memory nothing new comes. */
const UTILIZATION = 0.85;

/** Every QEMU host of the lab, as it is found now. `own`: the instance whose machine does not count against itself. */
async function candidates(ctx: KindContext, arch: Arch, own: string): Promise<readonly Candidate[]> {
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
      };
      const cordon = cordonOf(host, Date.now());
      try {
        const { libvirt, facts } = await qemuHost(ctx, address);
        const others = (
          await libvirt.domains.stats(DomainStats.STATE | DomainStats.BALLOON | DomainStats.VCPU, {
            flags: DomainList.ACTIVE | DomainList.INACTIVE,
            signal: ctx.signal,
          })
        ).filter((one) => one.domain.uuid !== uuidOf(own));
        // What is defined is reserved, whether it runs at this moment or not.
        const sum = (key: string): number => others.reduce((all, one) => all + Number(one.stats[key] ?? 0), 0);
        const arches = [...new Set(facts.host.guests.filter((one) => one.os === "hvm").map((one) => one.arch))];
        return {
          ...base,
          status: cordon === undefined ? "online" : "maintenance",
          ...(cordon !== undefined && { why: cordon }),
          arch: facts.host.arch ?? arch,
          also: arches,
          kvm: facts.kvm,
          total: {
            // Emulated processors share the real ones: only a machine that wants more than there are does not fit.
            cpus: facts.host.cpus,
            memory: facts.host.memory,
            ...(typeof max_vms === "number" && { slots: max_vms }),
          },
          reserved: { memory: sum("balloon.maximum") * 1024, slots: others.length },
          load: sum("vcpu.maximum") / Math.max(1, facts.host.cpus * 8),
        };
      } catch (error) {
        if (ctx.signal.aborted) throw error;
        return {
          ...base,
          status: cordon === undefined ? "offline" : "maintenance",
          why: cordon ?? (error instanceof Error ? error.message : String(error)),
          arch: text(host?.desired["arch"]) ?? arch,
          also: [arch],
          total: {},
          reserved: {},
        };
      }
    }),
  );
}

/** Which hosts an environment may be on, the best first. */
export async function selectHost(
  ctx: KindContext,
  address: Address,
  desired: EnvironmentDesired,
  instance_id: string,
  sticky: Address | undefined,
): Promise<{ readonly request: SelectionRequest; readonly selection: Selection }> {
  const { vm } = desired;
  const arch = vm.arch ?? "x86_64";
  const said = readRequirements(vm.requires as Parameters<typeof readRequirements>[0]);
  const memory = parseSize(vm.memory ?? "1GiB") ?? 0;
  const requires = {
    ...said,
    arch,
    cpus: Math.max(vm.cpus ?? 1, said.cpus ?? 0),
    memory: Math.max(memory, said.memory ?? 0),
  };
  const all = await candidates(ctx, arch, instance_id);
  const allowed = vm.host === undefined ? all : all.filter((one) => one.name === vm.host);
  const request = { what: address, requires, ...(sticky !== undefined && { sticky }) };
  return { request, selection: select(request, allowed, Date.now()) };
}

function share(value: Plain | undefined): number {
  if (typeof value === "number") return value > 1 ? value / 100 : value;
  const percent = typeof value === "string" ? /^(\d+(?:\.\d+)?)%$/.exec(value)?.[1] : undefined;
  return percent === undefined ? UTILIZATION : Number(percent) / 100;
}

function text(value: Plain | undefined): string | undefined {
  return typeof value === "string" ? value : undefined;
}
