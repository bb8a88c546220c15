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
        // System tests share real daemons and ports: one file at a time keeps a two-core machine honest.
        test: {
          name: "system",
          include: ["test/{conformance,system}/**/*.test.ts"],
          testTimeout: 120_000,
          hookTimeout: 120_000,
          fileParallelism: false,
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
