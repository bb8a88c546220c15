import { LabError } from "../../diagnostics/index.ts";
import type { Address } from "../../model/index.ts";

export interface Attempt {
  readonly address: Address;
  /** `host.a (10.0.0.1:22)`. */
  readonly name: string;
  readonly host: string;
  readonly user: string;
  /** Milliseconds. */
  readonly timeout: number;
  /** Identities offered and methods tried, for the message. */
  readonly tried: readonly string[];
  /** What the server says it allows; absent where it never said. */
  readonly allowed: readonly string[] | undefined;
  readonly notes: readonly string[];
}

/** What ssh2 and the socket report while connecting, as a LabError. `retryable` says whether another try makes sense. */
export function connectError(error: Error, attempt: Attempt): LabError {
  if (error instanceof LabError) return error;
  const { address, name } = attempt;
  const code = "code" in error ? error.code : undefined;
  const level = "level" in error ? error.level : undefined;
  const message = error.message;
  const fail = (what: string, hint: string, retryable = true): LabError =>
    new LabError("E_CONNECT", `${name} cannot be reached: ${what}`, { address, cause: error, retryable, hint });

  if (level === "client-authentication" || /authentication failures/i.test(message)) return authError(error, attempt);
  switch (code) {
    case "ENOTFOUND":
      return fail(
        `the name ${attempt.host} is not known`,
        "check `address:` for a typing error, and this machine's DNS and /etc/hosts",
        false,
      );
    case "EAI_AGAIN":
      return fail(
        `the name ${attempt.host} could not be looked up`,
        "the DNS server did not answer: check this machine's network",
      );
    case "ECONNREFUSED":
      return fail(
        "the connection was refused",
        "the machine is up, but no sshd listens there: check `port:` and that sshd runs",
      );
    case "EHOSTUNREACH":
    case "ENETUNREACH":
    case "EHOSTDOWN":
      return fail("there is no route to it", "check that it is switched on, its address, and the network in between");
    case "ETIMEDOUT":
      return fail("no answer", "check that it is switched on, its address, and firewalls in between");
    case "ECONNRESET":
    case "EPIPE":
      return fail(
        "the connection was reset",
        "its sshd may be starting, overloaded (MaxStartups), or refuse this address",
      );
    default:
      break;
  }
  if (level === "client-timeout" || /timed out/i.test(message)) {
    return fail(
      `no answer within ${attempt.timeout / 1000} s`,
      "check that it is switched on and firewalls in between; raise `timeouts.connect` for slow machines",
    );
  }
  if (level === "handshake" && /no matching/i.test(message)) {
    return fail(
      `${message.replace(/^Handshake failed: /, "")} in common`,
      "its SSH server is too old or too strict: update it, or allow a common algorithm in its sshd_config",
      false,
    );
  }
  if (/before handshake|protocol|invalid|unexpected/i.test(message)) {
    return fail(
      message,
      "is it an SSH server that answers on that port? Its sshd may be starting or overloaded (MaxStartups)",
    );
  }
  return fail(message, "look at the machine's sshd log");
}

function authError(error: Error, attempt: Attempt): LabError {
  const { tried, allowed, notes } = attempt;
  const parts = [
    tried.length > 0 ? `tried ${tried.join(", ")}` : "there was nothing to offer: no key, agent or password",
    ...(allowed ? [`the server allows ${allowed.length > 0 ? allowed.join(", ") : "nothing else"}`] : []),
    ...notes,
  ];
  const many = /too many/i.test(error.message);
  return new LabError("E_AUTH", `${attempt.name} refuses to log in ${attempt.user} (${parts.join("; ")})`, {
    address: attempt.address,
    cause: error,
    hint: many
      ? "the server stops after some keys (MaxAuthTries): name the right one with `key:`"
      : `check \`user:\` and \`key:\` under \`ssh:\`, and that the public key is in ~${attempt.user}/.ssh/authorized_keys there; the server's log says why it refused`,
  });
}
