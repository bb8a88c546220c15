import {
  type Address,
  defineKind,
  LabError,
  type Machine,
  type OperationContext,
  type Outcome,
  parentAddress,
  type Reading,
} from "../../src/index.ts";
import {
  asError,
  groupByMachine,
  machineOf,
  readByMachine,
  readByProbe,
  refuseUnproven,
  requireSuccess,
} from "./common.ts";
import { afterForPackage } from "./order.ts";
import {
  holdCommand,
  type Manager,
  packagesScript,
  type PackageState,
  parsePackages,
  relevantLines,
  removalCheck,
  removeCommand,
  versionMatches,
} from "./package-commands.ts";
import { installAll, Installer, text } from "./package-install.ts";
import { attributes, diffPackage, noManager, type PackageItem, packageProbe, schema } from "./package-model.ts";

/** Those that need the package manager; a held or released one alone does not. */
function needsInstall(item: PackageItem): boolean {
  const { observed, desired } = item;
  if (observed === undefined || !observed.installed) return true;
  return desired.version !== undefined && !versionMatches(desired.version, observed.version);
}

async function reconcileHost(
  ctx: OperationContext,
  group: readonly PackageItem[],
  outcomes: Map<Address, Outcome<PackageState>>,
): Promise<void> {
  const [first] = group;
  if (first === undefined) return;
  const machine = machineOf(ctx, first);
  const manager = await managerOf(ctx, machine, first);
  const installer = new Installer(ctx, machine, manager);
  const errors = new Map<Address, Error>();
  const wanted = group.filter(needsInstall);
  if (wanted.length > 0) {
    await installer.prepare(wanted);
    for (const recommends of [undefined, true, false]) {
      const some = wanted.filter((item) => item.desired.recommends === recommends);
      if (some.length > 0) await installAll(installer, some, errors);
    }
    // Killed while it was unpacked, a package is neither configured by dpkg nor installed again by apt unless told so.
    const after = await readByProbe(ctx, machine, wanted, packageProbe(ctx));
    const half = wanted.filter((item, i) => {
      const reading = after[i];
      return reading?.is === "present" && !reading.value.installed && !errors.has(item.address);
    });
    if (half.length > 0) await installAll(installer, half, errors, true);
  }
  for (const item of group) {
    const { hold, name } = item.desired;
    if (hold === undefined || errors.has(item.address) || hold === (item.observed?.hold ?? false)) continue;
    if (manager !== "apt") {
      errors.set(
        item.address,
        new LabError("E_PACKAGE", `${name}: packages can be held with apt only`, {
          address: item.address,
          hint: "remove `hold:`; give a `version:` instead",
        }),
      );
      continue;
    }
    const result = await installer.run(holdCommand(name, hold));
    if (result.code !== 0)
      errors.set(item.address, new LabError("E_PACKAGE", `${name} cannot be held: ${relevantLines(text(result))}`));
  }
  const readings = await readByProbe(ctx, machine, group, packageProbe(ctx));
  for (const [i, item] of group.entries())
    outcomes.set(item.address, outcomeOf(item, readings[i], errors.get(item.address)));
}

function outcomeOf(
  item: PackageItem,
  reading: Reading<PackageState> | undefined,
  error: Error | undefined,
): Outcome<PackageState> {
  if (error !== undefined) return { error };
  if (reading?.is === "unreachable") return { error: reading.why };
  const differing = reading?.is === "present" ? diffPackage(item.desired, reading.value) : [];
  if (reading?.is === "present" && differing.length === 0) return { ok: reading.value };
  const { name } = item.desired;
  return {
    error: new LabError(
      "E_MISMATCH",
      reading?.is === "present"
        ? `${differing.map((d) => d.path).join(", ")} of ${name} did not become what was asked for`
        : `${name} is not installed after it was installed`,
      {
        address: item.address,
        hint: "a virtual package? Then name the one that provides it",
      },
    ),
  };
}

async function managerOf(ctx: OperationContext, machine: Machine, item: PackageItem): Promise<Manager> {
  const result = await machine.exec(packagesScript([item.desired.name]), { signal: ctx.signal });
  const { manager, unproven } = parsePackages(result.stdout.toString("utf8").split("\n"));
  if (manager === undefined) throw noManager();
  if (unproven !== undefined) refuseUnproven(ctx, item, `packages through ${unproven}`);
  return manager;
}

async function reconcileMany(
  ctx: OperationContext,
  items: readonly PackageItem[],
): Promise<ReadonlyMap<Address, Outcome<PackageState>>> {
  const outcomes = new Map<Address, Outcome<PackageState>>();
  for (const group of groupByMachine(items)) {
    try {
      await reconcileHost(ctx, group, outcomes);
    } catch (error) {
      for (const item of group) if (!outcomes.has(item.address)) outcomes.set(item.address, { error: asError(error) });
    }
  }
  return outcomes;
}

async function reconcile(ctx: OperationContext, item: PackageItem): Promise<PackageState> {
  const outcome = (await reconcileMany(ctx, [item])).get(item.address);
  if (outcome === undefined) throw new LabError("E_INTERNAL", "no outcome", { address: item.address });
  if ("error" in outcome) throw outcome.error;
  return outcome.ok;
}

/** Removes what was not there before, unless something else needs it by now; gives version and hold back. */
async function remove(ctx: OperationContext, item: PackageItem): Promise<void> {
  const { observed, desired } = item;
  const { name } = desired;
  const original = item.prior?.original;
  if (observed === undefined) {
    if (original !== undefined)
      ctx.log("warn", `${name} was there before labctl and is gone; it is not installed again`);
    return;
  }
  const machine = machineOf(ctx, item);
  const installer = new Installer(ctx, machine, await managerOf(ctx, machine, item));
  if (original === undefined) {
    await installer.prepare([item]);
    await removeOwn(installer, item);
    return;
  }
  if (original.version !== observed.version && original.installed && desired.version !== undefined) {
    const said = await installer.install([{ ...item, desired: { name, version: original.version } }]);
    if (said !== undefined)
      ctx.log("warn", `${name} stays at ${observed.version}: ${original.version} cannot be had any more`);
  }
  if (original.hold !== observed.hold && installer.manager === "apt") {
    requireSuccess(await installer.run(holdCommand(name, original.hold)), `restoring the hold of ${name}`);
  }
}

async function removeOwn(installer: Installer, item: PackageItem): Promise<void> {
  const { name } = item.desired;
  const { ctx, machine, manager } = installer;
  const check = await machine.exec(removalCheck(manager, name), { signal: ctx.signal });
  const bare = name.replace(/:.*/, "");
  const others = check.stdout
    .toString("utf8")
    .split("\n")
    .map((line) => line.trim());
  const needed = others.filter((other) => other !== "" && other.replace(/:.*/, "") !== bare);
  if (needed.length > 0) {
    ctx.log("warn", `${name} was left: ${needed.slice(0, 5).join(", ")} need${needed.length === 1 ? "s" : ""} it`);
    return;
  }
  const result = await installer.run(removeCommand(manager, name));
  if (result.code !== 0) {
    throw new LabError("E_PACKAGE", `${name} cannot be removed: ${relevantLines(text(result))}`, {
      address: item.address,
      hint: "the whole output is in the run's log",
    });
  }
}

export const packageKind = defineKind({
  kind: "package",
  title: "A package on a host",
  description: [
    "A package of the distribution, through apt or dnf (4), and, with `--experimental`, through dnf 5 or apk, which no test",
    "has seen at work yet. All packages of a host are installed in one run of the package",
    "manager; one that cannot be had does not keep the others from being installed. Lists of packages are read again only",
    "where they are older than a day or do not know a package. An installation that was cut off is finished first.",
    "",
    "Installing never removes other packages. Deleting removes only what was not there before, and only where nothing else",
    "needs it; configuration files stay, and nothing is removed automatically with it.",
  ].join("\n"),
  section: { name: "packages", within: "host", shape: "list", key: "name", keySchema: schema.properties.name },
  schema,
  attributes,
  ownership: "shared",
  limits: (_desired, address) => [{ name: `${parentAddress(address) ?? "host"}/packages`, permits: 1 }],
  after: (_desired, siblings) => afterForPackage(siblings),
  readMany: (ctx, items) => readByMachine(ctx, items, packageProbe(ctx)),
  diff: ({ desired, observed }) => diffPackage(desired, observed),
  reconcile,
  reconcileMany,
  delete: remove,
  manualCleanup: (item) => `on the host, remove the package ${item.desired.name} if nothing needs it`,
  fromImportId: (id) => ({ name: id }),
});
