import { LabError, Sensitive } from "../../src/index.ts";

/** An address with what must not be seen taken out of it. */
export interface SourceUrl {
  /** Without credentials: for command lines, logs and digests. */
  readonly url: string;
  readonly username?: string;
  readonly password?: Sensitive<string>;
}

/**
 * Takes the credentials out of a URL. Scp-like addresses (`git@host:path`) and paths stay as they are: the name before
 * the `@` is a login there. Throws E_SPEC_VALUE for what no tool could take as an address.
 */
export function splitUrl(given: string | Sensitive<string>): SourceUrl {
  const text = given instanceof Sensitive ? given.reveal() : given;
  if (text === "" || text.startsWith("-") || /\p{Cc}/u.test(text)) {
    throw new LabError("E_SPEC_VALUE", `${text === "" ? "an empty text" : "this"} is not the address of a source`, {
      hint: "give a URL (https://, ssh://, git://, file://), git@HOST:PATH, or a path",
    });
  }
  const match = /^([a-z][a-z0-9+.-]*):\/\/([^/?#]*)(.*)$/is.exec(text);
  if (match === null) return { url: text };
  const [, scheme = "", authority = "", rest = ""] = match;
  const at = authority.lastIndexOf("@");
  if (at < 0) return { url: text };
  const info = authority.slice(0, at);
  const host = authority.slice(at + 1);
  const colon = info.indexOf(":");
  const username = decode(colon < 0 ? info : info.slice(0, colon));
  const password = colon < 0 ? undefined : decode(info.slice(colon + 1));
  if (/^(ssh|git\+ssh|ssh\+git)$/i.test(scheme)) {
    // ssh takes no password from a URL; the user is part of where to go.
    return { url: `${scheme}://${encodeURIComponent(username)}@${host}${rest}` };
  }
  // A token often stands alone, where a user would.
  return {
    url: `${scheme}://${host}${rest}`,
    username: password === undefined ? "" : username,
    password: new Sensitive(password ?? username),
    ...(password !== undefined && { username }),
  };
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** Takes credentials out of any text that a tool printed. */
export function withoutCredentials(text: string, source: SourceUrl): string {
  const clean = text.replaceAll(/([a-z][a-z0-9+.-]*:\/\/)[^/\s@'"]+@/gi, "$1");
  const secret = source.password?.reveal();
  return secret === undefined || secret.length < 3 ? clean : clean.replaceAll(secret, "(sensitive)");
}
