import { type Address, type BuildRecord, formatSize, type KindContext, LabError } from "../../src/index.ts";
import { type BootFile, digestOf, headOf, resolveFile } from "./boot-file.ts";
import { type EnvironmentDesired, namesRoot } from "./environment-model.ts";
import { type ModulesFile, requireModules } from "./environment-modules.ts";
import { localImage } from "./local-image.ts";
import type { Arch } from "./model/arch.ts";
import { fileSystemSize, readImage, requireImage } from "./model/image.ts";
import { KERNEL_HEAD, type KernelInfo, readKernel, requireKernel } from "./model/kernel-image.ts";

export interface BootImages {
  readonly kernel: BootFile & { readonly info: KernelInfo };
  readonly initrd?: BootFile;
  readonly rootfs?: BootFile & { readonly format: "raw" | "qcow2" };
  readonly modules?: ModulesFile;
  /** What `uname -r` must say; undefined: nobody can know. */
  readonly release?: string;
  /** What /proc/version must say after `labctl@`; undefined: the kernel is not one of labctl's kernel builds. */
  readonly buildId?: string;
}

/** Digits of a build's digest that its kernel carries in KBUILD_BUILD_HOST. */
const BUILD_ID_LENGTH = 16;

/**
 * Finds what is booted, and refuses what cannot be booted on such a machine, before anything is touched. Throws E_ARTIFACT_NOT_FOUND,
 * E_SOURCE_FILE, E_IMAGE_FORMAT, E_IMAGE_ARCH, E_SPEC_VALUE.
 */
export async function bootImages(ctx: KindContext, address: Address, desired: EnvironmentDesired): Promise<BootImages> {
  const kernel = await kernelOf(ctx, address, desired);
  const { boot } = desired;
  const initrd = boot.initrd === undefined ? undefined : await resolveFile(ctx, boot.initrd);
  const rootfs = await rootfsOf(ctx, address, desired);
  const release = releaseOf(kernel, desired);
  const modules = await modulesOf(ctx, address, desired, release);
  return {
    kernel,
    ...(initrd !== undefined && { initrd }),
    ...(rootfs !== undefined && { rootfs }),
    ...(modules !== undefined && { modules }),
    ...(release !== undefined && { release }),
    ...buildIdOf(kernel.build),
  };
}

/** Only a kernel build knows a release: what `run` made says of itself what it likes. Pure. */
export function buildIdOf(build: BuildRecord | undefined): { readonly buildId?: string } {
  return typeof build?.inputs["release"] === "string" ? { buildId: build.id.slice(0, BUILD_ID_LENGTH) } : {};
}

function releaseOf(kernel: BootImages["kernel"], { boot }: EnvironmentDesired): string | undefined {
  const built = kernel.build?.inputs["release"];
  return boot.release ?? (typeof built === "string" ? built : kernel.info.release);
}

interface Digests {
  kernel_digest?: string;
  initrd_digest?: string;
  rootfs_digest?: string;
  modules_digest?: string;
}

/**
 * Digests of what the spec names by a path or by a query. What it names by digest (`sha256:...`, an artifact of a build) is not repeated,
 * and what a build is yet to make (`unknown`) is not looked at. Throws as bootImages does.
 */
export async function derivedDigests(
  ctx: KindContext,
  address: Address,
  desired: EnvironmentDesired,
  unknown: ReadonlySet<string>,
): Promise<Digests> {
  const known = (what: string): boolean => !unknown.has(`boot.${what}`);
  const { boot } = desired;
  const kernel = known("kernel") ? await kernelOf(ctx, address, desired) : undefined;
  const initrd =
    boot.initrd === undefined || digestOf(boot.initrd) !== undefined ? undefined : await resolveFile(ctx, boot.initrd);
  const rootfs = known("rootfs") ? await rootfsOf(ctx, address, desired) : undefined;
  const modules =
    kernel !== undefined && known("release") && known("modules")
      ? await modulesOf(ctx, address, desired, releaseOf(kernel, desired))
      : undefined;
  return {
    ...(kernel !== undefined && digestOf(boot.kernel) === undefined && { kernel_digest: kernel.sha256 }),
    ...(initrd !== undefined && { initrd_digest: initrd.sha256 }),
    ...(rootfs !== undefined && digestOf(boot.rootfs) === undefined && { rootfs_digest: rootfs.sha256 }),
    ...(modules !== undefined && digestOf(boot.modules) === undefined && { modules_digest: modules.sha256 }),
  };
}

async function kernelOf(
  ctx: KindContext,
  address: Address,
  desired: EnvironmentDesired,
): Promise<BootImages["kernel"]> {
  const arch: Arch = desired.vm.arch ?? "x86_64";
  const { boot } = desired;
  const file =
    boot.kernel === undefined ? await ofArtifact(ctx, address, desired, arch) : await resolveFile(ctx, boot.kernel);
  requireBuiltFor(file, arch, address);
  const info = readKernel(await headOf(ctx, file, KERNEL_HEAD));
  requireKernel(info, { arch, address, path: boot.kernel ?? "the artifact" });
  return { ...file, info };
}

/** E_IMAGE_ARCH where the build that made it is for another processor. */
function requireBuiltFor(file: BootFile, arch: Arch, address: Address): void {
  if (file.build !== undefined && file.build.arch !== arch) {
    throw new LabError(
      "E_IMAGE_ARCH",
      `the build ${file.build.name} (${file.build.id.slice(0, 12)}) is for ${file.build.arch}, and the machine is ${arch}`,
      { address, hint: `boot a build for ${arch}, or set \`vm: { arch: ${file.build.arch} }\`` },
    );
  }
}

async function rootfsOf(
  ctx: KindContext,
  address: Address,
  { boot, vm }: EnvironmentDesired,
): Promise<BootImages["rootfs"]> {
  if (boot.rootfs === undefined) return undefined;
  const path = boot.rootfs;
  const file = await resolveFile(ctx, path);
  requireBuiltFor(file, vm.arch ?? "x86_64", address);
  const { head, size } = await localImage(ctx, address, path);
  const wrong = (why: string, hint?: string): LabError =>
    new LabError("E_IMAGE_FORMAT", `${path} cannot be a root file system: ${why}`, {
      address,
      ...(hint !== undefined && { hint }),
    });
  const info = (() => {
    try {
      return readImage(head, size);
    } catch (error) {
      throw error instanceof LabError ? wrong(error.message, error.hint) : error;
    }
  })();
  const format = info.format === "qcow2" ? "qcow2" : "raw";
  requireImage(info, { format, address, path });
  const needed = format === "raw" ? fileSystemSize(head) : undefined;
  if (needed !== undefined && needed > size)
    throw wrong(`it is cut off: its file system has ${formatSize(needed)}, and the file ${formatSize(size)}`);
  if (format === "raw" && (info.content === "GPT" || info.content === "MBR") && !namesRoot(boot.cmdline)) {
    throw new LabError("E_SPEC_VALUE", `${path} has partitions (${info.content}), and nothing says which is the root`, {
      address,
      hint: "name it in `cmdline`, such as root=/dev/vda1",
    });
  }
  return { ...file, format };
}

async function modulesOf(
  ctx: KindContext,
  address: Address,
  { boot, vm }: EnvironmentDesired,
  kernel: string | undefined,
): Promise<ModulesFile | undefined> {
  if (boot.modules === undefined) return undefined;
  const file = await resolveFile(ctx, boot.modules);
  requireBuiltFor(file, vm.arch ?? "x86_64", address);
  return await requireModules(ctx, file, { kernel, address, path: boot.modules });
}

async function ofArtifact(
  ctx: KindContext,
  address: Address,
  desired: EnvironmentDesired,
  arch: Arch,
): Promise<BootFile> {
  const query = { arch, ...desired.boot.artifact };
  const { build, artifact } = await ctx.artifacts.findArtifact(query, "kernel_image");
  if (build.status !== "completed" || artifact.partial === true) {
    throw new LabError("E_ARTIFACT_NOT_FOUND", `the build ${build.name} did not complete: its kernel is not deployed`, {
      address,
      hint: "name another build, or build it again",
    });
  }
  return { sha256: artifact.sha256, build };
}
