// Loading and planning a lab.yaml of N resources, as users do it: a process of its own, beyond what one resource costs.
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { inTurn, LABCTL, type Line, median, mustTime, type Report } from "./measure.ts";

const SIZES = [1, 1000, 5000, 20_000] as const;

/** Files on this machine; `--no-refresh` below leaves what is there out of the measure. */
function labYaml(count: number): string {
  const lines = ["labctl: 1", "name: bench", "hosts:", "  here:", "    connection: local", "    files:"];
  for (let i = 0; i < count; i++)
    lines.push(`      /srv/bench/file-${i}.conf: { content: "value ${i}\\n", mode: "0640" }`);
  return `${lines.join("\n")}\n`;
}

export async function benchSpec(): Promise<Report> {
  const folder = await mkdtemp(join(tmpdir(), "labctl-bench-"));
  try {
    for (const size of SIZES) {
      await mkdir(join(folder, String(size)));
      await writeFile(join(folder, `${size}/lab.yaml`), labYaml(size));
    }
    const lines: Line[] = [];
    for (const argv of [["validate"], ["plan", "--no-refresh", "--json"]]) {
      const subjects = SIZES.map(
        (size) => [`${size}`, () => mustTime([process.execPath, LABCTL, ...argv, join(folder, `${size}`)])] as const,
      );
      const found = await inTurn(3, Object.fromEntries(subjects));
      const cpu = (size: number): number => median((found[`${size}`] ?? []).map((one) => one.cpu));
      const beyond = (size: number): number => cpu(size) - cpu(1);
      const name = `labctl ${argv[0] ?? ""}`;
      for (const size of SIZES.slice(1)) {
        const goal = size === 5000 && argv[0] === "plan";
        lines.push({
          what: `${name}, ${size} resources in lab.yaml: CPU beyond start-up`,
          value: beyond(size),
          unit: "ms",
          ...(goal && { target: "< 1000", reached: beyond(size) < 1000 }),
        });
      }
      const growth = beyond(20_000) / beyond(5000) / 4;
      lines.push({
        what: `${name}: 20,000 / 4 times 5,000`,
        value: growth,
        unit: "x",
        target: "~1",
        reached: growth < 1.3,
      });
    }
    return { lines };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
