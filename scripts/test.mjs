// `npm test`: everything that must hold before a commit lands, from types to real machines. Ends with
// `N passed, N failed, N skipped`; the checks before the tests count as one each.
import { installPeers, run, vitest } from "./lib.mjs";

const node = process.execPath;
const bin = (name) => `node_modules/.bin/${name}`;
/** @type {readonly (readonly [name: string, command: string, args: readonly string[]])[]} */
const CHECKS = [
  ["build", node, ["node_modules/typescript/bin/tsc", "-p", "tsconfig.build.json"]],
  ["bundle", node, ["scripts/bundle.mjs"]],
  ["types", node, ["node_modules/typescript/bin/tsc", "-p", "tsconfig.json", "--noEmit"]],
  ["lint, boundaries and cycles", bin("oxlint"), ["--type-aware", "--deny-warnings"]],
  ["formatting", bin("biome"), ["format", "--reporter=summary", "."]],
  ["unused files, exports and packages", bin("knip"), []],
  ["schemas and reference are fresh", node, ["dist/scripts/generate.js", "--check"]],
];

let passed = 0;
let failed = 0;
let skipped = 0;
for (const [name, command, args] of CHECKS) {
  const code = await run(command, args);
  process.stdout.write(`${code === 0 ? "ok  " : "FAIL"} ${name}\n`);
  if (code === 0) passed += 1;
  else failed += 1;
}

const missing = installPeers();
if (missing.length > 0) {
  process.stdout.write(
    `\nSkipping the tests that need: ${missing.join(", ")}. As root on Debian they are installed by themselves.\n`,
  );
}
// One after the other: real machines and property tests would take each other's time on a small machine.
for (const project of ["unit", "system"]) await runTests(project);
process.stdout.write(`\n${passed} passed, ${failed} failed, ${skipped} skipped\n`);
process.exitCode = failed === 0 ? 0 : 1;

async function runTests(project) {
  const { code, report } = await vitest(["--project", project]);
  if (report === undefined) {
    failed += 1;
    return;
  }
  const before = failed;
  passed += report.numPassedTests;
  failed += report.numFailedTests;
  skipped += report.numPendingTests + report.numTodoTests;
  for (const file of report.testResults) {
    // A file that does not even load has no tests to count.
    if (file.status === "failed" && !file.assertionResults.some((one) => one.status === "failed")) {
      failed += 1;
      process.stdout.write(`FAIL ${file.name}: ${file.message}\n`);
    }
    for (const one of file.assertionResults) {
      if (one.status === "pending" || one.status === "skipped") process.stdout.write(`skipped: ${one.fullName}\n`);
      if (one.status === "failed") process.stdout.write(`FAIL ${one.fullName}\n`);
    }
  }
  if (code !== 0 && failed === before) failed += 1;
}
