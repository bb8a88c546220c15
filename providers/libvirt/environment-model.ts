import {
  type Infer,
  type ObjectSchema,
  parseSize,
  REQUIRES_SCHEMA,
  SIZE_PATTERN,
  SSH_SCHEMA,
} from "../../src/index.ts";
import { ARCHES } from "./model/arch.ts";
import { sizeSchema } from "./model/vm-parts.ts";

export const environmentSchema = {
  type: "object",
  properties: {
    name: { type: "string", description: "Name of the environment.", "x-labctl": { identity: true } },
    vm: {
      type: "object",
      description: "A virtual machine on one of the lab's QEMU hosts, made for this environment and gone with it.",
      properties: {
        arch: { type: "string", enum: ARCHES, default: "x86_64", description: "Its processor." },
        machine: {
          type: "string",
          pattern: "^[A-Za-z0-9][A-Za-z0-9._-]*$",
          description: "QEMU's machine type. Default: q35, on other processors virt.",
          examples: ["q35", "microvm"],
        },
        cpus: { type: "integer", minimum: 1, maximum: 1024, default: 1, description: "Processors." },
        memory: {
          type: "string",
          pattern: SIZE_PATTERN,
          default: "1GiB",
          description: "Memory.",
          examples: ["2GiB"],
          "x-labctl": { unit: "size" },
        },
        host: {
          type: "string",
          description: "The QEMU host that it must be on. Or say what it `requires`, and labctl selects one.",
          examples: ["kvm-1"],
          "x-labctl": { refers: "host" },
        },
        requires: REQUIRES_SCHEMA,
        networks: {
          type: "array",
          items: { type: "string", minLength: 1, "x-labctl": { refers: "network" } },
          description:
            "Its network cards, each the name of one of `networks:`. It is put on the host that these are on, and they all have to be on one.",
          examples: [["test"]],
        },
        disks: {
          type: "array",
          items: {
            type: "object",
            properties: { size: { ...sizeSchema, description: "How large it is.", examples: ["4GiB"] } },
            required: ["size"],
            additionalProperties: false,
          },
          description: "Empty disks besides its root file system, made anew for each deployment and gone with it.",
          examples: [[{ size: "4GiB" }]],
        },
      },
      additionalProperties: false,
    },
    boot: {
      type: "object",
      description: "What it boots, and when it counts as up.",
      properties: {
        kernel: {
          type: "string",
          minLength: 1,
          description: "An artifact of a build, or a file here.",
          examples: ["${build.kasan.kernel_image}", "./bzImage"],
          "x-labctl": { path: true },
        },
        initrd: {
          type: "string",
          minLength: 1,
          description: "Its initial RAM disk: an artifact of a build, or a file here.",
          examples: ["${build.tools.initrd}", "./rootfs.cpio.gz"],
          "x-labctl": { path: true },
        },
        rootfs: {
          type: "string",
          minLength: 1,
          description:
            "Its root file system, an image in the raw or the qcow2 format: an artifact of a build, or a file here. It is the machine's first disk (/dev/vda). What the machine writes is gone with the deployment: each begins with the image as it is.",
          examples: ["${build.distro.rootfs}", "./rootfs.ext4"],
          "x-labctl": { path: true },
        },
        modules: {
          type: "string",
          minLength: 1,
          description:
            "The kernel's modules, as a tar archive (also gzipped): an artifact of a build, or a file here. They come into the initial RAM disk (`initrd`), as /lib/modules and the kernel's release; a root file system that it goes on to has its own.",
          examples: ["${build.kasan.kernel_modules}", "./modules.tar.gz"],
          "x-labctl": { path: true },
        },
        artifact: {
          type: "object",
          description: "A kernel that was built before, in place of `kernel`.",
          properties: {
            build: { type: "string", description: "A build's id, or the beginning of one." },
            commit: { type: "string", description: "A commit, or the beginning of one." },
            branch: { type: "string", description: "A branch or tag." },
            name: { type: "string", description: "The build's name." },
            arch: { type: "string", enum: ARCHES, description: "What it was built for. Default: the machine's." },
            latest: { type: "boolean", description: "The completed build that finished last." },
          },
          additionalProperties: false,
          examples: [{ branch: "linux-6.1.y", latest: true }],
        },
        cmdline: {
          type: "string",
          description:
            "The kernel's command line. It must name the serial console, or nothing can be seen of the boot. Default: `console=ttyS0`; of arm64 and armv7, `console=ttyAMA0`. With a `rootfs` and no `root=` in it, `root=/dev/vda rw` is added.",
          examples: ["console=ttyS0 kasan_multi_shot"],
        },
        release: {
          type: "string",
          description: "What the kernel must say it is. Default: what its build or its image says.",
          examples: ["${build.kasan.release}"],
        },
        ready: {
          anyOf: [
            { type: "string", enum: ["init", "login", "ssh"] },
            {
              type: "object",
              properties: {
                marker: { type: "string", minLength: 1, description: "A text that a line of the console holds." },
              },
              required: ["marker"],
              additionalProperties: false,
            },
          ],
          default: "init",
          description:
            "What says that it is up: user space begins (`init`), a login prompt (`login`), a text on its console, or that it can be logged in to as `ssh` says (`ssh`; it needs one of `vm: { networks }`). With `ssh` its kernel is asked what it is, also where its console is quiet, and each plan logs in to see whether it still can.",
          examples: ["login", "ssh", { marker: "lab ready" }],
        },
        timeout: {
          type: "string",
          description: "How long it may take. Default: the lab's `timeouts: { boot }`, 3m.",
          examples: ["3m"],
          "x-labctl": { unit: "duration" },
        },
        silence: {
          type: "string",
          default: "60s",
          description:
            "A console that says nothing for so long is a hang. With `ready: ssh` that counts until user space has begun.",
          examples: ["30s"],
          "x-labctl": { unit: "duration" },
        },
        attempts: {
          type: "integer",
          minimum: 0,
          maximum: 100,
          default: 1,
          description: "Boots after the first on the same host, before another host is tried.",
          examples: [2],
        },
      },
      oneOf: [{ required: ["kernel"] }, { required: ["artifact"] }],
      dependentRequired: { modules: ["initrd"] },
      additionalProperties: false,
    },
    ssh: {
      ...SSH_SCHEMA,
      description:
        "How it is logged in to, by `labctl ssh` and `labctl exec`, and to see that it is up (`boot: { ready: ssh }`). What is not said here comes from `defaults: { ssh: ... }`, then from ~/.ssh/config; but where there is no `host_key` here, the key that it shows when it is first reached after a boot is pinned until it is booted anew.",
    },
    on_failure: {
      type: "string",
      enum: ["rollback", "keep", "cleanup"],
      default: "cleanup",
      description:
        "When no host boots it: go back to what booted last, keep the failed machine to look at (the error says how to reach its console, and how to let it go), or take it away. Its console is kept in any case. One that runs and was only not seen to be up in time is kept.",
    },
    kernel_digest: { type: "string", description: "SHA-256 of the kernel.", "x-labctl": { derived: true } },
    initrd_digest: { type: "string", description: "SHA-256 of the initial RAM disk.", "x-labctl": { derived: true } },
    rootfs_digest: { type: "string", description: "SHA-256 of the root file system.", "x-labctl": { derived: true } },
    modules_digest: { type: "string", description: "SHA-256 of the modules.", "x-labctl": { derived: true } },
  },
  required: ["name", "vm", "boot"],
  additionalProperties: false,
} as const satisfies ObjectSchema;

/** Told by the console, line by line: one that is still booting must not be taken for one that somebody changed. */
const told = { "x-labctl": { volatile: true } } as const;

export const environmentAttributes = {
  type: "object",
  properties: {
    host: { type: "string", description: "Address of the host that it is on." },
    domain: { type: "string", description: "Its name in libvirt." },
    running: { type: "boolean", description: "Whether it runs." },
    ready: {
      type: "boolean",
      description: "Whether its console says that it came up, and nothing worse since.",
      ...told,
    },
    status: {
      type: "string",
      enum: ["completed", "failed", "unverified"],
      description: "What the machine shows of its deployment: up, dead, or running and not seen to be up.",
      ...told,
    },
    release: { type: "string", description: "What its kernel says on the console that it is.", ...told },
    build_id: {
      type: "string",
      description: "Of a kernel that labctl built: the beginning of its build's digest, as the kernel itself says.",
      ...told,
    },
    kernel_digest: { type: "string", description: "SHA-256 of the kernel that it was started with." },
    initrd_digest: { type: "string", description: "SHA-256 of its initial RAM disk." },
    rootfs_digest: { type: "string", description: "SHA-256 of the image that its root file system began with." },
    modules_digest: { type: "string", description: "SHA-256 of the archive with its modules." },
    cmdline: { type: "string", description: "The kernel's command line." },
    arch: { type: "string", description: "Its processor." },
    machine: { type: "string", description: "QEMU's machine type." },
    cpus: { type: "integer", description: "Processors." },
    memory: { type: "integer", description: "Bytes." },
    networks: { type: "array", items: { type: "string" }, description: "Networks that its cards are in." },
    disks: { type: "array", items: { type: "integer" }, description: "Bytes of each of its empty disks." },
    console: { type: "string", description: "File on the host that records its console." },
    problem: { type: "string", description: "What its console tells of a crash.", ...told },
  },
  required: ["host", "domain", "running", "ready"],
  additionalProperties: false,
} as const satisfies ObjectSchema;

export type EnvironmentDesired = Infer<typeof environmentSchema>;
export type EnvironmentObserved = Infer<typeof environmentAttributes>;

/** The first disk, where there is a root file system. */
const ROOT = "/dev/vda";

/**
 * The kernel's command line: where the spec has none, it names the serial console as kernels of that architecture do; where the spec
 * does not say what the root is, the disk with the root file system. `comes`: whether there is one. Pure.
 */
export function cmdlineOf({ boot, vm }: EnvironmentDesired, comes = boot.rootfs !== undefined): string {
  const { arch } = vm;
  const line = boot.cmdline ?? `console=${arch === "arm64" || arch === "armv7" ? "ttyAMA0" : "ttyS0"}`;
  if (!comes || namesRoot(line)) return line;
  const words = line.split(/\s+/);
  return [line, `root=${ROOT}`, ...(words.includes("ro") || words.includes("rw") ? [] : ["rw"])].join(" ").trim();
}

/** Pure. */
export function namesRoot(cmdline: string | undefined): boolean {
  return /(?:^|\s)root=/.test(cmdline ?? "");
}

/** Bytes of each of its empty disks: whole sectors. Pure. */
export function diskSizesOf({ vm }: EnvironmentDesired): number[] {
  return (vm.disks ?? []).map(({ size }) => Math.ceil((parseSize(size) ?? 0) / 512) * 512);
}
