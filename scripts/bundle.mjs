// Puts the compiled program and the packages it uses into a few files under dist/bundle: reading and resolving hundreds
// of small modules would take most of a short command's time. Types, and what authors of providers import, stay in
// dist/src. `bin/labctl.js` takes the bundle where there is one.
//
// Every file lies one folder deep, and index.js and testing/index.js stand where dist/src has them: src/engine/self.ts
// and src/cli/version.ts find their neighbours by relative paths.
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { rolldown } from "rolldown";

const OUT = "dist/bundle";

rmSync(OUT, { recursive: true, force: true });
const bundle = await rolldown({
  input: {
    "cli/main": "dist/src/cli/main.js",
    index: "dist/src/index.js",
    "testing/index": "dist/src/testing/index.js",
  },
  platform: "node",
  // Optional native parts of ssh2: it tries to load them and goes on without.
  external: [/\.node$/, "cpu-features"],
  // Where the emscripten glue of ssh2 looks for a .wasm file that it holds itself.
  transform: { define: { __dirname: "import.meta.dirname" } },
  logLevel: "warn",
  onwarn: (warning, print) => {
    // ajv makes its validators with `new Function`.
    if (warning.code !== "EVAL") print(warning);
  },
});
const { output } = await bundle.write({
  dir: OUT,
  format: "esm",
  entryFileNames: "[name].js",
  chunkFileNames: "chunks/[name]-[hash].js",
});
await bundle.close();
writeFileSync(
  join(OUT, "LICENSES.txt"),
  licenses(output.flatMap((one) => (one.type === "chunk" ? one.moduleIds : []))),
);

/** The licences of all packages that are inside, as they demand. */
function licenses(modules) {
  const folders = new Set();
  for (const id of modules) {
    const found = /^.*\/node_modules\/(?:@[^/]+\/)?[^/]+(?=\/)/.exec(id.replaceAll("\\", "/"));
    if (found !== null) folders.add(found[0]);
  }
  return [...folders]
    .sort((a, b) => (basename(a) < basename(b) ? -1 : 1))
    .map((folder) => {
      const { name, version, license } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
      const file = readdirSync(folder).find((one) => /^(licen[sc]e|copying)/i.test(one));
      const text = file !== undefined && existsSync(join(folder, file)) ? readFileSync(join(folder, file), "utf8") : "";
      return `${name} ${version} (${license})\n\n${text.trim()}\n`;
    })
    .join(`\n${"-".repeat(80)}\n\n`);
}
