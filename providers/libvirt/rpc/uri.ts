import { type Address, LabError, type Machine, sh, shJoin, type ShellText } from "../../../src/index.ts";

export interface ConnectUri {
  /** Names the modular daemon: `qemu` is virtqemud's. */
  readonly driver: "qemu" | "lxc";
  readonly scope: "system" | "session";
  /** What the daemon is asked to open. */
  readonly name: string;
  /** Absolute path, where the URI names one: `qemu:///system?socket=/run/x`. */
  readonly socket: string | undefined;
}

/** `qemu:///system`, `qemu:///session`, `lxc:///` or `lxc:///system`, each with `?socket=PATH`. Else E_LIBVIRT. */
export function parseConnectUri(uri: string, address: Address): ConnectUri {
  const match = /^(qemu|lxc):\/\/\/(system|session)?(?:\?socket=(.+))?$/.exec(uri);
  const [, driver, scope, socket] = match ?? [];
  if (driver === "qemu" && scope !== undefined) {
    return { driver, scope: scope === "session" ? scope : "system", name: `qemu:///${scope}`, socket: path(socket) };
  }
  if (driver === "lxc" && scope !== "session") {
    return { driver, scope: "system", name: "lxc:///system", socket: path(socket) };
  }
  throw new LabError("E_LIBVIRT", `${JSON.stringify(uri)} is not a connect URI that labctl knows`, {
    address,
    hint: "use qemu:///system, qemu:///session or lxc:///system; the host is reached by its own `ssh:`, not by the URI",
  });
}

function path(socket: string | undefined): string | undefined {
  return socket === undefined ? undefined : decodeURIComponent(socket);
}

const PROBE_ROOT = "/run/libvirt";

/**
 * The sockets that are there, those of the modular daemon first, as libvirt's own client picks them (src/remote/remote_sockets.c
 * of libvirt 9.0). Where nobody may look: those that should be there.
 */
export async function findSockets(machine: Machine, uri: ConnectUri, signal?: AbortSignal): Promise<readonly string[]> {
  if (uri.socket !== undefined) return [uri.socket];
  const names = [`virt${uri.driver}d-sock`, "libvirt-sock"];
  const folders: readonly ShellText[] =
    uri.scope === "system"
      ? [sh`${PROBE_ROOT}`]
      : // Without XDG_RUNTIME_DIR, which a login over SSH may lack, daemons use the cache.
        [
          sh`"\${XDG_RUNTIME_DIR:-/nonexistent}"/libvirt`,
          sh`/run/user/"$(id -u)"/libvirt`,
          sh`"\${XDG_CACHE_HOME:-$HOME/.cache}"/libvirt`,
        ];
  const tests = folders.flatMap((folder) =>
    names.map((name) => sh`if [ -S ${folder}/${name} ]; then printf '%s\n' ${folder}/${name}; fi`),
  );
  const root = uri.scope === "system";
  const { stdout } = await machine.probe(shJoin(tests), { root, ...(signal && { signal }) });
  return [...new Set(stdout.toString("utf8").split("\n"))].filter((line) => line.startsWith("/"));
}
