// A process of its own that works on a store: node artifact-child.mjs MODULES ROOT WHAT SEED. Says on stdout what was done.
import { createHash } from "node:crypto";
import { pathToFileURL } from "node:url";

const [modules, root, what, seed = "0"] = process.argv.slice(2);
const { createArtifactStore } = await import(pathToFileURL(`${modules}/src/artifacts/index.js`).href);

const say = (line) =>
  new Promise((resolve) => {
    process.stdout.write(`${line}\n`, resolve);
  });
const digest = (text) => createHash("sha256").update(text).digest("hex");
/** The same for one name in every process; large enough to be killed in the middle of. */
const content = (name) => Buffer.alloc(700_000, `${name} `);
const store = createArtifactStore({ root, retention: { days: 0, keep_latest: 1000 } });

if (what === "write") {
  // Blobs and the record of a build that names them, over and over, until somebody kills it.
  for (let i = 0; ; i++) {
    const name = `build ${seed} ${i}`;
    const artifacts = {};
    for (const part of ["kernel", `shared ${i % 3}`]) {
      const { sha256, size } = await store.put({ content: content(part === "kernel" ? name : part) });
      await say(`blob ${sha256}`);
      artifacts[part] = { type: "x", sha256, size, mode: "0644", file: "x" };
    }
    const id = digest(name);
    const created_at = new Date().toISOString();
    const record = { id, name, status: "building", arch: "x86_64", created_at, artifacts, inputs: {} };
    await store.saveBuild(record);
    await store.updateBuild(id, (one) => ({ ...one, status: "completed", finished_at: new Date().toISOString() }));
    await say(`build ${id}`);
    if (i % 5 === 4) await store.gc();
  }
} else if (what === "same") {
  await say("ready");
  for await (const _go of process.stdin) break;
  const { sha256 } = await store.put({ content: content("the same for all") });
  for await (const _chunk of store.read(sha256)) continue;
  await say(`blob ${sha256}`);
  process.exit(0);
}
