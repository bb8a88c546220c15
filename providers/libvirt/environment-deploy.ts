import { dirname } from "node:path/posix";
import { type Address, LabError, type OperationContext, parseDuration, sh, shJoin } from "../../src/index.ts";
import {
  type Deployment,
  ENVIRONMENTS,
  hostKeyFile,
  makeLayers,
  modelOf,
  prune,
  transfer,
} from "./environment-place.ts";
import { logIn } from "./environment-ssh.ts";
import { removeConsole } from "./console-record.ts";
import { type Verified, verifyBoot } from "./environment-verify.ts";
import { qemuHost, type QemuHost } from "./host-facts.ts";
import { uuidOf } from "./model/ids.ts";
import type { VmModel } from "./model/vm.ts";
import { type Domain, DomainUndefine, DomainXml, isLibvirtError, VirErr } from "./rpc/index.ts";
import { observeDomain } from "./xml/domain-observe.ts";
import { buildDomain } from "./xml/domain.ts";

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
  const fresh = log === undefined ? [] : [sh`mkdir -p -- ${dirname(log)}`, removeConsole(log)];
  await host.machine.exec(shJoin([...fresh, sh`rm -f -- ${hostKeyFile(deployment.instance_id)}`]), options);
  await makeLayers(ctx, host, deployment.address, model);
  const domain = await domains.define(buildDomain(model), options);
  return domains.create(domain, options);
}

/** Stops and undefines what this state made there; nothing where there is none. */
export async function stop(host: QemuHost, instance_id: string, signal: AbortSignal): Promise<void> {
  const domain = await findDomain(host, instance_id, signal);
  if (domain === undefined) return;
  const { domains } = host.libvirt;
  try {
    const xml = await domains.xml(domain, { flags: DomainXml.INACTIVE, signal });
    const { log } = observeDomain(xml, { running: false, autostart: false }).console;
    if (await domains.isActive(domain, { signal })) await domains.destroy(domain, { signal });
    const flags = DomainUndefine.MANAGED_SAVE | DomainUndefine.SNAPSHOTS_METADATA | DomainUndefine.NVRAM;
    await domains.undefine(domain, { flags, signal });
    // What it said is in the log of the run that followed it.
    if (log !== undefined) await host.machine.exec(removeConsole(log), { signal });
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
      const verified = await ctx.stage("verify", () => verify(ctx, host, deployment, model, domain));
      await prune(ctx, host, deployment, model);
      return verified;
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
    logIn: (signal) => logIn(ctx, host, domain, deployment, { learn: true, signal }),
  });
  for (const one of verified.defects)
    ctx.log("warn", `${deployment.address}: its console tells of a defect: ${one.title}`);
  return verified;
}
