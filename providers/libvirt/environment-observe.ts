import { lastSegment, type KindContext, type Machine } from "../../src/index.ts";
import type { EnvironmentObserved } from "./environment-model.ts";
import { digestIn } from "./environment-place.ts";
import { readRecord } from "./console-record.ts";
import { logIn, type Resident } from "./environment-ssh.ts";
import { buildIdIn, type ConsoleReading, consoleReader, type Ready } from "./environment-verify.ts";
import type { QemuHost } from "./host-facts.ts";
import type { VmModel } from "./model/vm.ts";
import { imagesScript, readImages } from "./plain/disks.ts";
import type { Domain } from "./rpc/index.ts";
import { libvirtNetwork } from "./things.ts";
import { observeDomain } from "./xml/domain-observe.ts";

/** What a machine of an environment is, and what its console says. */
export async function observe(
  ctx: KindContext,
  host: QemuHost,
  domain: Domain,
  resident: Resident,
  ready: Ready,
): Promise<EnvironmentObserved> {
  const options = { signal: ctx.signal };
  const { domains } = host.libvirt;
  // One that stands still (by a user, a full disk, its watchdog) does not run.
  const { state } = await domains.state(domain, options);
  const running = state === "running" || state === "blocked";
  const model = observeDomain(await domains.xml(domain, options), {
    running,
    autostart: await domains.autostart(domain, options),
  });
  const { log } = model.console;
  const told = await recorded(host.machine, log, ready, ctx.signal);
  const seen = ready === "ssh" && running ? await withLogin(ctx, host, domain, resident, told) : told;
  const kernel = digestIn("kernel", model.boot?.kernel);
  const initrd = digestIn("initrd", model.boot?.initrd);
  const modules = digestIn("modules", model.boot?.initrd);
  return {
    host: host.address,
    domain: model.name,
    running,
    ready: running && seen.ready,
    status: statusOf(running, seen),
    ...(seen.release !== undefined && { release: seen.release }),
    ...(seen.buildId !== undefined && { build_id: seen.buildId }),
    ...(kernel !== undefined && { kernel_digest: kernel }),
    ...(initrd !== undefined && { initrd_digest: initrd }),
    ...(modules !== undefined && { modules_digest: modules }),
    ...(model.boot?.cmdline !== undefined && { cmdline: model.boot.cmdline }),
    arch: model.arch,
    machine: model.machine,
    cpus: model.cpus.count,
    memory: model.memory.size,
    networks: networksOf(ctx, host, model),
    ...(await disksOf(host.machine, model, ctx.signal)),
    ...(log !== undefined && { console: log }),
    ...(seen.problem !== undefined && { problem: seen.problem }),
  };
}

/** What its console tells, with whether it lets in, and what its kernel says then. */
async function withLogin(
  ctx: KindContext,
  host: QemuHost,
  domain: Domain,
  resident: Resident,
  told: ConsoleReading,
): Promise<ConsoleReading> {
  if (told.problem !== undefined) return told;
  const login = await logIn(ctx, host, domain, resident, { learn: false, signal: ctx.signal });
  if (login.is === "out") {
    ctx.log("warn", `${resident.address} runs, and nobody can log in: ${login.why}`);
    return { ...told, ready: false };
  }
  const { release, builder } = login;
  return {
    ready: true,
    release: release ?? told.release,
    buildId: buildIdIn(builder) ?? told.buildId,
    problem: undefined,
    started: told.started,
  };
}

/** The lab's names of its networks; of what is none of the lab's, the host's. */
function networksOf(ctx: KindContext, host: QemuHost, model: VmModel): string[] {
  const on = lastSegment(host.address).key;
  const names = ctx.inventory.all("network").flatMap(({ address }) => lastSegment(address).key ?? []);
  return model.networks.map((nic) => {
    const plug = nic.network ?? nic.bridge ?? "user";
    return names.find((name) => libvirtNetwork(ctx, name, on) === plug) ?? plug;
  });
}

/** What lies under its disks, as its definition says and QEMU is told, and how large they are. */
async function disksOf(
  machine: Machine,
  model: VmModel,
  signal: AbortSignal,
): Promise<Pick<EnvironmentObserved, "rootfs_digest" | "disks">> {
  if (model.disks.length === 0) return { disks: [] };
  const script = imagesScript(model.disks.flatMap((disk) => disk.source ?? []));
  const files = readImages((await machine.exec(script, { signal })).stdout.toString("utf8"));
  const disks = model.disks.map(({ source, backing }) => {
    return { size: files.get(source ?? "")?.size ?? 0, rootfs: digestIn("rootfs", backing) };
  });
  const [first, ...others] = disks;
  if (first?.rootfs === undefined) return { disks: disks.map(({ size }) => size) };
  return { rootfs_digest: first.rootfs, disks: others.map(({ size }) => size) };
}

/** What the machine shows of its deployment. Pure. */
function statusOf(
  running: boolean,
  seen: Pick<ConsoleReading, "ready" | "problem">,
): NonNullable<EnvironmentObserved["status"]> {
  if (!running || seen.problem !== undefined) return "failed";
  return seen.ready ? "completed" : "unverified";
}

async function recorded(
  machine: Machine,
  log: string | undefined,
  ready: Ready,
  signal: AbortSignal,
): Promise<ConsoleReading> {
  const reader = consoleReader(ready);
  if (log === undefined) return reader.end();
  const cut = await readRecord(machine, log, { signal, onChunk: (chunk) => reader.write(chunk) });
  const seen = reader.end();
  // Where nothing of its start is left, nothing says that it did not come up.
  return cut && !seen.started && seen.problem === undefined ? { ...seen, ready: true } : seen;
}
