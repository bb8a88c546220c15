import * as nodeModule from "node:module";

/**
 * The program. `--version` is answered before anything is loaded; everything else comes by dynamic import, so that a
 * command pays only for what it uses.
 */
async function main(argv: readonly string[]): Promise<number> {
  if (argv.length === 1 && (argv[0] === "--version" || argv[0] === "-V")) {
    const { version } = await import("./version.ts");
    process.stdout.write(`${version()}\n`);
    return 0;
  }
  // From Node.js 22.1 on: compiled code is kept in the system's temporary folder, which halves start-up.
  if ("enableCompileCache" in nodeModule && typeof nodeModule.enableCompileCache === "function") {
    nodeModule.enableCompileCache();
  }
  const { runProcess } = await import("./run.ts");
  return runProcess(argv);
}

process.exitCode = await main(process.argv.slice(2));
