import { LabError } from "../diagnostics/index.ts";
import type { Link } from "./link.ts";
import type { Become, TransferOptions } from "./ports.ts";
import { run } from "./run.ts";
import { sh } from "./shell.ts";
import { fullScript } from "./wire.ts";

const LIMIT = 16 << 20;
/** Exit codes of the script below that no command in it gives. */
const MISSING = 66;
const NO_FILE = 67;
const TOO_LARGE = 68;

/** Whole content of a file. Rejects with E_TRANSFER where there is none, it cannot be read, or it is too large. */
export async function download(
  link: Link,
  become: Become,
  path: string,
  options: TransferOptions & { readonly root?: boolean; readonly limit?: number; readonly timeout: number },
): Promise<Buffer> {
  const limit = options.limit ?? LIMIT;
  const name = path.startsWith("/") ? path : `./${path}`;
  const script = sh`f=${name}
if [ ! -e "$f" ]; then exit ${MISSING}; fi
if [ -d "$f" ]; then exit ${NO_FILE}; fi
if [ -f "$f" ] && size=$(stat -L -c %s -- "$f") && [ "$size" -gt ${limit} ]; then echo "$size"; exit ${TOO_LARGE}; fi
exec head -c ${limit + 1} -- "$f"`;
  let seen = 0;
  const result = await run(link, {
    script: fullScript({ script: script.text }),
    become,
    root: options.root ?? true,
    timeout: options.timeout,
    keep: limit + 1,
    ...(options.signal && { signal: options.signal }),
    onStdout: (chunk) => {
      seen += chunk.length;
      options.onProgress?.(seen, seen);
    },
  });
  const fail = (why: string, hint: string): LabError =>
    new LabError("E_TRANSFER", `${JSON.stringify(path)} on ${link.name} ${why}`, { address: link.address, hint });
  if (result.code === MISSING)
    throw fail("is not there", "check the path, and that the login may look into its directory");
  if (result.code === NO_FILE) throw fail("is a directory", "name a file");
  if (result.code === TOO_LARGE || result.stdout.length > limit) {
    const size = result.code === TOO_LARGE ? `${result.stdout.toString("utf8").trim()} bytes` : "more than that";
    throw fail(`is larger than ${limit} bytes (${size})`, "raise the limit, or copy it by other means");
  }
  if (result.code !== 0) {
    throw fail(
      `cannot be read: ${result.stderr.toString("utf8").trim().slice(0, 300)}`,
      "check that the login may read it, or use root",
    );
  }
  return result.stdout;
}
