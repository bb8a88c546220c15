import type { Duplex } from "node:stream";
import type { AuthenticationType, AnyAuthMethod, Client } from "ssh2";
import { LabError } from "../../diagnostics/index.ts";
import type { Address } from "../../model/index.ts";
import { nameCertificateSignatures } from "./certificate.ts";
import { type Attempt, connectError } from "./errors.ts";
import { type AcceptedKeys, hostKeyAlgorithms, type HostKeyPolicy, readKnownHosts, verifyHostKey } from "./host-key.ts";
import { identityAgent } from "./identities.ts";
import { loadKeys } from "./keys.ts";
import type { Settings } from "./settings.ts";

export interface DialRequest {
  readonly address: Address;
  readonly name: string;
  readonly settings: Settings;
  readonly passphrase: string | undefined;
  readonly password: string | undefined;
  readonly policy: HostKeyPolicy;
  readonly accepted: AcceptedKeys;
  readonly keepalive: { readonly interval: number; readonly count: number };
  /** The stream that a jump host opened; absent: a TCP connection. */
  readonly sock: Duplex | undefined;
  readonly signal: AbortSignal;
}

/** Connects and logs in, once. Rejects with a LabError; see connectError(). */
export async function dial(request: DialRequest): Promise<Client> {
  const { settings, address } = request;
  const { default: ssh2 } = await import("ssh2");
  const keys = await loadKeys(ssh2, {
    address,
    files: settings.files,
    certificate: settings.certificate,
    passphrase: request.passphrase,
    agent: settings.agent,
    identitiesOnly: settings.identitiesOnly,
  });
  const known = await readKnownHosts(request.policy.files);
  const tried: string[] = [];
  let allowed: readonly string[] | undefined;
  let refusal: LabError | undefined;

  const methods: AnyAuthMethod[] = [];
  if (keys.identities.length > 0) {
    const agent = identityAgent(ssh2, keys.identities, () => undefined);
    methods.push({ type: "agent", username: settings.user, agent });
  }
  const { password } = request;
  if (password !== undefined) {
    methods.push({ type: "password", username: settings.user, password });
    methods.push({
      type: "keyboard-interactive",
      username: settings.user,
      prompt: (_name, _instructions, _lang, prompts, finish) => finish(prompts.map(() => password)),
    });
  }
  // Asked last: some machines let a user in with nothing, and else the server says what it wants.
  methods.push({ type: "none", username: settings.user });

  const next = (left: readonly AuthenticationType[] | null): AnyAuthMethod | false => {
    if (left) allowed = left;
    for (let method = methods.shift(); method; method = methods.shift()) {
      const wanted = method.type === "agent" ? "publickey" : method.type;
      if (left && method.type !== "none" && !left.includes(wanted)) continue;
      if (method.type === "agent") tried.push(...keys.identities.map((identity) => identity.label));
      else if (method.type !== "none") tried.push(method.type);
      return method;
    }
    return false;
  };

  const client = new ssh2.Client();
  return await new Promise<Client>((resolve, reject) => {
    let settled = false;
    const finish = (error: Error | undefined): void => {
      if (settled) return;
      settled = true;
      clearTimeout(timer);
      request.signal.removeEventListener("abort", onAbort);
      if (error === undefined) {
        client.removeListener("close", onClose);
        resolve(client);
        return;
      }
      client.destroy();
      const attempt: Attempt = {
        address,
        name: request.name,
        host: settings.host,
        user: settings.user,
        timeout: settings.connectTimeout,
        tried,
        allowed,
        notes: keys.notes,
      };
      reject(refusal ?? connectError(error, attempt));
    };
    const onAbort = (): void => finish(new LabError("E_CANCELLED", "cancelled", { address }));
    const onClose = (): void => finish(Object.assign(new Error("closed"), { code: "ECONNRESET" }));
    // ssh2's own timer starts after the name was looked up, and does not cover a jump host's stream.
    const timer = setTimeout(
      () => finish(Object.assign(new Error("timed out"), { level: "client-timeout" })),
      settings.connectTimeout,
    );
    request.signal.addEventListener("abort", onAbort, { once: true });
    if (request.signal.aborted) onAbort();
    client.on("error", (error: Error) => {
      // An agent that fails to sign with one key is no reason to stop before the next.
      if ("level" in error && error.level === "agent") return;
      finish(error);
    });
    client.once("close", onClose);
    // Small packets back and forth: with Nagle's algorithm each command would wait 40 ms for a delayed ACK.
    client.once("connect", () => client.setNoDelay(true));
    client.once("ready", () => finish(undefined));
    // The writer of packets is replaced when the handshake is done; logging in comes after.
    if (keys.identities.some((identity) => identity.key.type.includes("-cert-"))) {
      client.once("handshake", () => nameCertificateSignatures(client));
    }
    client.connect({
      host: settings.host,
      port: settings.port,
      username: settings.user,
      ...(request.sock && { sock: request.sock }),
      readyTimeout: 0,
      keepaliveInterval: request.keepalive.interval,
      keepaliveCountMax: request.keepalive.count,
      algorithms: { serverHostKey: hostKeyAlgorithms(request.policy, known) },
      hostVerifier: (key: Buffer, verify: (valid: boolean) => void) => {
        verifyHostKey(request.policy, known, request.accepted, key).then(
          () => verify(true),
          (error: unknown) => {
            refusal = error instanceof LabError ? error : new LabError("E_INTERNAL", String(error));
            verify(false);
          },
        );
      },
      authHandler: (left, _partial, _next) => next(left) as unknown as AuthenticationType,
    });
  });
}
