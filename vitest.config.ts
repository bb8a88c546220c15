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
    ],
  },
});
