import { readFileSync, readlinkSync } from "node:fs";
import { hostname } from "node:os";

/** What tells one process from every other, across reboots, reused pids, containers and machines. */
export interface ProcessIdentity {
  readonly pid: number;
  readonly host: string;
  /** The kernel's id of this boot; absent where there is no /proc. */
  readonly boot_id?: string;
  /** When the process began, in clock ticks since the boot; absent where there is no /proc. */
  readonly started?: string;
  /** /etc/machine-id: tells machines of one name apart. */
  readonly machine_id?: string;
  /** The pid namespace: pids of another one say nothing here. */
  readonly pid_namespace?: string;
}

/** `unknown`: the holder is elsewhere; only its lease can tell. */
export type Liveness = "alive" | "dead" | "unknown";

export interface ProcessTable {
  readonly self: ProcessIdentity;
  liveness(holder: ProcessIdentity): Liveness;
}

export function systemProcesses(): ProcessTable {
  const self = ownIdentity();
  return { self, liveness: (holder) => judge(self, holder) };
}

function ownIdentity(): ProcessIdentity {
  const boot = readText("/proc/sys/kernel/random/boot_id");
  const started = processStart(process.pid)?.started;
  const machine = readText("/etc/machine-id");
  const namespace = readLink("/proc/self/ns/pid");
  return {
    pid: process.pid,
    host: hostname(),
    ...(boot !== undefined && { boot_id: boot }),
    ...(started !== undefined && { started }),
    ...(machine !== undefined && { machine_id: machine }),
    ...(namespace !== undefined && { pid_namespace: namespace }),
  };
}

function judge(self: ProcessIdentity, holder: ProcessIdentity): Liveness {
  if (holder.host !== self.host) return "unknown";
  if (self.boot_id !== holder.boot_id) {
    // The same machine after a reboot. Without a machine id two machines of one name cannot be told from it.
    const same = self.machine_id !== undefined && self.machine_id === holder.machine_id;
    return same && self.boot_id !== undefined && holder.boot_id !== undefined ? "dead" : "unknown";
  }
  if (self.pid_namespace !== holder.pid_namespace) return "unknown";
  if (self.boot_id === undefined) return signalled(holder.pid) ? "alive" : "dead";
  const found = processStart(holder.pid);
  // /proc may hide other users' processes (hidepid, proc(5)); a signal still tells that they are there.
  if (found === undefined) return signalled(holder.pid) ? "alive" : "dead";
  // A killed process that its parent has not waited for yet writes nothing any more.
  if (found.state === "Z" || found.state === "X") return "dead";
  return holder.started === undefined || holder.started === found.started ? "alive" : "dead";
}

function signalled(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error instanceof Error && "code" in error && error.code === "EPERM";
  }
}

/** State and start time of a process: fields 3 and 22 of /proc/PID/stat, proc(5). The name before may hold anything. */
function processStart(pid: number): { readonly state: string; readonly started: string } | undefined {
  const text = readText(`/proc/${pid}/stat`);
  const fields = text?.slice(text.lastIndexOf(")") + 2).split(" ");
  const [state, started] = [fields?.[0], fields?.[19]];
  return state === undefined || started === undefined ? undefined : { state, started };
}

function readText(path: string): string | undefined {
  try {
    const text = readFileSync(path, "utf8").trim();
    return text === "" ? undefined : text;
  } catch {
    return undefined;
  }
}

function readLink(path: string): string | undefined {
  try {
    return readlinkSync(path);
  } catch {
    return undefined;
  }
}
