import { open } from "node:fs/promises";
import { type Address, type BuildRecord, type KindContext, LabError } from "../../src/index.ts";
import type { EnvironmentDesired } from "./environment-model.ts";
import type { Arch } from "./model/arch.ts";
import { KERNEL_HEAD, type KernelInfo, readKernel, requireKernel } from "./model/kernel-image.ts";

/** Something to boot from: in the store, or a file here. */
export interface BootFile {
  readonly sha256: string;
  /** Absolute; absent: it is in the store. */
  readonly file?: string;
  /** The build that made it. */
  readonly build?: BuildRecord;
}

export interface BootImages {
  readonly kernel: BootFile & { readonly info: KernelInfo };
  readonly initrd?: BootFile;
  /** What `uname -r` must say; undefined: nobody can know. */
  readonly release?: string;
  /** What /proc/version must say after `labctl@`; undefined: the kernel is not one of labctl's kernel builds. */
  readonly buildId?: string;
}

/** Digits of a build's digest that its kernel carries in KBUILD_BUILD_HOST. */
const BUILD_ID_LENGTH = 16;

const DIGEST = /^sha256:([0-9a-f]{64})$/;

/**
 * Finds what is booted, and refuses what cannot be booted on such a machine, before anything is touched. Throws E_ARTIFACT_NOT_FOUND,
 * E_SOURCE_FILE, E_IMAGE_FORMAT, E_IMAGE_ARCH.
 */
export async function bootImages(ctx: KindContext, address: Address, desired: EnvironmentDesired): Promise<BootImages> {
  const kernel = await kernelOf(ctx, address, desired);
  const { boot } = desired;
  const initrd = boot.initrd === undefined ? undefined : await resolveFile(ctx, boot.initrd);
  const built = kernel.build?.inputs["release"];
  const release = boot.release ?? (typeof built === "string" ? built : kernel.info.release);
  return {
    kernel,
    ...(initrd !== undefined && { initrd }),
    ...(release !== undefined && { release }),
    ...buildIdOf(kernel.build),
  };
}

/** Only a kernel build knows a release: what `run` made says of itself what it likes. Pure. */
export function buildIdOf(build: BuildRecord | undefined): { readonly buildId?: string } {
  return typeof build?.inputs["release"] === "string" ? { buildId: build.id.slice(0, BUILD_ID_LENGTH) } : {};
}

/**
 * Digests of what the spec names by a path or by a query. What it names by digest (`sha256:...`, an artifact of a build) is not repeated,
 * and what a build is yet to make (`unknown`) is not looked at.
 */
export async function derivedDigests(
  ctx: KindContext,
  address: Address,
  desired: EnvironmentDesired,
  unknown: ReadonlySet<string>,
): Promise<{ kernel_digest?: string; initrd_digest?: string }> {
  const { kernel, initrd } = desired.boot;
  const looked = unknown.has("boot.kernel") ? undefined : await kernelOf(ctx, address, desired);
  const initrdFile =
    initrd === undefined || digestOf(initrd) !== undefined ? undefined : await resolveFile(ctx, initrd);
  return {
    ...(looked !== undefined && digestOf(kernel) === undefined && { kernel_digest: looked.sha256 }),
    ...(initrdFile !== undefined && { initrd_digest: initrdFile.sha256 }),
  };
}

/** The digest that a text such as `sha256:...` names. */
export function digestOf(text: string | undefined): string | undefined {
  return text === undefined ? undefined : DIGEST.exec(text)?.[1];
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
  if (file.build !== undefined && file.build.arch !== arch) {
    throw new LabError(
      "E_IMAGE_ARCH",
      `the build ${file.build.name} (${file.build.id.slice(0, 12)}) is for ${file.build.arch}, and the machine is ${arch}`,
      { address, hint: `boot a build for ${arch}, or set \`vm: { arch: ${file.build.arch} }\`` },
    );
  }
  const info = readKernel(await head(ctx, file));
  requireKernel(info, { arch, address, path: boot.kernel ?? "the artifact" });
  return { ...file, info };
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

async function resolveFile(ctx: KindContext, text: string): Promise<BootFile> {
  const sha256 = digestOf(text);
  if (sha256 === undefined) {
    const file = ctx.local.resolve(text);
    return { file, sha256: (await ctx.local.digest(text)).sha256 };
  }
  if ((await ctx.artifacts.info(sha256)) === undefined) {
    throw new LabError("E_ARTIFACT_NOT_FOUND", `the artifact ${sha256.slice(0, 12)} is not in the store`, {
      hint: "build it again: `labctl apply` with its build selected",
    });
  }
  const builds = await ctx.artifacts.builds();
  const build = builds.find((one) => Object.values(one.artifacts).some((artifact) => artifact.sha256 === sha256));
  return { sha256, ...(build !== undefined && { build }) };
}

async function head(ctx: KindContext, file: BootFile): Promise<Buffer> {
  if (file.file !== undefined) {
    const handle = await open(file.file, "r");
    try {
      const { buffer, bytesRead } = await handle.read(Buffer.alloc(KERNEL_HEAD), 0, KERNEL_HEAD, 0);
      return buffer.subarray(0, bytesRead);
    } finally {
      await handle.close();
    }
  }
  const parts: Buffer[] = [];
  let size = 0;
  for await (const part of ctx.artifacts.read(file.sha256, ctx.signal)) {
    parts.push(part);
    size += part.length;
    if (size >= KERNEL_HEAD) break;
  }
  return Buffer.concat(parts).subarray(0, KERNEL_HEAD);
}

/** Puts a file into the store, so that hosts get it by digest. */
export async function store(ctx: KindContext, file: BootFile): Promise<string> {
  if (file.file !== undefined)
    await ctx.artifacts.put({ file: file.file }, { sha256: file.sha256, signal: ctx.signal });
  return file.sha256;
}
