import { defineConfig } from "vitest/config";
import { BaseSequencer, type TestSpecification } from "vitest/node";

/** Files of minutes, the longest first: begun last, one of them would be waited for alone. */
const LONG = ["guest-kinds", "system/crash", "vm-plain", "power-failure", "kernel-to-vm", "system/boot", "libvirt-vm"];

class LongFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const rank = ({ moduleId }: TestSpecification): number => {
      const at = LONG.findIndex((name) => moduleId.includes(`${name}.test`));
      return at === -1 ? LONG.length : at;
    };
    return (await super.sort(files)).toSorted((a, b) => rank(a) - rank(b));
  }
}

export default defineConfig({
  test: {
    pool: "forks",
    sequence: { sequencer: LongFirst },
    projects: [
      {
        extends: true,
        test: { name: "unit", include: ["test/{unit,property,golden}/**/*.test.ts"], testTimeout: 180_000 },
      },
      {
        extends: true,
        // Each file has machines, networks and folders of its own, and most of its time waits for them: two at a time fill two cores.
        test: {
          name: "system",
          include: ["test/{conformance,system}/**/*.test.ts"],
          testTimeout: 120_000,
          hookTimeout: 240_000,
          maxWorkers: 2,
        },
      },
      {
        extends: true,
        // Minutes of compiling: `npm run test:kernel`, and no part of `npm test`.
        test: {
          name: "kernel",
          include: ["test/kernel/**/*.test.ts"],
          testTimeout: 1_800_000,
          hookTimeout: 600_000,
          fileParallelism: false,
        },
      },
    ],
  },
});
