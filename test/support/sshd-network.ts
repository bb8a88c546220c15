import { execFile, spawnSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";

const run = promisify(execFile);

/** What all temporary folders of test machines begin with; the process id of their owner follows. */
export const TEMPORARY = "labctl-machines-";
const NET_LOCK = "labctl-net-";
const FIRST_HOST = 10;

/** A bridge with addresses 10.213.N.0/24; this machine is .1 on it. */
export interface LabNetwork {
  readonly bridge: string;
  readonly prefix: number;
  readonly subnet: number;
  /** The next free host number. */
  next(): number;
  stop(): Promise<void>;
}

let networks = 0;
let devices = 0;

export function temporaryRoot(): string {
  return tmpdir();
}

export async function startLabNetwork(): Promise<LabNetwork> {
  const bridge = `lab${process.pid}n${networks++}`;
  const subnet = claimSubnet();
  // Without an address of its own a bridge takes a port's, and changes it as machines come and go: the others would
  // lose their neighbour for seconds.
  const hex = (byte: number): string => (byte & 0xff).toString(16).padStart(2, "0");
  const mac = `02:1a:b0:${hex(subnet)}:${hex(process.pid >> 8)}:${hex(process.pid)}`;
  await run("ip", ["link", "add", bridge, "address", mac, "type", "bridge"]);
  await run("ip", ["addr", "add", `10.213.${subnet}.1/24`, "dev", bridge]);
  await run("ip", ["link", "set", bridge, "up"]);
  const remove = (): void => {
    spawnSync("ip", ["link", "del", bridge], { stdio: "ignore" });
    rmSync(join(temporaryRoot(), `${NET_LOCK}${subnet}`), { recursive: true, force: true });
  };
  process.once("exit", remove);
  let host = FIRST_HOST;
  return {
    bridge,
    prefix: 24,
    subnet,
    next: () => {
      if (host > 250) host = FIRST_HOST;
      return host++;
    },
    stop: () => {
      process.removeListener("exit", remove);
      remove();
      return Promise.resolve();
    },
  };
}

/** Puts an end of a cable into the namespace of a process, as eth0. Its address is set from inside. */
export async function joinNetwork(network: LabNetwork, pid: number): Promise<{ address: string; device: string }> {
  const device = `lv${process.pid}x${devices++}`;
  await run("ip", ["link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", String(pid)]);
  await run("ip", ["link", "set", device, "master", network.bridge, "up"]);
  return { address: `10.213.${network.subnet}.${network.next()}`, device };
}

/** Several test runs may start at once: a folder is made by one of them only. */
function claimSubnet(): number {
  const start = process.pid % 250;
  for (let i = 0; i < 250; i++) {
    const subnet = (start + i) % 250;
    const lock = join(temporaryRoot(), `${NET_LOCK}${subnet}`);
    try {
      mkdirSync(lock);
    } catch {
      continue;
    }
    writeFileSync(join(lock, "pid"), String(process.pid));
    return subnet;
  }
  throw new Error("no free test network: 250 are in use");
}

export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

/** Removes what test runs left that were killed: folders, bridges, claims. Machines end with their run by themselves. */
export async function sweep(): Promise<void> {
  for (const name of readdirSync(temporaryRoot())) {
    const path = join(temporaryRoot(), name);
    if (name.startsWith(TEMPORARY)) {
      const owner = Number.parseInt(name.slice(TEMPORARY.length), 10);
      if (!isAlive(owner)) rmSync(path, { recursive: true, force: true });
    } else if (name.startsWith(NET_LOCK)) {
      const owner = readOwner(join(path, "pid"));
      if (owner !== undefined && !isAlive(owner)) rmSync(path, { recursive: true, force: true });
    }
  }
  const { stdout } = await run("ip", ["-o", "link", "show", "type", "bridge"]);
  for (const [, name, owner] of stdout.matchAll(/^\d+: (lab(\d+)n\d+)[:@]/gm)) {
    if (name !== undefined && !isAlive(Number(owner))) await run("ip", ["link", "del", name]).catch(() => undefined);
  }
}

function readOwner(file: string): number | undefined {
  try {
    return Number(readFileSync(file, "utf8"));
  } catch {
    // Its owner has made the folder and not yet written its number, or is removing it.
    return undefined;
  }
}
