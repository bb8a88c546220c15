import { readFile, stat } from "node:fs/promises";
import type { BaseAgent, ParsedKey, SigningRequestOptions } from "ssh2";
import { LabError } from "../../diagnostics/index.ts";
import type { Address } from "../../model/index.ts";
import { certificateProblem, certifiedKey, ecdsaSignature, parseCertificate, type Certificate } from "./certificate.ts";
import type { Identity, Ssh2 } from "./identities.ts";

export interface KeySources {
  readonly address: Address;
  /** Files to use. `required`: the spec or ~/.ssh/config names it, so that trouble with it is an error. */
  readonly files: readonly { readonly path: string; readonly required: boolean }[];
  readonly certificate: string | undefined;
  readonly passphrase: string | undefined;
  /** Path of an agent's socket. */
  readonly agent: string | undefined;
  /** Offer only keys that `files` names, also of those in the agent. */
  readonly identitiesOnly: boolean;
}

export interface KeyRing {
  readonly identities: readonly Identity[];
  /** What was left out, and why: part of the message when logging in fails. */
  readonly notes: readonly string[];
}

const AGENT_TIMEOUT_MS = 5_000;

/** Collects what can be offered. Rejects with E_SSH_KEY for a key that was asked for and cannot be used. */
export async function loadKeys(ssh2: Ssh2, sources: KeySources): Promise<KeyRing> {
  const notes: string[] = [];
  const held = await agentKeys(ssh2, sources.agent, notes);
  const identities: Identity[] = [];
  const used = new Set<string>();
  for (const file of sources.files) {
    const found = await fromFile(ssh2, file, sources, held, notes);
    if (found === undefined) continue;
    used.add(found.key.getPublicSSH().toString("base64"));
    const certificate = await certificateFor(file.path, sources, found, notes);
    if (certificate) identities.push(certified(found, certificate));
    identities.push(found);
  }
  for (const identity of held) {
    if (!sources.identitiesOnly && !used.has(identity.key.getPublicSSH().toString("base64"))) identities.push(identity);
  }
  return { identities, notes };
}

async function agentKeys(ssh2: Ssh2, path: string | undefined, notes: string[]): Promise<Identity[]> {
  if (path === undefined) return [];
  const agent: BaseAgent<ParsedKey> = new ssh2.OpenSSHAgent(path);
  try {
    const keys = await bounded<ParsedKey[]>((done) =>
      agent.getIdentities((error, list) => done(error, (list ?? []) as ParsedKey[])),
    );
    return keys.map((key) => ({
      label: `agent: ${key.comment === "" ? key.type : key.comment}`,
      key,
      sign: (data, hash) =>
        bounded<Buffer>((done) => {
          const options: SigningRequestOptions = isHash(hash) ? { hash } : {};
          agent.sign(key, data, options, (error, signature) => done(error, signature));
        }),
    }));
  } catch (error) {
    notes.push(`the agent at ${path} did not answer (${error instanceof Error ? error.message : String(error)})`);
    return [];
  }
}

function isHash(hash: string | undefined): hash is "sha1" | "sha256" | "sha512" {
  return hash === "sha1" || hash === "sha256" || hash === "sha512";
}

/** An agent is another process, and may hang. */
function bounded<T>(start: (done: (error: Error | null | undefined, value?: T) => void) => void): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error("timed out")), AGENT_TIMEOUT_MS);
    start((error, value) => {
      clearTimeout(timer);
      if (error) reject(error);
      else if (value === undefined) reject(new Error("an empty answer"));
      else resolve(value);
    });
  });
}

async function fromFile(
  ssh2: Ssh2,
  file: { readonly path: string; readonly required: boolean },
  sources: KeySources,
  held: readonly Identity[],
  notes: string[],
): Promise<Identity | undefined> {
  const refuse = (why: string, hint: string, cause?: unknown): undefined => {
    if (!file.required) {
      notes.push(`${file.path}: ${why}`);
      return undefined;
    }
    throw new LabError("E_SSH_KEY", `the key ${file.path} cannot be used: ${why}`, {
      address: sources.address,
      hint,
      cause,
    });
  };
  const inAgent = await heldHalf(ssh2, file.path, held);
  const read = await readPrivate(file.path);
  if ("missing" in read) {
    if (inAgent) return inAgent;
    return file.required
      ? refuse("it is not there", "check `key:` under `ssh:`, or make one with ssh-keygen", read.cause)
      : undefined;
  }
  if ("why" in read) return inAgent ?? refuse(read.why, read.hint, read.cause);
  const { text } = read;
  const parsed = ssh2.utils.parseKey(text, sources.passphrase);
  const key: ParsedKey | Error | undefined = Array.isArray(parsed) ? (parsed as ParsedKey[])[0] : parsed;
  if (key === undefined || key instanceof Error) {
    if (inAgent) return inAgent;
    const why = key?.message ?? "it holds no key";
    if (/no passphrase given/i.test(why)) {
      return refuse(
        "it is encrypted, and no passphrase is given",
        "set `passphrase:` from a secret, or add the key to your ssh-agent",
      );
    }
    if (/passphrase|integrity check|bad decrypt|decrypt/i.test(why) && sources.passphrase !== undefined) {
      return refuse("the passphrase is wrong", "check the secret that `passphrase:` names");
    }
    return refuse(why, "labctl reads OpenSSH and PEM private keys");
  }
  if (!key.isPrivateKey()) {
    return inAgent ?? refuse("it is the public half", "name the private key, without .pub");
  }
  return {
    label: file.path,
    key,
    sign: (data, hash) =>
      new Promise((resolve, reject) => {
        const signature: Buffer | Error = (key.sign as (data: Buffer, algo?: string) => Buffer | Error)(data, hash);
        if (signature instanceof Error) reject(signature);
        else resolve(signature);
      }),
  };
}

type PrivateFile =
  | { readonly text: Buffer }
  | { readonly missing: true; readonly cause: unknown }
  | { readonly why: string; readonly hint: string; readonly cause?: unknown };

async function readPrivate(path: string): Promise<PrivateFile> {
  try {
    const info = await stat(path);
    if (info.isDirectory()) return { why: "it is a directory", hint: "name the private key file" };
    if ((info.mode & 0o077) !== 0 && process.platform !== "win32" && !path.endsWith(".pub")) {
      return { why: "others can read it", hint: `chmod 600 ${path}` };
    }
    return { text: await readFile(path) };
  } catch (cause) {
    if (cause instanceof Error && "code" in cause && cause.code === "ENOENT") return { missing: true, cause };
    return { why: cause instanceof Error ? cause.message : String(cause), hint: "check that you may read it", cause };
  }
}

/** The agent's key for a file, told by the public half beside it: serves where the file itself is locked. */
async function heldHalf(ssh2: Ssh2, path: string, held: readonly Identity[]): Promise<Identity | undefined> {
  if (held.length === 0) return undefined;
  for (const candidate of path.endsWith(".pub") ? [path] : [`${path}.pub`]) {
    const text = await readFile(candidate).catch(() => undefined);
    const key = text && ssh2.utils.parseKey(text);
    if (key === undefined || key instanceof Error) continue;
    const blob = key.getPublicSSH();
    const match = held.find((identity) => identity.key.getPublicSSH().equals(blob));
    if (match) return { ...match, label: `${path} (in the agent)` };
  }
  return undefined;
}

async function certificateFor(
  path: string,
  sources: KeySources,
  identity: Identity,
  notes: string[],
): Promise<Certificate | undefined> {
  const named = sources.certificate;
  const file = named ?? `${path}-cert.pub`;
  const text = await readFile(file, "utf8").catch((cause: unknown) => {
    if (named === undefined) return undefined;
    throw new LabError("E_SSH_KEY", `the certificate ${file} cannot be read`, {
      address: sources.address,
      hint: "check `certificate:` under `ssh:`",
      cause,
    });
  });
  if (text === undefined) return undefined;
  const certificate = parseCertificate(text);
  const problem =
    certificate === undefined
      ? "it is not an OpenSSH user certificate"
      : certificate.keyType !== identity.key.type
        ? "it belongs to another key"
        : certificateProblem(certificate, new Date());
  if (certificate && problem === undefined) return certificate;
  if (named !== undefined) {
    throw new LabError("E_SSH_KEY", `the certificate ${file} cannot be used: ${problem ?? ""}`, {
      address: sources.address,
      hint: "have it signed anew (ssh-keygen -s CA -n USER KEY.pub)",
    });
  }
  notes.push(`${file}: ${problem ?? ""}`);
  return undefined;
}

function certified(identity: Identity, certificate: Certificate): Identity {
  return {
    label: `${identity.label} (certificate)`,
    key: certifiedKey(identity.key, certificate),
    sign: async (data, hash) => {
      const signature = await identity.sign(data, certificate.keyType === "ssh-rsa" ? "sha512" : hash);
      return certificate.keyType.startsWith("ecdsa-") ? ecdsaSignature(signature) : signature;
    },
  };
}
