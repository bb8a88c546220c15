import { homedir, userInfo } from "node:os";
import { join, resolve } from "node:path";
import { LabError } from "../../diagnostics/index.ts";
import type { SshConnection } from "../ports.ts";
import { type ConfigValues, sshConfigFor } from "./config-file.ts";

/** A connection with ~/.ssh/config and defaults filled in. */
export interface Settings {
  readonly host: string;
  readonly port: number;
  readonly user: string;
  /** The name under which known_hosts is searched. */
  readonly knownAs: string;
  readonly files: readonly { readonly path: string; readonly required: boolean }[];
  readonly certificate: string | undefined;
  readonly agent: string | undefined;
  readonly identitiesOnly: boolean;
  /** The first is where accept-new writes. */
  readonly knownHosts: readonly string[];
  /** Milliseconds. */
  readonly connectTimeout: number;
  readonly jump: SshConnection | undefined;
}

const USUAL_KEYS = ["id_ed25519", "id_ecdsa", "id_rsa"];
const LONGEST_JUMP = 8;

/** Rejects with E_SPEC_VALUE for what cannot be: a port out of range, a chain of jumps that never ends. */
export async function resolveSettings(
  spec: SshConnection,
  env: Readonly<Record<string, string | undefined>>,
): Promise<Settings> {
  const home = env["HOME"] ?? homedir();
  const config = await configValues(spec, home);
  const host = expand(first(config, "hostname") ?? "%h", { h: spec.host });
  const port = spec.port ?? Number(first(config, "port") ?? 22);
  if (!Number.isInteger(port) || port < 1 || port > 65535) {
    throw new LabError("E_SPEC_VALUE", `${port} is not a port`, {
      address: spec.address,
      hint: "ports are 1 to 65535",
    });
  }
  const user = spec.user ?? first(config, "user") ?? env["USER"] ?? userInfo().username;
  const tokens = { h: host, n: spec.host, p: String(port), r: user, u: userInfo().username, d: home, "%": "%" };
  const path = (text: string): string => resolve(expand(text.replace(/^~(?=\/|$)/, home), tokens));

  const configured = all(config, "identityfile").filter((name) => name.toLowerCase() !== "none");
  const named = spec.keys ?? configured;
  const files =
    named.length > 0
      ? // ssh passes over an IdentityFile that is not there; a key that the spec names has to be.
        named.map((name) => ({ path: path(name), required: spec.keys !== undefined }))
      : USUAL_KEYS.map((name) => ({ path: join(home, ".ssh", name), required: false }));
  const known = spec.known_hosts === undefined ? all(config, "userknownhostsfile") : [spec.known_hosts];
  const certificate = spec.certificate ?? first(config, "certificatefile");
  const proxy = first(config, "proxycommand");
  const jump = spec.jump ?? jumpFrom(spec, first(config, "proxyjump"));
  if (jump === undefined && proxy !== undefined && proxy.toLowerCase() !== "none") {
    throw new LabError("E_CONNECT", `~/.ssh/config gives a ProxyCommand for ${spec.host}, which labctl does not run`, {
      address: spec.address,
      hint: "name the host in between with `jump:` (or ProxyJump), or set `ssh_config: false`",
    });
  }
  const configTimeout = Number(first(config, "connecttimeout")) * 1000;
  return {
    host,
    port,
    user,
    knownAs: first(config, "hostkeyalias") ?? host,
    files,
    certificate: certificate === undefined ? undefined : path(certificate),
    agent: agentPath(spec, config, env, path),
    identitiesOnly:
      (spec.keys !== undefined && typeof spec.agent !== "string") ||
      first(config, "identitiesonly")?.toLowerCase() === "yes",
    knownHosts: [
      ...(known.length > 0 ? known.map(path) : [join(home, ".ssh", "known_hosts"), join(home, ".ssh", "known_hosts2")]),
      ...(spec.known_hosts === undefined ? ["/etc/ssh/ssh_known_hosts"] : []),
    ],
    connectTimeout:
      Number.isFinite(configTimeout) && configTimeout > 0
        ? Math.min(configTimeout, spec.connect_timeout)
        : spec.connect_timeout,
    jump,
  };
}

async function configValues(spec: SshConnection, home: string): Promise<ConfigValues> {
  if (spec.ssh_config === false) return {};
  const file = typeof spec.ssh_config === "string" ? spec.ssh_config : join(home, ".ssh", "config");
  return await sshConfigFor(file, spec.host, home);
}

function agentPath(
  spec: SshConnection,
  config: ConfigValues,
  env: Readonly<Record<string, string | undefined>>,
  path: (text: string) => string,
): string | undefined {
  if (spec.agent === false) return undefined;
  if (spec.agent !== undefined) return path(spec.agent);
  const configured = first(config, "identityagent");
  if (configured?.toLowerCase() === "none") return undefined;
  if (configured !== undefined && configured !== "SSH_AUTH_SOCK") {
    const variable = /^\$\{?(\w+)\}?$/.exec(configured)?.[1];
    return variable === undefined ? path(configured) : env[variable];
  }
  const inherited = env["SSH_AUTH_SOCK"];
  return inherited === undefined || inherited === "" ? undefined : inherited;
}

/** `[user@]host[:port][,...]`, the last one nearest to the target; the ssh:// form too. */
function jumpFrom(spec: SshConnection, text: string | undefined): SshConnection | undefined {
  if (text === undefined || text.toLowerCase() === "none") return undefined;
  const hops = text.split(",");
  if (hops.length > LONGEST_JUMP) {
    throw new LabError("E_SPEC_VALUE", "ProxyJump names too many hosts", { address: spec.address });
  }
  let jump: SshConnection | undefined;
  for (const hop of hops) {
    const parts = /^(?:ssh:\/\/)?(?:([^@]+)@)?(\[[^\]]+\]|[^:[\]]+)(?::(\d+))?$/.exec(hop.trim());
    if (parts?.[2] === undefined) {
      throw new LabError("E_SPEC_VALUE", `${JSON.stringify(hop)} in ProxyJump is not a host`, {
        address: spec.address,
      });
    }
    const { host: _host, port: _port, user: _user, jump: _jump, password: _password, ...shared } = spec;
    jump = {
      ...shared,
      host: parts[2].replaceAll(/[[\]]/g, ""),
      become: { method: "none" },
      ...(parts[1] !== undefined && { user: parts[1] }),
      ...(parts[3] !== undefined && { port: Number(parts[3]) }),
      ...(jump && { jump }),
      // A pin is the target's, not its gateway's.
      ...(spec.host_key.startsWith("SHA256:") && { host_key: "strict" }),
    };
  }
  return jump;
}

function first(config: ConfigValues, name: string): string | undefined {
  const value = config[name];
  return typeof value === "string" ? value : value?.[0];
}

function all(config: ConfigValues, name: string): readonly string[] {
  const value = config[name];
  if (value === undefined) return [];
  return typeof value === "string" ? value.split(/\s+/).filter((part) => part !== "") : value;
}

function expand(text: string, tokens: Readonly<Record<string, string>>): string {
  return text.replaceAll(/%(.)/g, (whole, letter: string) => tokens[letter] ?? whole);
}
