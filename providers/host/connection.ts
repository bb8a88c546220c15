import { homedir } from "node:os";
import { resolve } from "node:path";
import {
  type Become,
  type ConnectionSpec,
  LabError,
  lastSegment,
  type MachineContext,
  type Plain,
  Sensitive,
  type SshConnection,
} from "../../src/index.ts";

/** The properties of a host that say how to reach it. */
export interface Reach {
  readonly address?: string;
  readonly connection?: "ssh" | "local";
  readonly ssh?: Readonly<Record<string, Plain>>;
  readonly sudo?: boolean | { readonly password?: string };
}

/** Path of a local file: `~` is the home of whoever runs labctl, relative paths start at the lab's folder. */
export function localPath(root: string, path: string): string {
  if (path === "~") return homedir();
  if (path.startsWith("~/")) return resolve(homedir(), path.slice(2));
  return resolve(root, path);
}

function becomeOf(reach: Reach, fallback: Become["method"]): Become {
  const { sudo } = reach;
  if (sudo === undefined) return { method: fallback };
  if (typeof sudo === "boolean") return { method: sudo ? "sudo" : "none" };
  return { method: "sudo", ...(sudo.password !== undefined && { password: new Sensitive(sudo.password) }) };
}

/**
 * The connection that a host's properties and the lab's defaults make; undefined where the address is not known yet.
 * Over SSH root is reached through sudo unless the login is root or `sudo: false`; on this machine only with `sudo:`.
 */
export function connectionOf(reach: Reach, context: MachineContext): ConnectionSpec | undefined {
  if (reach.connection === "local") {
    return { type: "local", address: context.address, become: becomeOf(reach, "none") };
  }
  if (reach.address === undefined) return undefined;
  const ssh: Readonly<Record<string, Plain>> = { ...context.defaults.ssh, ...reach.ssh };
  const text = (key: string): string | undefined => {
    const value = ssh[key];
    return typeof value === "string" ? value : undefined;
  };
  const path = (key: string): string | undefined => {
    const value = text(key);
    return value === undefined ? undefined : localPath(context.root, value);
  };
  const secret = (key: string): Sensitive<string> | undefined => {
    const value = text(key);
    return value === undefined ? undefined : new Sensitive(value);
  };
  const spec: { -readonly [K in keyof SshConnection]: SshConnection[K] } = {
    type: "ssh",
    address: context.address,
    host: reach.address,
    host_key: text("host_key") ?? "strict",
    become: becomeOf(reach, "sudo"),
    connect_timeout: context.defaults.timeouts.connect,
    retry: context.defaults.retry,
  };
  if (typeof ssh["port"] === "number") spec.port = ssh["port"];
  const user = text("user");
  if (user !== undefined) spec.user = user;
  const keys = keyPaths(ssh, context.root);
  if (keys.length > 0) spec.keys = keys;
  const passphrase = secret("passphrase");
  if (passphrase !== undefined) spec.passphrase = passphrase;
  const password = secret("password");
  if (password !== undefined) spec.password = password;
  const certificate = path("certificate");
  if (certificate !== undefined) spec.certificate = certificate;
  if (ssh["agent"] === false) spec.agent = false;
  const agent = path("agent");
  if (agent !== undefined) spec.agent = agent;
  const knownHosts = path("known_hosts");
  if (knownHosts !== undefined) spec.known_hosts = knownHosts;
  if (typeof ssh["config"] === "boolean") spec.ssh_config = ssh["config"];
  const config = path("config");
  if (config !== undefined) spec.ssh_config = config;
  const jump = text("jump");
  // A jump host in the defaults is not for itself.
  if (jump !== undefined && jump !== "" && jump !== lastSegment(context.address).key) {
    const through = jumpOf(jump, context);
    if (through === undefined) return undefined;
    spec.jump = through;
  }
  return spec;
}

function keyPaths(ssh: Readonly<Record<string, Plain>>, root: string): string[] {
  const list = ssh["keys"];
  const all = [ssh["key"], ...(Array.isArray(list) ? (list as readonly Plain[]) : [])];
  return all.filter((key): key is string => typeof key === "string").map((key) => localPath(root, key));
}

function jumpOf(name: string, context: MachineContext): SshConnection | undefined {
  const through = context.connection(name);
  if (through?.type === "local") {
    throw new LabError("E_SPEC_VALUE", `the jump host ${name} is this machine, which needs no jump`, {
      address: context.address,
      hint: "remove `jump:`",
    });
  }
  return through;
}
