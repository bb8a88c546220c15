// Ten real SSH servers on this box, and the same 20 files wanted on each: by labctl's spec and by Ansible's playbook.
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { startMachine, type TestMachine } from "../test/support/sshd.ts";

export const HOSTS = 10;
export const FILES = 20;
/** Where the files go on each host; exists there before. */
const TARGET = "/srv/bench";

export interface Farm {
  readonly machines: readonly TestMachine[];
  /** Holds `lab/lab.yaml` and `ansible/`. */
  readonly folder: string;
  /** Removes what either tool made, there and here: the next run is a first one. */
  clean(): Promise<void>;
  /** How many of the files are there, on all hosts, with the wanted mode and content. */
  count(): Promise<number>;
  stop(): Promise<void>;
}

function content(file: number): string {
  return `# file ${file} of the benchmark\n${`setting_${file} = "value ${file}"\n`.repeat(20)}`;
}

export async function startFarm(): Promise<Farm> {
  const machines: TestMachine[] = [];
  const folder = await mkdtemp(join(tmpdir(), "labctl-bench-"));
  const stop = async (): Promise<void> => {
    for (const machine of machines) await machine.stop();
    await rm(folder, { recursive: true, force: true });
  };
  try {
    // MaxStartups: ten parallel logins are what is measured, and not sshd's guard against too many.
    const sshdConfig = ["MaxStartups 100"];
    for (let i = 0; i < HOSTS; i++) {
      machines.push(await startMachine({ name: `bench-${i}`, setup: `mkdir -p ${TARGET}`, sshdConfig }));
    }
    await writeFiles(folder, machines);
  } catch (error) {
    await stop();
    throw error;
  }
  return {
    machines,
    folder,
    async clean() {
      await Promise.all(
        machines.map((machine) =>
          machine.exec(`rm -rf ${TARGET} /var/lib/labctl /home/*/.ansible /root/.ansible; mkdir -p ${TARGET}`),
        ),
      );
      await rm(join(folder, "lab/.labctl"), { recursive: true, force: true });
    },
    async count() {
      const found = await Promise.all(
        machines.map((machine) => machine.exec(`find ${TARGET} -name 'file-*.conf' -perm 0640 -size +300c | wc -l`)),
      );
      return found.reduce((sum, one) => sum + Number(one.stdout.trim()), 0);
    },
    stop,
  };
}

async function writeFiles(folder: string, machines: readonly TestMachine[]): Promise<void> {
  const { mkdir } = await import("node:fs/promises");
  for (const name of ["lab/files", "ansible/files"]) await mkdir(join(folder, name), { recursive: true });
  const numbers = Array.from({ length: FILES }, (_, i) => i);
  for (const i of numbers) {
    for (const tool of ["lab", "ansible"]) await writeFile(join(folder, tool, `files/file-${i}.conf`), content(i));
  }
  const known = await Promise.all(machines.map(async (machine) => (await readText(machine.knownHostsPath)).trim()));
  await writeFile(join(folder, "known_hosts"), `${known.join("\n")}\n`);
  await writeFile(join(folder, "lab/lab.yaml"), labYaml(folder, machines, numbers));
  await writeFile(join(folder, "ansible/inventory.ini"), inventory(folder, machines));
  await writeFile(join(folder, "ansible/ansible.cfg"), ANSIBLE_CFG);
  for (const facts of [true, false]) {
    await writeFile(join(folder, `ansible/site${facts ? "" : "-no-facts"}.yml`), playbook(facts));
  }
}

async function readText(path: string): Promise<string> {
  const { readFile } = await import("node:fs/promises");
  return readFile(path, "utf8");
}

function labYaml(folder: string, machines: readonly TestMachine[], numbers: readonly number[]): string {
  const key = machines[0]?.keyPath ?? "";
  const files = numbers.map(
    (i) => `      ${TARGET}/file-${i}.conf: { source: ./files/file-${i}.conf, mode: "0640", owner: root, group: root }`,
  );
  return [
    "labctl: 1",
    "name: bench",
    `defaults: { ssh: { user: lab, key: ${key}, known_hosts: ${folder}/known_hosts, host_key: strict } }`,
    "hosts:",
    ...machines.flatMap((machine) => [
      `  ${machine.name}:`,
      `    address: ${machine.address}`,
      "    sudo: true",
      "    files:",
      ...files,
    ]),
    "",
  ].join("\n");
}

function inventory(folder: string, machines: readonly TestMachine[]): string {
  return [
    "[bench]",
    ...machines.map((machine) => `${machine.name} ansible_host=${machine.address}`),
    "",
    "[bench:vars]",
    "ansible_user=lab",
    `ansible_ssh_private_key_file=${machines[0]?.keyPath ?? ""}`,
    `ansible_ssh_common_args=-F none -o UserKnownHostsFile=${folder}/known_hosts -o StrictHostKeyChecking=yes -o IdentitiesOnly=yes`,
    "ansible_python_interpreter=/usr/bin/python3",
    "",
  ].join("\n");
}

/** What its manual advises for speed: pipelining; connections kept (ControlPersist) is its default and stays on. */
const ANSIBLE_CFG = `[defaults]
forks = ${HOSTS}
inventory = inventory.ini
retry_files_enabled = False
[ssh_connection]
pipelining = True
`;

function playbook(facts: boolean): string {
  return `- hosts: bench
  become: true
  gather_facts: ${facts ? "true" : "false"}
  tasks:
    - name: the files
      ansible.builtin.copy:
        src: "files/file-{{ item }}.conf"
        dest: "${TARGET}/file-{{ item }}.conf"
        mode: "0640"
        owner: root
        group: root
      loop: "{{ range(0, ${FILES}) | list }}"
      loop_control: { label: "{{ item }}" }
`;
}
