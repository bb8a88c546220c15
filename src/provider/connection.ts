import { homedir } from "node:os";
import { resolve } from "node:path";
import { LabError } from "../diagnostics/index.ts";
import { lastSegment, type Plain, Sensitive } from "../model/index.ts";
import type { Become, ConnectionSpec, SshConnection } from "../transport/index.ts";
import type { MachineContext } from "./contract.ts";

/** `ssh:` of whatever is reached over SSH. */
export const SSH_SCHEMA = {
  type: "object",
  description: "How to log in. What is not said here comes from `defaults: { ssh: ... }`, then from ~/.ssh/config.",
  properties: {
    port: {
      type: "integer",
      minimum: 1,
      maximum: 65535,
      description: "TCP port. Default: what ~/.ssh/config says, else 22.",
      examples: [22, 2222],
    },
    user: {
      type: "string",
      minLength: 1,
      description: "Login name. Default: what ~/.ssh/config says, else the name of the user who runs labctl.",
      examples: ["lab"],
    },
    key: {
      type: "string",
      minLength: 1,
      description: "Private key file. Default: ~/.ssh/config, then the agent and the usual files.",
      examples: ["~/.ssh/id_ed25519"],
      "x-labctl": { path: true },
    },
    keys: {
      type: "array",
      items: { type: "string", minLength: 1, "x-labctl": { path: true } },
      description: "Several private key files, tried in order.",
      examples: [["~/.ssh/id_ed25519", "./keys/lab"]],
    },
    passphrase: {
      type: "string",
      description: "Passphrase of the key: a secret.",
      examples: ["${secret.key_passphrase}"],
      "x-labctl": { sensitive: true },
    },
    password: {
      type: "string",
      description: "Password of the login, for machines that take no keys: a secret.",
      examples: ["${secret.board_password}"],
      "x-labctl": { sensitive: true },
    },
    certificate: {
      type: "string",
      minLength: 1,
      description: "OpenSSH certificate of the key. Default: KEY-cert.pub where it exists.",
      "x-labctl": { path: true },
    },
    agent: {
      type: ["string", "boolean"],
      description: "Socket of an ssh-agent; `false`: none. Default: SSH_AUTH_SOCK.",
      examples: [false],
    },
    known_hosts: {
      type: "string",
      minLength: 1,
      description: "File of known host keys. Default: ~/.ssh/known_hosts.",
      examples: ["./known_hosts"],
      "x-labctl": { path: true },
    },
    host_key: {
      type: "string",
      pattern: "^(strict|accept-new|SHA256:[A-Za-z0-9+/]{43}=?)$",
      description:
        "`strict`: the key must be known. `accept-new`: an unknown key is learnt at first contact, a changed one refused. `SHA256:...`: exactly this key. Default: strict.",
      examples: ["strict", "accept-new"],
    },
    jump: {
      type: "string",
      minLength: 1,
      description: "Name of the host to go through.",
      examples: ["gateway"],
      "x-labctl": { refers: "host" },
    },
    config: {
      type: ["string", "boolean"],
      description: "Use ~/.ssh/config, or another file of its format; `false`: none. Default: true.",
      examples: [false],
    },
  },
  additionalProperties: false,
} as const;

/** The properties of a machine that say how to reach it. */
export interface ConnectionProperties {
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

function becomeOf(reach: ConnectionProperties, fallback: Become["method"]): Become {
  const { sudo } = reach;
  if (sudo === undefined) return { method: fallback };
  if (typeof sudo === "boolean") return { method: sudo ? "sudo" : "none" };
  return { method: "sudo", ...(sudo.password !== undefined && { password: new Sensitive(sudo.password) }) };
}

/**
 * The connection that a machine's properties and the lab's defaults make; undefined where the address is not known yet.
 * Over SSH root is reached through sudo unless the login is root or `sudo: false`; on this machine only with `sudo:`.
 */
export function connectionOf(reach: ConnectionProperties, context: MachineContext): ConnectionSpec | undefined {
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
