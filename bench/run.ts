// `npm run bench [-- NAME ...]`: prints a table for people on stderr and JSON on stdout.
import { benchEngine } from "./engine.ts";

const benches: Readonly<Record<string, () => Promise<object>>> = { engine: benchEngine };
const wanted = process.argv.slice(2);
const results: Record<string, object> = {};
for (const [name, bench] of Object.entries(benches)) {
  if (wanted.length > 0 && !wanted.includes(name)) continue;
  process.stderr.write(`${name} ...\n`);
  results[name] = await bench();
  console.error(results[name]);
}
process.stdout.write(`${JSON.stringify(results, undefined, 2)}\n`);
