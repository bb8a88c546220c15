import {
  type Infer,
  LabError,
  type ObjectSchema,
  type PropertyDiff,
  type KindContext,
  type Reading,
  type ReconcileItem,
} from "../../src/index.ts";
import { type Probe, refuseUnproven } from "./common.ts";
import { packagesScript, type PackageState, parsePackages, versionMatches } from "./package-commands.ts";

export const schema = {
  type: "object",
  properties: {
    name: {
      type: "string",
      pattern: "^[A-Za-z0-9][A-Za-z0-9+._:-]*[A-Za-z0-9+_]$|^[A-Za-z0-9]$",
      description: "Name of the package, for apt with `:ARCHITECTURE` where it is a foreign one.",
      "x-labctl": { identity: true },
    },
    version: {
      type: "string",
      pattern: "^[A-Za-z0-9][A-Za-z0-9.+:~^_-]*\\*?$",
      description:
        "The exact version, as the package manager writes it; `1.2.*` for any that begins so. Default: whatever is installed, else the newest.",
      examples: ["12.9"],
    },
    hold: {
      type: "boolean",
      description: "Keep it from being upgraded (apt only). Default: left as it is.",
      examples: [true],
    },
    recommends: {
      type: "boolean",
      description: "Install what it recommends too. Default: as the system is set up.",
      examples: [false],
    },
  },
  required: ["name"],
  additionalProperties: false,
} as const satisfies ObjectSchema;

export const attributes = {
  type: "object",
  properties: {
    installed: {
      type: "boolean",
      description: "Whether it is wholly installed; false where an installation was cut off or its scripts failed.",
    },
    version: { type: "string", description: "The version that is installed." },
    hold: { type: "boolean", description: "Whether it is kept from being upgraded." },
  },
  required: ["installed", "version", "hold"],
  additionalProperties: false,
} as const satisfies ObjectSchema;

export type Desired = Infer<typeof schema>;
export type PackageItem = ReconcileItem<Desired, PackageState>;

export function diffPackage(desired: Desired, observed: PackageState): PropertyDiff[] {
  const out: PropertyDiff[] = [];
  if (!observed.installed) out.push({ path: "installed", before: false, after: true });
  if (desired.version !== undefined && !versionMatches(desired.version, observed.version)) {
    out.push({ path: "version", before: observed.version, after: desired.version });
  }
  if (desired.hold !== undefined && desired.hold !== observed.hold) {
    out.push({ path: "hold", before: observed.hold, after: desired.hold });
  }
  return out;
}

export function packageProbe(ctx: KindContext): Probe<Desired, PackageState> {
  return {
    script: (group) => packagesScript(group.map((item) => item.desired.name)),
    parse(lines, group): Reading<PackageState>[] {
      const found = parsePackages(lines);
      return group.map((item) => {
        if (found.manager === undefined) return { is: "unreachable", why: noManager() };
        if (found.unproven !== undefined) refuseUnproven(ctx, item, `packages through ${found.unproven}`);
        const state = found.find(item.desired.name);
        return state === undefined ? { is: "absent" } : { is: "present", value: state };
      });
    },
  };
}

export function noManager(): LabError {
  return new LabError("E_PACKAGE", "none of apt, dnf and apk is on this host", {
    hint: "install packages there with a command instead (`commands:`)",
  });
}
