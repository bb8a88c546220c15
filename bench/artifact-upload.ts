// An artifact of 1 GiB to a real SSH server: against scp, and the same again against `ssh HOST true`.
import { randomBytes } from "node:crypto";
import { closeSync, fdatasyncSync, mkdtempSync, openSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createArtifactStore } from "../src/artifacts/index.ts";
import { createMachinePool } from "../src/transport/index.ts";
import { machinesUnavailable, startMachine, type TestMachine } from "../test/support/sshd.ts";
import { inTurn, type Line, median, mustTime, ratio, type Report, type Timing } from "./measure.ts";

const SIZE = 2 ** 30;
const MIB = 2 ** 20;
const ROUNDS = 5;
const AGAIN_ROUNDS = 9;

/** `random` cannot be compressed; `image` is like a root file system: a third random, a third text, a third holes. */
const CONTENTS = {
  random: (_i: number, fresh: Buffer) => fresh,
  image: (i: number, fresh: Buffer) =>
    i % 3 === 0
      ? fresh
      : i % 3 === 1
        ? Buffer.alloc(MIB, `/usr/share/doc/package-${i}/copyright\n`)
        : Buffer.alloc(MIB),
} as const;

export async function benchArtifactUpload(): Promise<Report> {
  const why = machinesUnavailable();
  if (why !== undefined) return { lines: [], skipped: [`artifact-upload: ${why}`] };
  const folder = mkdtempSync(join(tmpdir(), "labctl-bench-artifact-"));
  const machine = await startMachine({ name: "bench", setup: "mkdir -m 1777 /srv/bench" });
  const pool = createMachinePool({ env: machine.env });
  try {
    const far = pool.machine(machine.connection({ become: { method: "none" } }));
    const ssh = sshCommands(machine);
    const store = createArtifactStore({ root: join(folder, "store") });
    const lines: Line[] = [];
    for (const [name, content] of Object.entries(CONTENTS)) {
      const file = join(folder, name);
      write(file, content);
      const { sha256 } = await store.put({ file });
      const clean = (): Promise<unknown> => machine.exec("rm -rf /home/lab/.cache /srv/bench/*");
      const send = async (): Promise<Timing> => {
        await clean();
        return own(async () => {
          const sent = await store.send(far, sha256);
          if (!sent.sent) throw new Error("the artifact was there already");
        });
      };
      const scp = async (): Promise<Timing> => {
        await clean();
        return mustTime(["scp", "-q", ...ssh.options, file, `${ssh.login}:/srv/bench/file`]);
      };
      const found = await inTurn(ROUNDS, { scp, send });
      const value = ratio(found.send, found.scp);
      const seconds = (timings: readonly Timing[]): number => median(timings.map((one) => one.wall)) / 1000;
      lines.push(
        { what: `scp, 1 GiB (${name})`, value: seconds(found.scp), unit: "s" },
        { what: `artifact upload, 1 GiB (${name}), verified`, value: seconds(found.send), unit: "s" },
        { what: `artifact upload / scp (${name})`, value, unit: "x", target: "<= 1", reached: value <= 1 },
      );
      // Connected already, as in an apply; and ssh with what it takes to connect.
      const again = await inTurn(AGAIN_ROUNDS, {
        ssh: () => mustTime(["ssh", ...ssh.options, ssh.login, "true"]),
        send: () =>
          own(async () => {
            const sent = await store.send(far, sha256);
            if (sent.sent) throw new Error("the artifact was sent again");
          }),
      });
      const repeated = ratio(again.send, again.ssh);
      lines.push(
        { what: "`ssh HOST true`", value: median(again.ssh.map((one) => one.wall)), unit: "ms" },
        { what: `the same artifact again (${name})`, value: median(again.send.map((one) => one.wall)), unit: "ms" },
        {
          what: `the same again / \`ssh HOST true\``,
          value: repeated,
          unit: "x",
          target: "<= 1",
          reached: repeated <= 1,
        },
      );
      rmSync(file);
    }
    return { lines, notes: ["both ends share this machine's processors; scp does not verify what arrived"] };
  } finally {
    await pool.close();
    await machine.stop();
    rmSync(folder, { recursive: true, force: true });
  }
}

async function own(work: () => Promise<void>): Promise<Timing> {
  const cpu = process.cpuUsage();
  const started = performance.now();
  await work();
  const wall = performance.now() - started;
  const { user, system } = process.cpuUsage(cpu);
  return { wall, cpu: (user + system) / 1000, code: 0, output: "" };
}

function write(file: string, content: (i: number, fresh: Buffer) => Buffer): void {
  const handle = openSync(file, "w");
  for (let i = 0; i < SIZE / MIB; i++) writeSync(handle, content(i, randomBytes(MIB)));
  // Its own writing to disk is not to run beside what is measured.
  fdatasyncSync(handle);
  closeSync(handle);
}

function sshCommands(machine: TestMachine): { readonly options: readonly string[]; readonly login: string } {
  const options = ["-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "ControlMaster=no"];
  return {
    options: [...options, "-o", `UserKnownHostsFile=${machine.knownHostsPath}`, "-i", machine.keyPath],
    login: `lab@${machine.address}`,
  };
}
