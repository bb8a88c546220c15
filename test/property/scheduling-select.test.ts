import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  type Candidate,
  nextCandidate,
  type Requirements,
  select,
  type Selection,
  selectionError,
} from "../../src/scheduling/index.ts";

const GIB = 1024 ** 3;
const ARCHS = ["x86_64", "arm64", "armv7", "riscv64"];
const RUNS = { numRuns: 300 };

interface Most {
  readonly cpus: number;
  readonly memory: number;
  readonly disk: number;
  readonly slots: number;
}
const amounts = (max: Most, min: Most = { cpus: 0, memory: 0, disk: 0, slots: 0 }) =>
  fc.record({
    cpus: fc.integer({ min: min.cpus, max: max.cpus }),
    memory: fc.integer({ min: min.memory, max: max.memory }).map((n) => n * GIB),
    disk: fc.integer({ min: min.disk, max: max.disk }).map((n) => n * GIB),
    slots: fc.integer({ min: min.slots, max: max.slots }),
  });

const toolchain = fc.record({
  name: fc.constantFrom("gcc", "clang-14", "aarch64-linux-gnu-gcc"),
  arch: fc.constantFrom(...ARCHS),
  version: fc.constantFrom("12.2.0", "14.0.6"),
});

const machine: fc.Arbitrary<Candidate> = fc.record(
  {
    address: fc.constant(""),
    name: fc.constant(""),
    status: fc.constantFrom(...Array<"online">(16).fill("online"), "offline", "degraded", "maintenance", "unknown"),
    arch: fc.constantFrom(...ARCHS),
    also: fc.subarray(ARCHS, { maxLength: 2 }),
    total: amounts({ cpus: 16, memory: 32, disk: 100, slots: 4 }, { cpus: 4, memory: 8, disk: 30, slots: 1 }),
    reserved: amounts({ cpus: 8, memory: 16, disk: 50, slots: 2 }),
    used: amounts({ cpus: 8, memory: 16, disk: 50, slots: 0 }),
    max_utilization: fc.constantFrom(0.5, 0.85, 1),
    min_free_disk: fc.constantFrom(0, 10e9),
    on_low_disk: fc.constantFrom("refuse", "warn"),
    kvm: fc.boolean(),
    nested_virt: fc.boolean(),
    labels: fc.dictionary(fc.constantFrom("site", "rack"), fc.constantFrom("a", "b")),
    group: fc.constantFrom("builders", "others"),
    toolchains: fc.array(toolchain, { maxLength: 3 }),
  },
  { requiredKeys: ["address", "name", "status", "arch", "total", "reserved"] },
) as fc.Arbitrary<Candidate>;

const lab = fc
  .array(machine, { maxLength: 8 })
  .map((all) => all.map((one, i): Candidate => ({ ...one, address: `host.h${i}`, name: `h${i}` })));

const KEYS = [
  "arch",
  "cpus",
  "memory",
  "disk",
  "kvm",
  "nested_virt",
  "toolchain",
  "labels",
  "group",
  "prefer",
] as const satisfies readonly (keyof Requirements)[];

const everything = fc.record({
  arch: fc.constantFrom(...ARCHS),
  cpus: fc.integer({ min: 1, max: 12 }),
  memory: fc.integer({ min: 1, max: 24 }).map((n) => n * GIB),
  disk: fc.integer({ min: 1, max: 60 }).map((n) => n * GIB),
  kvm: fc.boolean(),
  nested_virt: fc.boolean(),
  toolchain: fc.constantFrom("gcc", "clang-14"),
  labels: fc.dictionary(fc.constantFrom("site", "rack"), fc.constantFrom("a", "b"), { maxKeys: 1 }),
  group: fc.constantFrom("builders"),
  prefer: fc.uniqueArray(fc.constantFrom("h0", "h1", "h2", "h3")),
});

/** A few of them at once: a lab where nothing ever fits shows nothing. */
const requirements: fc.Arbitrary<Requirements> = fc
  .tuple(everything, fc.subarray([...KEYS], { maxLength: 3 }))
  .map(([all, keys]) => Object.fromEntries(keys.map((key) => [key, all[key]])));

/** Machines that differ in how busy they are, and in nothing else that counts: several fit. */
const alike = fc
  .array(fc.tuple(fc.integer({ min: 0, max: 12 }), fc.integer({ min: 0, max: 3 })), { minLength: 2, maxLength: 8 })
  .map((all) =>
    all.map(
      ([memory, slots], i): Candidate => ({
        address: `host.h${i}`,
        name: `h${i}`,
        status: "online",
        arch: "x86_64",
        total: { memory: 16 * GIB, cpus: 8, slots: 4 },
        reserved: { memory: memory * GIB, slots },
      }),
    ),
  );

/** What a machine nobody has looked at is asked for: rare enough among the drawn ones to be drawn here each time. */
const unknown: [Candidate[], Requirements][] = [{ kvm: true }, { nested_virt: true }, { group: "builders" }].map(
  (requires) => [
    [{ address: "host.h0", name: "h0", status: "online", arch: "x86_64", total: {}, reserved: {} }],
    requires,
  ],
);

function run(requires: Requirements, machines: readonly Candidate[], sticky?: string): Selection {
  return select({ what: "build.x", requires, ...(sticky !== undefined && { sticky }) }, machines, 0);
}

function find(machines: readonly Candidate[], address: string): Candidate {
  const found = machines.find((one) => one.address === address);
  if (found === undefined) throw new Error(`${address} was never a candidate`);
  return found;
}

const busy = (one: Candidate, key: "cpus" | "memory" | "disk" | "slots"): number =>
  Math.max(one.reserved[key] ?? 0, one.used?.[key] ?? 0);

describe("selection", () => {
  test("Build Server Registration Adds to Pool", () => {
    fc.assert(
      fc.property(lab, machine, (machines, fresh) => {
        const added: Candidate = { ...fresh, address: "host.zz", name: "zz", status: "online", reserved: {}, used: {} };
        const before = run({}, machines);
        const after = run({}, [...machines, { ...added, min_free_disk: 0, total: { ...added.total, slots: 1 } }]);
        expect(after.ranking.map((one) => one.address)).toContain("host.zz");
        const rest = after.ranking.map((one) => one.address).filter((one) => one !== "host.zz");
        expect(rest).toEqual(before.ranking.map((one) => one.address));
      }),
      RUNS,
    );
  });

  test("Host Registration Adds to Pool", () => {
    fc.assert(
      fc.property(lab, requirements, (machines, requires) => {
        const selection = run(requires, machines);
        const all = [...selection.ranking, ...selection.rejected].map((one) => one.address).sort();
        expect(all).toEqual(machines.map((one) => one.address).sort());
      }),
      RUNS,
    );
  });

  test("Build Server Selection Meets Architecture Requirements", () => {
    fc.assert(
      fc.property(lab, fc.constantFrom(...ARCHS), fc.constantFrom("gcc", "clang-14"), (machines, arch, name) => {
        for (const { address } of run({ arch, toolchain: name }, machines).ranking) {
          const one = find(machines, address);
          expect([one.arch, ...(one.also ?? [])]).toContain(arch);
          expect(one.toolchains?.some((chain) => chain.name === name && chain.arch === arch)).toBe(true);
        }
      }),
      RUNS,
    );
  });

  test("Host Selection Meets Requirements", () => {
    fc.assert(
      fc.property(lab, requirements, (machines, requires) => {
        const selection = run(requires, machines);
        for (const { address } of selection.ranking) {
          const one = find(machines, address);
          expect(one.status).toBe("online");
          for (const key of ["cpus", "memory", "disk"] as const) {
            expect(busy(one, key) + (requires[key] ?? 0) <= (one.total[key] ?? 0) || requires[key] === undefined).toBe(
              true,
            );
          }
          if (requires.kvm === true) expect(one.kvm).toBe(true);
          if (requires.nested_virt === true) expect(one.nested_virt).toBe(true);
          if (requires.group !== undefined) expect(one.group).toBe(requires.group);
          expect(one.labels ?? {}).toMatchObject(requires.labels ?? {});
        }
        // Whoever is left out is told why, and "never" means that nobody could do by waiting.
        for (const one of selection.rejected) expect(one.unmet.length).toBeGreaterThan(0);
        const mayCome = selection.rejected.some((one) => !one.permanent);
        expect(selection.verdict).toBe(selection.ranking.length > 0 ? "chosen" : mayCome ? "busy" : "never");
      }),
      { ...RUNS, examples: unknown },
    );
  });

  test("Build Server Disk Space Warning", () => {
    fc.assert(
      fc.property(machine, fc.integer({ min: 0, max: 40 }), fc.boolean(), (some, left, warn) => {
        const disk = 100 * 1e9;
        const one: Candidate = {
          ...some,
          address: "host.a",
          name: "a",
          status: "online",
          total: { disk },
          reserved: {},
          used: { disk: disk - left * 1e9 },
          min_free_disk: 10e9,
          on_low_disk: warn ? "warn" : "refuse",
        };
        const selection = run({}, [one]);
        const low = left < 10;
        expect(selection.verdict).toBe(low && !warn ? "busy" : "chosen");
        expect(selection.warnings.length > 0).toBe(low && warn);
        if (low && !warn) expect(selection.rejected[0]?.unmet.map((unmet) => unmet.what)).toEqual(["disk"]);
      }),
      RUNS,
    );
  });

  test("Host Utilization Threshold Enforcement", () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 100 }), fc.integer({ min: 1, max: 20 }), (used, asked) => {
        const one: Candidate = {
          address: "host.kvm",
          name: "kvm",
          status: "online",
          arch: "x86_64",
          total: { memory: 100 * GIB, cpus: 100 },
          reserved: { memory: used * GIB },
          max_utilization: 0.85,
        };
        const selection = run({ memory: asked * GIB }, [one]);
        expect(selection.verdict).toBe(used + asked <= 85 ? "chosen" : "busy");
        // Above the threshold nothing comes, however little it asks for.
        if (used > 85) expect(run({ cpus: 1 }, [one]).verdict).toBe("busy");
      }),
      RUNS,
    );
  });

  test("Load Balancing Preference", () => {
    fc.assert(
      fc.property(
        fc.oneof(alike, lab),
        requirements,
        fc.constantFrom(undefined, "host.h0", "host.h3"),
        (machines, requires, sticky) => {
          const { ranking } = run(requires, machines, sticky);
          const place = (address: string): number => {
            const at = (requires.prefer ?? []).indexOf(address.slice("host.".length));
            return at < 0 ? 99 : at;
          };
          for (const [i, one] of ranking.entries()) {
            const next = ranking[i + 1];
            if (next === undefined) continue;
            expect(place(one.address)).toBeLessThanOrEqual(place(next.address));
            if (place(one.address) !== place(next.address)) continue;
            expect(Math.round(one.utilization * 100)).toBeLessThanOrEqual(Math.round(next.utilization * 100));
            if (next.address === sticky)
              expect(Math.round(one.utilization * 100)).toBeLessThan(Math.round(next.utilization * 100));
          }
          // The order in which machines are named plays no part.
          expect(run(requires, machines.toReversed(), sticky)).toEqual(run(requires, machines, sticky));
        },
      ),
      RUNS,
    );
  });

  test("Maintenance Mode Blocks Allocations", () => {
    fc.assert(
      fc.property(lab, requirements, (machines, requires) => {
        const held = machines.map((one): Candidate => ({ ...one, status: "maintenance", why: "new disk" }));
        const selection = run(requires, held);
        expect(selection.ranking).toEqual([]);
        for (const one of selection.rejected)
          expect(one.unmet.some((unmet) => unmet.text === "it is in maintenance: new disk")).toBe(true);
      }),
      RUNS,
    );
  });

  test("Provisioning Failure Triggers Alternative", () => {
    fc.assert(
      fc.property(fc.oneof(alike, lab), requirements, fc.integer({ min: 0, max: 8 }), (machines, requires, fails) => {
        const { ranking } = run(requires, machines);
        const failed = new Set<string>();
        const tried: string[] = [];
        for (let next = nextCandidate(ranking, failed); next !== undefined; next = nextCandidate(ranking, failed)) {
          tried.push(next.address);
          if (tried.length > fails) break;
          failed.add(next.address);
        }
        // Each approved one once, the best first, and no other.
        expect(tried).toEqual(ranking.map((one) => one.address).slice(0, fails + 1));
      }),
      RUNS,
    );
  });

  test("says why nothing fits, and tells what never fits from what is busy", () => {
    const one: Candidate = {
      address: "host.a",
      name: "a",
      status: "online",
      arch: "x86_64",
      total: { cpus: 4 },
      reserved: {},
    };
    const never = { what: "build.x", requires: { arch: "arm64", cpus: 8 } };
    const error = selectionError(never, select(never, [one], 0));
    expect(error.code).toBe("E_NEVER_FITS");
    expect(error.message).toContain(
      "host.a: it is x86_64, not arm64; it has 4 processors, and 8 processors are asked for",
    );
    const busyRequest = { what: "build.x", requires: { cpus: 2 } };
    const full: Candidate = { ...one, reserved: { cpus: 3 }, next_free: 90_000 };
    const wait = selectionError(busyRequest, select(busyRequest, [full], 0));
    expect(wait.code).toBe("E_BUSY");
    expect(wait.message).toContain("for about 1m30s");
  });
});
