// What a command costs before it does anything, against Node.js itself.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { inTurn, LABCTL, median, mustTime, ratio, type Report } from "./measure.ts";

const QUICKSTART = fileURLToPath(new URL("../../examples/quickstart", import.meta.url));

export async function benchStartup(): Promise<Report> {
  const folder = await mkdtemp(join(tmpdir(), "labctl-bench-"));
  try {
    const node = process.execPath;
    const at = { cwd: folder };
    const found = await inTurn(9, {
      node: () => mustTime([node, "-e", "0"], at),
      version: () => mustTime([node, LABCTL, "--version"], at),
      validate: () => mustTime([node, LABCTL, "validate", QUICKSTART], at),
      plan: () => mustTime([node, LABCTL, "plan", QUICKSTART], at),
    });
    const version = ratio(found.version, found.node);
    return {
      lines: [
        { what: "node -e 0", value: median(found.node.map((one) => one.wall)), unit: "ms" },
        { what: "labctl --version", value: median(found.version.map((one) => one.wall)), unit: "ms" },
        {
          what: "labctl --version / node -e 0",
          value: version,
          unit: "x",
          target: "< 2",
          reached: version < 2,
        },
        {
          what: "labctl validate examples/quickstart / node -e 0",
          value: ratio(found.validate, found.node),
          unit: "x",
        },
        { what: "labctl plan examples/quickstart / node -e 0", value: ratio(found.plan, found.node), unit: "x" },
      ],
    };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
