import {
  defineKind,
  type Infer,
  LabError,
  type ObjectSchema,
  type OperationContext,
  parentAddress,
  type PropertyDiff,
  type ReconcileItem,
  type ShellText,
} from "../../src/index.ts";
import { failure, machineOf, readByMachine, readByProbe } from "./common.ts";
import { sha256 } from "./entries.ts";
import { afterAll } from "./order.ts";
import {
  enableCommands,
  markerPath,
  parseServices,
  reloadWords,
  runWords,
  type ServiceFacts,
  servicesScript,
} from "./service-script.ts";
import { runSteps, step, writeStep } from "./steps.ts";

const NAME_PATTERN = "^[A-Za-z0-9][A-Za-z0-9_.@:+-]*$";

const schema = {
  type: "object",
  properties: {
    name: {
      type: "string",
      pattern: NAME_PATTERN,
      description: "Name of the unit or init script; `.service` may be left out.",
      "x-labctl": { identity: true },
    },
    enabled: {
      type: "boolean",
      description: "Whether it is started when the host starts. Default: left as it is.",
      examples: [true],
    },
    running: {
      type: "boolean",
      description: "Whether it runs now. Default: left as it is.",
      examples: [true],
    },
    restart_on: {
      type: "array",
      items: { type: "string" },
      description:
        "Values, normally references to what it reads: it is restarted whenever one of them is another than at its last restart.",
      examples: [["${var.config_version}"]],
    },
  },
  required: ["name"],
  additionalProperties: false,
} as const satisfies ObjectSchema;

const attributes = {
  type: "object",
  properties: {
    enabled: { type: "boolean", description: "Whether it is started when the host starts." },
    running: { type: "boolean", description: "Whether it runs." },
    manager: { type: "string", enum: ["systemd", "openrc", "sysv"], description: "What drives it." },
    unit: {
      type: "string",
      description: "systemd's word for how it is enabled, e.g. static; OpenRC's runlevels that start it; else empty.",
    },
    restarted_for: { type: "string", description: "Digest of `restart_on` at its last restart; empty: none." },
  },
  required: ["enabled", "running", "manager", "unit", "restarted_for"],
  additionalProperties: false,
} as const satisfies ObjectSchema;

type Desired = Infer<typeof schema>;
type Observed = Infer<typeof attributes>;
type ServiceItem = ReconcileItem<Desired, Observed>;

/** Milliseconds for starting and stopping: databases take their time. */
const RUN_MS = 10 * 60_000;

function observedOf({ known: _known, ...facts }: ServiceFacts): Observed {
  return facts;
}

const probe = {
  script: (group: readonly { readonly desired: Desired }[]): ShellText =>
    servicesScript(group.map((item) => item.desired.name)),
  parse: (lines: readonly string[], group: readonly unknown[]) =>
    parseServices(lines, group.length).map((facts) => {
      if (facts === undefined) return undefined;
      return facts.known ? { is: "present" as const, value: observedOf(facts) } : { is: "absent" as const };
    }),
};

function restartDigest(desired: Desired): string | undefined {
  return desired.restart_on === undefined ? undefined : sha256(JSON.stringify(desired.restart_on));
}

export function diffService(desired: Desired, observed: Observed): PropertyDiff[] {
  const out: PropertyDiff[] = [];
  if (desired.enabled !== undefined && desired.enabled !== observed.enabled) {
    out.push({ path: "enabled", before: observed.enabled, after: desired.enabled });
  }
  if (desired.running !== undefined && desired.running !== observed.running) {
    out.push({ path: "running", before: observed.running, after: desired.running });
  }
  const digest = restartDigest(desired);
  if (digest !== undefined && digest !== observed.restarted_for) {
    out.push({
      path: "restart_on",
      ...(observed.restarted_for !== "" && { before: `sha256:${observed.restarted_for}` }),
      after: `sha256:${digest}`,
      effect: "restart",
    });
  }
  return out;
}

/** Steps that bring a service to what is wanted; pure, so that they are tested as text for every manager. */
export function serviceSteps(desired: Desired, observed: Observed): ShellText[] {
  const { name } = desired;
  const { manager } = observed;
  const steps: ShellText[] = [];
  const changes = new Set(diffService(desired, observed).map((change) => change.path));
  const reload = reloadWords(manager, name);
  if (changes.size > 0 && reload !== undefined) steps.push(step("reload", ...reload));
  if (changes.has("enabled")) {
    for (const words of enableCommands(manager, name, desired.enabled === true)) steps.push(step("enable", ...words));
  }
  const restarts = changes.has("restart_on") && observed.running && desired.running !== false;
  if (restarts) steps.push(step("restart", ...runWords(manager, name, "restart")));
  else if (changes.has("running"))
    steps.push(step("run", ...runWords(manager, name, desired.running === true ? "start" : "stop")));
  const digest = restartDigest(desired);
  // Written last: a run that was cut off before it restarts once more, never once too few.
  if (changes.has("restart_on") && digest !== undefined) {
    steps.push(
      step("mark", "mkdir", "-p", "/var/lib/labctl/services"),
      writeStep("mark", markerPath(name), `${digest}\n`),
    );
  }
  return steps;
}

async function run(
  ctx: OperationContext,
  item: ServiceItem,
  steps: readonly ShellText[],
  manager: string,
): Promise<void> {
  const { name } = item.desired;
  const failed = await runSteps(ctx, item, steps, `driving the service ${name}`, RUN_MS);
  if (failed === undefined) return;
  const verb =
    { enable: "enabled or disabled", run: "started or stopped", restart: "restarted" }[failed.step] ?? failed.step;
  const look =
    manager === "systemd" && /\bmasked\b/.test(failed.text)
      ? `somebody masked it, so that nothing starts it: \`systemctl unmask ${name}\` on the host, if it may run`
      : manager === "systemd"
        ? `see \`journalctl -u ${name}\` on the host`
        : `see the service's log on the host`;
  throw failure(`the service ${name} could not be ${verb}: ${failed.text}`, failed.text, look).atAddress(item.address);
}

/** How long what was started must run to count as running, in milliseconds: systemd calls it started before it does anything. */
const STEADY_MS = 500;

/**
 * Reads until what was asked for shows, for two seconds: a start returns before the process has its pid file. With `steady` it must
 * show for a while.
 */
async function settle(ctx: OperationContext, item: ServiceItem, steady: boolean): Promise<Observed> {
  let paths: readonly string[] = ["name"];
  if (steady) await pause(STEADY_MS, ctx.signal);
  for (let i = 0; i < 8; i++) {
    const [reading] = await readByProbe(ctx, machineOf(ctx, item), [item], probe);
    if (reading?.is === "unreachable") throw reading.why;
    if (reading?.is === "present") {
      paths = diffService(item.desired, reading.value).map((change) => change.path);
      if (paths.length === 0) return reading.value;
    }
    await pause(250, ctx.signal);
  }
  const { name } = item.desired;
  throw new LabError("E_MISMATCH", `${paths.join(", ")} of the service ${name} did not become what was asked for`, {
    address: item.address,
    hint: paths.includes("running")
      ? "it ended again right after its start, or its script cannot tell its status: see its log on the host"
      : "a static unit cannot be enabled; see what starts it",
  });
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => {
      clearTimeout(timer);
      reject(new LabError("E_CANCELLED", "cancelled"));
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", onAbort);
      resolve();
    }, ms);
    if (signal.aborted) onAbort();
    else signal.addEventListener("abort", onAbort, { once: true });
  });
}

export const service = defineKind({
  kind: "service",
  title: "A service on a host",
  description: [
    "Whether a service is started with the host and whether it runs now: through systemd, OpenRC, or plain scripts in",
    "/etc/init.d where neither runs. The service itself comes with a package, which is installed before. Deleting gives back",
    "what was enabled and running before.",
  ].join("\n"),
  section: {
    name: "services",
    within: "host",
    shape: "map",
    key: "name",
    keySchema: { type: "string", pattern: NAME_PATTERN },
  },
  schema,
  attributes,
  ownership: "shared",
  limits: (_desired, address) => [{ name: `${parentAddress(address) ?? "host"}/services`, permits: 1 }],
  after: (_desired, siblings) => afterAll(siblings),
  readMany: (ctx, items) => readByMachine(ctx, items, probe),
  diff: ({ desired, observed }) => diffService(desired, observed),
  async reconcile(ctx, item) {
    // A package that was installed a moment ago may have brought it after the plan was made.
    const [now] = await readByProbe(ctx, machineOf(ctx, item), [item], probe);
    if (now?.is === "unreachable") throw now.why;
    if (now?.is !== "present") {
      throw new LabError("E_MISMATCH", `there is no service ${item.desired.name} on this host`, {
        address: item.address,
        hint: "correct the name, or declare the package that brings it under `packages:`",
      });
    }
    const steps = serviceSteps(item.desired, now.value);
    await run(ctx, item, steps, now.value.manager);
    return settle(ctx, item, steps.length > 0 && item.desired.running === true);
  },
  async delete(ctx, item) {
    const { observed, desired } = item;
    const { name } = desired;
    const original = item.prior?.original;
    const before = item.prior?.desired;
    const steps: ShellText[] = [];
    if (observed !== undefined && original !== undefined) {
      const { manager } = observed;
      const enabled = desired.enabled ?? before?.enabled;
      const running = desired.running ?? before?.running;
      if (enabled !== undefined && observed.enabled !== original.enabled) {
        for (const words of enableCommands(manager, name, original.enabled, original.unit))
          steps.push(step("enable", ...words));
      }
      if (running !== undefined && observed.running !== original.running) {
        steps.push(step("run", ...runWords(manager, name, original.running ? "start" : "stop")));
      }
    }
    steps.push(step("mark", "rm", "-f", "--", markerPath(name)));
    await run(ctx, item, steps, observed?.manager ?? "");
  },
  manualCleanup: (item) => `on the host, enable or stop the service ${item.desired.name} as it was before`,
  fromImportId: (id) => ({ name: id }),
});
