// Stats of 100 defined domains: one call of labctl's own client, locally and over SSH, and `virsh domstats NAME` in a loop,
// as a script would do it. One real libvirtd, all on this one box, in turn.
import { type Libvirt, openLibvirt } from "../providers/libvirt/rpc/index.ts";
import { createMachinePool } from "../src/transport/index.ts";
import { libvirtdUnavailable, startLibvirtd, type TestLibvirtd } from "../test/support/libvirtd.ts";
import { domainXml } from "../test/support/libvirt-xml.ts";
import { inTurn, median, ratio, type Report, type Timing } from "./measure.ts";

const DOMAINS = 100;
const ROUNDS = 7;
const TARGET = 50;

export async function benchLibvirtStats(): Promise<Report> {
  const why = libvirtdUnavailable();
  if (why !== undefined) return { lines: [], skipped: [`libvirt-stats: ${why}`] };
  const virt = await startLibvirtd({ name: "bench" });
  const pool = createMachinePool({ env: virt.host.env });
  try {
    const here = pool.machine({ type: "local", address: "host.here", become: { method: "none" } });
    const local = await openLibvirt(here, { uri: virt.uri });
    const remote = await openLibvirt(pool.machine(virt.host.connection()));
    const names = Array.from({ length: DOMAINS }, (_, i) => `bench-${i}`);
    await Promise.all(names.map((name) => local.domains.define(domainXml(name))));
    return await compare(virt, local, remote, names);
  } finally {
    await pool.close();
    await virt.stop();
  }
}

async function compare(virt: TestLibvirtd, local: Libvirt, remote: Libvirt, names: readonly string[]): Promise<Report> {
  const loop = `for name in ${names.join(" ")}; do virsh -q -c qemu:///system domstats "$name" || exit 1; done`;
  const bulk = (libvirt: Libvirt) => async (): Promise<number> => (await libvirt.domains.stats(0)).length;
  const virsh = (script: string) => async (): Promise<number> =>
    (await virt.host.exec(script)).stdout.split("\n").filter((line) => line.startsWith("Domain: ")).length;
  const found = await inTurn(ROUNDS, {
    local: () => timing(bulk(local)),
    remote: () => timing(bulk(remote)),
    once: () => timing(virsh("virsh -q -c qemu:///system domstats")),
    loop: () => timing(virsh(loop)),
  });
  const wall = (timings: readonly Timing[]): number => median(timings.map((one) => one.wall));
  const gain = ratio(found.loop, found.local);
  const gainRemote = ratio(found.loop, found.remote);
  return {
    lines: [
      { what: `stats of ${DOMAINS} domains, one call, locally`, value: wall(found.local), unit: "ms" },
      { what: `stats of ${DOMAINS} domains, one call, over SSH`, value: wall(found.remote), unit: "ms" },
      { what: "virsh domstats, once for all", value: wall(found.once), unit: "ms" },
      { what: "virsh domstats NAME, in a loop", value: wall(found.loop), unit: "ms" },
      {
        what: "virsh in a loop / one call, locally",
        value: gain,
        unit: "x",
        target: `>= ${TARGET}`,
        reached: gain >= TARGET,
      },
      {
        what: "virsh in a loop / one call, over SSH",
        value: gainRemote,
        unit: "x",
        target: `>= ${TARGET}`,
        reached: gainRemote >= TARGET,
      },
    ],
    notes: [
      await virt.run("virsh", "--version").then((version) => `libvirt ${version}, domains defined and not running`),
    ],
  };
}

/** How long it takes; one that misses a domain counts for nothing. */
async function timing(work: () => Promise<number>): Promise<Timing> {
  const started = performance.now();
  const count = await work();
  const wall = performance.now() - started;
  if (count !== DOMAINS) throw new Error(`stats of ${count} domains, and not of ${DOMAINS}`);
  return { wall, cpu: 0, code: 0, output: "" };
}
