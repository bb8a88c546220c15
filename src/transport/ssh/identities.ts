import type ssh2Types from "ssh2";
import type { BaseAgent, ParsedKey } from "ssh2";

/** One key that can be offered: its public half as the server sees it, and a way to sign with it. */
export interface Identity {
  /** For messages: a path, or `agent: COMMENT`. */
  readonly label: string;
  /** The key, or a certificate over it, in ssh2's form. */
  readonly key: ParsedKey;
  /** `hash` is set for RSA only. */
  sign(data: Buffer, hash: string | undefined): Promise<Buffer>;
}

/** The module itself: it is loaded only when a connection is made. */
export type Ssh2 = typeof ssh2Types;

/**
 * All identities as one ssh2 agent, so that files, agents and certificates are offered in one sequence and nothing is
 * signed before the server said that it would accept the key.
 */
export function identityAgent(
  ssh2: Ssh2,
  identities: readonly Identity[],
  onTried: (label: string) => void,
): BaseAgent {
  const byKey = new Map(identities.map((identity) => [identity.key, identity]));
  class IdentityAgent extends ssh2.BaseAgent<ParsedKey> {
    override getIdentities(callback: (error: Error | undefined, keys?: ParsedKey[]) => void): void {
      callback(
        undefined,
        identities.map((identity) => identity.key),
      );
    }
    override sign(key: ParsedKey, data: Buffer, ...rest: unknown[]): void {
      const [first, second] = rest;
      const callback = typeof first === "function" ? first : second;
      const hash = hashOf(first);
      const identity = byKey.get(key);
      const done = (error: Error | null, signature?: Buffer): void => {
        if (typeof callback === "function") callback(error, signature);
      };
      if (identity === undefined) {
        done(new Error("a key that was not offered"));
        return;
      }
      onTried(identity.label);
      void answer(identity.sign(data, hash), done);
    }
  }
  return new IdentityAgent();
}

async function answer(
  signing: Promise<Buffer>,
  done: (error: Error | null, signature?: Buffer) => void,
): Promise<void> {
  let signature: Buffer;
  try {
    signature = await signing;
  } catch (error) {
    done(error instanceof Error ? error : new Error(String(error)));
    return;
  }
  done(null, signature);
}

function hashOf(options: unknown): string | undefined {
  if (options === null || typeof options !== "object" || !("hash" in options)) return undefined;
  return typeof options.hash === "string" ? options.hash : undefined;
}
