/** What may be deployed where, and in which order: with a real artifact store, and through the real executor. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";
import { bootImages } from "../../providers/libvirt/environment-images.ts";
import { LabError } from "../../src/diagnostics/index.ts";
import { outcomeOf } from "../../src/events/index.ts";
import type { ArtifactStore, Kind, KindContext } from "../../src/index.ts";
import type { EventBody, LabEvent } from "../../src/model/index.ts";
import { memoryKind, MemoryWorld } from "../fakes/memory-kind.ts";
import { MemoryLab, resource } from "../fakes/memory-lab.ts";
import { MemoryState } from "../fakes/memory-state.ts";
import { build, MEMORY, type Scratch, scratch } from "../unit/artifact-helpers.ts";

const RUNS = 200;
const ARCHES = ["x86_64", "arm64", "armv7", "riscv64"] as const;
type Arch = (typeof ARCHES)[number];

const fixture = (name: string): Buffer => readFileSync(join(import.meta.dirname, "../fixtures/images", name));

/** The first bytes of a kernel for each processor. */
const HEADS: Readonly<Record<Arch, Buffer>> = {
  x86_64: fixture("kernel-x86_64-bzImage.bin"),
  arm64: fixture("kernel-arm64-Image.bin"),
  armv7: fixture("kernel-armv7-zImage.bin"),
  // Documentation/arch/riscv/boot-image-header.rst
  riscv64: (() => {
    const bytes = Buffer.alloc(1024);
    bytes.writeUInt32LE(2, 32);
    bytes.write("RISCV\0\0\0", 48, "latin1");
    bytes.write("RSC\x05", 56, "latin1");
    return bytes;
  })(),
};

let place: Scratch;
let store: ArtifactStore;
beforeAll(() => {
  place = scratch(MEMORY);
  store = place.store();
});
afterAll(() => place.remove());

const context = (): KindContext =>
  ({ artifacts: store, signal: new AbortController().signal }) as unknown as KindContext;

let builds = 0;

/** A completed build for `said`, whose kernel is one for `is`. */
async function built(said: Arch, is: Arch, tail: Uint8Array): Promise<string> {
  builds += 1;
  const { sha256, size } = await store.put({
    content: Buffer.concat([HEADS[is], tail, Buffer.from(`build ${builds}`)]),
  });
  const finished_at = new Date(Date.UTC(2026, 0, 1) + builds * 1000).toISOString();
  const artifacts = { kernel_image: { type: "kernel_image", sha256, size, mode: "0644", file: "Image" } };
  await store.saveBuild(build({ name: `kernel-${said}`, arch: said, finished_at, artifacts }));
  return sha256;
}

test("property: Deployment Artifact Compatibility: a kernel is deployed only to a machine of its own architecture", {
  timeout: 60_000,
}, async () => {
  const arch = fc.constantFrom(...ARCHES);
  await fc.assert(
    fc.asyncProperty(
      arch,
      arch,
      arch,
      fc.boolean(),
      fc.uint8Array({ minLength: 8, maxLength: 64 }),
      async (said, is, machine, byBuild, tail) => {
        const sha256 = await built(said, is, tail);
        const boot = byBuild ? { artifact: { name: `kernel-${said}`, arch: said } } : { kernel: `sha256:${sha256}` };
        const tried = await bootImages(context(), "environment.e", {
          name: "e",
          vm: { arch: machine },
          boot,
        } as never).then(
          (images) => images.kernel.sha256,
          (error: unknown) => (error instanceof LabError ? error.code : String(error)),
        );
        // What its build says and what its bytes say must both be the machine's.
        expect(tried).toBe(said === machine && is === machine ? sha256 : "E_IMAGE_ARCH");
      },
    ),
    { numRuns: RUNS },
  );
});

const STAGES = { build: ["build", "collect"], environment: ["allocate", "transfer", "boot", "verify"] } as const;

test("property: Pipeline Stage Sequencing: a stage runs only after the one before succeeded", {
  timeout: 60_000,
}, async () => {
  const fails = fc.record({
    build: fc.option(fc.constantFrom(...STAGES.build), { nil: undefined }),
    environment: fc.option(fc.constantFrom(...STAGES.environment), { nil: undefined }),
    attempts: fc.integer({ min: 0, max: 2 }),
    retried: fc.boolean(),
  });
  await fc.assert(
    fc.asyncProperty(
      fc.array(fails, { minLength: 1, maxLength: 4 }),
      fc.integer({ min: 1, max: 4 }),
      async (pipelines, parallelism) => {
        const world = new MemoryWorld();
        const staged = (kind: "build" | "environment"): Kind => ({
          ...memoryKind(world, { kind }),
          stages: STAGES[kind],
          reconcile: async (ctx, item) => {
            const plan = pipelines[Number(/\d+/.exec(item.address)?.[0] ?? 0)];
            for (const stage of STAGES[kind]) {
              await ctx.stage(stage, async () => {
                await Promise.resolve();
                const heals = plan?.retried === true && ctx.attempt > 1;
                if (plan?.[kind] === stage && !heals)
                  throw new LabError("E_COMMAND_FAILED", stage, { retryable: true });
              });
            }
            return memoryKind(world).reconcile?.(ctx, item) ?? {};
          },
        });
        const lab = new MemoryLab([staged("build"), staged("environment")], new MemoryState());
        const spec = pipelines.flatMap(({ attempts }, n) => {
          const options = { retry: { attempts, delay: 0, max_delay: 0 } };
          return [
            resource(`build.k${n}`, { options }),
            resource(`environment.e${n}`, { depends: [`build.k${n}`], options }),
          ];
        });
        const planned = await lab.plan(spec);
        await lab.apply(planned, { parallelism });
        const events = [
          { type: "plan.made", plan: planned },
          ...lab.events,
          { type: "run.finished" },
        ] as unknown as LabEvent[];
        const { resources } = outcomeOf(events);
        for (const [n, { build: bad, environment, attempts, retried }] of pipelines.entries()) {
          const heals = retried && attempts > 0;
          const well = { build: bad === undefined || heals, environment: environment === undefined || heals };
          checkOrder(lab.events, `build.k${n}`, STAGES.build);
          checkOrder(lab.events, `environment.e${n}`, STAGES.environment);
          const first = (address: string, type: string): number =>
            lab.events.findIndex((event) => event.type === type && "address" in event && event.address === address);
          const begun = first(`environment.e${n}`, "stage.started");
          expect(begun >= 0).toBe(well.build);
          if (well.build) expect(begun).toBeGreaterThan(first(`build.k${n}`, "action.finished"));
          const ends = resources.get(`environment.e${n}`);
          expect(ends?.result).toBe(well.build ? (well.environment ? "ok" : "failed") : "skipped");
          const last = new Map(ends?.stages.map(({ stage, result }) => [stage, result]));
          const at = well.build
            ? well.environment
              ? STAGES.environment.length
              : STAGES.environment.indexOf(environment ?? "boot")
            : -1;
          for (const [i, stage] of STAGES.environment.entries()) {
            expect(last.get(stage), stage).toBe(i < at ? "completed" : i === at ? "failed" : "skipped");
          }
          for (const one of ends?.stages ?? []) {
            if (one.result === "completed" || one.result === "failed")
              expect(one.duration_ms).toBeGreaterThanOrEqual(0);
          }
        }
      },
    ),
    { numRuns: RUNS },
  );
});

/** Each stage begins after the one before ended well; a try after a failure begins anew, at the first. */
function checkOrder(events: readonly EventBody[], address: string, stages: readonly string[]): void {
  let next = 0;
  let open: string | undefined;
  for (const event of events) {
    if (!("address" in event) || event.address !== address) continue;
    if (event.type === "stage.started") {
      expect(open, `${event.stage} while another runs`).toBeUndefined();
      expect(event.stage).toBe(stages[next]);
      open = event.stage;
    } else if (event.type === "stage.finished") {
      expect(event.stage).toBe(open);
      open = undefined;
      next = event.result === "completed" ? next + 1 : 0;
    }
  }
  expect(open).toBeUndefined();
}
