import type { Command } from "commander";
import type { SshWay } from "../../transport/index.ts";
import { type Context, selectionOf } from "../context.ts";
import { addExecOptions, type ExecFlags, execOn } from "../exec.ts";
import { summaryOf, withLab, type Work } from "../lab.ts";
import type { Host } from "../program.ts";
import { findReachable } from "../reachable.ts";

interface SshFlags {
  readonly tty?: boolean;
  readonly option: readonly string[];
  readonly config?: boolean;
}

const collect = (value: string, previous: readonly string[]): string[] => [...previous, value];

/** `ssh` and `exec`: to any machine, guest or environment of the lab. */
export function registerSsh(program: Command, host: Host): void {
  const ssh = program
    .command("ssh")
    .argument("<machine>", "a host, a virtual machine or an environment: its name or address")
    .argument("[command...]", "what to run there, after --; a session without")
    .summary("log in to a machine of the lab, with OpenSSH")
    .description(
      "Runs OpenSSH's client with what the spec says of the machine: jump hosts, keys, ports, known hosts. A guest is reached through the host that it is on. As with ssh, the words of a command are joined and read by the login's shell there; `labctl exec` passes them on as they are. Exits as ssh does: with the command's code, or 255 where ssh failed.",
    )
    .option("-t, --tty", "a terminal for the command too")
    .option("-o, --option <setting>", "a further setting, as `ssh -o` takes it (repeatable)", collect, [])
    .option("--config", "print the ssh_config that leads there, for scp, rsync and others")
    .addHelpText(
      "after",
      `
Examples:
  labctl ssh builder-1
  labctl ssh vm.scratch-1 -- dmesg --level err
  labctl ssh builder-1 -o 'LocalForward 8080 localhost:80'
  labctl ssh builder-1 --config >conf && scp -F conf labctl-host.builder-1:/etc/motd .`,
    );
  ssh.action(async (name: string, words: string[], flags: SshFlags) => {
    await host.invoke((context) => sshTo(context, name, words, flags), ssh);
  });

  const exec = program
    .command("exec")
    .argument("<machine>", "a host, a virtual machine or an environment: its name or address")
    .argument("<command...>", "the command and its arguments, after --")
    .summary("run a command on a machine, over the lab's connection")
    .description(
      "Runs a command on a host, a virtual machine or an environment: each word arrives as it is, no shell looks at it. Exits with the command's own code, or 128 and the signal's number.",
    );
  addExecOptions(exec).addHelpText(
    "after",
    "\nExamples:\n  labctl exec builder-1 -- uname -a\n  labctl exec vm.scratch-1 --root -- dmesg --level err\n  labctl exec smoke --json -- cat /proc/cmdline | jq -r .stdout",
  );
  exec.action(async (name: string, words: string[], flags: ExecFlags) => {
    await host.invoke(
      (context) =>
        onMachine(context, "exec", true, async ({ session }) =>
          execOn(context, session, await findReachable(session, name), words, flags),
        ),
      exec,
    );
  });
}

async function onMachine(
  context: Context,
  command: string,
  record: boolean,
  body: (work: Work) => Promise<number>,
): Promise<number> {
  const started = performance.now();
  return withLab(context, { command, selection: selectionOf(context), record, stream: false }, async (work) => {
    await work.view.pause();
    return summaryOf(command, await body(work), started);
  });
}

async function sshTo(context: Context, name: string, words: readonly string[], flags: SshFlags): Promise<number> {
  const { term, signals, services } = context;
  const looks = flags.config === true || term.options.json;
  return onMachine(context, "ssh", !looks, async ({ session, view }) => {
    const address = await findReachable(session, name);
    const { connection } = await session.machine(address, signals.cancellation.soft);
    const { sshAlias, sshConfigText, sshWay } = await import("../../transport/index.ts");
    const way = connection.type === "local" ? undefined : await sshWay(connection, term.io.env);
    if (term.options.json) {
      term.json({ address, connection: connection.type, ...(way && { name: sshAlias(way), way: wayJson(way) }) });
      return 0;
    }
    if (flags.config === true) {
      if (way === undefined) term.err(`${address} is the machine that labctl runs on: nothing leads there.`);
      else term.out(sshConfigText(way));
      return 0;
    }
    // The terminal is ssh's from here on.
    await view.stop();
    return services.ssh({
      way,
      command: words,
      options: flags.option,
      tty: flags.tty === true,
      env: term.io.env,
      signal: signals.cancellation.soft,
    });
  });
}

/** The machines on the way, the first jump host first; without secrets, since OpenSSH is told none. */
function wayJson(way: SshWay): object[] {
  return way.map(({ address, settings, rule }) => ({
    address,
    host: settings.host,
    port: settings.port,
    user: settings.user,
    host_key: rule,
    known_hosts: rule.startsWith("SHA256:") ? [] : settings.knownHosts,
    keys: settings.files.map(({ path }) => path),
  }));
}
