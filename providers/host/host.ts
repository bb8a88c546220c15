import {
  type ConnectionProperties,
  connectionOf,
  defineKind,
  formatSize,
  type Item,
  type KindContext,
  LabError,
  parseSize,
  type Reading,
} from "../../src/index.ts";
import { type Probe, readByProbe } from "./common.ts";
import { type Facts, factsScript, parseFacts } from "./facts.ts";
import { attributes, type Desired, type Observed, schema } from "./host-model.ts";

const probe: Probe<Desired, Facts> = {
  script: () => factsScript(),
  parse(lines) {
    const facts = parseFacts(lines);
    if (facts === undefined) {
      const why = new LabError("E_COMMAND_FAILED", "the host's facts cannot be read: uname gave nothing", {
        hint: "is this a Linux machine with a POSIX shell as login shell?",
      });
      return [{ is: "unreachable", why }];
    }
    return [{ is: "present", value: facts }];
  },
};

/** A host is its own machine: each item has one probe of its own, and all are asked for before the first await. */
async function readMany(
  ctx: KindContext,
  items: readonly Item<Desired, Observed>[],
): Promise<ReadonlyMap<string, Reading<Observed>>> {
  const readings = items.map(async (item): Promise<[string, Reading<Observed>]> => {
    const [reading] = await readByProbe(ctx, ctx.machine(item.address), [item], probe);
    if (reading === undefined) throw new LabError("E_INTERNAL", "no reading", { address: item.address });
    if (reading.is !== "present") return [item.address, reading];
    const { connection } = ctx.machine(item.address);
    const value = { ...reading.value, address: connection.type === "ssh" ? connection.host : "localhost" };
    warnOfThresholds(ctx, item, value);
    return [item.address, { is: "present", value }];
  });
  return new Map(await Promise.all(readings));
}

function warnOfThresholds(ctx: KindContext, item: Item<Desired, Observed>, value: Observed): void {
  const wanted = item.desired.thresholds?.disk_free;
  const least = wanted === undefined ? undefined : parseSize(wanted);
  if (least !== undefined && value.disk_free < least) {
    ctx.log("warn", `only ${formatSize(value.disk_free)} are free on ${item.address}, less than disk_free: ${wanted}`);
  }
}

export const host = defineKind({
  kind: "host",
  title: "A machine",
  description: [
    "A machine that is reached over SSH (or the one labctl runs on) and everything that is declared on it. labctl reads its",
    "facts in one round trip with all else that stands on it; they can be referred to as `${host.NAME.kernel}`.",
    "",
    "Nothing is changed on the machine for its own sake: making one is checking that it answers and is of the declared",
    "architecture, deleting one leaves it as it is. `labels`, `group`, `maintenance` and `thresholds` are of the spec only.",
  ].join("\n"),
  section: { name: "hosts", shape: "map", key: "name" },
  schema,
  attributes,
  ownership: "shared",
  readMany,
  diff({ desired, observed }) {
    return desired.arch === undefined || desired.arch === observed.arch
      ? []
      : [{ path: "arch", before: observed.arch, after: desired.arch }];
  },
  async reconcile(ctx, item) {
    const reading = (await readMany(ctx, [item])).get(item.address);
    if (reading?.is === "unreachable") throw reading.why;
    if (reading?.is !== "present")
      throw new LabError("E_INTERNAL", "a host is never absent", { address: item.address });
    const { desired } = item;
    if (desired.arch !== undefined && desired.arch !== reading.value.arch) {
      throw new LabError("E_MISMATCH", `${item.address} is ${reading.value.arch}, and the spec says ${desired.arch}`, {
        address: item.address,
        hint: "correct `arch:`, or the address if this is another machine than it should be",
      });
    }
    return reading.value;
  },
  delete: () => Promise.resolve(),
  manualCleanup: () => "nothing to do: labctl leaves the machine itself as it is",
  machine(desired, _observed, context) {
    return connectionOf(desired as ConnectionProperties, context);
  },
});
