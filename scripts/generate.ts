import { mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { builtinKinds } from "../src/cli/builtin.ts";
import { kindReference, labReference, labSchema, pipelineSchema } from "../src/config/index.ts";

/** Writes what is generated from the kinds: schemas and reference pages. With --check it only says what is stale. */
async function main(argv: readonly string[]): Promise<number> {
  const root = packageRoot(dirname(fileURLToPath(import.meta.url)));
  const kinds = await builtinKinds();
  const wanted = new Map<string, string>([
    ["schemas/lab.schema.json", json(labSchema(kinds))],
    ["schemas/pipeline.schema.json", json(pipelineSchema(kinds))],
    ["docs/reference/lab.md", labReference(kinds)],
    ...kinds.map((kind) => [`docs/reference/${kind.kind}.md`, kindReference(kind, kinds)] as const),
  ]);
  const stale: string[] = [];
  for (const [path, content] of wanted) {
    const there = await readFile(join(root, path), "utf8").catch(() => undefined);
    if (there === content) continue;
    stale.push(path);
    if (argv.includes("--check")) continue;
    await mkdir(dirname(join(root, path)), { recursive: true });
    await writeFile(join(root, path), content);
  }
  for (const name of await readdir(join(root, "docs/reference")).catch(() => [])) {
    const path = `docs/reference/${name}`;
    if (!name.endsWith(".md") || wanted.has(path)) continue;
    stale.push(path);
    if (!argv.includes("--check")) await rm(join(root, path));
  }
  for (const path of stale) console.log(`${argv.includes("--check") ? "stale" : "written"}: ${path}`);
  if (!argv.includes("--check") || stale.length === 0) return 0;
  console.log("run `npm run generate` and commit what it writes");
  return 1;
}

/** The same from the source and from what is built of it. */
function packageRoot(scripts: string): string {
  const above = dirname(scripts);
  return basename(above) === "dist" ? dirname(above) : above;
}

function json(data: object): string {
  return `${JSON.stringify(data, undefined, 2)}\n`;
}

process.exitCode = await main(process.argv.slice(2));
