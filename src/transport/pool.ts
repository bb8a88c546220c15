import { LocalLink } from "./local.ts";
import { LinkMachine } from "./machine.ts";
import type { ConnectionSpec, Machine, MachinePool, SshConnection, TransportObserver } from "./ports.ts";
import { AcceptedKeys } from "./ssh/host-key.ts";
import { SshLink, type SshLinkOptions } from "./ssh/link.ts";

export interface MachinePoolOptions {
  readonly observer?: TransportObserver;
  /** Milliseconds: for one command, and for a machine to come back after a restart. */
  readonly timeouts?: { readonly command: number; readonly boot: number };
  /** Of labctl itself: HOME, USER, SSH_AUTH_SOCK, and what local commands inherit. */
  readonly env: Readonly<Record<string, string | undefined>>;
  /** accept-new takes unknown host keys and writes nothing, until {@link ResettablePool.keepHostKeys}. For `plan`. */
  readonly readOnly?: boolean;
  /** Most sessions used at once on one connection (default 8; OpenSSH allows 10). Lowered where a server allows fewer. */
  readonly channels?: number;
  /** Milliseconds between signs of life, and how many may go unanswered. */
  readonly keepalive?: { readonly interval: number; readonly count: number };
}

/** A pool that can also forget that a machine was given up. */
export interface ResettablePool extends MachinePool {
  /** The next use of the machine connects anew, also where it was given up as offline. */
  reset(spec: ConnectionSpec): Promise<void>;
  /** Ends `readOnly`: writes the host keys that accept-new took, and from now on those that it takes. */
  keepHostKeys(): Promise<void>;
}

const TIMEOUTS = { command: 300_000, boot: 180_000 };
const CHANNELS = 8;
const KEEPALIVE = { interval: 5_000, count: 3 };

/** Opens machines; one connection for each, shared by all that use it and by what jumps through it. */
export function createMachinePool(options: MachinePoolOptions): ResettablePool {
  const machines = new Map<string, Machine>();
  const locals = new Map<string, LocalLink>();
  const servers = new Map<string, SshLink>();
  const timeouts = options.timeouts ?? TIMEOUTS;
  const accepted = new AcceptedKeys(options.readOnly ?? false);
  const shared: SshLinkOptions = {
    env: options.env,
    observer: options.observer ?? {},
    accepted,
    channels: options.channels ?? CHANNELS,
    keepalive: options.keepalive ?? KEEPALIVE,
    jump: (spec) => sshLink(spec),
  };

  const sshLink = (spec: SshConnection): SshLink => {
    const key = linkKey(spec);
    let link = servers.get(key);
    if (!link) {
      link = new SshLink(spec, shared);
      servers.set(key, link);
    }
    return link;
  };
  const localLink = (spec: ConnectionSpec): LocalLink => {
    let link = locals.get(spec.address);
    if (!link) {
      link = new LocalLink(spec.address, options.env);
      locals.set(spec.address, link);
    }
    return link;
  };

  return {
    machine(spec) {
      const key = machineKey(spec);
      let machine = machines.get(key);
      if (!machine) {
        machine = new LinkMachine(spec, spec.type === "local" ? localLink(spec) : sshLink(spec), timeouts);
        machines.set(key, machine);
      }
      return machine;
    },
    async reset(spec) {
      if (spec.type === "ssh") await sshLink(spec).reset();
    },
    keepHostKeys: () => accepted.keep(),
    async close() {
      await Promise.all([...locals.values(), ...servers.values()].map((link) => link.close()));
    },
  };
}

/** Everything that a connection is made with, secrets included (kept in memory only): a changed password is another. */
function linkKey(spec: SshConnection): string {
  const { become: _become, passphrase, password, jump, retry: _retry, connect_timeout: _timeout, ...plain } = spec;
  return JSON.stringify([
    Object.entries(plain).sort(([a], [b]) => (a < b ? -1 : 1)),
    passphrase?.reveal() ?? null,
    password?.reveal() ?? null,
    jump ? linkKey(jump) : null,
  ]);
}

function machineKey(spec: ConnectionSpec): string {
  const { become } = spec;
  return JSON.stringify([
    spec.type,
    spec.type === "ssh" ? linkKey(spec) : spec.address,
    become.method,
    become.password?.reveal() ?? null,
  ]);
}
