import { formatSize, type Infer, type ObjectSchema, parseSize, SIZE_PATTERN } from "../../../src/index.ts";

/** The lab's `limits:`: the most that all that labctl makes in this lab may have together. */
export const limitsSchema = {
  type: "object",
  properties: {
    memory: {
      type: "string",
      pattern: SIZE_PATTERN,
      description: "Memory of all machines.",
      examples: ["16GiB"],
      "x-labctl": { unit: "size" },
    },
    cpus: { type: "integer", minimum: 1, description: "Processors of all machines.", examples: [16] },
    disk: {
      type: "string",
      pattern: SIZE_PATTERN,
      description: "Size of all disks and volumes.",
      examples: ["100GiB"],
      "x-labctl": { unit: "size" },
    },
    environments: { type: "integer", minimum: 1, description: "Environments that are up at once.", examples: [8] },
  },
  additionalProperties: false,
} as const satisfies ObjectSchema;

export type Limits = Infer<typeof limitsSchema>;

export interface Demand {
  readonly address: string;
  readonly cpus: number;
  /** Bytes. */
  readonly memory: number;
  /** Bytes. */
  readonly disk: number;
}

/** What goes beyond the limits of the lab, in words; empty: nothing. */
export function beyondLimits(limits: Limits, demands: readonly Demand[]): string[] {
  const sum = (key: "cpus" | "memory" | "disk"): number => demands.reduce((total, one) => total + one[key], 0);
  const out: string[] = [];
  if (limits.cpus !== undefined && sum("cpus") > limits.cpus) {
    out.push(`${sum("cpus")} processors, of ${limits.cpus}`);
  }
  for (const key of ["memory", "disk"] as const) {
    const text = limits[key];
    const most = text === undefined ? undefined : parseSize(text);
    if (most !== undefined && sum(key) > most) out.push(`${formatSize(sum(key))} of ${key}, of ${formatSize(most)}`);
  }
  return out;
}
