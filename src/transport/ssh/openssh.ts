import { LabError } from "../../diagnostics/index.ts";
import type { Address } from "../../model/index.ts";
import type { SshConnection } from "../ports.ts";
import { resolveSettings, type Settings } from "./settings.ts";

/** One machine on the way, with all that OpenSSH has to be told of it. */
export interface SshHop {
  readonly address: Address;
  readonly settings: Pick<
    Settings,
    | "host"
    | "port"
    | "user"
    | "knownAs"
    | "files"
    | "certificate"
    | "agent"
    | "identitiesOnly"
    | "knownHosts"
    | "connectTimeout"
  >;
  /** `strict`, `accept-new`, or `SHA256:...`. */
  readonly rule: string;
}

/** The way to a machine: from the first jump host to the machine itself, which is the last. Never empty. */
export type SshWay = readonly SshHop[];

/** With ~/.ssh/config and defaults filled in, as labctl's own connection has them. Rejects as resolveSettings does. */
export async function sshWay(spec: SshConnection, env: Readonly<Record<string, string | undefined>>): Promise<SshWay> {
  const settings = await resolveSettings(spec, env);
  const hop: SshHop = { address: spec.address, settings, rule: spec.host_key };
  return settings.jump === undefined ? [hop] : [...(await sshWay(settings.jump, env)), hop];
}

/** What the last machine of the way is called in the configuration: `Host` of its block. */
export function sshAlias(way: SshWay): string {
  return aliasOf(way, way.length - 1);
}

/**
 * Pure. An ssh_config(5) in which each machine of the way has a block, so that OpenSSH goes the same way as labctl with the same
 * rules. Passwords and passphrases are not in it: OpenSSH asks for them. Throws E_SPEC_VALUE for what such a file cannot
 * hold.
 */
export function sshConfigText(way: SshWay): string {
  return way.map((hop, at) => block(way, at, hop)).join("\n");
}

/** OpenSSH has no setting for a pinned fingerprint: a command says that the key is known where it has that. */
function pinnedBy(fingerprint: string): string {
  const says = "set -f; [ $1 != $2 ] || echo $3 $4 $5";
  return `/bin/sh -c "${says}" pin ${word(fingerprint.replace(/=+$/, ""))} %f %H %t %K`;
}

function block(way: SshWay, at: number, { settings, rule }: SshHop): string {
  const pinned = rule.startsWith("SHA256:");
  const lines: (readonly [string, ...string[]])[] = [
    ["HostName", literal(settings.host)],
    ["Port", String(settings.port)],
    ["User", word(settings.user)],
    ["ConnectTimeout", String(Math.max(1, Math.ceil(settings.connectTimeout / 1000)))],
    ["StrictHostKeyChecking", rule === "accept-new" ? "accept-new" : "yes"],
    ...(pinned
      ? ([
          ["UserKnownHostsFile", "none"],
          ["GlobalKnownHostsFile", "none"],
          ["KnownHostsCommand", pinnedBy(rule)],
        ] as const)
      : ([
          ["UserKnownHostsFile", ...settings.knownHosts.map(literal)],
          ["GlobalKnownHostsFile", "none"],
        ] as const)),
    ...(settings.knownAs === settings.host ? [] : ([["HostKeyAlias", literal(settings.knownAs)]] as const)),
    ...settings.files.map(({ path }) => ["IdentityFile", literal(path)] as const),
    ...(settings.certificate === undefined ? [] : ([["CertificateFile", literal(settings.certificate)]] as const)),
    ["IdentitiesOnly", settings.identitiesOnly ? "yes" : "no"],
    ["IdentityAgent", settings.agent === undefined ? "none" : literal(settings.agent)],
    ["ProxyJump", at === 0 ? "none" : aliasOf(way, at - 1)],
  ];
  return [`Host ${aliasOf(way, at)}`, ...lines.map((line) => `  ${line.join(" ")}`), ""].join("\n");
}

/** Names of its own: what the addresses are, and two hops may have the same, is in HostName. */
function aliasOf(way: SshWay, at: number): string {
  const name = (way[at]?.address ?? "").replaceAll(/[^A-Za-z0-9.-]+/g, "-");
  return at === way.length - 1 ? `labctl-${name}` : `labctl-jump-${at + 1}-${name}`;
}

/** A value in which OpenSSH expands %-tokens: here it has none. */
function literal(text: string): string {
  return word(text.replaceAll("%", "%%"));
}

/** One argument in a configuration file. */
function word(text: string): string {
  // ${NAME} would be an environment variable, and a line break another setting; nothing escapes them.
  if (/\p{Cc}|\$\{|"/u.test(text)) {
    throw new LabError("E_SPEC_VALUE", `${JSON.stringify(text)} cannot be told to OpenSSH`, {
      hint: 'it must hold no double quote, no line break and no "${"; `labctl exec` has no such limit',
    });
  }
  const escaped = text.replaceAll("\\", "\\\\");
  return /^[A-Za-z0-9_@%+=:,./-]+$/.test(text) ? text : `"${escaped}"`;
}
