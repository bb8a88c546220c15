import {
  type Address,
  type ConnectionProperties,
  type ConnectionSpec,
  hostKeyToPin,
  type KindContext,
  LabError,
  type Machine,
  sh,
  watchConsole,
} from "../../src/index.ts";
import { connectionTo } from "./guest-connection.ts";
import type { EnvironmentDesired } from "./environment-model.ts";
import { hostKeyFile } from "./environment-place.ts";
import type { Login } from "./environment-verify.ts";
import type { QemuHost } from "./host-facts.ts";
import { addressOf } from "./reach.ts";
import type { Domain } from "./rpc/index.ts";

/** An environment whose machine is to be logged in to. */
export interface Resident {
  readonly address: Address;
  readonly instance_id: string;
  readonly desired: Pick<EnvironmentDesired, "ssh">;
}

/** Seconds that a server may take to show its key, milliseconds for one to let somebody in. */
const SCAN = 5;
const ENTER = 20_000;

/**
 * Logs in once. Where its spec names no host key, the one that it showed after it was booted must be shown again; `learn`: there is
 * none yet, and the one that it lets in with is kept. Rejects only where its host cannot be asked.
 */
export async function logIn(
  ctx: KindContext,
  host: QemuHost,
  domain: Domain,
  resident: Resident,
  options: { readonly learn: boolean; readonly signal: AbortSignal },
): Promise<Login> {
  const { signal } = options;
  const at = await addressOf(host.machine, host.libvirt, domain, signal);
  if (at === undefined) return { is: "out", why: "nobody on its host knows an address of it" };
  const known = options.learn ? undefined : await pinnedKey(host.machine, resident.instance_id, signal);
  const context = ctx.around(resident.address);
  const wayWith = (key: string | undefined): ConnectionSpec => {
    const ssh = {
      ...(resident.desired.ssh as ConnectionProperties["ssh"]),
      ...(key !== undefined && { host_key: key }),
    };
    return connectionTo({ ssh, context }, at, host.machine.connection);
  };
  try {
    let key = known;
    if (ownRule(resident) === undefined && known === undefined) {
      key = await shownKey(ctx, host.machine, wayWith(undefined), at, signal);
      if (key === undefined) return { is: "out", why: `no SSH server answers at ${at}` };
    }
    const machine = await ctx.guest(once(wayWith(key)), { anew: true });
    // Not root: whoever may log in may read it.
    const said = await machine.exec(sh`cat /proc/version`, { root: false, signal, timeout: ENTER });
    if (options.learn && key !== undefined) await pin(host.machine, resident.instance_id, key, signal);
    return { is: "in", ...kernelIn(said.code === 0 ? said.stdout : Buffer.alloc(0)) };
  } catch (error) {
    if (!(error instanceof LabError) || error.code === "E_CANCELLED" || signal.aborted) throw error;
    // What its host answers is its host's to say.
    if (error.address !== undefined && error.address !== resident.address) throw error;
    return { is: "out", why: `SSH to ${at}: ${error.message}` };
  }
}

/** How to log in to it, with the host key that it has shown since it was booted. */
export async function pinnedLogin(
  host: Machine,
  { desired, instance_id }: Resident,
  signal: AbortSignal,
): Promise<ConnectionProperties["ssh"]> {
  const own = desired.ssh as ConnectionProperties["ssh"];
  if (ownRule({ desired }) !== undefined) return own;
  const known = await pinnedKey(host, instance_id, signal);
  return known === undefined ? own : { ...own, host_key: known };
}

function ownRule({ desired }: Pick<Resident, "desired">): string | undefined {
  return desired.ssh?.host_key;
}

/** One try: whoever waits for it tries again. */
function once(way: ConnectionSpec): ConnectionSpec {
  return way.type === "ssh" ? { ...way, retry: { ...way.retry, attempts: 0 } } : way;
}

async function pinnedKey(host: Machine, instance_id: string, signal: AbortSignal): Promise<string | undefined> {
  const found = await host.exec(sh`cat -- ${hostKeyFile(instance_id)} 2>/dev/null || :`, { signal, brief: true });
  const text = found.stdout.toString("utf8").trim();
  return text.startsWith("SHA256:") ? text : undefined;
}

async function pin(host: Machine, instance_id: string, key: string, signal: AbortSignal): Promise<void> {
  const file = hostKeyFile(instance_id);
  const put = sh`printf '%s\n' ${key} >${`${file}.new`} && mv -f -- ${`${file}.new`} ${file}`;
  const { code, stderr } = await host.exec(put, { signal, brief: true });
  if (code === 0) return;
  throw new LabError(
    "E_COMMAND_FAILED",
    `${file} cannot be written on ${host.address}: ${stderr.toString("utf8").trim()}`,
    {
      address: host.address,
    },
  );
}

/** The key that its SSH server shows to the machine before it on the way; undefined: nobody answers. */
async function shownKey(
  ctx: KindContext,
  host: Machine,
  way: ConnectionSpec,
  at: string,
  signal: AbortSignal,
): Promise<string | undefined> {
  const jump = way.type === "ssh" ? way.jump : undefined;
  const before = jump === undefined ? host : ctx.machine(jump.address);
  const port = (way.type === "ssh" ? way.port : undefined) ?? 22;
  const scan = sh`command -v ssh-keyscan >/dev/null || exit 127; exec ssh-keyscan -T ${String(SCAN)} -p ${String(port)} -- ${at} 2>/dev/null`;
  const { code, stdout } = await before.exec(scan, { root: false, signal, timeout: ENTER });
  if (code !== 127) return hostKeyToPin(stdout.toString("utf8"));
  throw new LabError("E_COMMAND_FAILED", `${before.address} has no ssh-keyscan, which host keys are learnt with`, {
    address: before.address,
    hint: "install it there (`packages: [openssh-client]`), or say which key it has: `ssh: { host_key: SHA256:... }`",
  });
}

/** What /proc/version says, which is what the kernel said first on its console. */
function kernelIn(version: Buffer): { readonly release: string | undefined; readonly builder: string | undefined } {
  const said = watchConsole({}, () => undefined);
  said.write(version);
  said.close();
  const { release, builder } = said.watcher.status;
  return { release, builder };
}
