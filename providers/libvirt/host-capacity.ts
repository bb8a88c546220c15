import type { Address, KindContext } from "../../src/index.ts";
import { hasLibvirt, qemuHost } from "./host-facts.ts";
import type { HostFacts } from "./model/facts.ts";
import { uuidOf } from "./model/ids.ts";
import { plainHost } from "./plain/host.ts";
import { listMachines } from "./plain/machines.ts";
import { DomainList, DomainStats } from "./rpc/index.ts";

/** What a QEMU host can run, and what the machines that are defined there may take, whether they run at this moment or not. */
interface HostCapacity {
  readonly facts: HostFacts;
  readonly machines: number;
  /** Processors, all machines together. */
  readonly cpus: number;
  /** Bytes. */
  readonly memory: number;
}

/** `own`: the instance whose machine does not count against itself. Rejects where the host cannot be asked. */
export async function hostCapacity(ctx: KindContext, host: Address, own: string): Promise<HostCapacity> {
  const others = <T>(all: readonly T[], uuid: (one: T) => string): readonly T[] =>
    all.filter((one) => uuid(one) !== uuidOf(own));
  if (!hasLibvirt(ctx, host)) {
    const plain = await plainHost(ctx, host);
    const there = others(await listMachines(ctx, plain), (one) => one.uuid);
    return {
      facts: plain.facts,
      machines: there.length,
      cpus: there.reduce((all, one) => all + one.cpus, 0),
      memory: there.reduce((all, one) => all + one.memory, 0),
    };
  }
  const { libvirt, facts } = await qemuHost(ctx, host);
  const stats = await libvirt.domains.stats(DomainStats.STATE | DomainStats.BALLOON | DomainStats.VCPU, {
    flags: DomainList.ACTIVE | DomainList.INACTIVE,
    signal: ctx.signal,
  });
  const there = others(stats, (one) => one.domain.uuid);
  const sum = (key: string): number => there.reduce((all, one) => all + Number(one.stats[key] ?? 0), 0);
  return { facts, machines: there.length, cpus: sum("vcpu.maximum"), memory: sum("balloon.maximum") * 1024 };
}
