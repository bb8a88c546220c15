import type { Infer, ObjectSchema, Plain, PropertyDiff } from "../../src/index.ts";
import { asPropertyDiffs } from "./model/network.ts";
import { diffRunningVm, diffVm, type VmChange } from "./model/vm-diff.ts";
import type { VmDesired } from "./model/vm-schema.ts";
import type { VmModel } from "./model/vm.ts";
import { HOST_ATTRIBUTE, hostChange } from "./on-host.ts";
import { asPlain, type MadeWith, wantedVm } from "./vm-place.ts";

const moving = { "x-labctl": { volatile: true } } as const;

export const vmAttributes = {
  type: "object",
  properties: {
    host: HOST_ATTRIBUTE,
    libvirt_name: { type: "string", description: "Its name in libvirt, or in QEMU where there is none." },
    uuid: { type: "string", description: "Its UUID there." },
    arch: { type: "string", description: "Processor." },
    machine: { type: "string", description: "QEMU's machine type." },
    acceleration: { type: "string", description: "Whether the host's processor runs it: kvm, emulated, none." },
    cpus: { type: "object", description: "Processors." },
    memory: { type: "object", description: "Bytes that it has, and can have." },
    disks: { type: "array", items: { type: "object" }, description: "Its disks." },
    networks: { type: "array", items: { type: "object" }, description: "Its network cards." },
    console: { type: "object", description: "Where its console is recorded." },
    autostart: { type: "boolean", description: "Whether it starts when the host starts." },
    running: { type: "boolean", description: "Whether it is on." },
    paused: {
      type: "string",
      description:
        "Why it stands still though it is on: `a user`, `an input or output error`, `its watchdog`, or what else libvirt says.",
    },
    transient: {
      type: "boolean",
      description: "True where libvirt has no stored definition of it any more: it is gone when it stops.",
    },
    now: { type: "object", description: "All of it as it runs, or is defined where it does not run.", ...moving },
    stored: {
      type: "object",
      description: "How it will start, where that is another thing than how it runs.",
      ...moving,
    },
    made_with: { type: "object", description: "What it was made with besides its own properties.", ...moving },
  },
  required: ["libvirt_name", "uuid", "arch", "running", "autostart", "now", "made_with"],
  additionalProperties: false,
} as const satisfies ObjectSchema;

export type VmObserved = Infer<typeof vmAttributes>;

export function observedOf(now: VmModel, stored: VmModel | undefined, made: MadeWith): VmObserved {
  return {
    libvirt_name: now.name,
    uuid: now.uuid,
    arch: now.arch,
    machine: now.machine,
    acceleration: now.acceleration,
    cpus: asPlain(now.cpus),
    memory: asPlain(now.memory),
    disks: now.disks.map(asPlain),
    networks: now.networks.map(asPlain),
    console: asPlain(now.console),
    autostart: now.autostart,
    running: now.running,
    now: asPlain(now),
    ...(stored !== undefined && JSON.stringify(stored) !== JSON.stringify(now) && { stored: asPlain(stored) }),
    made_with: asPlain(made),
  };
}

/** What differs, and how it is brought about. */
export function changesOf(desired: VmDesired, observed: VmObserved): readonly VmChange[] {
  return [...standingOf(desired, observed), ...partsOf(desired, observed)];
}

/** What is wrong with how libvirt holds it, whatever it consists of. */
function standingOf(desired: VmDesired, { paused, transient }: VmObserved): readonly VmChange[] {
  return [
    ...(paused !== undefined && desired.running !== false
      ? [{ path: "paused", before: paused, effect: "live" } as const]
      : []),
    ...(transient === true ? [{ path: "transient", before: true, after: false, effect: "live" } as const] : []),
  ];
}

function partsOf(desired: VmDesired, observed: VmObserved): readonly VmChange[] {
  const made = observed.made_with as unknown as MadeWith;
  if (made.disks.length !== (desired.disks?.length ?? 0)) {
    // Without a look at the host nobody knows where the new ones lie.
    return [{ path: "disks", after: (desired.disks ?? []) as Plain, effect: "live" }];
  }
  const wanted = wantedVm(desired, made);
  const now = observed.now as unknown as VmModel;
  if (observed.stored === undefined) return liveFor(made, diffVm(wanted, now), now);
  const stored = observed.stored as unknown as VmModel;
  const running = new Set(diffVm(wanted, now).map((change) => change.path));
  const changes = diffRunningVm(wanted, now, stored);
  return [
    ...liveFor(
      made,
      changes.filter((one) => running.has(one.path)),
      now,
    ),
    ...changes.filter((one) => !running.has(one.path)),
  ];
}

/** What QEMU alone can be told while it runs, in the words of a diff. */
const LIVE_WITHOUT_LIBVIRT = /^(memory\.size|disks\.\d+\.size|autostart|running)$/;

/** Without libvirt fewer changes are live: nobody plugs devices there. */
function liveFor(made: MadeWith, changes: readonly VmChange[], now: VmModel): readonly VmChange[] {
  if (made.folder === undefined || !now.running) return changes;
  return changes.map((one) =>
    one.effect === "live" && !LIVE_WITHOUT_LIBVIRT.test(one.path) ? { ...one, effect: "restart" } : one,
  );
}

export function diffOf(desired: VmDesired, observed: VmObserved): readonly PropertyDiff[] {
  return [...hostChange(desired, observed), ...asPropertyDiffs(changesOf(desired, observed))];
}
