// 20 files on 10 SSH servers, converged by labctl as users start it and by Ansible, and ten parallel `ssh HOST true` as
// what the connections alone cost. All on this one box, in turn.
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { machinesUnavailable } from "../test/support/sshd.ts";
import { type Farm, FILES, HOSTS, startFarm } from "./farm.ts";
import { inTurn, LABCTL, type Line, median, mustTime, ratio, type Report, type Timing } from "./measure.ts";

const ROUNDS = 7;
/** Ansible takes minutes for each. */
const ANSIBLE_ROUNDS = 2;
const FIRST_ROUNDS = 5;

export async function benchSsh(): Promise<Report> {
  const why = machinesUnavailable() ?? (has("ssh") ? undefined : "no ssh");
  if (why !== undefined) return { lines: [], skipped: [`ssh: ${why}`] };
  const farm = await startFarm();
  try {
    return await onFarm(farm);
  } finally {
    await farm.stop();
  }
}

async function onFarm(farm: Farm): Promise<Report> {
  const labctl = (...argv: string[]): Promise<Timing> =>
    mustTime([process.execPath, LABCTL, ...argv], { cwd: farm.folder, env: environment(farm) });
  const lines: Line[] = [];
  const first = await firstRuns(FIRST_ROUNDS, farm, () => labctl("apply", "lab", "--auto-approve"));
  const found = await inTurn(ROUNDS, {
    floor: () => mustTime(["sh", "-c", parallelSsh(farm)], { env: environment(farm) }),
    plan: () => labctl("plan", "lab", "--detailed-exitcode"),
    apply: () => labctl("apply", "lab", "--auto-approve"),
  });
  const wall = (timings: readonly Timing[]): number => median(timings.map((one) => one.wall)) / 1000;
  lines.push(
    { what: `${HOSTS} parallel \`ssh HOST true\``, value: wall(found.floor), unit: "s" },
    { what: `labctl, first run (${HOSTS * FILES} files)`, value: wall(first), unit: "s" },
    { what: "labctl plan, nothing to do", value: wall(found.plan), unit: "s" },
    { what: "labctl apply, nothing to do", value: wall(found.apply), unit: "s" },
  );
  for (const name of ["plan", "apply"] as const) {
    const value = ratio(found[name], found.floor);
    lines.push({
      what: `labctl ${name}, nothing to do / parallel ssh`,
      value,
      unit: "x",
      target: "<= 1.5",
      reached: value <= 1.5,
    });
  }
  if (!has("ansible-playbook")) {
    return { lines, skipped: ["ssh: Ansible is not here (apt-get install ansible)"] };
  }
  lines.push(...(await againstAnsible(farm, labctl)));
  return { lines, notes: [versionOf("ansible-playbook"), versionOf("ssh", "-V")] };
}

async function againstAnsible(farm: Farm, labctl: (...argv: string[]) => Promise<Timing>): Promise<Line[]> {
  const playbook = (name: string): Promise<Timing> =>
    mustTime(["ansible-playbook", name], { cwd: join(farm.folder, "ansible"), env: environment(farm) });
  const lines: Line[] = [];
  for (const [name, label, counts] of [
    ["site.yml", "Ansible", true],
    ["site-no-facts.yml", "Ansible without gather_facts", false],
  ] as const) {
    const first: number[] = [];
    const again: number[] = [];
    const seconds = { first: [] as number[], again: [] as number[] };
    for (let round = 0; round < (counts ? ANSIBLE_ROUNDS : 1); round++) {
      const [own] = await firstRuns(1, farm, () => labctl("apply", "lab", "--auto-approve"));
      const ownAgain = median(await walls(3, () => labctl("apply", "lab", "--auto-approve")));
      const [theirs] = await firstRuns(1, farm, () => playbook(name));
      const theirsAgain = await playbook(name);
      if (own === undefined || theirs === undefined) continue;
      first.push(theirs.wall / own.wall);
      again.push(theirsAgain.wall / ownAgain);
      seconds.first.push(theirs.wall / 1000);
      seconds.again.push(theirsAgain.wall / 1000);
    }
    lines.push(
      { what: `${label}, first run`, value: median(seconds.first), unit: "s" },
      { what: `${label}, nothing to do`, value: median(seconds.again), unit: "s" },
    );
    for (const [what, ratios] of [
      ["first run", first],
      ["nothing to do", again],
    ] as const) {
      const value = median(ratios);
      const target = counts ? { target: ">= 50", reached: value >= 50 } : {};
      lines.push({ what: `${label} / labctl, ${what}`, value, unit: "x", ...target });
    }
  }
  return lines;
}

async function walls(rounds: number, run: () => Promise<Timing>): Promise<number[]> {
  const found: number[] = [];
  for (let round = 0; round < rounds; round++) found.push((await run()).wall);
  return found;
}

/** From nothing each time, and looked at from outside: a run that did not do its work counts for nothing. */
async function firstRuns(rounds: number, farm: Farm, run: () => Promise<Timing>): Promise<Timing[]> {
  const timings: Timing[] = [];
  for (let round = 0; round < rounds; round++) {
    await farm.clean();
    timings.push(await run());
    const count = await farm.count();
    if (count !== HOSTS * FILES) throw new Error(`${count} of ${HOSTS * FILES} files are there after the run`);
  }
  return timings;
}

function environment(farm: Farm): NodeJS.ProcessEnv {
  const { PATH } = process.env;
  return { PATH, HOME: farm.machines[0]?.home ?? farm.folder, USER: "lab", LC_ALL: "C.UTF-8", ANSIBLE_NOCOLOR: "1" };
}

/** The same key and the same host keys; no connection is kept for later. */
function parallelSsh(farm: Farm): string {
  const options = [
    "-F none -o BatchMode=yes -o IdentitiesOnly=yes -o ControlMaster=no -o ControlPath=none -o StrictHostKeyChecking=yes",
    `-o UserKnownHostsFile=${farm.folder}/known_hosts -i ${farm.machines[0]?.keyPath ?? ""}`,
  ].join(" ");
  // `wait PID` gives each one's exit code.
  const start = farm.machines.map((machine) => `ssh ${options} lab@${machine.address} true & pids="$pids $!"`);
  return `pids=; ${start.join("\n")}\nfor pid in $pids; do wait $pid || exit 1; done`;
}

function has(program: string): boolean {
  return spawnSync("sh", ["-c", `command -v ${program}`]).status === 0;
}

function versionOf(program: string, flag = "--version"): string {
  const { stdout, stderr } = spawnSync(program, [flag], { encoding: "utf8" });
  return (stdout + stderr).split("\n")[0] ?? "";
}
