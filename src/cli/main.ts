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
  // A command is over before code that V8 optimises in the background would have paid for itself, and the cores are wanted
  // by ssh servers and builds meanwhile. Node.js 20 optimises too early for that; later versions have a cheaper tier
  // between, and do not know the flag. Large labs still get there: what is hot for long is optimised.
  if (process.versions.node.startsWith("20.")) {
    (await import("node:v8")).setFlagsFromString("--interrupt-budget=4000000");
  }
  // From Node.js 22.1 on: compiled code is kept in the system's temporary folder, which halves start-up.
  if ("enableCompileCache" in nodeModule && typeof nodeModule.enableCompileCache === "function") {
    nodeModule.enableCompileCache();
  }
  const { runProcess } = await import("./run.ts");
  return runProcess(argv);
}

process.exitCode = await main(process.argv.slice(2));
