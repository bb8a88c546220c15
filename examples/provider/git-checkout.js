// A provider in one file: git checkouts on hosts. Read it beside docs/providers.md.
//
// `checkouts:` appears under every host; labctl reads, plans, applies and deletes them like its own kinds.
import { defineKind, defineProvider, LabError, sh, shJoin } from "labctl";

const checkout = defineKind({
  kind: "checkout",
  title: "A git checkout",
  description: "A clone of a git repository at a given commit, branch or tag. Local changes are never overwritten.",
  ownership: "shared",
  section: {
    name: "checkouts",
    within: "host",
    shape: "map",
    key: "path",
    keySchema: { type: "string", pattern: "^/" },
  },
  schema: {
    type: "object",
    additionalProperties: false,
    required: ["path", "repository"],
    properties: {
      path: { type: "string", description: "Where it stands.", "x-labctl": { identity: true } },
      repository: {
        type: "string",
        description: "What `git clone` takes.",
        examples: ["https://git.example/linux.git"],
      },
      commit: {
        type: "string",
        pattern: "^[0-9a-f]{40}$",
        description: "The commit that is checked out, in full. Absent: whatever the clone gives.",
      },
    },
  },
  attributes: {
    type: "object",
    additionalProperties: false,
    properties: {
      repository: { type: "string" },
      commit: { type: "string" },
      clean: { type: "boolean", description: "Whether the tree is as committed.", "x-labctl": { volatile: true } },
    },
  },

  // One probe for all checkouts of the host. It is asked for before the first await, so that it travels in the same
  // round trip as all else that labctl reads there.
  async readMany(ctx, items) {
    const machine = ctx.machine(items[0].parent);
    const script = shJoin(items.map((item) => look(item.desired.path)));
    const answer = await machine.probe(script, { signal: ctx.signal });
    const lines = answer.stdout.toString("utf8").split("\n");
    return new Map(items.map((item, i) => [item.address, parse(lines[i] ?? "")]));
  },

  async reconcile(ctx, { desired, parent, observed }) {
    const { path, repository, commit } = desired;
    if (observed !== undefined && !observed.clean) {
      throw new LabError("E_MISMATCH", `${path} has changes that are not committed`, {
        hint: "commit or stash them there; labctl does not overwrite work",
      });
    }
    const steps = [
      observed === undefined
        ? sh`git clone -q -- ${repository} ${path}`
        : sh`git -C ${path} remote set-url origin ${repository}`,
    ];
    if (commit !== undefined) {
      steps.push(
        sh`git -C ${path} cat-file -e ${`${commit}^{commit}`} 2>/dev/null || git -C ${path} fetch -q origin`,
        sh`git -C ${path} checkout -q --detach ${commit}`,
      );
    }
    const result = await ctx.machine(parent).exec(shJoin([sh`set -e`, ...steps]), {
      signal: ctx.signal,
      onStderr: (chunk) => ctx.output("stderr", chunk),
    });
    if (result.code !== 0) {
      throw new LabError(
        "E_COMMAND_FAILED",
        `git failed for ${path}: ${result.stderr.toString("utf8").trim().split("\n").at(-1)}`,
        {
          hint: "is git installed there, and can that machine reach the repository?",
        },
      );
    }
    // What is there is read back, not assumed.
    const look_again = await ctx.machine(parent).exec(look(path), { signal: ctx.signal });
    const reading = parse(look_again.stdout.toString("utf8").trim());
    if (reading.is !== "present") throw new LabError("E_MISMATCH", `${path} is no checkout after git clone`);
    return reading.value;
  },

  async delete(ctx, { desired, parent, prior, observed }) {
    // It was there before labctl, or somebody works in it: then it is not labctl's to remove.
    if (prior?.original !== undefined || observed === undefined) return;
    if (!observed.clean) {
      throw new LabError("E_MISMATCH", `${desired.path} has changes that are not committed`, {
        hint: "save them, then destroy again",
      });
    }
    await ctx.machine(parent).exec(sh`rm -rf -- ${desired.path}`, { signal: ctx.signal });
  },
});

/** One line: `-` for absent, else commit, cleanliness and the repository. */
function look(path) {
  return sh`if [ -d ${path}/.git ]; then
  c=$(git -C ${path} rev-parse -q --verify HEAD 2>/dev/null) || c=none
  if [ -z "$(git -C ${path} status --porcelain 2>/dev/null | head -n 1)" ]; then s=clean; else s=dirty; fi
  printf '%s %s %s\n' "$c" "$s" "$(git -C ${path} config --get remote.origin.url)"
else echo -; fi`;
}

function parse(line) {
  const match = /^(\S+) (clean|dirty) (.*)$/.exec(line);
  if (match === null) return { is: "absent" };
  const [, commit, state, repository] = match;
  return { is: "present", value: { repository, ...(commit !== "none" && { commit }), clean: state === "clean" } };
}

export default defineProvider({ name: "git-checkout", version: "1.0.0", kinds: [checkout] });
