import { existsSync, mkdtempSync } from "node:fs";
import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type CpioEntry, LabError } from "../../src/index.ts";
import { type GuestMount, HOME, ROOT_TAG } from "./guest-init.ts";
import type { GuestShare } from "./machine.ts";
import type { Driver, Drivers } from "./modules.ts";
import { runBriefly, supervise, type Supervised } from "./process.ts";
import { packFolder, type PackLimits } from "./userland.ts";

/** A folder of this machine that the guest shall see. */
export interface Wanted {
  readonly path: string;
  readonly target: string;
  readonly writable: boolean;
  /** Asked for by name: not having it is an error, and not a note. */
  readonly explicit: boolean;
}

export interface Sharing {
  readonly shares: readonly GuestShare[];
  readonly mounts: readonly GuestMount[];
  readonly packed: readonly CpioEntry[];
  readonly drivers: readonly Driver[];
  /** / of the guest is shared too. */
  readonly root: boolean;
  readonly notes: readonly string[];
  /** Ends the servers. */
  close(): Promise<void>;
}

/** What is copied into the initramfs where it cannot be shared: where that is sure, and where it is a guess. */
const PACK: PackLimits = { bytes: 64 * 2 ** 20, files: 20_000 };
const PACK_GUESS: PackLimits = { bytes: 8 * 2 ** 20, files: 2000 };
const SOCKET_MS = 5000;
const VIRTIOFSD = ["/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/lib/virtiofsd"];

/**
 * Decides how folders come into the guest: 9p where the kernel has it, virtiofs where it has that and there is a virtiofsd,
 * else as a copy in the initramfs. A kernel of which nothing is known is offered 9p and, if small, the copy.
 * @throws LabError E_SOURCE_FILE where a folder that was asked for cannot be had
 */
export async function arrange(
  wanted: readonly Wanted[],
  root: string | undefined,
  drivers: Drivers,
  transport: Driver,
): Promise<Sharing> {
  const bus = drivers.has(transport);
  const plan9 = bus === "none" ? "none" : worst(drivers.has("9p"), drivers.has("9pnet_virtio"));
  const virtiofs = bus === "none" ? "none" : drivers.has("virtiofs");
  const shares: GuestShare[] = [];
  const mounts: GuestMount[] = [];
  const packed: CpioEntry[] = [];
  const notes: string[] = [];
  const servers: Server[] = [];
  const server = plan9 === "none" && isThere(virtiofs) ? await findServer() : undefined;
  const close = async (): Promise<void> => {
    for (const one of servers) await one.stop();
  };
  const offer = async (tag: string, path: string, writable: boolean): Promise<boolean> => {
    if (plan9 !== "none") shares.push({ tag, writable, by: { type: "9p", path } });
    else if (server !== undefined) {
      const one = await startServer(server, path, writable);
      servers.push(one);
      shares.push({ tag, writable, by: { type: "virtiofs", socket: one.socket } });
    } else return false;
    return true;
  };
  try {
    const rootShared = root !== undefined && (await offer(ROOT_TAG, root, false));
    if (root !== undefined && !rootShared) {
      notes.push(
        `the programs of ${root === "/" ? "this machine" : root} are not in the guest: its kernel has neither 9p nor virtiofs that could be used`,
      );
    }
    for (const [index, one] of wanted.entries()) {
      const tag = `labctl-${index}`;
      const offered = await offer(tag, one.path, one.writable);
      const sure = offered && (plan9 !== "unknown" || server !== undefined);
      let copy = false;
      if (!sure) {
        const limits = offered ? PACK_GUESS : PACK;
        const entries = await packFolder(one.path, `${HOME}/packed/${tag}`, limits);
        if (typeof entries !== "string") {
          // Not by spreading: there may be many.
          for (const entry of entries) packed.push(entry);
          copy = true;
        } else if (!offered) {
          const why = `${one.path} is not in the guest: its kernel can share no folder, and ${entries}`;
          if (one.explicit) {
            throw new LabError("E_SOURCE_FILE", why, {
              hint: "boot a kernel with CONFIG_9P_FS and CONFIG_NET_9P_VIRTIO, name its modules with --modules, or share a smaller folder",
            });
          }
          notes.push(why);
          continue;
        }
      }
      mounts.push({ tag, target: one.target, writable: one.writable, packed: copy });
    }
    const needed: Driver[] = [
      ...(plan9 === "module" ? (["9pnet_virtio", "9p"] as const) : []),
      ...(server !== undefined ? (["virtiofs"] as const) : []),
    ];
    return { shares, mounts, packed, drivers: needed, root: rootShared, notes, close };
  } catch (error) {
    await close();
    throw error;
  }
}

type Has = ReturnType<Drivers["has"]>;

function isThere(has: Has): boolean {
  return has === "builtin" || has === "module";
}

function worst(a: Has, b: Has): Has {
  for (const level of ["none", "unknown", "module"] as const) if (a === level || b === level) return level;
  return "builtin";
}

interface ServerProgram {
  readonly path: string;
  /** The one written in Rust has other options than QEMU's own, which it replaced. */
  readonly rust: boolean;
}

/** Served only by root: whoever else starts virtiofsd needs user namespaces that a test lab seldom has. */
async function findServer(): Promise<ServerProgram | undefined> {
  const path = VIRTIOFSD.find((one) => existsSync(one));
  if (path === undefined || process.getuid?.() !== 0) return undefined;
  const help = await runBriefly("/bin/sh", ["-c", '"$1" --help >&2', "sh", path], 5000).catch(() => undefined);
  return { path, rust: help?.stderr.includes("--shared-dir") ?? false };
}

interface Server {
  readonly socket: string;
  stop(): Promise<void>;
}

/** What may only be read is bound read-only first, in a namespace of its own: the guest is not asked to behave. */
const READ_ONLY = `mount --bind -- "$1" "$2" && mount -o remount,bind,ro -- "$2" && shift 2 && exec "$@"`;

async function startServer(program: ServerProgram, path: string, writable: boolean): Promise<Server> {
  const folder = mkdtempSync(join(tmpdir(), "labctl-virtiofs-"));
  const socket = join(folder, "socket");
  const source = writable ? path : mkdtempSync(join(folder, "source-"));
  const own = program.rust
    ? ["--socket-path", socket, "--shared-dir", source, "--sandbox", "chroot"]
    : [`--socket-path=${socket}`, "-o", `source=${source}`, "-o", "sandbox=chroot", "-o", "cache=auto"];
  const running: Supervised = writable
    ? supervise(program.path, own)
    : supervise("unshare", [
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        READ_ONLY,
        "sh",
        path,
        source,
        program.path,
        ...own,
      ]);
  const stop = async (): Promise<void> => {
    await running.stop();
    await rm(folder, { recursive: true, force: true });
  };
  let ended: string | undefined;
  void running.ended.then(({ stderr }) => (ended = stderr));
  for (const until = Date.now() + SOCKET_MS; Date.now() < until; ) {
    if (existsSync(socket)) return { socket, stop };
    if (ended !== undefined) break;
    await sleep(10);
  }
  await stop();
  throw new LabError("E_QEMU", `${program.path} does not serve ${path}: ${ended ?? "it made no socket"}`);
}
