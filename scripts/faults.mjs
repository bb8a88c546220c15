// `npm run test:faults`: applies each fault of test/faults.json, a one-line change to the code under test, in a scratch
// copy and demands that the test of the property that it breaks fails. A test that stays green proves nothing.
//
//   node scripts/faults.mjs [WORD ...]   only faults whose name holds one of the words
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { installPeers, run, vitest } from "./lib.mjs";

const COPIED = [
  "src",
  "providers",
  "test",
  "scripts",
  "schemas",
  "examples",
  "docs",
  "bin",
  "bench",
  "package.json",
  "tsconfig.json",
  "tsconfig.build.json",
  "vitest.config.ts",
  "README.md",
];
const words = process.argv.slice(2);
const faults = JSON.parse(readFileSync("test/faults.json", "utf8")).filter(
  (fault) => words.length === 0 || words.some((word) => fault.name.includes(word)),
);
const root = process.cwd();
const scratch = mkdtempSync(join(tmpdir(), "labctl-faults-"));
let passed = 0;
let failed = 0;

installPeers();
try {
  for (const name of COPIED) if (existsSync(name)) cpSync(name, join(scratch, name), { recursive: true });
  symlinkSync(join(root, "node_modules"), join(scratch, "node_modules"));
  if ((await build()) !== 0) throw new Error("the unchanged copy does not build");
  const tests = [...new Map(faults.map((fault) => [`${fault.test.file}\n${fault.test.name}`, fault.test])).values()];
  for (const test of tests) {
    const found = await outcome(test);
    if (found === "passed") continue;
    failed += 1;
    process.stdout.write(`FAIL without a fault, "${test.name}" in ${test.file} is ${found}\n`);
  }
  for (const fault of faults) await check(fault);
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
process.stdout.write(`\n${passed} passed, ${failed} failed\n`);
process.exitCode = failed === 0 && passed > 0 ? 0 : 1;

async function check(fault) {
  const path = join(scratch, fault.file);
  const original = readFileSync(path, "utf8");
  const places = original.split(fault.old).length - 1;
  if (places !== 1) return fail(fault, `its text stands ${places} times in ${fault.file}, not once`);
  writeFileSync(
    path,
    original.replace(fault.old, () => fault.new),
  );
  try {
    if (fault.build && (await build()) !== 0) return fail(fault, "the faulty copy does not build");
    const found = await outcome(fault.test);
    if (found !== "failed") return fail(fault, `"${fault.test.name}" is ${found}`);
    passed += 1;
    process.stdout.write(`ok   ${fault.name}\n`);
  } finally {
    writeFileSync(path, original);
    if (fault.build) await build();
  }
}

function fail(fault, why) {
  failed += 1;
  process.stdout.write(`FAIL ${fault.name}: ${why}\n`);
}

/** `passed`, `failed` or `not found`: a name that matches nothing must not count as either. */
async function outcome(test) {
  const pattern = test.name.replaceAll(/[.*+?^${}()|[\]\\]/g, "\\$&");
  const { report } = await vitest([test.file, "-t", pattern], { cwd: scratch, quiet: true });
  const results = (report?.testResults ?? [])
    .flatMap((file) => file.assertionResults)
    .filter((one) => one.fullName.includes(test.name));
  if (results.some((one) => one.status === "failed")) return "failed";
  return results.some((one) => one.status === "passed") ? "passed" : "not found";
}

/** The compiled program, for tests that run it as a process of its own. Types are not the point here: errors are let pass. */
async function build() {
  const code = await run(
    process.execPath,
    [
      join(root, "node_modules/typescript/bin/tsc"),
      "-p",
      "tsconfig.build.json",
      "--incremental",
      "false",
      "--noEmitOnError",
      "false",
    ],
    {
      cwd: scratch,
      stdio: ["ignore", "ignore", "ignore"],
    },
  );
  return existsSync(join(scratch, "dist/src/cli/main.js")) ? 0 : code;
}
