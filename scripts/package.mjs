// `npm run test:package`: packs labctl, installs the package in an empty folder, runs it there under each release of Node.js
// that it is for, and compiles a provider against its types.
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync, symlinkSync, mkdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** Those that labctl is for. */
const RELEASES = [20, 22, 24];
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
  const nodes = RELEASES.map((release) => [
    `node-${release}`,
    `npm:node-${process.platform}-${process.arch}@${release}`,
  ]);
  must("Node.js in all its releases", "npm", [
    "install",
    "--no-audit",
    "--no-fund",
    "--prefer-offline",
    ...nodes.map((one) => one.join("@")),
  ]);
  for (const [name] of nodes) {
    const node = join(folder, "node_modules", name, "bin/node");
    const under = (...args) => must(`labctl ${args.join(" ")} (${name})`, node, [labctl, ...args]);
    under("init", name);
    under("apply", name, "--auto-approve");
    under("plan", name, "--detailed-exitcode");
    under("destroy", name, "--auto-approve");
  }
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
