import { afterEach, beforeEach, expect, test } from "vitest";
import { build as kind } from "../../../providers/build/build.ts";
import { type GitRunner, resolveGit } from "../../../providers/build/source-git.ts";
import type { KindContext } from "../../../src/index.ts";
import { build, type Scratch, scratch } from "../artifact-helpers.ts";

const A = "a".repeat(40);
let place: Scratch;
beforeEach(() => {
  place = scratch();
});
afterEach(() => place.remove());

test("a build that is taken over as it is can be found by the branch and the name that led to it", async () => {
  const artifacts = place.store();
  const record = build({ name: "a", branch: "main", commit: A, finished_at: "2026-01-02T00:00:00.000Z" });
  await artifacts.saveBuild(record);
  const adopt = async (name: string, branch?: string): Promise<void> => {
    const item = { desired: { name, digest: record.id, ...(branch !== undefined && { branch }) } };
    await kind.adopted?.({ artifacts } as unknown as KindContext, item as never);
  };
  await adopt("a", "v1.0");
  await adopt("b");
  expect((await artifacts.findBuild({ branch: "v1.0" })).id).toBe(record.id);
  expect((await artifacts.findBuild({ name: "b" })).id).toBe(record.id);
  const { known_as: known, ...rest } = await artifacts.findBuild({ branch: "main" });
  expect(rest).toEqual(record);
  expect(known).toMatchObject([{ name: "a", branch: "main" }, { name: "a", branch: "v1.0" }, { name: "b" }]);
});

test("after a revert the branch means the older build again, once an apply came back to it", async () => {
  const artifacts = place.store();
  const older = build({ name: "a", branch: "main", finished_at: "2026-01-02T00:00:00.000Z" });
  const newer = build({ name: "a", branch: "main", finished_at: "2026-01-03T00:00:00.000Z" });
  for (const one of [older, newer]) await artifacts.saveBuild(one);
  const query = { branch: "main", latest: true };
  expect((await artifacts.findBuild(query)).id).toBe(newer.id);
  const item = { desired: { name: "a", branch: "main", digest: older.id } };
  await kind.adopted?.({ artifacts } as unknown as KindContext, item as never);
  expect((await artifacts.findBuild(query)).id).toBe(older.id);
});

test("without a ref the branch is the one that HEAD names, told by the command that resolves it", async () => {
  const calls: (readonly string[])[] = [];
  const git =
    (stdout: string): GitRunner =>
    async (args) => {
      calls.push(args);
      return Promise.resolve({ code: 0, stdout, stderr: "" });
    };
  const refs = `${A}\tHEAD\n${A}\trefs/heads/trunk/x\n`;
  const url = "https://git.example/x.git";
  const head = { url, commit: A, kind: "head", ref: "HEAD" };
  expect(await resolveGit(git(`ref: refs/heads/trunk/x\tHEAD\n${refs}`), { url })).toEqual({
    ...head,
    branch: "trunk/x",
  });
  // A detached HEAD, or a server that does not say.
  expect(await resolveGit(git(refs), { url })).toEqual(head);
  expect(await resolveGit(git(`ref: refs/heads/trunk/x\tHEAD\n${refs}`), { url, ref: "trunk/x" })).toEqual({
    url,
    commit: A,
    kind: "branch",
    ref: "refs/heads/trunk/x",
  });
  expect(calls).toEqual(Array.from({ length: 3 }, () => ["ls-remote", "--symref", "--", url]));
});
