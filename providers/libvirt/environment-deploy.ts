import { dirname } from "node:path/posix";
import { type Address, LabError, type OperationContext, parseDuration, sh } from "../../src/index.ts";
import { type BootImages, store } from "./environment-images.ts";
import { cmdlineOf, type EnvironmentDesired } from "./environment-model.ts";
import { type Verified, verifyBoot } from "./environment-verify.ts";
import { qemuHost, type QemuHost } from "./host-facts.ts";
import { uuidOf } from "./model/ids.ts";
import { resolveVm } from "./model/vm-resolve.ts";
import { requireSupport } from "./model/vm-support.ts";
import type { VmModel } from "./model/vm.ts";
import { type Domain, DomainUndefine, isLibvirtError, VirErr } from "./rpc/index.ts";
import { buildDomain } from "./xml/domain.ts";

/** Where an environment's kernels and initial RAM disks lie on its host, where QEMU may read them; their names hold their digests. */
export const ENVIRONMENTS = "/var/lib/libvirt/labctl/environments";

export interface Deployment {
  readonly address: Address;
  readonly instance_id: string;
  readonly desired: EnvironmentDesired;
  readonly images: BootImages;
}

/** How far a deployment is, or how it ended: kept with its row as it goes. (`completed` is what a machine that is up shows itself.) */
export type DeploymentStatus =
  | "pending"
  | "transferring"
  | "booting"
  | "verifying"
  | "failed"
  | "rolled_back"
  | "unverified";

/** Durable before it returns; says it to who follows the run as well. */
export async function mark(
  ctx: OperationContext,
  status: DeploymentStatus,
  data: { readonly host?: Address; readonly attempt?: number },
): Promise<void> {
  await ctx.checkpoint(status, { ...data });
  ctx.progress(undefined, status.replace("_", " "));
}

/** What an environment's machine has that its spec says nothing of. */
const PLAIN_VM = {
  type: "vm",
  acceleration: "auto",
  hugepages: false,
  firmware: "bios",
  rng: true,
  agent: false,
  tpm: false,
  vsock: false,
  autostart: false,
  running: true,
} as const;

/** Its name in libvirt, without the lab's. */
export function domainName(ctx: OperationContext, name: string): string {
  const scope = ctx.lab.scope.split("/").slice(1).join("-");
  return scope === "" ? name : `${scope}-${name}`;
}

/** The kernel and initial RAM disk on the host, and the machine that boots them, as they are to be. */
export function modelOf(
  ctx: OperationContext,
  host: QemuHost,
  deployment: Deployment,
  placed: ReadonlyMap<string, string>,
): VmModel {
  const { desired, images, address, instance_id } = deployment;
  const { vm } = desired;
  const model = resolveVm(
    {
      ...PLAIN_VM,
      name: domainName(ctx, desired.name),
      arch: vm.arch ?? "x86_64",
      ...(vm.machine !== undefined && { machine: vm.machine }),
      cpus: vm.cpus ?? 1,
      memory: vm.memory ?? "1GiB",
      boot: {
        kernel: images.kernel.sha256,
        ...(images.initrd && { initrd: images.initrd.sha256 }),
        cmdline: cmdlineOf(desired),
      },
    },
    {
      lab: ctx.lab.name,
      address,
      instance_id,
      lineage: ctx.lab.scope,
      facts: host.facts,
      disks: [],
      placed: (sha256) => placed.get(sha256) ?? sha256,
      network: () => undefined,
    },
  );
  requireSupport(model, host.facts, address);
  return model;
}

/** Sends what is booted to the host: once, however often it is booted there. */
export async function transfer(
  ctx: OperationContext,
  host: QemuHost,
  deployment: Deployment,
): Promise<ReadonlyMap<string, string>> {
  const placed = new Map<string, string>();
  const { kernel, initrd } = deployment.images;
  for (const [what, file] of [
    ["kernel", kernel],
    ["initrd", initrd],
  ] as const) {
    if (file === undefined) continue;
    const sha256 = await store(ctx, file);
    const path = `${ENVIRONMENTS}/${deployment.instance_id}/${what}-${sha256}`;
    await host.machine.exec(sh`umask 022; mkdir -p -- ${`${ENVIRONMENTS}/${deployment.instance_id}`}`, {
      signal: ctx.signal,
    });
    await ctx.artifacts.send(
      host.machine,
      sha256,
      { path, mode: "0644", how: "copy" },
      {
        signal: ctx.signal,
        onProgress: ({ done, total }) => ctx.progress(total === 0 ? undefined : done / total, `sending the ${what}`),
        onRetry: (why, attempt) => ctx.log("warn", `sending the ${what} to ${host.address}: ${why} (retry ${attempt})`),
      },
    );
    placed.set(sha256, path);
  }
  return placed;
}

export async function findDomain(
  host: QemuHost,
  instance_id: string,
  signal: AbortSignal,
): Promise<Domain | undefined> {
  try {
    return await host.libvirt.domains.lookupByUuid(uuidOf(instance_id), { signal });
  } catch (error) {
    if (isLibvirtError(error, VirErr.NO_DOMAIN)) return undefined;
    throw error;
  }
}

/** Defines the machine anew and starts it; what ran before under its name is gone. */
async function start(ctx: OperationContext, host: QemuHost, deployment: Deployment, model: VmModel): Promise<Domain> {
  const { domains } = host.libvirt;
  const options = { signal: ctx.signal };
  await stop(host, deployment.instance_id, ctx.signal);
  const stranger = await domains.find(model.name, options);
  if (stranger !== undefined) {
    throw new LabError("E_NOT_OWNED", `${host.address} has a machine ${model.name} that labctl did not make`, {
      address: deployment.address,
      hint: "rename the environment, or take that machine away",
    });
  }
  const log = model.console.log;
  // libvirt's log daemon makes files, and no folder for them.
  if (log !== undefined) await host.machine.exec(sh`mkdir -p -- ${dirname(log)} && rm -f -- ${log}`, options);
  const domain = await domains.define(buildDomain(model), options);
  return domains.create(domain, options);
}

/** Stops and undefines what this state made there; nothing where there is none. */
export async function stop(host: QemuHost, instance_id: string, signal: AbortSignal): Promise<void> {
  const domain = await findDomain(host, instance_id, signal);
  if (domain === undefined) return;
  const { domains } = host.libvirt;
  try {
    if (await domains.isActive(domain, { signal })) await domains.destroy(domain, { signal });
    const flags = DomainUndefine.MANAGED_SAVE | DomainUndefine.SNAPSHOTS_METADATA | DomainUndefine.NVRAM;
    await domains.undefine(domain, { flags, signal });
  } catch (error) {
    if (!isLibvirtError(error, VirErr.NO_DOMAIN)) throw error;
  }
}

/** Takes away all that an environment has on a host. */
export async function clear(host: QemuHost, instance_id: string, signal: AbortSignal): Promise<void> {
  await stop(host, instance_id, signal);
  await host.machine.exec(sh`rm -rf -- ${`${ENVIRONMENTS}/${instance_id}`}`, { signal });
}

/** The stages of one deployment on one host, with its status as it goes; how it ended stays with its row. */
export async function deploy(ctx: OperationContext, address: Address, deployment: Deployment): Promise<Verified> {
  try {
    return await carryOut(ctx, address, deployment);
  } catch (error) {
    // What was cut off stays where it was.
    if (!(error instanceof LabError) || ctx.signal.aborted) throw error;
    await mark(ctx, error.code === "E_BOOT_UNVERIFIED" ? "unverified" : "failed", { host: address });
    throw error;
  }
}

/** Puts everything there, boots it and waits until it is up. */
async function carryOut(ctx: OperationContext, address: Address, deployment: Deployment): Promise<Verified> {
  const { desired } = deployment;
  const arch = desired.vm.arch ?? "x86_64";
  const host = await qemuHost(ctx, address, [
    { arch, ...(desired.vm.machine !== undefined && { machine: desired.vm.machine }) },
  ]);
  await mark(ctx, "transferring", { host: address });
  const placed = await ctx.stage("transfer", () => transfer(ctx, host, deployment));
  const model = modelOf(ctx, host, deployment, placed);
  const attempts = (desired.boot.attempts ?? 1) + 1;
  for (let attempt = 1; ; attempt++) {
    try {
      await mark(ctx, "booting", { host: address, attempt });
      const domain = await ctx.stage("boot", () => start(ctx, host, deployment, model));
      await mark(ctx, "verifying", { host: address, attempt });
      return await ctx.stage("verify", () => verify(ctx, host, deployment, model, domain));
    } catch (error) {
      const again =
        error instanceof LabError &&
        (error.code === "E_BOOT_CRASHED" || error.code === "E_BOOT_HUNG") &&
        attempt < attempts;
      if (!again || ctx.signal.aborted) throw error;
      ctx.log("warn", `${deployment.address} did not come up on ${address}: booting it again (retry ${attempt})`);
    }
  }
}

/** Looks once more, from the first byte, where the time was too short: a busy host may only be slow. */
async function verify(
  ctx: OperationContext,
  host: QemuHost,
  deployment: Deployment,
  model: VmModel,
  domain: Domain,
): Promise<Verified> {
  try {
    return await verifyOnce(ctx, host, deployment, model, domain);
  } catch (error) {
    if (!(error instanceof LabError) || error.code !== "E_BOOT_UNVERIFIED" || ctx.signal.aborted) throw error;
    ctx.log("warn", `${deployment.address} is not shown to be up yet: looking again (retry 1)`);
    return verifyOnce(ctx, host, deployment, model, domain);
  }
}

async function verifyOnce(
  ctx: OperationContext,
  host: QemuHost,
  deployment: Deployment,
  model: VmModel,
  domain: Domain,
): Promise<Verified> {
  const { boot } = deployment.desired;
  const { release, buildId } = deployment.images;
  const verified = await verifyBoot(host.machine, {
    address: deployment.address,
    console: model.console.log ?? "",
    ready: boot.ready ?? "init",
    ...(release !== undefined && { release }),
    ...(buildId !== undefined && { buildId }),
    timeout: parseDuration(boot.timeout ?? "3m") ?? 180_000,
    silence: parseDuration(boot.silence ?? "60s") ?? 60_000,
    signal: ctx.signal,
    onConsole: (chunk) => ctx.output("stdout", chunk),
    onStep: (title) => ctx.progress(undefined, title),
    running: () => host.libvirt.domains.isActive(domain, { signal: ctx.signal }),
  });
  for (const one of verified.defects)
    ctx.log("warn", `${deployment.address}: its console tells of a defect: ${one.title}`);
  return verified;
}
