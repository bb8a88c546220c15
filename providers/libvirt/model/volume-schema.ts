import { type Infer, type ObjectSchema, SIZE_PATTERN } from "../../../src/index.ts";
import { ABSOLUTE, cloudInitSchema } from "./vm-parts.ts";

/** Properties of `volumes:`, as users write them. */
export const volumeSchema = {
  type: "object",
  properties: {
    name: { type: "string", description: "Name of the volume.", "x-labctl": { identity: true } },
    host: {
      type: "string",
      minLength: 1,
      description: "The QEMU host that it is on.",
      examples: ["kvm-1"],
      "x-labctl": { replace: true, refers: "host" },
    },
    pool: {
      type: "string",
      pattern: "^[A-Za-z0-9][A-Za-z0-9_.-]*$",
      default: "default",
      description: "libvirt's storage pool that it is in. One that is not there is made where `pool_path` says.",
      "x-labctl": { replace: true },
    },
    pool_path: {
      type: "string",
      pattern: ABSOLUTE,
      description:
        "Directory of the pool on the host. Default: what the pool has; /var/lib/libvirt/images for `default`.",
      examples: ["/srv/images"],
      "x-labctl": { replace: true },
    },
    source: {
      type: "string",
      minLength: 1,
      description: "A local image file, brought to the host. Another content replaces the volume.",
      examples: ["./images/base.qcow2"],
      "x-labctl": { replace: true, path: true },
    },
    format: {
      type: "string",
      enum: ["qcow2", "raw"],
      default: "qcow2",
      description: "What the file is. A `source` must be of this format.",
      "x-labctl": { replace: true },
    },
    size: {
      type: "string",
      pattern: SIZE_PATTERN,
      description: "How large it is to a machine. It grows, and does not shrink. Default: as the image.",
      examples: ["20GiB"],
      "x-labctl": { unit: "size" },
    },
    backing: {
      type: "string",
      minLength: 1,
      description: "Another of `volumes:` in the same pool: this one holds only what differs from it.",
      examples: ["base"],
      "x-labctl": { replace: true, refers: "volume" },
    },
    seed: {
      ...cloudInitSchema,
      description: "Makes it a cloud-init seed (NoCloud), for machines that several share or that are not labctl's.",
      examples: [{ user_data: "#cloud-config\nhostname: scratch\n" }],
      "x-labctl": { replace: true },
    },
    digest: {
      type: "string",
      description: "SHA-256 of what is in it: the source file, or the seed.",
      "x-labctl": { derived: true, replace: true },
    },
  },
  required: ["name", "host"],
  additionalProperties: false,
} as const satisfies ObjectSchema;

export type VolumeDesired = Infer<typeof volumeSchema>;
