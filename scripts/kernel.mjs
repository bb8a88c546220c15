// `npm run test:kernel`: real kernels from Debian's source, built and booted. A quarter of an hour, and no part of `npm test`.
import { installPeers, KERNEL_PEERS, run } from "./lib.mjs";

const missing = installPeers(KERNEL_PEERS);
if (missing.length > 0) {
  process.stdout.write(`These are not here, and are not installed but for root on Debian: ${missing.join(", ")}\n`);
  process.exitCode = 1;
} else {
  process.exitCode = await run(process.execPath, [
    "node_modules/vitest/vitest.mjs",
    "run",
    "--project",
    "kernel",
    ...process.argv.slice(2),
  ]);
}
