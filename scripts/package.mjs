// `npm run test:package`: packs labctl, installs the package in an empty folder, runs it there, and compiles a provider
// against its types.
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync, symlinkSync, mkdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const folder = mkdtempSync(join(tmpdir(), "labctl-package-"));
const root = process.cwd();

function must(what, command, args, options = {}) {
  const result = spawnSync(command, args, { encoding: "utf8", cwd: folder, ...options });
  if (result.status !== 0) throw new Error(`${what}: exit ${result.status}\n${result.stdout}\n${result.stderr}`);
  process.stdout.write(`ok   ${what}\n`);
  return result.stdout;
}

try {
  const packed = JSON.parse(
    must("npm pack", "npm", ["pack", "--json", "--ignore-scripts", "--pack-destination", folder], { cwd: root }),
  );
  const tarball = join(folder, (Array.isArray(packed) ? packed[0] : Object.values(packed)[0]).filename);
  writeFileSync(join(folder, "package.json"), JSON.stringify({ name: "empty", private: true, type: "module" }));
  must("npm install", "npm", ["install", "--no-audit", "--no-fund", "--prefer-offline", tarball]);
  const labctl = join(folder, "node_modules/.bin/labctl");
  must("labctl --version", labctl, ["--version"]);
  must("labctl init", labctl, ["init", "lab"]);
  must("labctl apply", labctl, ["apply", "lab", "--auto-approve"]);
  must("labctl plan is empty", labctl, ["plan", "lab", "--detailed-exitcode"]);
  writeFileSync(
    join(folder, "provider.ts"),
    [
      'import { defineKind, defineProvider } from "labctl";',
      "const widget = defineKind({",
      '  kind: "widget", title: "Widget", description: "", ownership: "shared",',
      '  section: { name: "widgets", shape: "map", key: "name" },',
      '  schema: { type: "object", additionalProperties: false, properties: { name: { type: "string" }, size: { type: "integer" } }, required: ["name"] },',
      '  attributes: { type: "object", additionalProperties: false, properties: { size: { type: "integer" } } },',
      "  async readMany(_ctx, items) { return new Map(items.map((item) => [item.address, { is: 'absent' }])); },",
      "  async reconcile(_ctx, item) { const size: number | undefined = item.desired.size; return size === undefined ? {} : { size }; },",
      "  async delete() {},",
      "});",
      'export default defineProvider({ name: "acme", version: "1.0.0", kinds: [widget] });',
    ].join("\n"),
  );
  mkdirSync(join(folder, "node_modules/@types"), { recursive: true });
  symlinkSync(join(root, "node_modules/@types/node"), join(folder, "node_modules/@types/node"));
  must("a provider compiles against the package's types", process.execPath, [
    join(root, "node_modules/typescript/bin/tsc"),
    "--noEmit",
    "--strict",
    "--module",
    "nodenext",
    "--moduleResolution",
    "nodenext",
    "--target",
    "es2023",
    "--types",
    "node",
    "--skipLibCheck",
    "provider.ts",
  ]);
  process.stdout.write("1 passed, 0 failed\n");
} catch (error) {
  process.stderr.write(`FAIL ${error.message}\n`);
  process.exitCode = 1;
} finally {
  rmSync(folder, { recursive: true, force: true });
}
