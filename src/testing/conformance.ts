import assert from "node:assert/strict";
import { LabError } from "../diagnostics/index.ts";
import type { Address, Plain } from "../model/index.ts";
import type { Kind } from "../provider/index.ts";
import type { ExecResult, Machine } from "../transport/index.ts";
import { KindDriver, type Properties, type World } from "./driver.ts";

/** One resource that a kind is tried with. All of it must leave the world as `setup` made it. */
export interface ConformanceCase {
  readonly name: string;
  /** The key under which it would stand in a spec. */
  readonly key: string;
  readonly desired: Properties;
  /** Another wish for the same resource: brings it from `desired` to this and back. */
  readonly changed?: Properties;
  readonly sensitive?: readonly string[];
  /** What is there before labctl comes; called before each check. */
  setup?(): Promise<void> | void;
  /** Removes whatever a check may have left. */
  teardown?(): Promise<void> | void;
  /** The world as something other than labctl sees it: compared before and after. */
  snapshot(): Promise<Plain> | Plain;
  /** Changes one observable property behind labctl's back: the plan must then name exactly the properties given by its key. */
  readonly tamper: Readonly<Record<string, () => Promise<void> | void>>;
  /** Takes the resource away behind labctl's back: it must then read as absent, and the next reconcile makes it again. */
  readonly remove?: () => Promise<void> | void;
  /** Where deleting leaves the world as it is by design, e.g. for commands. */
  readonly deleteKeeps?: boolean;
  /** Times that a reconcile is cut off at a random point; default 8. */
  readonly interruptions?: number;
}

/** One thing that must hold, for any runner: `for (const check of conformance(...)) test(check.name, check.run)`. */
export interface ConformanceCheck {
  readonly name: string;
  run(): Promise<void>;
}

/**
 * What must hold for every kind, on a real machine:
 * reconcile twice gives an empty diff; delete twice succeeds and restores; read changes nothing; cancelling works; an
 * interrupted reconcile can be repeated; and the truth of read: each property that was changed behind labctl's back is
 * named by the next plan, and no other.
 */
export function conformance(kind: Kind, world: World, testCase: ConformanceCase): readonly ConformanceCheck[] {
  const label = `${kind.kind}: ${testCase.name}`;
  const check = (name: string, body: (driver: KindDriver) => Promise<void>): ConformanceCheck => ({
    name: `${label}: ${name}`,
    async run() {
      await testCase.teardown?.();
      await testCase.setup?.();
      const driver = new KindDriver(kind, world, testCase.key);
      driver.sensitive = new Set(testCase.sensitive ?? []);
      try {
        await body(driver);
      } finally {
        await testCase.teardown?.();
      }
    },
  });
  return [
    check("reconcile twice gives an empty diff", (driver) => reconcileTwice(driver, testCase)),
    check("read changes nothing", (driver) => readChangesNothing(driver, testCase)),
    check("delete restores, and deleting twice succeeds", (driver) => deleteTwice(driver, testCase)),
    check("cancel works", (driver) => cancelWorks(driver, testCase)),
    check("an interrupted reconcile can be repeated", (driver) => interrupted(driver, testCase)),
    check("a machine that cannot be reached is not an absent resource", () => unreachable(kind, world, testCase)),
    ...Object.keys(testCase.tamper).map((property) =>
      check(`truth of read: ${property}`, (driver) => truthOfRead(driver, testCase, property)),
    ),
    ...(testCase.remove === undefined
      ? []
      : [check("truth of read: taken away altogether", (driver) => removedReadsAbsent(driver, testCase))]),
  ];
}

async function settled(driver: KindDriver, desired: Properties, why: string): Promise<void> {
  const changes = await driver.plan(desired);
  assert.deepEqual(changes, [], `${why}: the next plan must be empty`);
}

async function reconcileTwice(driver: KindDriver, testCase: ConformanceCase): Promise<void> {
  const { desired, changed } = testCase;
  await driver.apply(desired);
  await settled(driver, desired, "after reconcile");
  const before = await testCase.snapshot();
  await driver.apply(desired);
  await settled(driver, desired, "after a second reconcile");
  assert.deepEqual(await testCase.snapshot(), before, "a second reconcile must change nothing");
  if (changed === undefined) return;
  const changes = await driver.plan(changed);
  assert.ok(changes !== undefined && changes.length > 0, "a changed wish must show in the plan");
  await driver.apply(changed);
  await settled(driver, changed, "after the change");
  await driver.apply(desired);
  await settled(driver, desired, "after changing back");
}

async function readChangesNothing(driver: KindDriver, testCase: ConformanceCase): Promise<void> {
  const before = await testCase.snapshot();
  await driver.read(testCase.desired);
  assert.deepEqual(await testCase.snapshot(), before, "reading before labctl made it");
  await driver.apply(testCase.desired);
  const made = await testCase.snapshot();
  await driver.read(testCase.desired);
  await driver.read(testCase.changed ?? testCase.desired);
  assert.deepEqual(await testCase.snapshot(), made, "reading after labctl made it");
}

async function deleteTwice(driver: KindDriver, testCase: ConformanceCase): Promise<void> {
  const before = await testCase.snapshot();
  await driver.apply(testCase.desired);
  const made = await testCase.snapshot();
  if (testCase.changed !== undefined) {
    await driver.apply(testCase.changed);
    await driver.apply(testCase.desired);
  }
  await driver.destroy(testCase.desired);
  const expected = testCase.deleteKeeps === true ? made : before;
  assert.deepEqual(await testCase.snapshot(), expected, "delete must restore what was there");
  await driver.destroy(testCase.desired);
  assert.deepEqual(await testCase.snapshot(), expected, "a second delete must change nothing");
}

async function cancelWorks(driver: KindDriver, testCase: ConformanceCase): Promise<void> {
  const before = await testCase.snapshot();
  const cancelled = AbortSignal.abort();
  await assert.rejects(driver.read(testCase.desired, cancelled), isCancellation, "a cancelled read");
  await assert.rejects(driver.apply(testCase.desired, cancelled), isCancellation, "a cancelled reconcile");
  assert.deepEqual(await testCase.snapshot(), before, "what was cancelled before it began must change nothing");
}

function isCancellation(error: unknown): boolean {
  return (
    error instanceof Error &&
    (error.name === "AbortError" || (error instanceof LabError && error.code === "E_CANCELLED"))
  );
}

/** Cut off at points spread over the time that a whole one takes, on the same resource again and again. */
async function interrupted(driver: KindDriver, testCase: ConformanceCase): Promise<void> {
  const before = await testCase.snapshot();
  const wishes = [testCase.desired, testCase.changed ?? testCase.desired];
  const started = performance.now();
  await driver.apply(testCase.desired);
  const whole = performance.now() - started;
  const times = testCase.interruptions ?? 8;
  for (let i = 0; i < times; i++) {
    const wish = wishes[(i + 1) % 2] ?? testCase.desired;
    const stop = new AbortController();
    const timer = setTimeout(() => stop.abort(), (whole * (i + Math.random())) / times);
    try {
      await driver.apply(wish, stop.signal);
    } catch (error) {
      if (!isCancellation(error)) throw error;
    } finally {
      clearTimeout(timer);
    }
  }
  await driver.apply(testCase.desired);
  await settled(driver, testCase.desired, "after interruptions");
  const made = await testCase.snapshot();
  await driver.destroy(testCase.desired);
  assert.deepEqual(
    await testCase.snapshot(),
    testCase.deleteKeeps === true ? made : before,
    "delete after interruptions must restore what was there",
  );
}

async function truthOfRead(driver: KindDriver, testCase: ConformanceCase, property: string): Promise<void> {
  await driver.apply(testCase.desired);
  await testCase.tamper[property]?.();
  const changes = await driver.plan(testCase.desired);
  assert.ok(changes !== undefined, "it must not read as absent");
  assert.deepEqual(
    changes.map((change) => change.path).sort(),
    property.split(",").sort(),
    "the plan must name exactly what was changed",
  );
  // What cannot be put right is made anew, as a plan would say.
  if (changes.some((change) => change.effect === "replace")) await driver.replace(testCase.desired);
  else await driver.apply(testCase.desired);
  await settled(driver, testCase.desired, "after repairing it");
}

async function removedReadsAbsent(driver: KindDriver, testCase: ConformanceCase): Promise<void> {
  await driver.apply(testCase.desired);
  await testCase.remove?.();
  assert.equal(await driver.plan(testCase.desired), undefined, "it must read as absent");
  await driver.apply(testCase.desired);
  await settled(driver, testCase.desired, "after making it again");
}

async function unreachable(kind: Kind, world: World, testCase: ConformanceCase): Promise<void> {
  const driver = new KindDriver(kind, { ...world, machine: (address) => deadMachine(address, world) }, testCase.key);
  const reading = await driver.read(testCase.desired);
  assert.equal(reading.is, "unreachable");
}

/** A machine that nobody answers for. */
export function deadMachine(address: Address, world: World): Machine {
  const fail = (): Promise<never> =>
    Promise.reject(new LabError("E_CONNECT", "connection refused", { address, retryable: true }));
  return {
    address,
    connection: world.machine(address).connection,
    exec: fail,
    probe: fail,
    upload: fail,
    download: fail,
    openSocket: fail,
    reboot: fail,
  };
}

/** The same machine, with every call counted: to show that reading many resources takes one round trip. */
export function countingMachine(machine: Machine): Machine & { readonly counts: { exec: number; probe: number } } {
  const counts = { exec: 0, probe: 0 };
  return {
    address: machine.address,
    connection: machine.connection,
    counts,
    exec(command, options): Promise<ExecResult> {
      counts.exec++;
      return machine.exec(command, options);
    },
    probe(script, options): Promise<ExecResult> {
      counts.probe++;
      return machine.probe(script, options);
    },
    upload: (source, target, options) => machine.upload(source, target, options),
    download: (path, options) => machine.download(path, options),
    openSocket: (path, options) => machine.openSocket(path, options),
    reboot: (options) => machine.reboot(options),
  };
}
