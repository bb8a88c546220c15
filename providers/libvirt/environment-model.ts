import { type Infer, type ObjectSchema, REQUIRES_SCHEMA, SIZE_PATTERN } from "../../src/index.ts";
import { ARCHES } from "./model/arch.ts";

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
            "The kernel's command line. It must name the serial console, or nothing can be seen of the boot. Default: `console=ttyS0`; of arm64 and armv7, `console=ttyAMA0`.",
          examples: ["console=ttyS0 kasan_multi_shot"],
        },
        release: {
          type: "string",
          description: "What the kernel must say it is. Default: what its build or its image says.",
          examples: ["${build.kasan.release}"],
        },
        ready: {
          anyOf: [
            { type: "string", enum: ["init", "login"] },
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
            "What says that it is up: user space begins (`init`), a login prompt (`login`), or a text on its console.",
          examples: ["login", { marker: "lab ready" }],
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
          description: "A console that says nothing for so long is a hang.",
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
      additionalProperties: false,
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
  },
  required: ["name", "vm", "boot"],
  additionalProperties: false,
} as const satisfies ObjectSchema;

export const environmentAttributes = {
  type: "object",
  properties: {
    host: { type: "string", description: "Address of the host that it is on." },
    domain: { type: "string", description: "Its name in libvirt." },
    running: { type: "boolean", description: "Whether it runs." },
    ready: { type: "boolean", description: "Whether its console says that it came up, and nothing worse since." },
    status: {
      type: "string",
      enum: ["completed", "failed", "unverified"],
      description: "What the machine shows of its deployment: up, dead, or running and not seen to be up.",
    },
    release: { type: "string", description: "What its kernel says on the console that it is." },
    build_id: {
      type: "string",
      description: "Of a kernel that labctl built: the beginning of its build's digest, as the kernel itself says.",
    },
    kernel_digest: { type: "string", description: "SHA-256 of the kernel that it was started with." },
    initrd_digest: { type: "string", description: "SHA-256 of its initial RAM disk." },
    cmdline: { type: "string", description: "The kernel's command line." },
    arch: { type: "string", description: "Its processor." },
    machine: { type: "string", description: "QEMU's machine type." },
    cpus: { type: "integer", description: "Processors." },
    memory: { type: "integer", description: "Bytes." },
    console: { type: "string", description: "File on the host that records its console." },
    problem: { type: "string", description: "What its console tells of a crash." },
  },
  required: ["host", "domain", "running", "ready"],
  additionalProperties: false,
} as const satisfies ObjectSchema;

export type EnvironmentDesired = Infer<typeof environmentSchema>;
export type EnvironmentObserved = Infer<typeof environmentAttributes>;

/** The kernel's command line: where the spec has none, it names the serial console as kernels of that architecture do. Pure. */
export function cmdlineOf({ boot, vm }: EnvironmentDesired): string {
  const { arch } = vm;
  return boot.cmdline ?? `console=${arch === "arm64" || arch === "armv7" ? "ttyAMA0" : "ttyS0"}`;
}
