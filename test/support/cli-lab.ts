/**
 * A lab on one real machine whose operations have visible half-way states: what tests of crashes, locks and full disks
 * kill, stall and starve. `write(n)` writes the spec in its n-th generation: every resource differs from the one before.
 */
import { createHash, randomBytes } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "vitest";
import type { JournalRecord, LabEvent, RunSummary } from "../../src/model/index.ts";
import { createFileStore, type StateView } from "../../src/state/index.ts";
import { type CliOptions, type CliProcess, type CliResult, labctl, spawnLabctl } from "./cli.ts";
import { type MachineOptions, startMachine, type TestMachine } from "./sshd.ts";

const KEYS = ["a", "c"].map((letter) => `ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI${letter.repeat(43)} ci@lab`);
/** Bytes of the large upload. */
const LARGE = 24 << 20;

/** A repository of one package in two versions, whose script takes a while; and a service that takes a while to start. */
const SETUP = String.raw`set -e
mkdir -p /srv/repo; cd /srv/repo
for v in 1.0 2.0; do
  d=$(mktemp -d); mkdir -p "$d/DEBIAN" "$d/usr/share/labtest"
  echo $v >"$d/usr/share/labtest/version"; head -c 200000 /dev/urandom >"$d/usr/share/labtest/data"
  printf 'Package: labtest\nVersion: %s\nArchitecture: all\nMaintainer: test <test@example.org>\nDescription: for tests\n' $v >"$d/DEBIAN/control"
  printf '#!/bin/sh\nsleep 0.2\necho %s >/var/lib/labtest-configured\n' $v >"$d/DEBIAN/postinst"
  printf '#!/bin/sh\nrm -f /var/lib/labtest-configured\n' >"$d/DEBIAN/prerm"
  chmod -R u=rwX,go=rX "$d"; chmod 755 "$d/DEBIAN/postinst" "$d/DEBIAN/prerm"
  dpkg-deb -Znone -b "$d" labtest_$v.deb >/dev/null; rm -rf "$d"
done
for f in *.deb; do
  dpkg-deb -f $f; printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' $f $(stat -c %s $f) $(sha256sum <$f | cut -d' ' -f1)
done >Packages
rm -rf /etc/apt/sources.list.d /var/lib/apt/lists; mkdir -p /etc/apt/sources.list.d /var/lib/apt/lists/partial
echo 'deb [trusted=yes] file:/srv/repo ./' >/etc/apt/sources.list
apt-get update -q >/dev/null 2>&1
mkdir -p /etc/init.d
cat >/etc/init.d/labsvc <<'SCRIPT'
#!/bin/sh
### BEGIN INIT INFO
# Provides: labsvc
# Required-Start:
# Required-Stop:
# Default-Start: 2 3 4 5
# Default-Stop: 0 1 6
### END INIT INFO
p=/run/labsvc.pid
alive() { [ -s $p ] && kill -0 "$(cat $p)" 2>/dev/null; }
case $1 in
  start) alive && exit 0; sleep 0.1; setsid sh -c 'echo $$ >/run/labsvc.pid; exec sleep 86400' >/dev/null 2>&1 </dev/null & sleep 0.1 ;;
  stop) alive || exit 0; kill "$(cat $p)"; rm -f $p; sleep 0.1 ;;
  restart) $0 stop; $0 start ;;
  status) alive || exit 3 ;;
esac
SCRIPT
chmod 755 /etc/init.d/labsvc; rm -f /etc/rc?.d/???labsvc; touch /run/labctl-begin; sleep 0.02`;

/** What the machine is asked for the parts that labctl manages; `expected` gives what must come out. */
const LOOK = String.raw`cd /srv
if [ -d app ]; then
  stat -c 'app %a' app
  for f in app/*; do [ -f "$f" ] || continue; printf '%s %s ' "$f" "$(stat -c %a "$f")"
    case $f in *big.bin) sha256sum <"$f" | cut -d' ' -f1 ;; *) tr '\n' ' ' <"$f"; echo ;; esac; done
fi
printf 'motd %s\n' "$(cat /etc/motd-lab 2>/dev/null)"
printf 'package %s %s\n' "$(dpkg-query -W -f '${"$"}{db:Status-Abbrev}${"$"}{Version}' labtest 2>/dev/null | grep '^ii')" "$(cat /var/lib/labtest-configured 2>/dev/null)"
printf 'user %s %s\n' "$(getent passwd ci | cut -d: -f5)" "$(cat /home/ci/.ssh/authorized_keys 2>/dev/null)"
if /etc/init.d/labsvc status; then echo 'service up'; else echo 'service down'; fi`;

/** What appeared where nothing may stay, and names that labctl and its tools give to what they make for a moment. */
const LEFTOVERS = String.raw`find /tmp /var/tmp /home/lab /opt -xdev -mindepth 1 -cnewer /run/labctl-begin 2>/dev/null
find /srv /etc /home /var/lib/labctl /usr/share/labtest -xdev -cnewer /run/labctl-begin \
  \( -name '.labctl-*' -o -name '*.labctl-*' -o -name '*.new' -o -name '*tmp*' -o -name '*.dpkg-*' \) 2>/dev/null
dpkg --audit`;

export interface CrashLab {
  readonly machine: TestMachine;
  /** Holds lab.yaml and .labctl. */
  readonly cwd: string;
  readonly env: Readonly<Record<string, string>>;
  /** Writes the spec in its n-th generation, with only the named parts (default: all). */
  write(generation: number, parts?: readonly Part[]): void;
  run(args: readonly string[], options?: Partial<CliOptions>): Promise<CliResult>;
  spawn(args: readonly string[], options?: Partial<CliOptions>): CliProcess;
  /** The state as this process reads it: without the command line. */
  state(): Promise<StateView>;
  /** Begin records of this run that no end record follows, in the journals as they lie there. */
  open(run: string): number;
  /** What is on the machine, as text that equals `expected(generation)`. */
  look(): Promise<string>;
  expected(generation: number, parts?: readonly Part[]): string;
  /** Temporary files on the machine and beside the state, one a line; empty: none. */
  leftovers(): Promise<string>;
  /** Demands that apply (or destroy) with what it needs now ends well, and that nothing is left to do or to clean up. */
  converges(generation: number, parts?: readonly Part[]): Promise<void>;
  stop(): Promise<void>;
}

export type Part = "large" | "files" | "package" | "user" | "service" | "command";
const PARTS: readonly Part[] = ["large", "files", "package", "user", "service", "command"];

export async function startCrashLab(options: MachineOptions = {}, cwd = temporaryFolder()): Promise<CrashLab> {
  const machine = await startMachine({ ...options, setup: `${SETUP}\n${options.setup ?? ""}` });
  mkdirSync(join(cwd, "home"), { recursive: true });
  const large = [0, 1].map((i) => {
    const bytes = randomBytes(LARGE);
    writeFileSync(join(cwd, `big-${i}.bin`), bytes);
    return bytes;
  });
  const digests = large.map((bytes) => createHash("sha256").update(bytes).digest("hex"));
  const env = { HOME: join(cwd, "home"), USER: "tester", NO_COLOR: "1" };
  const store = createFileStore({ dir: join(cwd, ".labctl") });
  const of = (given: Partial<CliOptions> | undefined): CliOptions => ({ cwd, env, ...given });
  const lab: CrashLab = {
    machine,
    cwd,
    env,
    write: (generation, parts = PARTS) =>
      writeFileSync(join(cwd, "lab.yaml"), JSON.stringify(spec(machine, generation, new Set(parts)), undefined, 1)),
    run: (args, given) => labctl(args, of(given)),
    spawn: (args, given) => spawnLabctl(args, of(given)),
    state: () => store.read("lab"),
    open: (run) => openOperations(join(cwd, ".labctl"), run).size,
    look: async () => (await machine.exec(LOOK)).stdout,
    expected: (generation, parts = PARTS) => expected(generation, new Set(parts), digests),
    leftovers: async () => {
      const there = (await machine.exec(LEFTOVERS)).stdout;
      const state = readdirSync(join(cwd, ".labctl"));
      // Of whom was killed last the journal waits for the next who writes; a run with nothing to do writes nothing.
      const last = Math.max(...state.map((name) => Number(/^lab\.journal\.(\d+)/.exec(name)?.[1] ?? 0)));
      const here = state.filter(
        (name) =>
          name !== "runs" &&
          name !== "lab.json" &&
          !/^lab\.lock\.\d+$/.test(name) &&
          !name.startsWith(`lab.journal.${last}.`),
      );
      const configuration = readdirSync(join(cwd, "home"), { recursive: true })
        .map(String)
        .filter((name) => /tmp/.test(name));
      return `${there}${[...here, ...configuration].map((name) => `controller: ${name}\n`).join("")}`;
    },
    async converges(generation, parts) {
      const applied = await lab.run(["apply", "--auto-approve"]);
      expect(applied.code, applied.output).toBe(0);
      const planned = await lab.run(["plan", "--detailed-exitcode"]);
      expect(planned.code, planned.output).toBe(0);
      expect(await lab.look()).toBe(lab.expected(generation, parts));
      expect(await lab.leftovers()).toBe("");
    },
    async stop() {
      await machine.stop();
      rmSync(cwd, { recursive: true, force: true });
    },
  };
  return lab;
}

function temporaryFolder(): string {
  return mkdtempSync(join(tmpdir(), "labctl-crash-"));
}

function spec(machine: TestMachine, generation: number, parts: ReadonlySet<Part>): object {
  const odd = generation % 2;
  const files: Record<string, object> = {};
  if (parts.has("large")) files["/srv/app/big.bin"] = { source: `./big-${odd}.bin`, mode: "0640" };
  if (parts.has("files")) {
    for (const i of [1, 2, 3]) files[`/srv/app/conf-${i}`] = { content: `conf ${i} of ${generation}\n`, mode: "0644" };
    files["/etc/motd-lab"] = { content: `generation ${generation}\n` };
  }
  return {
    labctl: 1,
    name: "crash",
    defaults: {
      ssh: {
        user: "lab",
        key: machine.keyPath,
        known_hosts: machine.knownHostsPath,
        host_key: "strict",
      },
      timeouts: { connect: "3s" },
      retry: { attempts: 3, delay: "100ms", max_delay: "400ms" },
    },
    hosts: {
      m: {
        address: machine.address,
        sudo: true,
        directories: { "/srv/app": { mode: odd ? "0750" : "0755" } },
        files,
        ...(parts.has("package") && { packages: [{ name: "labtest", version: odd ? "2.0" : "1.0" }] }),
        ...(parts.has("user") && {
          users: { ci: { comment: `generation ${generation}`, authorized_keys: [KEYS[odd]], remove_home: true } },
        }),
        ...(parts.has("service") && { services: { labsvc: { enabled: true, running: odd === 1 } } }),
        ...(parts.has("command") && {
          commands: {
            stamp: {
              run: 'sleep 0.15; printf "%s\\n" "$G" >/srv/app/stamp',
              unless: 'grep -qx "$G" /srv/app/stamp',
              env: { G: String(generation) },
              undo: "rm -f /srv/app/stamp",
              depends_on: ['directory["/srv/app"]'],
            },
          },
        }),
      },
    },
  };
}

function expected(generation: number, parts: ReadonlySet<Part>, digests: readonly string[]): string {
  const odd = generation % 2;
  const lines = [`app ${odd ? "750" : "755"}`];
  if (parts.has("large")) lines.push(`app/big.bin 640 ${digests[odd] ?? ""}`);
  if (parts.has("files")) for (const i of [1, 2, 3]) lines.push(`app/conf-${i} 644 conf ${i} of ${generation} `);
  if (parts.has("command")) lines.push(`app/stamp 644 ${generation} `);
  lines.push(`motd ${parts.has("files") ? `generation ${generation}` : ""}`);
  const version = odd ? "2.0" : "1.0";
  lines.push(parts.has("package") ? `package ii ${version} ${version}` : "package  ");
  lines.push(parts.has("user") ? `user generation ${generation} ${KEYS[odd] ?? ""}` : "user  ");
  lines.push(`service ${parts.has("service") && odd ? "up" : "down"}`);
  return `${lines.join("\n")}\n`;
}

function openOperations(dir: string, run: string): ReadonlySet<string> {
  const open = new Set<string>();
  // A first run that was killed before it came to its state.
  if (!existsSync(dir)) return open;
  for (const name of readdirSync(dir).filter((one) => one.startsWith("lab.journal."))) {
    for (const line of readFileSync(join(dir, name), "utf8").split("\n")) {
      // A last line that was cut off is no record.
      if (!line.endsWith("}")) continue;
      const record = JSON.parse(line) as Partial<JournalRecord>;
      if (record.type === "begin" && record.run === run && record.op !== undefined) open.add(record.op);
      else if (record.type === "end" && record.op !== undefined) open.delete(record.op);
    }
  }
  return open;
}

/** The last event of a run with `--json`: its summary. */
export function summaryOf(result: { readonly stdout: string }): RunSummary | undefined {
  for (const line of result.stdout.split("\n").reverse()) {
    if (!line.startsWith("{")) continue;
    try {
      const event = JSON.parse(line) as LabEvent;
      if (event.type === "run.finished") return event.summary;
    } catch {
      // A line that was cut off.
      continue;
    }
  }
  return undefined;
}
