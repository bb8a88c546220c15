import { mkdir, open, readFile } from "node:fs/promises";
import { dirname } from "node:path";
import type { ServerHostKeyAlgorithm } from "ssh2";
import { LabError } from "../../diagnostics/index.ts";
import type { Address } from "../../model/index.ts";
import {
  hostKeyFingerprint,
  judgeHostKey,
  type KnownHost,
  keyType,
  knownHostName,
  knownHostsLine,
  knownTypes,
  parseKnownHosts,
} from "./known-hosts.ts";

export interface HostKeyPolicy {
  readonly address: Address;
  readonly host: string;
  readonly port: number;
  /** `strict`, `accept-new`, or `SHA256:...`. */
  readonly rule: string;
  readonly files: readonly string[];
}

/** Appends to one file follow each other, also those of several pools; each looks first whether the line is there. */
const WRITING = new Map<string, Promise<void>>();

/** Keys that accept-new took. While only looking, they count for this pool; they are written once that is allowed. */
export class AcceptedKeys {
  readonly #keys = new Map<string, Buffer>();
  #later: (() => Promise<void>)[] | undefined;

  constructor(readOnly: boolean) {
    if (readOnly) this.#later = [];
  }
  get(name: string): Buffer | undefined {
    return this.#keys.get(name);
  }
  set(name: string, key: Buffer): void {
    this.#keys.set(name, key);
  }
  /** Writes now, or when {@link keep} is called. */
  async write(file: string, write: () => Promise<void>): Promise<void> {
    if (this.#later !== undefined) {
      this.#later.push(() => this.#exclusively(file, write));
      return;
    }
    await this.#exclusively(file, write);
  }
  /** From now on accepted keys are written; those accepted before are written first. */
  async keep(): Promise<void> {
    const later = this.#later ?? [];
    this.#later = undefined;
    for (const write of later) await write();
  }
  async #exclusively(file: string, write: () => Promise<void>): Promise<void> {
    const before = WRITING.get(file) ?? Promise.resolve();
    const own = before.catch(() => undefined).then(write);
    WRITING.set(file, own);
    await own;
  }
}

export async function readKnownHosts(files: readonly string[]): Promise<KnownHost[]> {
  const lists = await Promise.all(
    files.map(async (file) => parseKnownHosts(await readFile(file, "utf8").catch(() => ""), file)),
  );
  return lists.flat();
}

const ALGORITHMS: readonly ServerHostKeyAlgorithm[] = [
  "ssh-ed25519",
  "ecdsa-sha2-nistp256",
  "ecdsa-sha2-nistp384",
  "ecdsa-sha2-nistp521",
  "rsa-sha2-512",
  "rsa-sha2-256",
];

/**
 * Which host keys to ask for: those of known types first, as ssh does, so that a further key of the server is not taken
 * for an unknown one.
 */
export function hostKeyAlgorithms(policy: HostKeyPolicy, entries: readonly KnownHost[]): ServerHostKeyAlgorithm[] {
  const types = policy.rule.startsWith("SHA256:") ? new Set<string>() : knownTypes(entries, policy.host, policy.port);
  const isKnown = (name: string): boolean => types.has(name.startsWith("rsa-") ? "ssh-rsa" : name);
  return [...ALGORITHMS.filter(isKnown), ...ALGORITHMS.filter((name) => !isKnown(name))];
}

/**
 * What to pin of the keys of one server, in the format of known_hosts (what ssh-keyscan prints): the one that would be asked for first.
 * Undefined where there is none. Pure.
 */
export function hostKeyToPin(text: string): string | undefined {
  const keys = parseKnownHosts(text, "");
  const types = ALGORITHMS.map((name) => (name.startsWith("rsa-") ? "ssh-rsa" : name));
  const [first] = types.flatMap((type) => keys.find((one) => one.type === type) ?? []);
  return first && hostKeyFingerprint(first.key);
}

/** Resolves where the key may be trusted; else rejects with E_HOST_KEY_UNKNOWN or E_HOST_KEY_CHANGED. */
export async function verifyHostKey(
  policy: HostKeyPolicy,
  entries: readonly KnownHost[],
  accepted: AcceptedKeys,
  key: Buffer,
): Promise<void> {
  const { address, host, port, rule } = policy;
  const shown = hostKeyFingerprint(key);
  const name = knownHostName(host, port);
  if (rule.startsWith("SHA256:")) {
    if (rule.replace(/=+$/, "") === shown) return;
    throw new LabError("E_HOST_KEY_CHANGED", `${name} shows the host key ${shown}, and the spec pins ${rule}`, {
      address,
      hint: `if the machine was reinstalled, put the new fingerprint into \`host_key:\` after checking it at its console (ssh-keygen -lf /etc/ssh/ssh_host_${shortType(key)}_key.pub); if not, somebody may be in between`,
    });
  }
  const session = accepted.get(name);
  const verdict = judgeHostKey(entries, host, port, key);
  if (verdict.is === "known") return;
  if (verdict.is === "revoked") {
    throw new LabError(
      "E_HOST_KEY_CHANGED",
      `the host key ${shown} of ${name} is marked as revoked (${place(verdict.entry)})`,
      {
        address,
        hint: "it must not be used any more: give the machine a new host key",
      },
    );
  }
  if (verdict.is === "changed") throw changed(policy, verdict.entries, key);
  if (session?.equals(key)) return;
  if (session !== undefined) {
    throw new LabError(
      "E_HOST_KEY_CHANGED",
      `${name} showed the host key ${hostKeyFingerprint(session)} earlier in this run, and now ${shown}`,
      {
        address,
        hint: "two machines may answer at this address, or somebody is in between",
      },
    );
  }
  if (rule === "accept-new") {
    accepted.set(name, key);
    await remember(policy, accepted, key);
    return;
  }
  const authority = entries.some((entry) => entry.marker === "cert-authority");
  throw new LabError("E_HOST_KEY_UNKNOWN", `the host key of ${name} is not known: ${keyType(key)} ${shown}`, {
    address,
    hint:
      `check the fingerprint at the machine's console (ssh-keygen -lf /etc/ssh/ssh_host_${shortType(key)}_key.pub), ` +
      `then add this line to ${policy.files[0] ?? "known_hosts"}:\n${knownHostsLine(host, port, key)}\n` +
      `or set \`host_key: accept-new\` under \`ssh:\`${authority ? "\n(host certificates are not read: @cert-authority lines do not count)" : ""}`,
  });
}

function changed(policy: HostKeyPolicy, known: readonly KnownHost[], key: Buffer): LabError {
  const name = knownHostName(policy.host, policy.port);
  const old = known.find((entry) => entry.type === keyType(key)) ?? known[0];
  const where = old === undefined ? "" : place(old);
  return new LabError(
    "E_HOST_KEY_CHANGED",
    `the host key of ${name} has changed: it was ${old === undefined ? "another" : `${old.type} ${hostKeyFingerprint(old.key)}`} (${where}), and is now ${keyType(key)} ${hostKeyFingerprint(key)}`,
    {
      address: policy.address,
      hint:
        "either the machine was reinstalled, or somebody is in between. Check the new fingerprint at its console; if it is right, " +
        `forget the old key with: ssh-keygen -R '${name}'${old === undefined ? "" : ` -f '${old.file}'`}`,
    },
  );
}

function place(entry: KnownHost): string {
  return `${entry.file}:${entry.line}`;
}

/** As file names under /etc/ssh have it. */
function shortType(key: Buffer): string {
  const type = keyType(key);
  if (type.startsWith("ecdsa-")) return "ecdsa";
  return type === "ssh-rsa" ? "rsa" : "ed25519";
}

async function remember(policy: HostKeyPolicy, accepted: AcceptedKeys, key: Buffer): Promise<void> {
  const file = policy.files[0];
  if (file === undefined) return;
  await accepted.write(file, async () => {
    try {
      await mkdir(dirname(file), { recursive: true, mode: 0o700 });
      const handle = await open(file, "a+", 0o600);
      try {
        const text = await handle.readFile("utf8");
        const line = knownHostsLine(policy.host, policy.port, key);
        if (text.split("\n").includes(line)) return;
        // One write of whole lines: other programs that append at the same time cannot come in between.
        await handle.appendFile(`${text === "" || text.endsWith("\n") ? "" : "\n"}${line}\n`);
        await handle.sync();
      } finally {
        await handle.close();
      }
    } catch (cause) {
      throw new LabError(
        "E_HOST_KEY_UNKNOWN",
        `the host key of ${policy.host} cannot be written to ${file}: ${cause instanceof Error ? cause.message : String(cause)}`,
        {
          address: policy.address,
          hint: "check that the file and its folder may be written, or name another with `known_hosts:`",
          cause,
        },
      );
    }
  });
}
