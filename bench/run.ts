// `npm run bench [-- NAME ...]`: prints a table for people on stderr and JSON on stdout. What cannot be measured here is
// named and skipped; a target that is missed is reported and fails nothing.
import { cpus, totalmem } from "node:os";
import { benchApplyToReady } from "./apply-to-ready.ts";
import { benchArtifactUpload } from "./artifact-upload.ts";
import { benchEngine } from "./engine.ts";
import { benchLibvirtStats } from "./libvirt-stats.ts";
import type { Line, Report } from "./measure.ts";
import { benchSpec } from "./spec.ts";
import { benchSsh } from "./ssh.ts";
import { benchStartup } from "./startup.ts";

const benches: Readonly<Record<string, () => Promise<Report>>> = {
  engine: benchEngine,
  spec: benchSpec,
  startup: benchStartup,
  ssh: benchSsh,
  "libvirt-stats": benchLibvirtStats,
  "artifact-upload": benchArtifactUpload,
  "apply-to-ready": benchApplyToReady,
};

function row(line: Line): string {
  const digits = line.value < 10 ? 2 : line.value < 100 ? 1 : 0;
  const value = `${line.value.toFixed(digits)} ${line.unit}`;
  const verdict = line.target === undefined ? "" : `${line.target}: ${line.reached === true ? "reached" : "MISSED"}`;
  return `  ${line.what.padEnd(62)} ${value.padStart(12)}   ${verdict}`.trimEnd();
}

const wanted = process.argv.slice(2);
const unknown = wanted.filter((name) => !Object.hasOwn(benches, name));
if (unknown.length > 0) {
  process.stderr.write(`no benchmark is called ${unknown.join(", ")}; there are: ${Object.keys(benches).join(", ")}\n`);
  process.exit(2);
}
const machine = {
  node: process.version,
  cpus: cpus().length,
  cpu: cpus()[0]?.model ?? "",
  memory_gib: Math.round(totalmem() / 2 ** 30),
};
const results: Record<string, Report> = {};
for (const [name, bench] of Object.entries(benches)) {
  if (wanted.length > 0 && !wanted.includes(name)) continue;
  process.stderr.write(`${name}\n`);
  try {
    results[name] = await bench();
  } catch (error) {
    results[name] = { lines: [], skipped: [`${name}: ${error instanceof Error ? error.message : String(error)}`] };
  }
  const { lines, skipped = [], notes = [] } = results[name] ?? { lines: [] };
  for (const line of lines) process.stderr.write(`${row(line)}\n`);
  for (const why of skipped) process.stderr.write(`  skipped ${why}\n`);
  for (const note of notes) process.stderr.write(`  ${note}\n`);
}
process.stdout.write(`${JSON.stringify({ machine, results }, undefined, 2)}\n`);
