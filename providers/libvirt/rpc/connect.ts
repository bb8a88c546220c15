import type { Duplex } from "node:stream";
import { LabError, type Machine } from "../../../src/index.ts";
import { type CallOptions, RpcClient, type RpcOptions } from "./client.ts";
import { procedures } from "./procedures.ts";
import { type ConnectUri, findSockets } from "./uri.ts";

export interface ConnectOptions {
  readonly signal?: AbortSignal;
  /** Milliseconds for everything until libvirt has opened the driver; default 30 s. */
  readonly timeout?: number;
  readonly keepalive?: RpcOptions["keepalive"];
}

const TIMEOUT_MS = 30_000;
/** remote_auth_type. */
const AUTH = { none: 0, sasl: 1, polkit: 2 } as const;

/** Where a connection was made, so that one for a stream goes the same way at once. */
export interface Route {
  readonly socket: string;
  readonly root: boolean;
}

/**
 * Opens a connection: finds the daemon's socket, opens it with the login's rights, or as root through `become` where these are not
 * enough, authenticates, opens the driver. E_LIBVIRT where there is none or it refuses; E_CONNECT, E_AUTH and their like where
 * the machine itself cannot be reached.
 */
export async function connect(
  machine: Machine,
  uri: ConnectUri,
  options: ConnectOptions,
  known?: Route,
): Promise<{ readonly client: RpcClient; readonly route: Route }> {
  const timeout = options.timeout ?? TIMEOUT_MS;
  const deadline = AbortSignal.timeout(timeout);
  const signal = options.signal ? AbortSignal.any([options.signal, deadline]) : deadline;
  try {
    return await attempt(machine, uri, signal, options, known);
  } catch (error) {
    if (!deadline.aborted || options.signal?.aborted || (error instanceof LabError && error.code !== "E_CANCELLED")) {
      throw error;
    }
    throw new LabError("E_TIMEOUT", `${where(machine)} did not open within ${timeout / 1000} s`, {
      address: machine.address,
      retryable: true,
      cause: error,
      hint: "its daemon may hang: look at its log there, or restart it",
    });
  }
}

function where(machine: Machine): string {
  return `libvirt on ${machine.address}`;
}

async function attempt(
  machine: Machine,
  uri: ConnectUri,
  signal: AbortSignal,
  options: ConnectOptions,
  known: Route | undefined,
): Promise<{ readonly client: RpcClient; readonly route: Route }> {
  const sockets = known ? [known.socket] : await findSockets(machine, uri, signal);
  if (sockets.length === 0) throw absent(machine, uri);
  // A session belongs to the login: root has another.
  const elevate = uri.scope === "system" && machine.connection.become.method === "sudo";
  const ways = known ? [known.root] : elevate ? [false, true] : [false];
  let failure: unknown;
  for (const socket of sockets) {
    for (const root of ways) {
      try {
        const stream = await machine.openSocket(socket, { root, signal });
        const last = root || !elevate;
        const client = await handshake(stream, machine, uri, { signal }, options, last);
        return { client, route: { socket, root } };
      } catch (error) {
        if (signal.aborted || !(error instanceof LabError)) throw error;
        const again = error.code === "E_SOCKET" || error.code === "E_LIBVIRT" || error.code === "E_SUDO";
        if (!again) throw error;
        // Without rights to become root, what the login was told says more.
        if (failure === undefined || error.code !== "E_SUDO") failure = error;
      }
    }
  }
  const refused = socketRefused(failure);
  if (refused === undefined) throw failure;
  throw new LabError("E_LIBVIRT", `${where(machine)} cannot be reached: ${refused.message}`, {
    address: machine.address,
    cause: refused,
    retryable: refused.retryable,
    hint: "check that its daemon runs there (`systemctl status libvirtd virtqemud`), and that the login is in the group libvirt, or set `become:`",
  });
}

/** A program that copies finds out only when it has begun: then the connection broke for this reason. */
function socketRefused(failure: unknown): LabError | undefined {
  for (const error of failure instanceof LabError ? [failure, failure.cause] : []) {
    if (error instanceof LabError && error.code === "E_SOCKET") return error;
  }
  return undefined;
}

async function handshake(
  stream: Duplex,
  machine: Machine,
  uri: ConnectUri,
  call: CallOptions,
  options: ConnectOptions,
  lastWay: boolean,
): Promise<RpcClient> {
  const client = new RpcClient(stream, {
    address: machine.address,
    where: where(machine),
    ...(options.keepalive && { keepalive: options.keepalive }),
  });
  try {
    const { types } = await client.call(procedures.authList, undefined, call);
    if (!types.includes(AUTH.none) && types.length > 0) {
      // Root is not asked by polkit: where labctl may become root it rather does.
      if (!lastWay) throw forbidden(machine, "polkit has to be asked");
      if (!types.includes(AUTH.polkit))
        throw forbidden(machine, "it wants a password (SASL), which labctl does not speak");
      await client.call(procedures.authPolkit, undefined, call);
    }
    await client.call(procedures.connectOpen, { name: uri.name, flags: 0 }, call);
    return client;
  } catch (error) {
    client.close();
    throw error;
  }
}

function forbidden(machine: Machine, why: string): LabError {
  return new LabError("E_LIBVIRT", `${where(machine)} does not let the login in: ${why}`, {
    address: machine.address,
    hint: 'put the user into the group libvirt (with auth_unix_rw = "none" in libvirtd.conf), or set `become:`',
  });
}

function absent(machine: Machine, uri: ConnectUri): LabError {
  return new LabError("E_LIBVIRT", `${where(machine)} is not there: no daemon listens for ${uri.name}`, {
    address: machine.address,
    retryable: true,
    hint:
      uri.scope === "system"
        ? "install it (Debian: libvirt-daemon-system; Fedora: libvirt-daemon-driver-qemu), or start it: systemctl start libvirtd.socket, or virtqemud.socket"
        : `start the user's own daemon there: virsh -c ${uri.name} uri`,
  });
}
