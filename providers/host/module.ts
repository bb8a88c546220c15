import {
  defineKind,
  type Infer,
  LabError,
  type ObjectSchema,
  type OperationContext,
  type PropertyDiff,
  type ReconcileItem,
  type ShellText,
} from "../../src/index.ts";
import { failure, machineOf, readByMachine, readByProbe } from "./common.ts";
import {
  loadPath,
  type ModuleFacts,
  modulesScript,
  optionsLine,
  optionsPath,
  optionText,
  parseModules,
  sameOption,
} from "./module-script.ts";
import { afterForModule } from "./order.ts";
import { runSteps, step, writeStep } from "./steps.ts";

const NAME_PATTERN = "^[A-Za-z0-9][A-Za-z0-9_-]*$";

const schema = {
  type: "object",
  properties: {
    name: {
      type: "string",
      pattern: NAME_PATTERN,
      description: "Name of the kernel module.",
      "x-labctl": { identity: true },
    },
    options: {
      type: "object",
      propertyNames: { type: "string", pattern: "^[A-Za-z0-9_.-]+$" },
      additionalProperties: {
        anyOf: [{ type: "string", pattern: '^[^\\s"#\\\\]*$' }, { type: "number" }, { type: "boolean" }],
      },
      description: "Parameters it is loaded with. Default: left as they are.",
      examples: [{ max_loop: 64 }],
    },
    persist: {
      type: "boolean",
      default: true,
      description: "Load it at every start, through /etc/modules-load.d. Options always go to /etc/modprobe.d.",
    },
  },
  required: ["name"],
  additionalProperties: false,
} as const satisfies ObjectSchema;

const attributes = {
  type: "object",
  properties: {
    loaded: { type: "boolean", description: "Whether the running kernel has it, loaded or built in." },
    builtin: { type: "boolean", description: "Whether it is built into the kernel." },
    persist: { type: "boolean", description: "Whether labctl's file has it loaded at every start." },
    options: {
      type: "object",
      additionalProperties: { type: "string" },
      description: "Its parameters: live ones where sysfs shows them, else those of labctl's file.",
    },
    configured: {
      type: "object",
      additionalProperties: { type: "string" },
      description: "The parameters in labctl's file in /etc/modprobe.d.",
    },
  },
  required: ["loaded", "builtin", "persist", "options", "configured"],
  additionalProperties: false,
} as const satisfies ObjectSchema;

type Desired = Infer<typeof schema>;
type Observed = Infer<typeof attributes>;
type ModuleItem = ReconcileItem<Desired, Observed>;

function observedOf(facts: ModuleFacts): Observed {
  return {
    loaded: facts.loaded,
    builtin: facts.builtin,
    persist: facts.persisted,
    options: { ...facts.configured, ...facts.live },
    configured: { ...facts.configured },
  };
}

const probe = {
  script: (group: readonly { readonly desired: Desired }[]): ShellText =>
    modulesScript(group.map(({ desired }) => ({ name: desired.name, options: Object.keys(desired.options ?? {}) }))),
  parse: (lines: readonly string[], group: readonly unknown[]) =>
    parseModules(lines, group.length).map((facts) =>
      facts.loaded || facts.persisted || Object.keys(facts.configured).length > 0
        ? { is: "present" as const, value: observedOf(facts) }
        : { is: "absent" as const },
    ),
};

/** Options that the running module was not loaded with, and those that its file does not have. */
export function diffModule(desired: Desired, observed: Observed): PropertyDiff[] {
  const out: PropertyDiff[] = [];
  if (!observed.loaded) out.push({ path: "loaded", before: false, after: true });
  const persist = desired.persist !== false;
  if (persist !== observed.persist) out.push({ path: "persist", before: observed.persist, after: persist });
  if (desired.options !== undefined) {
    const wanted = Object.fromEntries(Object.entries(desired.options).map(([key, value]) => [key, optionText(value)]));
    const live = Object.entries(wanted).some(([key, value]) => !sameOption(value, observed.options[key] ?? ""));
    const file =
      Object.keys(wanted).length !== Object.keys(observed.configured).length ||
      Object.entries(wanted).some(([key, value]) => observed.configured[key] !== value);
    if (live || file)
      out.push({ path: "options", before: observed.options, after: wanted, effect: live ? "restart" : "update" });
  }
  return out;
}

/** The kernel loads a module with a parameter that it does not have, and only its log tells. */
const PARAMETERS = `m=$1
shift
list=$(modinfo -F parm "$m" 2>/dev/null) || exit 0
for p do
  case $p in dyndbg|async_probe) continue ;; esac
  printf '%s\\n' "$list" | grep -q "^$p:" || { echo "$p"; exit 1; }
done`;

/** Steps that bring a module to what is wanted; pure, so that they are tested as text. */
export function moduleSteps(desired: Desired, observed: Observed | undefined): ShellText[] {
  const { name } = desired;
  const changes = observed === undefined ? [] : diffModule(desired, observed);
  const change = (path: string): PropertyDiff | undefined => changes.find((one) => one.path === path);
  const steps: ShellText[] = [];
  if (
    desired.options !== undefined &&
    Object.keys(desired.options).length > 0 &&
    (observed === undefined || changes.length > 0)
  )
    steps.push(step("parameter", "sh", "-c", PARAMETERS, "sh", name, ...Object.keys(desired.options)));
  if (desired.options !== undefined && (observed === undefined || change("options") !== undefined)) {
    steps.push(step("options", "mkdir", "-p", "/etc/modprobe.d"));
    steps.push(writeStep("options", optionsPath(name), optionsLine(name, desired.options)));
  }
  if (desired.persist !== false && observed?.persist !== true) {
    steps.push(step("persist", "mkdir", "-p", "/etc/modules-load.d"));
    steps.push(writeStep("persist", loadPath(name), `# Managed by labctl.\n${name}\n`));
  }
  if (desired.persist === false && observed?.persist === true)
    steps.push(step("persist", "rm", "-f", "--", loadPath(name)));
  const reload = observed?.loaded === true && change("options")?.effect === "restart";
  if (reload) steps.push(step("unload", "modprobe", "-r", name));
  if (reload || observed?.loaded !== true) steps.push(step("load", "modprobe", name));
  return steps;
}

async function run(ctx: OperationContext, item: ModuleItem, steps: readonly ShellText[]): Promise<void> {
  const { name } = item.desired;
  const failed = await runSteps(ctx, item, steps, `changing the module ${name}`);
  if (failed === undefined) return;
  if (/not found in directory|No such file/i.test(failed.text) && failed.step === "load") {
    throw new LabError("E_MISMATCH", `the running kernel has no module ${name}: ${failed.text}`, {
      address: item.address,
      hint: "correct the name, install the package that brings it, or boot a kernel that has it",
    });
  }
  if (failed.step === "parameter") {
    throw new LabError("E_MISMATCH", `the module ${name} has no parameter ${failed.text}`, {
      address: item.address,
      hint: `correct \`options:\`; \`modinfo -p ${name}\` on the host lists what there is`,
    });
  }
  if (failed.step === "unload") {
    throw new LabError(
      "E_MISMATCH",
      `${name} is in use (or built in), so its options cannot change now: ${failed.text}`,
      {
        address: item.address,
        hint: "the new options are in /etc/modprobe.d; restart the host for them to hold",
      },
    );
  }
  throw failure(`the module ${name} cannot be set up (${failed.step}): ${failed.text}`, failed.text).atAddress(
    item.address,
  );
}

export const module = defineKind({
  kind: "module",
  title: "A kernel module on a host",
  description: [
    "A module that is loaded, now and (unless `persist: false`) at every start, with its options. Options of a loaded module",
    "change by loading it anew, which is refused where it is in use. Deleting unloads it where labctl loaded it and nothing",
    "uses it, and removes labctl's files.",
  ].join("\n"),
  section: {
    name: "modules",
    within: "host",
    shape: "map",
    key: "name",
    keySchema: { type: "string", pattern: NAME_PATTERN },
  },
  schema,
  attributes,
  ownership: "shared",
  after: (_desired, siblings) => afterForModule(siblings),
  readMany: (ctx, items) => readByMachine(ctx, items, probe),
  diff: ({ desired, observed }) => diffModule(desired, observed),
  async reconcile(ctx, item) {
    await run(ctx, item, moduleSteps(item.desired, item.observed));
    const [reading] = await readByProbe(ctx, machineOf(ctx, item), [item], probe);
    if (reading?.is === "unreachable") throw reading.why;
    const left = reading?.is === "present" ? diffModule(item.desired, reading.value) : [{ path: "loaded" }];
    if (reading?.is === "present" && left.length === 0) return reading.value;
    throw new LabError(
      "E_MISMATCH",
      `${left.map((one) => one.path).join(", ")} of ${item.desired.name} did not become what was asked for`,
      {
        address: item.address,
        hint: "see `dmesg` on the host for what the module says",
      },
    );
  },
  async delete(ctx, item) {
    const { name } = item.desired;
    const original = item.prior?.original;
    const steps = [
      ...(original?.persist === true ? [] : [step("persist", "rm", "-f", "--", loadPath(name))]),
      original === undefined || Object.keys(original.configured).length === 0
        ? step("options", "rm", "-f", "--", optionsPath(name))
        : writeStep("options", optionsPath(name), optionsLine(name, original.configured)),
    ];
    await run(ctx, item, steps);
    if (original?.loaded === true || item.observed?.loaded !== true || item.observed.builtin) return;
    const failed = await runSteps(ctx, item, [step("unload", "modprobe", "-r", name)], `unloading ${name}`);
    if (failed !== undefined) ctx.log("warn", `${name} stays loaded until the next start: ${failed.text}`);
  },
  manualCleanup: (item) =>
    `on the host, remove ${loadPath(item.desired.name)} and ${optionsPath(item.desired.name)}, and run: modprobe -r ${item.desired.name}`,
  fromImportId: (id) => ({ name: id }),
});
