import { spawn } from "node:child_process";
import { LabError, type Machine, Sensitive, sh, shCommand, shJoin } from "../../src/index.ts";
import { mirrorName } from "./layout.ts";
import { GIT_FUNCTION, type PreparedSource } from "./source-script.ts";
import { type SourceUrl, splitUrl, withoutCredentials } from "./source-url.ts";
import { commandFailure, DISK_FULL, lastLines, nearest, runScript } from "./text.ts";

/** Runs git somewhere; arguments without `git` itself. Rejects where git cannot be started there. */
export type GitRunner = (
  args: readonly string[],
  options: {
    readonly env: Readonly<Record<string, string | Sensitive<string>>>;
    readonly signal?: AbortSignal;
    readonly timeout: number;
  },
) => Promise<{ readonly code: number; readonly stdout: string; readonly stderr: string }>;

export interface GitSource {
  /** May hold credentials. */
  readonly url: string | Sensitive<string>;
  /** Branch, tag, full ref name or commit; absent: the repository's HEAD. */
  readonly ref?: string;
}

export interface ResolvedGit {
  /** Without credentials. */
  readonly url: string;
  readonly commit: string;
  readonly kind: "branch" | "tag" | "commit" | "head";
  /** Full name of the ref; absent where a commit was given. */
  readonly ref?: string;
  /** Of HEAD: the branch that it names, where the repository says so. */
  readonly branch?: string;
}

/** Milliseconds. A repository that does not answer must not hold up a plan for ever. */
const LS_REMOTE_MS = 60_000;
const FETCH_MS = 3_600_000;
const FULL_COMMIT = /^([0-9a-f]{40}|[0-9a-f]{64})$/;

/** git on this machine. `env`: what it inherits (HOME, PATH, SSH_AUTH_SOCK). */
export function localGit(env: Readonly<Record<string, string | undefined>>): GitRunner {
  return (args, options) =>
    new Promise((resolve, reject) => {
      const secret = Object.fromEntries(
        Object.entries(options.env).map(([key, value]) => [key, value instanceof Sensitive ? value.reveal() : value]),
      );
      const child = spawn("git", args, {
        stdio: ["ignore", "pipe", "pipe"],
        env: { ...env, ...secret },
        timeout: options.timeout,
        ...(options.signal && { signal: options.signal }),
      });
      const out: Buffer[] = [];
      const err: Buffer[] = [];
      child.stdout.on("data", (chunk: Buffer) => out.push(chunk));
      child.stderr.on("data", (chunk: Buffer) => err.push(chunk));
      child.once("error", (cause) => {
        if (options.signal?.aborted === true) reject(new LabError("E_CANCELLED", "cancelled"));
        else {
          reject(
            new LabError("E_BUILD_TOOL", `git cannot be started here: ${cause.message}`, {
              cause,
              hint: "install git on this machine, or resolve the source on the build server",
            }),
          );
        }
      });
      child.once("close", (code) =>
        resolve({
          code: code ?? 124,
          stdout: Buffer.concat(out).toString("utf8"),
          stderr: Buffer.concat(err).toString("utf8"),
        }),
      );
    });
}

/** git on a machine, as its login. */
export function machineGit(machine: Machine): GitRunner {
  return async (args, options) => {
    const result = await machine.exec(shCommand(["git", ...args]), {
      root: false,
      env: options.env,
      timeout: options.timeout,
      keep: 64 << 20,
      ...(options.signal && { signal: options.signal }),
    });
    return {
      code: result.code ?? 128,
      stdout: result.stdout.toString("utf8"),
      stderr: result.stderr.toString("utf8"),
    };
  };
}

/** Credentials by a helper that reads them from the environment: neither a command line nor a file holds them. */
export function gitEnvironment(source: SourceUrl): Record<string, string | Sensitive<string>> {
  const base = { GIT_TERMINAL_PROMPT: "0", GIT_ASKPASS: "true", SSH_ASKPASS: "true", LC_ALL: "C" };
  const ssh = { GIT_SSH_COMMAND: "ssh -o BatchMode=yes -o ConnectTimeout=15" };
  if (source.password === undefined) return { ...base, ...ssh };
  return {
    ...base,
    ...ssh,
    GIT_CONFIG_COUNT: "2",
    GIT_CONFIG_KEY_0: "credential.helper",
    GIT_CONFIG_VALUE_0: "",
    GIT_CONFIG_KEY_1: "credential.helper",
    GIT_CONFIG_VALUE_1: String.raw`!f() { [ "$1" = get ] || exit 0; printf 'username=%s\npassword=%s\n' "$LABCTL_GIT_USERNAME" "$LABCTL_GIT_PASSWORD"; }; f`,
    LABCTL_GIT_USERNAME: source.username ?? "",
    LABCTL_GIT_PASSWORD: source.password,
  };
}

/** `git ls-remote` as data: full ref name -> commit, tags peeled. */
export function parseRefs(text: string): ReadonlyMap<string, string> {
  const refs = new Map<string, string>();
  const peeled = new Map<string, string>();
  for (const line of text.split("\n")) {
    const match = /^([0-9a-f]{40,64})\t(\S+)$/.exec(line.trimEnd());
    if (match === null) continue;
    const [, id = "", name = ""] = match;
    if (name.endsWith("^{}")) peeled.set(name.slice(0, -3), id);
    else refs.set(name, id);
  }
  for (const [name, id] of peeled) refs.set(name, id);
  return refs;
}

/** The branch that HEAD names, as `git ls-remote --symref` tells it. */
export function parseHead(text: string): string | undefined {
  return /^ref: refs\/heads\/(\S+)\tHEAD$/m.exec(text)?.[1];
}

/** Pure: what a ref of the spec means among a repository's refs. Throws E_SOURCE_UNRESOLVED with those that come near. */
export function chooseRef(
  refs: ReadonlyMap<string, string>,
  ref: string | undefined,
  url: string,
): Omit<ResolvedGit, "url"> {
  if (ref === undefined) {
    const head = refs.get("HEAD");
    if (head !== undefined) return { commit: head, kind: "head", ref: "HEAD" };
    throw new LabError("E_SOURCE_UNRESOLVED", `${url} has no HEAD`, {
      hint: "the repository is empty, or its default branch is gone: name a branch, tag or commit",
    });
  }
  const text = ref.toLowerCase();
  if (FULL_COMMIT.test(text)) return { commit: text, kind: "commit" };
  const kindOf = (name: string): "branch" | "tag" => (name.startsWith("refs/tags/") ? "tag" : "branch");
  const exact = [ref, `refs/${ref}`].find((name) => name.startsWith("refs/") && refs.has(name));
  if (exact !== undefined) return { commit: refs.get(exact) ?? "", kind: kindOf(exact), ref: exact };
  const both = [`refs/tags/${ref}`, `refs/heads/${ref}`].filter((name) => refs.has(name));
  const [first, second] = both;
  if (first !== undefined && second !== undefined && refs.get(first) !== refs.get(second)) {
    throw new LabError("E_SOURCE_UNRESOLVED", `${JSON.stringify(ref)} is both a tag and a branch of ${url}`, {
      hint: `write ${first} or ${second}`,
    });
  }
  if (first !== undefined) return { commit: refs.get(first) ?? "", kind: kindOf(first), ref: first };
  if (/^[0-9a-f]{7,39}$/.test(text)) {
    const tips = [...refs].filter(([, id]) => id.startsWith(text));
    const ids = new Set(tips.map(([, id]) => id));
    const [id] = ids;
    if (ids.size === 1 && id !== undefined) return { commit: id, kind: "commit" };
  }
  const names = [...refs.keys()]
    .filter((name) => /^refs\/(heads|tags)\//.test(name))
    .map((name) => name.replace(/^refs\/(heads|tags)\//, ""));
  const near = nearest(ref, names, 8);
  throw new LabError(
    "E_SOURCE_UNRESOLVED",
    `${JSON.stringify(ref)} is no branch or tag of ${url}${near.length > 0 ? `; near: ${near.join(", ")}` : ""}`,
    {
      hint: /^[0-9a-f]{7,39}$/.test(text)
        ? "an abbreviated commit is known only where it is the tip of a branch or tag: give all 40 digits"
        : near.length > 0
          ? "use one of these names, or a full commit"
          : `its branches and tags: ${names.length === 0 ? "none" : names.slice(0, 12).join(", ")}${names.length > 12 ? ", ..." : ""}`,
    },
  );
}

/**
 * Resolves a source to a full commit. A full commit is taken as it is, without asking. Changes nothing anywhere.
 * Throws E_SOURCE_UNRESOLVED, E_SOURCE_FETCH (the repository cannot be reached or refuses), E_CANCELLED.
 */
export async function resolveGit(git: GitRunner, source: GitSource, signal?: AbortSignal): Promise<ResolvedGit> {
  const where = splitUrl(source.url);
  const wanted = source.ref?.toLowerCase() ?? "";
  if (FULL_COMMIT.test(wanted)) return { url: where.url, commit: wanted, kind: "commit" };
  const result = await git(["ls-remote", "--symref", "--", where.url], {
    env: gitEnvironment(where),
    timeout: LS_REMOTE_MS,
    ...(signal && { signal }),
  });
  if (result.code !== 0) throw fetchFailure(where, result.stderr, `${where.url} cannot be read`);
  const chosen = chooseRef(parseRefs(result.stdout), source.ref, where.url);
  const branch = chosen.kind === "head" ? parseHead(result.stdout) : undefined;
  return { url: where.url, ...chosen, ...(branch !== undefined && { branch }) };
}

function fetchFailure(source: SourceUrl, stderr: string, what: string): LabError {
  const said = lastLines(withoutCredentials(stderr, source), 3);
  const [hint, retryable] =
    /authentication failed|could not read (username|password)|permission denied|403|401|host key verification/i.test(
      said,
    )
      ? ["give credentials that may read it (a token in the URL by `${secret.NAME}`, or a key for the login)", false]
      : /dubious ownership/i.test(said)
        ? ["the repository belongs to another user: `git config --global --add safe.directory PATH` there", false]
        : /not found|does not (appear to be|exist)|no such file/i.test(said)
          ? ["check the address", false]
          : /command not found|git: not found/i.test(said)
            ? ["install git there", false]
            : ["check the network there, then run again", true];
  return new LabError("E_SOURCE_FETCH", `${what}${said === "" ? "" : `: ${said}`}`, { hint, retryable });
}

export interface FetchOptions {
  /** History beyond so many commits is not fetched; absent: all of it. */
  readonly depth?: number;
  readonly signal?: AbortSignal;
  /** What git says of its progress; without credentials. */
  readonly onOutput?: (text: string) => void;
}

/** Fetches into a mirror what is missing. Prints `have`, `fetched` or `absent`; git's own words on stderr. */
export function fetchScript(
  workdir: string,
  resolved: ResolvedGit,
  options: { readonly depth?: number } = {},
): ReturnType<typeof sh> {
  const mirror = mirrorPath(workdir, resolved.url);
  return shJoin([
    GIT_FUNCTION,
    sh`mirror=${mirror} url=${resolved.url} commit=${resolved.commit} ref=${resolved.ref === undefined || resolved.ref === "HEAD" ? "" : resolved.ref}
PATH=$PATH:/usr/local/bin:/usr/bin:/bin
command -v git >/dev/null 2>&1 || { echo "git: not found" >&2; exit 127; }
umask 022
mkdir -p -- ${workdir}/mirrors || exit 1
exec 6>>"$mirror.lock"
flock 6 || exit 1
git_here() { labctl_git -C "$mirror" "$@" 6>&-; }
[ -d "$mirror" ] && git_here rev-parse -q --git-dir >/dev/null 2>&1 || { rm -rf -- "$mirror"; labctl_git init -q --bare -- "$mirror" 6>&- || exit 1; }
# Locks of a fetch that was killed: the mirror is ours alone now.
rm -f -- "$mirror/shallow.lock" "$mirror/packed-refs.lock"
have() { git_here cat-file -e "$commit^{commit}" 2>/dev/null; }
if have; then echo have; exit 0; fi
get() { git_here -c http.lowSpeedLimit=1000 -c http.lowSpeedTime=60 fetch --progress --no-tags --force ${options.depth === undefined ? [] : [`--depth=${options.depth}`]} -- "$url" "$@"; }
got=1
if [ -n "$ref" ]; then get "+$ref:refs/labctl/$ref"; got=$?; fi
if ! have; then get "$commit" && got=0; fi
if ! have; then get '+refs/heads/*:refs/labctl/refs/heads/*' '+refs/tags/*:refs/labctl/refs/tags/*'; got=$?; fi
if have; then echo fetched; exit 0; fi
[ $got = 0 ] || exit 1
echo absent`,
  ]);
}

export function mirrorPath(workdir: string, url: string): string {
  return `${workdir}/mirrors/${mirrorName(url)}.git`;
}

/**
 * Brings a resolved commit into the server's mirror of its repository, which all builds there share. One fetch of a
 * repository runs at a time. Throws E_SOURCE_FETCH, E_SOURCE_UNRESOLVED (no such commit), E_DISK_FULL.
 */
export async function prepareGit(
  machine: Machine,
  workdir: string,
  source: GitSource,
  resolved: ResolvedGit,
  options: FetchOptions = {},
): Promise<{ readonly prepared: PreparedSource; readonly fetched: boolean }> {
  const where = splitUrl(source.url);
  const result = await runScript(
    machine,
    fetchScript(workdir, resolved, options.depth === undefined ? {} : { depth: options.depth }),
    {
      env: gitEnvironment(where),
      timeout: FETCH_MS,
      ...(options.signal && { signal: options.signal }),
      onStderr: (chunk) => options.onOutput?.(withoutCredentials(chunk.toString("utf8"), where)),
    },
  );
  const answer = result.stdout.toString("utf8").trim();
  const stderr = result.stderr.toString("utf8");
  if (answer === "have" || answer === "fetched") {
    return {
      prepared: { type: "git", mirror: mirrorPath(workdir, resolved.url), commit: resolved.commit },
      fetched: answer === "fetched",
    };
  }
  if (DISK_FULL.test(stderr)) throw commandFailure(machine, `fetching ${resolved.url}`, lastLines(stderr, 3));
  if (answer === "absent" || /not our ref|no such (remote )?ref|couldn't find remote ref/i.test(stderr)) {
    throw new LabError("E_SOURCE_UNRESOLVED", `${resolved.commit} is no commit of ${resolved.url}`, {
      address: machine.address,
      hint: "it was removed by a forced push, or belongs to another repository: name a branch or tag",
    });
  }
  throw fetchFailure(where, stderr, `${resolved.url} cannot be fetched by ${machine.address}`).atAddress(
    machine.address,
  );
}
