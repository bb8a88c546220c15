import {
  defineKind,
  type Infer,
  LabError,
  type ObjectSchema,
  type OperationContext,
  type PropertyDiff,
  type ReconcileItem,
  sh,
  ShellText,
  shJoin,
} from "../../src/index.ts";
import { failure, machineOf, readByMachine, readByProbe } from "./common.ts";
import { afterForSysctl } from "./order.ts";
import { runSteps, step, writeStep } from "./steps.ts";

const KEY_PATTERN = "^[A-Za-z0-9_][A-Za-z0-9_:@-]*([./][A-Za-z0-9_:@-]+)+$";

const schema = {
  type: "object",
  properties: {
    key: {
      type: "string",
      pattern: KEY_PATTERN,
      description: "Name of the setting, with dots or slashes as sysctl(8) takes it.",
      "x-labctl": { identity: true },
    },
    value: {
      type: ["string", "number"],
      description: "What it must be. White space counts as one blank.",
      examples: [1, "4096 87380 6291456"],
    },
    persist: {
      type: "boolean",
      default: true,
      description: "Set it at every start too, through a file of its own in /etc/sysctl.d.",
    },
  },
  required: ["key", "value"],
  additionalProperties: false,
} as const satisfies ObjectSchema;

const attributes = {
  type: "object",
  properties: {
    value: { type: "string", description: "What it is now." },
    persisted: {
      type: "string",
      description: "What labctl's file in /etc/sysctl.d sets it to; absent: there is none.",
    },
  },
  required: ["value"],
  additionalProperties: false,
} as const satisfies ObjectSchema;

type Desired = Infer<typeof schema>;
type Observed = Infer<typeof attributes>;
type SysctlItem = ReconcileItem<Desired, Observed>;

export function normalValue(value: string | number): string {
  return String(value).trim().replaceAll(/\s+/g, " ");
}

/** sysctl(8): whichever of dot and slash comes first is the separator; the other stands for itself, swapped. */
export function procPath(key: string): string {
  const slash = key.indexOf("/");
  const dot = key.indexOf(".");
  if (slash >= 0 && (dot < 0 || slash < dot)) return `/proc/sys/${key}`;
  return `/proc/sys/${key.replaceAll(/[./]/g, (separator) => (separator === "." ? "/" : "."))}`;
}

export function persistPath(key: string): string {
  return `/etc/sysctl.d/60-labctl-${procPath(key).slice("/proc/sys/".length).replaceAll("/", ".")}.conf`;
}

/** The name in a file of sysctl.d: with slashes, so that dots in names of interfaces are safe. */
function fileContent(key: string, value: string): string {
  return `# Managed by labctl.\n${procPath(key).slice("/proc/sys/".length)} = ${value}\n`;
}

function script(keys: readonly string[]): ShellText {
  return shJoin([
    new ShellText(String.raw`labctl_sysctl() {
  if [ ! -e "$1" ]; then echo -; else
    labctl_v=$(cat "$1" 2>/dev/null) && printf 'V %s\n' "$(printf %s "$labctl_v" | tr '\n\t' '  ')" || echo '?'
  fi
  if [ -f "$2" ]; then while IFS= read -r labctl_l; do case $labctl_l in '#'*) ;; *=*) printf 'P %s\n' "${"$"}{labctl_l#*=}"; break ;; esac; done <"$2"; fi
  echo .
}`),
    ...keys.map((key) => sh`labctl_sysctl ${procPath(key)} ${persistPath(key)}`),
  ]);
}

const probe = {
  script: (group: readonly { readonly desired: Desired }[]) => script(group.map((item) => item.desired.key)),
  parse(lines: readonly string[], group: readonly { readonly desired: Desired }[]) {
    let at = 0;
    return group.map(() => {
      const block: string[] = [];
      for (let line = lines[at++]; line !== undefined && line !== "."; line = lines[at++]) block.push(line);
      const value = block.find((line) => line.startsWith("V "));
      const persisted = block.find((line) => line.startsWith("P "));
      if (block[0] === "?") {
        const why = new LabError("E_SUDO", "the setting cannot be read by this login, or not at all (write-only)");
        return { is: "unreachable" as const, why };
      }
      if (value === undefined) return { is: "absent" as const };
      return {
        is: "present" as const,
        value: {
          value: normalValue(value.slice(2)),
          ...(persisted !== undefined && { persisted: normalValue(persisted.slice(2)) }),
        },
      };
    });
  },
};

function diffSysctl(desired: Desired, observed: Observed): PropertyDiff[] {
  const out: PropertyDiff[] = [];
  const wanted = normalValue(desired.value);
  if (observed.value !== wanted) out.push({ path: "value", before: observed.value, after: wanted });
  const persisted = desired.persist === false ? undefined : wanted;
  if (observed.persisted !== persisted) {
    out.push({
      path: "persist",
      ...(observed.persisted !== undefined && { before: observed.persisted }),
      ...(persisted !== undefined && { after: persisted }),
    });
  }
  return out;
}

async function set(
  ctx: OperationContext,
  item: SysctlItem,
  value: string | undefined,
  persisted: string | undefined | false,
): Promise<void> {
  const { key } = item.desired;
  const failed = await runSteps(
    ctx,
    item,
    [
      ...(value === undefined ? [] : [step("value", "labctl_into", procPath(key), value)]),
      ...(persisted === undefined
        ? []
        : persisted === false
          ? [step("persist", "rm", "-f", "--", persistPath(key))]
          : [
              step("persist", "mkdir", "-p", "/etc/sysctl.d"),
              writeStep("persist", persistPath(key), fileContent(key, persisted)),
            ]),
    ],
    `setting ${key}`,
  );
  if (failed === undefined) return;
  if (failed.step === "value" && /Invalid argument|Numerical result/i.test(failed.text)) {
    throw new LabError("E_MISMATCH", `the kernel refuses ${JSON.stringify(value)} for ${key}: ${failed.text}`, {
      address: item.address,
      hint: "see Documentation/admin-guide/sysctl of the kernel for what it takes",
    });
  }
  throw failure(`${key} cannot be set (${failed.step}): ${failed.text}`, failed.text).atAddress(item.address);
}

export const sysctl = defineKind({
  kind: "sysctl",
  title: "A kernel setting on a host",
  description: [
    "A setting under /proc/sys, now and (unless `persist: false`) at every start. Deleting gives the former value back and",
    "removes labctl's file; the system's own files are never changed.",
  ].join("\n"),
  section: {
    name: "sysctl",
    within: "host",
    shape: "map",
    key: "key",
    keySchema: { type: "string", pattern: KEY_PATTERN },
  },
  schema,
  attributes,
  ownership: "shared",
  after: (_desired, siblings) => afterForSysctl(siblings),
  readMany: (ctx, items) => readByMachine(ctx, items, probe),
  diff: ({ desired, observed }) => diffSysctl(desired, observed),
  async reconcile(ctx, item) {
    const { desired, observed } = item;
    if (observed === undefined) {
      throw new LabError("E_MISMATCH", `this kernel has no setting ${desired.key}`, {
        address: item.address,
        hint: "correct the name, or declare the kernel module that brings it under `modules:`",
      });
    }
    const changes = new Map(diffSysctl(desired, observed).map((change) => [change.path, change.after]));
    const wanted = normalValue(desired.value);
    const persisted = desired.persist === false ? false : wanted;
    await set(ctx, item, changes.has("value") ? wanted : undefined, changes.has("persist") ? persisted : undefined);
    const [reading] = await readByProbe(ctx, machineOf(ctx, item), [item], probe);
    if (reading?.is === "present") {
      const left = diffSysctl(desired, reading.value);
      if (left.length === 0) return reading.value;
      const now = `it is ${JSON.stringify(reading.value.value)}`;
      throw new LabError("E_MISMATCH", `${desired.key} did not become ${JSON.stringify(wanted)}: ${now}`, {
        address: item.address,
        hint: "the kernel may round or limit it, or something else on the host sets it",
      });
    }
    throw reading?.is === "unreachable" ? reading.why : new LabError("E_MISMATCH", `${desired.key} is gone`);
  },
  async delete(ctx, item) {
    const { observed } = item;
    const original = item.prior?.original;
    if (observed === undefined) {
      await set(ctx, item, undefined, original?.persisted ?? false);
      return;
    }
    const back = original !== undefined && original.value !== observed.value ? original.value : undefined;
    await set(ctx, item, back, original?.persisted ?? false);
  },
  manualCleanup: (item) =>
    `on the host, remove ${persistPath(item.desired.key)}${item.prior?.original === undefined ? "" : ` and run: sysctl -w '${item.desired.key}=${item.prior.original.value}'`}`,
  fromImportId: (id) => ({ key: id }),
});
