import { Duplex, PassThrough, type Readable } from "node:stream";
import { LabError } from "../diagnostics/index.ts";
import { deferred } from "./deferred.ts";
import type { Link } from "./link.ts";
import type { Become, SocketOptions } from "./ports.ts";
import { elevationFor, run, throwIfCancelled } from "./run.ts";
import { quoteWord } from "./shell.ts";

/** sun_path holds 108 bytes with the zero at its end (unix(7)); what is longer is cut off without a word by some. */
const PATH_BYTES = 107;
/** setTimeout's longest, 24 days. */
const NEVER_MS = 2 ** 31 - 1;
/** On stdout, when a relay has been found and starts; what follows is the socket's. */
const READY = "labctl-relay\n";
const NO_SOCKET = 66;
const NO_RELAY = 69;

/** Copies both ways until either side ends. Perl is there wherever Debian's or Fedora's tools are. */
const PERL = `
socket(S, PF_UNIX, SOCK_STREAM, 0) && connect(S, pack_sockaddr_un($ARGV[0])) or die "$!\\n";
sub copy { my ($in, $out) = @_; my $b;
  while (sysread($in, $b, 65536)) { my $o = 0; while ($o < length $b) { my $n = syswrite($out, $b, length($b) - $o, $o); defined $n or return; $o += $n } } }
$p = fork; defined $p or die "$!\\n";
if ($p == 0) { copy(STDIN, S); shutdown(S, 1); exit 0 }
copy(S, STDOUT); kill 15, $p; waitpid($p, 0); exit 0
`;

/**
 * A stream to a Unix socket of the machine: straight where the login's rights do and the server forwards, else through a
 * program at the far end that copies (perl, socat, nc), as root where that is asked for. See Sockets.openSocket.
 */
export async function openSocket(link: Link, become: Become, path: string, options: SocketOptions): Promise<Duplex> {
  throwIfCancelled(link, options.signal);
  if (!path.startsWith("/") || path.includes("\0") || Buffer.byteLength(path) > PATH_BYTES) {
    throw new LabError("E_SOCKET", `${JSON.stringify(path)} cannot be the path of a socket`, {
      address: link.address,
      hint: `it begins with a slash and has at most ${PATH_BYTES} bytes`,
    });
  }
  const root = options.root ?? false;
  const elevated = (await elevationFor(link, root, become)) !== "none";
  if (elevated) return await relay(link, become, path, root, options.signal);
  try {
    return await link.openSocket(path, options.signal);
  } catch (error) {
    // Here the system says why. A server does not: it says the same of a socket that is not there and of forwarding that is
    // forbidden, and looking from inside tells the two apart.
    if (link.local || !(error instanceof LabError) || error.code !== "E_SOCKET") throw error;
    return await relay(link, become, path, root, options.signal);
  }
}

function relayScript(path: string): string {
  const word = quoteWord(path);
  // socat reads commas, colons and more in an address as its own.
  const plain = /^[A-Za-z0-9._/-]+$/.test(path);
  const has = (program: string): string => `command -v ${program} >/dev/null 2>&1`;
  const start = (test: string, command: string): string => `if ${test}; then echo ${READY.trim()}; exec ${command}; fi`;
  return [
    `[ -S ${word} ] || exit ${NO_SOCKET}`,
    start(has("perl"), `perl -MSocket -e ${quoteWord(PERL)} -- ${word}`),
    // Does not end with the socket, but two seconds after it; or after what it copies to it has ended.
    ...(plain ? [start(has("socat"), `socat -t 2 - UNIX-CONNECT:${word}`)] : []),
    start("nc -h 2>&1 | grep -q -e '-[A-Za-z]*U'", `nc -U ${word}`),
    `exit ${NO_RELAY}`,
  ].join("\n");
}

function relay(link: Link, become: Become, path: string, root: boolean, signal?: AbortSignal): Promise<Duplex> {
  const opened = deferred<Duplex>();
  const stream = new RelaySocket();
  const onAbort = (): void => {
    stream.destroy();
    opened.reject(new LabError("E_CANCELLED", "cancelled", { address: link.address }));
  };
  signal?.addEventListener("abort", onAbort, { once: true });
  let head: Buffer | undefined = Buffer.alloc(0);
  const onStdout = (chunk: Buffer): void => {
    if (head === undefined) {
      stream.receive(chunk);
      return;
    }
    head = Buffer.concat([head, chunk]);
    if (head.length < READY.length) return;
    const rest = head.subarray(READY.length);
    head = undefined;
    opened.resolve(stream);
    if (rest.length > 0) stream.receive(rest);
  };
  run(link, {
    script: relayScript(path),
    stdin: stream.input,
    become,
    root,
    timeout: NEVER_MS,
    keep: 4096,
    signal: stream.aborted,
    onStdout,
    onStart: (stdout) => stream.hold(stdout),
  })
    .then(
      ({ code, stderr }) => {
        const error = relayFailed(link, path, code, stderr.toString("utf8").trim());
        stream.finish(error);
        if (head !== undefined) opened.reject(error ?? failed(link, path, "the relay ended at once", ""));
      },
      (error: unknown) => {
        const why = error instanceof Error ? error : new Error(String(error));
        stream.finish(why);
        opened.reject(why);
      },
    )
    .finally(() => signal?.removeEventListener("abort", onAbort));
  return opened.promise.finally(() => signal?.removeEventListener("abort", onAbort));
}

function relayFailed(link: Link, path: string, code: number | undefined, said: string): LabError | undefined {
  switch (code) {
    case 0:
      return undefined;
    case NO_SOCKET:
      return failed(
        link,
        path,
        "there is none, or this user may not see it",
        "start the program that listens there, and check the path; allow the user (often a group of its own), or set `become:`",
      );
    case NO_RELAY:
      return new LabError("E_SOCKET", `the socket ${path} on ${link.name} cannot be reached`, {
        address: link.address,
        hint: "its sshd refuses to forward to it, and it has none of socat, perl, and nc with -U: allow it in sshd_config (AllowStreamLocalForwarding yes), or install socat there",
      });
    default:
      return failed(
        link,
        path,
        said.split("\n").at(-1)?.slice(0, 300) || `the relay there ended with ${code ?? "a signal"}`,
        "start the program that listens there, and check that the login may open it",
      );
  }
}

function failed(link: Link, path: string, why: string, hint: string): LabError {
  return new LabError("E_SOCKET", `the socket ${path} on ${link.name} cannot be opened: ${why}`, {
    address: link.address,
    retryable: true,
    ...(hint !== "" && { hint }),
  });
}

/** The near end of a relay: its stdin and stdout as one stream. */
class RelaySocket extends Duplex {
  readonly input = new PassThrough();
  readonly #abort = new AbortController();
  #stdout: Readable | undefined;
  #ended = false;

  get aborted(): AbortSignal {
    return this.#abort.signal;
  }

  hold(stdout: Readable): void {
    this.#stdout = stdout;
  }

  receive(chunk: Buffer): void {
    if (!this.destroyed && !this.push(chunk)) this.#stdout?.pause();
  }

  /** The relay has ended. */
  finish(error: Error | undefined): void {
    this.#ended = true;
    if (this.destroyed) return;
    if (error) {
      // Who opens it may not listen yet, and is told otherwise.
      if (this.listenerCount("error") === 0) this.once("error", () => undefined);
      this.destroy(error);
    } else {
      this.push(null);
      if (this.readableEnded) this.destroy();
      else this.once("end", () => this.destroy());
    }
  }

  override _read(): void {
    this.#stdout?.resume();
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    this.input.write(chunk, done);
  }

  override _final(done: (error?: Error | null) => void): void {
    this.input.end();
    done();
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    if (!this.#ended) this.#abort.abort();
    this.input.end();
    done(error);
  }
}
