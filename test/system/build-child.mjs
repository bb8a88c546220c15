// A labctl that builds, as a process of its own that can be killed: argv[2] is a file with what buildRequest() made.
import { readFileSync } from "node:fs";
import { runBuild } from "../../dist/providers/build/runner.js";
import { scanDirectory } from "../../dist/providers/build/source-directory.js";
import { userScript } from "../../dist/src/index.js";
import { createMachinePool } from "../../dist/src/transport/index.js";

const { connection, env, request, root, run } = JSON.parse(readFileSync(process.argv[2], "utf8"));
const machine = createMachinePool({ env }).machine(connection);
const outcome = await runBuild(
  machine,
  {
    ...request,
    source: { type: "directory", scan: await scanDirectory(root) },
    work: { ...request.work, run: userScript(run) },
  },
  { onLog: (chunk) => process.stdout.write(chunk) },
);
process.stdout.write(`outcome ${outcome.is}\n`);
process.exit(0);
