import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { Row } from "../../src/model/index.ts";
import { createFileStore, openScopes, readScopes, type StateStore } from "../../src/state/index.ts";

let dir: string;
let store: StateStore;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), "labctl-scopes-"));
  store = createFileStore({ dir, version: "test" });
});
afterEach(() => rm(dir, { recursive: true, force: true }));

const request = { holder: "me", purpose: "test", timeout: 0 };
const LAB = "lab";
const PIPELINE = "pipeline/kernel-ci";

function row(address: string): Row {
  return {
    address,
    kind: address.split(".")[0] ?? "",
    version: 0,
    instance_id: address,
    desired: {},
    observed: {},
    original: null,
    depends: [],
    options: {},
    secrets: {},
    status: "ok",
    updated_at: "",
    updated_by: "",
  };
}

function route(address: string): string {
  return address.startsWith("build.") ? PIPELINE : LAB;
}

describe("several scopes as one", () => {
  test("each row is kept in its own scope, and all are seen", async () => {
    const session = await openScopes(store, { own: [LAB, PIPELINE], others: [], route }, request);
    await session.put(row("host.a"));
    await session.begin({ op: "1", run: "r", action: "create", row: row("build.k") });
    await session.end({ op: "1", result: "ok", row: row("build.k") });
    expect([...session.rows.keys()]).toEqual(["host.a", "build.k"]);
    expect(session.rows.size).toBe(2);
    await session.close();
    expect([...(await store.read(LAB)).rows.keys()]).toEqual(["host.a"]);
    expect([...(await store.read(PIPELINE)).rows.keys()]).toEqual(["build.k"]);
    expect(await store.scopes()).toEqual([LAB, PIPELINE]);
    const view = await readScopes(store, await store.scopes());
    expect(view.scopeOf("build.k")).toBe(PIPELINE);
    expect(view.scopeOf("build.x")).toBeUndefined();
    expect(Object.keys(view.versions)).toEqual([LAB, PIPELINE]);
  });

  test("what is only looked at is not locked, and not written", async () => {
    const lab = await store.open(LAB, request);
    await lab.put(row("host.a"));
    const session = await openScopes(store, { own: [PIPELINE], others: [LAB], route }, request);
    expect(session.rows.has("host.a")).toBe(true);
    await session.put(row("build.k"));
    await session.close();
    await lab.close();
    expect((await store.read(LAB)).rows.size).toBe(1);
  });

  test("where one cannot be locked, none is", async () => {
    const held = await store.open(PIPELINE, request);
    await expect(openScopes(store, { own: [LAB, PIPELINE], others: [], route }, request)).rejects.toMatchObject({
      code: "E_STATE_LOCKED",
    });
    expect(await store.holder(LAB)).toBeUndefined();
    await held.close();
  });

  test("the lab's name is kept in each, and survives being opened again", async () => {
    const session = await openScopes(store, { own: [LAB, PIPELINE], others: [], route }, request);
    await session.claim("berlin");
    await session.close();
    const view = await readScopes(store, [LAB, PIPELINE]);
    expect(view.labs).toEqual({ [LAB]: "berlin", [PIPELINE]: "berlin" });
  });

  test("instances of a pipeline are scopes of their own", async () => {
    for (const scope of [LAB, "pipeline/a/one", "pipeline/a", "pipeline/b.c"]) {
      const session = await store.open(scope, request);
      await session.put(row(`build.${scope.length}`));
      await session.close();
    }
    expect(await store.scopes()).toEqual([LAB, "pipeline/a", "pipeline/a/one", "pipeline/b.c"]);
  });
});
