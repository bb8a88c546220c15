import { createHash } from "node:crypto";
import { LabError } from "../../src/index.ts";

/**
 * Where things are below a build server's work directory:
 *
 *     mirrors/HASH.git     a bare mirror for each repository, shared by all builds
 *     tarballs/SHA256      tarballs, shared
 *     trees/TREE           the source of one build, brought up to date in place so that times of unchanged files stay
 *     objects/TREE.CONF    what was compiled, for each build, configuration and toolchain
 *     stage/TREE/DIGEST    files that were sent for a tree and wait to be moved there
 *     jobs/DIGEST          one run of a build: lock, lease, log, result
 *     outputs/DIGEST       what a build made
 *     locks/NAME           held by who changes a tree or a mirror
 *     ccache               compiler cache, where ccache is installed
 *
 * The same build has the same paths each time: that is what lets make compile one file after an edit of one line.
 */
export interface BuildPaths {
  readonly workdir: string;
  /** Also the name of the lock. */
  readonly treeKey: string;
  readonly tree: string;
  /** The same as `tree` for builds that compile inside their source. */
  readonly objects: string;
  readonly stage: string;
  readonly job: string;
  readonly outputs: string;
  readonly ccache: string;
}

export interface PathInputs {
  readonly workdir: string;
  /** SHA-256 of all inputs; see buildDigest(). */
  readonly digest: string;
  /** Distinguishes labs and pipelines that share a server: the state's lineage and scope, for example. */
  readonly scope: string;
  /** Address of the build. */
  readonly build: string;
  /** What the source is, without its version: the repository's URL, the directory, `tarball`. */
  readonly source: string;
  /** What the objects depend on but the source: see objectsDigest(). */
  readonly configuration: string;
  /** False: the build compiles inside its source (`run`). */
  readonly outOfTree: boolean;
}

const DIGEST = /^[0-9a-f]{64}$/;

/** Pure. Throws E_SPEC_VALUE for a work directory that is not an absolute path to something below the root. */
export function buildPaths(inputs: PathInputs): BuildPaths {
  const workdir = checkedWorkdir(inputs.workdir);
  if (!DIGEST.test(inputs.digest)) throw new LabError("E_INTERNAL", `${inputs.digest} is no digest of a build`);
  const base = shortHash([inputs.scope, inputs.build, inputs.source]);
  const conf = shortHash([inputs.configuration]);
  const treeKey = inputs.outOfTree ? base : `${base}-${conf}`;
  const tree = `${workdir}/trees/${treeKey}`;
  return {
    workdir,
    treeKey,
    tree,
    objects: inputs.outOfTree ? `${workdir}/objects/${base}.${conf}` : tree,
    stage: `${workdir}/stage/${treeKey}`,
    job: jobDirectory(workdir, inputs.digest),
    outputs: `${workdir}/outputs/${inputs.digest}`,
    ccache: `${workdir}/ccache`,
  };
}

export function jobDirectory(workdir: string, digest: string): string {
  return `${workdir}/jobs/${digest}`;
}

export function mirrorName(url: string): string {
  return shortHash(["mirror", url]);
}

export function checkedWorkdir(workdir: string): string {
  const path = workdir.replace(/\/+$/, "");
  if (!/^(\/[^/\0\n]+)+$/.test(path) || path.split("/").some((part) => part === "." || part === "..")) {
    throw new LabError("E_SPEC_VALUE", `the work directory ${JSON.stringify(workdir)} cannot be used`, {
      hint: "give an absolute path below the root, without `.` and `..`, such as /srv/build",
    });
  }
  return path;
}

/** 80 bits: names on one server, not identities. */
function shortHash(parts: readonly string[]): string {
  return createHash("sha256").update(JSON.stringify(parts)).digest("hex").slice(0, 20);
}
