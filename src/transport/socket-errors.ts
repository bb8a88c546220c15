import { LabError } from "../diagnostics/index.ts";
import type { Link } from "./link.ts";

/** Opening a Unix socket failed: what the system or the server said, as E_SOCKET. */
export function socketRefused(link: Link, path: string, cause: Error): LabError {
  const code = "code" in cause ? cause.code : undefined;
  const said = cause.message.replace(/^\(SSH\) Channel open failure: /, "");
  const [why, hint, retryable] =
    code === "ENOENT"
      ? ["there is none", "start the program that listens there, and check the path", true]
      : code === "ECONNREFUSED"
        ? ["nothing listens on it", "start the program that listens there", true]
        : code === "EACCES" || code === "EPERM"
          ? ["this user may not", "allow the user (often a group of its own), or set `become:`", false]
          : [said, "check that the program which listens there runs, and that the login may reach it", true];
  return new LabError("E_SOCKET", `the socket ${path} on ${link.name} cannot be opened: ${why}`, {
    address: link.address,
    cause,
    hint,
    retryable,
  });
}
