import { type Address, LabError, type OperationContext, type ReconcileItem } from "../../src/index.ts";
import { clear, deploy, findDomain, mark } from "./environment-deploy.ts";
import { bootImages } from "./environment-images.ts";
import type { EnvironmentDesired, EnvironmentObserved } from "./environment-model.ts";
import { libvirtHosts, qemuHost, uriOf } from "./host-facts.ts";

/** What to boot again so that it is as it was when it was seen: nothing of what the spec names now. Undefined: nobody knows. Pure. */
export function wellBoot(
  { boot }: Pick<EnvironmentDesired, "boot">,
  good: EnvironmentObserved,
): EnvironmentDesired["boot"] | undefined {
  const { artifact: _query, initrd: _initrd, rootfs: _rootfs, modules: _modules, ...rest } = boot;
  const { kernel_digest, initrd_digest, rootfs_digest, modules_digest, cmdline, release } = good;
  if (kernel_digest === undefined) return undefined;
  return {
    ...rest,
    kernel: `sha256:${kernel_digest}`,
    ...(initrd_digest !== undefined && { initrd: `sha256:${initrd_digest}` }),
    ...(rootfs_digest !== undefined && { rootfs: `sha256:${rootfs_digest}` }),
    ...(modules_digest !== undefined && { modules: `sha256:${modules_digest}` }),
    ...(cmdline !== undefined && { cmdline }),
    ...(release !== undefined && { release }),
  };
}

function toldOf({ kernel_digest, rootfs_digest }: EnvironmentObserved): string {
  const kernel = `the kernel ${kernel_digest?.slice(0, 12) ?? ""}`;
  return rootfs_digest === undefined ? kernel : `${kernel} with the root file system ${rootfs_digest.slice(0, 12)}`;
}

export async function clearQuietly(ctx: OperationContext, host: Address, instance_id: string): Promise<void> {
  try {
    await clear(await qemuHost(ctx, host), instance_id, ctx.signal);
  } catch (error) {
    ctx.log(
      "warn",
      `what is left on ${host} could not be taken away: ${error instanceof Error ? error.message : String(error)}`,
    );
  }
}

/** What to do with a deployment that no host booted. */
export async function afterFailure(
  ctx: OperationContext,
  item: ReconcileItem<EnvironmentDesired, EnvironmentObserved>,
  error: LabError,
): Promise<LabError> {
  const how = item.desired.on_failure ?? "cleanup";
  const good = item.prior?.observed;
  const boot = good && wellBoot(item.desired, good);
  const hosts = libvirtHosts(ctx);
  if (how === "rollback" && good !== undefined && boot !== undefined) {
    const desired: EnvironmentDesired = { ...item.desired, boot };
    try {
      await ctx.stage("rollback", async () =>
        deploy(ctx, good.host, {
          address: item.address,
          instance_id: item.instance_id,
          desired,
          images: await bootImages(ctx, item.address, desired),
        }),
      );
      await mark(ctx, "rolled_back", { host: good.host });
      return new LabError(error.code, `${error.message}\nrolled back to ${toldOf(good)} on ${good.host}`, {
        address: item.address,
        ...(error.hint !== undefined && { hint: error.hint }),
        cause: error,
      });
    } catch (cause) {
      ctx.log("error", `the rollback failed too: ${cause instanceof Error ? cause.message : String(cause)}`);
    }
  }
  const offer =
    how !== "rollback" && good?.ready === true && boot !== undefined
      ? [`\`labctl rollback ${item.address}\` goes back to what booted last`]
      : [];
  // What runs, and only was not seen to be up, may yet be.
  if (how === "keep" || error.code === "E_BOOT_UNVERIFIED")
    return hinted(error, item.address, [...(await keptHint(ctx, item, hosts)), ...offer]);
  for (const host of hosts) await clearQuietly(ctx, host, item.instance_id);
  await ctx.scheduler.release(item.address);
  return hinted(error, item.address, offer);
}

/** How to look at a machine that is left as it is, and how to let it go. Empty where nothing of it is there. */
async function keptHint(
  ctx: OperationContext,
  item: ReconcileItem<EnvironmentDesired, EnvironmentObserved>,
  hosts: readonly Address[],
): Promise<string[]> {
  for (const address of hosts) {
    try {
      const domain = await findDomain(await qemuHost(ctx, address), item.instance_id, ctx.signal);
      if (domain === undefined) continue;
      return [
        `it is kept on ${address}: \`labctl ssh ${address}\`, and there \`virsh -c ${uriOf(ctx, address)} console ${domain.name}\``,
        `\`labctl destroy --target ${item.address}\` lets it go`,
      ];
    } catch (error) {
      if (!(error instanceof LabError) || ctx.signal.aborted) throw error;
    }
  }
  return [];
}

function hinted(error: LabError, address: Address, more: readonly string[]): LabError {
  if (more.length === 0) return error;
  return new LabError(error.code, error.message, {
    address,
    hint: [...(error.hint === undefined ? [] : [error.hint]), ...more].join("; "),
    retryable: error.retryable,
    cause: error,
  });
}
