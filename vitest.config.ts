import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    pool: "forks",
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
