import { type Address, LabError, type Machine } from "../../../src/index.ts";
import type { CallOptions, RpcClient } from "./client.ts";
import { connect, type ConnectOptions, type Route } from "./connect.ts";
import { Domains } from "./domains.ts";
import { Events } from "./events.ts";
import { Networks } from "./networks.ts";
import { Node } from "./node.ts";
import { procedures as call } from "./procedures.ts";
import { Pools, Volumes } from "./storage.ts";
import { type ConnectUri, parseConnectUri } from "./uri.ts";

export interface OpenOptions extends ConnectOptions {
  /** Default `qemu:///system`; see {@link parseConnectUri}. */
  readonly uri?: string;
}

const GOODBYE_MS = 2_000;

/** An open connection to libvirt. Calls run side by side. When it breaks, all of them fail once, and {@link Libvirt.closed} says why. */
export class Libvirt {
  readonly address: Address;
  readonly domains: Domains;
  readonly networks: Networks;
  readonly pools: Pools;
  readonly volumes: Volumes;
  readonly node: Node;
  readonly events: Events;
  readonly #client: RpcClient;

  constructor(machine: Machine, uri: ConnectUri, client: RpcClient, route: Route, options: ConnectOptions) {
    this.address = machine.address;
    this.#client = client;
    const calls = {
      client,
      aside: async ({ signal, timeout }: CallOptions): Promise<RpcClient> => {
        const own = { ...options, ...(signal && { signal }), ...(timeout !== undefined && { timeout }) };
        return (await connect(machine, uri, own, route)).client;
      },
    };
    this.domains = new Domains(calls);
    this.networks = new Networks(calls);
    this.pools = new Pools(calls);
    this.volumes = new Volumes(calls);
    this.node = new Node(calls);
    this.events = new Events(client);
  }

  /** Why it is gone, once it is: every further call fails with this. */
  get lost(): LabError | undefined {
    return this.#client.lost;
  }

  /** Resolves when it has ended: to why, or to undefined where it was closed from here. */
  get closed(): Promise<LabError | undefined> {
    return this.#client.closed;
  }

  /** Of the hypervisor, as `7.2.22`. */
  async version(options?: CallOptions): Promise<string> {
    return dotted((await this.#client.call(call.connectGetVersion, undefined, options)).version);
  }

  /** Of libvirt, as `9.0.0`. */
  async libVersion(options?: CallOptions): Promise<string> {
    return dotted((await this.#client.call(call.connectGetLibVersion, undefined, options)).version);
  }

  /** Of the driver: `QEMU`, `LXC`. */
  async type(options?: CallOptions): Promise<string> {
    return (await this.#client.call(call.connectGetType, undefined, options)).type;
  }

  async hostname(options?: CallOptions): Promise<string> {
    return (await this.#client.call(call.connectGetHostname, undefined, options)).hostname;
  }

  /** XML: the host, and the guests that it can run. */
  async capabilities(options?: CallOptions): Promise<string> {
    return (await this.#client.call(call.connectGetCapabilities, undefined, options)).xml;
  }

  /** XML: what domains of this emulator, architecture, machine and type can have. */
  async domainCapabilities(
    of: { readonly emulator?: string; readonly arch?: string; readonly machine?: string; readonly virttype?: string },
    options?: CallOptions,
  ): Promise<string> {
    const { emulator, arch, machine, virttype } = of;
    const args = { emulator, arch, machine, virttype, flags: 0 };
    return (await this.#client.call(call.connectGetDomainCapabilities, args, options)).xml;
  }

  /** Says goodbye (for at most two seconds) and closes. Never fails. Streams that are open go on: they have connections of their own. */
  async close(): Promise<void> {
    if (this.#client.lost === undefined) await this.#client.leave(call.connectClose, GOODBYE_MS);
  }
}

/** Opens a connection to libvirt on the machine. Rejects as {@link connect} does. */
export async function openLibvirt(machine: Machine, options: OpenOptions = {}): Promise<Libvirt> {
  const uri = parseConnectUri(options.uri ?? "qemu:///system", machine.address);
  const { signal: _ends, ...kept } = options;
  const { client, route } = await connect(machine, uri, options);
  return new Libvirt(machine, uri, client, route, kept);
}

const shared = new WeakMap<Machine, Map<string, Promise<Libvirt>>>();

/**
 * The one connection of this process to libvirt on the machine: made when first asked for, and again once it broke. Do not close it:
 * it ends with the connection to the machine.
 */
export async function sharedLibvirt(
  machine: Machine,
  { uri = "qemu:///system", signal }: { readonly uri?: string; readonly signal?: AbortSignal } = {},
): Promise<Libvirt> {
  const all = shared.get(machine) ?? new Map<string, Promise<Libvirt>>();
  shared.set(machine, all);
  for (;;) {
    const known = all.get(uri);
    // The caller's signal ends its own wait, not the opening that others share.
    const opening = known ?? openLibvirt(machine, { uri });
    all.set(uri, opening);
    const drop = (): void => {
      if (all.get(uri) === opening) all.delete(uri);
    };
    opening.catch(drop);
    const libvirt = await orAborted(opening, machine.address, signal);
    if (libvirt.lost === undefined) return libvirt;
    drop();
  }
}

async function orAborted<T>(promise: Promise<T>, address: Address, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return await promise;
  let onAbort = (): void => undefined;
  const aborted = new Promise<never>((_, reject) => {
    onAbort = () => reject(new LabError("E_CANCELLED", "cancelled", { address }));
    signal.addEventListener("abort", onAbort, { once: true });
    if (signal.aborted) onAbort();
  });
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}

/** libvirt's versions are major * 1,000,000 + minor * 1,000 + release. */
function dotted(version: number): string {
  return [Math.floor(version / 1_000_000), Math.floor(version / 1_000) % 1_000, version % 1_000].join(".");
}
