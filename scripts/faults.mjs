// `npm run test:faults`: applies each fault of test/faults.json, a one-line change to the code under test, in a scratch
// copy and demands that the test of the property that it breaks fails. A test that stays green proves nothing.
//
//   node scripts/faults.mjs [--tested] [WORD ...]   only faults whose name holds one of the words
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
const words = process.argv.slice(2).filter((word) => !word.startsWith("--"));
/** `--tested`: all tests have just passed without a fault, as `npm test` says. */
const tested = process.argv.includes("--tested");
const faults = JSON.parse(readFileSync("test/faults.json", "utf8")).filter(
  (fault) => words.length === 0 || words.some((word) => fault.name.includes(word)),
);
const root = process.cwd();
let passed = 0;
let failed = 0;

installPeers();
// Three at a time, each in a copy of its own: tests in this process alone, and two against real machines, which are waited for.
const onMachines = (fault) => /^test\/(system|conformance)\//.test(fault.test.file);
const real = faults.filter(onMachines);
await Promise.all([
  lane(faults.filter((one) => !onMachines(one))),
  lane(real.filter((_, i) => i % 2 === 0)),
  lane(real.filter((_, i) => i % 2 === 1)),
]);
process.stdout.write(`\n${passed} passed, ${failed} failed\n`);
process.exitCode = failed === 0 && passed > 0 ? 0 : 1;

async function lane(own) {
  if (own.length === 0) return;
  const scratch = mkdtempSync(join(tmpdir(), "labctl-faults-"));
  try {
    for (const name of COPIED) if (existsSync(name)) cpSync(name, join(scratch, name), { recursive: true });
    symlinkSync(join(root, "node_modules"), join(scratch, "node_modules"));
    if ((await build(scratch)) !== 0) throw new Error("the unchanged copy does not build");
    for (const file of tested ? [] : new Set(own.map((fault) => fault.test.file))) {
      const there = own.filter((fault) => fault.test.file === file);
      const names = [...new Set(there.map((fault) => fault.test.name))];
      const found = await outcomes(scratch, file, names);
      for (const name of names) {
        if (found.get(name) === "passed") continue;
        failed += 1;
        process.stdout.write(`FAIL without a fault, "${name}" in ${file} is ${found.get(name)}\n`);
      }
    }
    // Those that need no build come first: the others leave the build of their fault behind.
    for (const fault of own.toSorted((a, b) => Number(a.build === true) - Number(b.build === true)))
      await check(scratch, fault);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

async function check(scratch, fault) {
  const path = join(scratch, fault.file);
  const original = readFileSync(path, "utf8");
  const places = original.split(fault.old).length - 1;
  if (places !== 1) return fail(fault, `its text stands ${places} times in ${fault.file}, not once`);
  writeFileSync(
    path,
    original.replace(fault.old, () => fault.new),
  );
  try {
    if (fault.build && (await build(scratch)) !== 0) return fail(fault, "the faulty copy does not build");
    const { file, name, env } = fault.test;
    const tried = async () => (await outcomes(scratch, file, [name], env)).get(name);
    let found = await tried();
    // A property draws its cases at random: some draws may happen to miss.
    for (let again = 0; again < 3 && found === "passed"; again++) found = await tried();
    if (found !== "failed") return fail(fault, `"${fault.test.name}" is ${found}`);
    passed += 1;
    process.stdout.write(`ok   ${fault.name}\n`);
  } finally {
    writeFileSync(path, original);
  }
}

function fail(fault, why) {
  failed += 1;
  process.stdout.write(`FAIL ${fault.name}: ${why}\n`);
}

/** By name: `passed`, `failed` or `not found`, for a name that matches nothing must not count as either. */
async function outcomes(scratch, file, names, env = {}) {
  const pattern = names.map((name) => name.replaceAll(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|");
  const { report } = await vitest([file, "-t", pattern], { cwd: scratch, quiet: true, env });
  const results = (report?.testResults ?? []).flatMap((one) => one.assertionResults);
  return new Map(
    names.map((name) => {
      const own = results.filter((one) => one.fullName.includes(name));
      if (own.some((one) => one.status === "failed")) return [name, "failed"];
      return [name, own.some((one) => one.status === "passed") ? "passed" : "not found"];
    }),
  );
}

/** The compiled program, for tests that run it as a process of its own. Types are not the point here: errors are let pass. */
async function build(scratch) {
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
