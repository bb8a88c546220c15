import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { createFileStore } from "../../src/state/index.ts";
import type { StateStore } from "../../src/state/index.ts";
import { lockRequest, makeRow } from "./state-helpers.ts";

let dir: string;
let store: StateStore;
beforeEach(() => {
  dir = join(mkdtempSync(join(tmpdir(), "labctl-state-")), "state");
  store = createFileStore({ dir });
});
afterEach(() => rmSync(join(dir, ".."), { recursive: true, force: true }));

async function record(addresses: readonly string[], scope = "lab"): Promise<void> {
  const session = await store.open(scope, lockRequest());
  await Promise.all(addresses.map((address) => session.put(makeRow(address))));
  await session.close();
}

describe("sessions", () => {
  test("what a session recorded is there for the next one", async () => {
    const session = await store.open("lab", lockRequest());
    await session.begin({ op: "1", run: "r", action: "create", row: makeRow("host.a") });
    expect(session.rows.get("host.a")).toMatchObject({ status: "interrupted", version: 1 });
    await session.checkpoint("1", { step: "half", data: 50 });
    await session.end({ op: "1", result: "ok", row: makeRow("host.a") });
    await session.setOutputs({ address: "10.0.0.1" });
    await session.setHold("host.a", { who: "me", why: "repair", since: "2026-01-01T00:00:00Z" });
    await session.close();
    const view = await store.read("lab");
    expect(view.rows.get("host.a")).toMatchObject({ status: "ok", version: 2 });
    expect(view.outputs).toEqual({ address: "10.0.0.1" });
    expect(view.holds.get("host.a")?.who).toBe("me");
    expect(view.serial).toBe(1);
    expect(readdirSync(dir).sort()).toEqual(["lab.json", "lab.lock.1"]);
  });

  test("an operation without an end leaves its row interrupted, with the original of the row before", async () => {
    const first = await store.open("lab", lockRequest());
    await first.put(makeRow("host.a", { original: { motd: "before" } }));
    await first.begin({ op: "1", run: "r", action: "update", row: makeRow("host.a", { original: "wrong" }) });
    const during = await store.read("lab");
    expect(during.rows.get("host.a")).toMatchObject({
      status: "interrupted",
      version: 2,
      original: { motd: "before" },
    });
    await first.end({ op: "1", result: "failed" });
    expect(first.rows.get("host.a")).toMatchObject({ status: "failed", version: 3 });
    await first.close();
  });

  test("a row that is made again never repeats a version", async () => {
    await record(["host.a", "host.a", "host.a"]);
    const session = await store.open("lab", lockRequest());
    await session.drop("host.a");
    await session.close();
    await record(["host.a"]);
    expect((await store.read("lab")).rows.get("host.a")?.version).toBe(4);
  });

  test("a moved row keeps all but its address", async () => {
    await record(["host.a", "host.c"]);
    const session = await store.open("lab", lockRequest());
    await session.move("host.a", "host.b");
    expect(session.rows.get("host.b")).toMatchObject({ instance_id: "id-of-host.a", version: 2 });
    await expect(session.move("host.a", "host.d")).rejects.toMatchObject({ code: "E_STATE_NOT_FOUND" });
    await expect(session.move("host.b", "host.c")).rejects.toMatchObject({ code: "E_STATE_CONFLICT" });
    await expect(session.drop("host.a")).rejects.toMatchObject({ code: "E_STATE_NOT_FOUND" });
    await session.close();
  });

  test("later changes of what was handed in do not reach the state", async () => {
    const session = await store.open("lab", lockRequest());
    const desired: Record<string, string> = { a: "1" };
    const done = session.put(makeRow("host.a", { desired }));
    await done;
    desired["a"] = "2";
    expect(session.rows.get("host.a")?.desired).toEqual({ a: "1" });
    await session.close();
  });

  test("misuse is a defect that says what it is", async () => {
    const session = await store.open("lab", lockRequest());
    await expect(session.end({ op: "x", result: "ok" })).rejects.toMatchObject({ code: "E_INTERNAL" });
    await session.begin({ op: "1", run: "r", action: "create", row: makeRow("host.a") });
    await expect(session.begin({ op: "1", run: "r", action: "create", row: makeRow("host.b") })).rejects.toMatchObject({
      code: "E_INTERNAL",
    });
    await session.close();
    await expect(session.put(makeRow("host.a"))).rejects.toMatchObject({ code: "E_INTERNAL" });
    await session.close();
  });

  test("a session that records nothing leaves nothing but the lock's number", async () => {
    const session = await store.open("lab", lockRequest());
    await session.close();
    expect(readdirSync(dir)).toEqual(["lab.lock.1"]);
    expect((await store.read("lab")).lineage).toBe("");
  });

  test("records that are asked for together share one sync", async () => {
    const { nodeFs } = await import("../../src/state/index.ts");
    let syncs = 0;
    const counting = createFileStore({
      dir,
      fs: {
        ...nodeFs,
        open: async (path, mode) => {
          const file = await nodeFs.open(path, mode);
          const datasync = file.datasync.bind(file);
          file.datasync = () => {
            syncs += 1;
            return datasync();
          };
          return file;
        },
      },
    });
    const session = await counting.open("lab", lockRequest());
    syncs = 0;
    await Promise.all(Array.from({ length: 100 }, (_, i) => session.put(makeRow(`host.h${i}`))));
    expect(syncs).toBe(1);
    await session.close();
  });
});

describe("reading", () => {
  test("writes nothing, not even the folder", async () => {
    expect((await store.read("lab")).rows.size).toBe(0);
    expect(await store.holder("lab")).toBeUndefined();
    expect(await store.unlock("lab")).toBeUndefined();
    expect(existsSync(dir)).toBe(false);
  });

  test("is consistent while a writer folds", async () => {
    const folding = createFileStore({ dir, foldBytes: 500 });
    const session = await folding.open("lab", lockRequest());
    let stop = false;
    const reader = (async () => {
      let last = 0;
      let reads = 0;
      while (!stop) {
        const size = (await store.read("lab")).rows.size;
        expect(size).toBeGreaterThanOrEqual(last);
        last = size;
        reads += 1;
      }
      return reads;
    })();
    for (let i = 0; i < 200; i++) await session.put(makeRow(`host.h${i}`));
    expect((await store.read("lab")).rows.size).toBe(200);
    await session.close();
    stop = true;
    expect(await reader).toBeGreaterThan(5);
    const view = await store.read("lab");
    expect(view.rows.size).toBe(200);
    expect(view.serial).toBeGreaterThan(5);
  });
});

describe("files", () => {
  test("are readable by their owner alone", async () => {
    await record(["host.a"]);
    expect(statSync(dir).mode & 0o777).toBe(0o700);
    for (const name of readdirSync(dir)) expect(statSync(join(dir, name)).mode & 0o777, name).toBe(0o600);
  });

  test("stand in folders for scopes with slashes, and in files for any name", async () => {
    await record(["a"], "pipeline/ci");
    await record(["a"], "pipeline/ci/x.lock.1");
    await record(["a"], "pipeline/ci/../../../../etc");
    expect(existsSync(join(dir, "pipeline/ci.json"))).toBe(true);
    expect(existsSync(join(dir, "pipeline/ci/x%2Elock%2E1.json"))).toBe(true);
    expect(existsSync(join(dir, "pipeline/ci/%2E%2E/%2E%2E/%2E%2E/%2E%2E/etc.json"))).toBe(true);
    for (const scope of ["", "a//b", "leases"]) {
      await expect(store.read(scope)).rejects.toMatchObject({ code: "E_STATE_NOT_FOUND" });
    }
  });

  test("a folder behind a symbolic link is as good as any", async () => {
    await record(["host.a"]);
    symlinkSync(dir, join(dir, "..", "link"));
    const linked = createFileStore({ dir: join(dir, "..", "link") });
    expect((await linked.read("lab")).rows.size).toBe(1);
    const session = await linked.open("lab", lockRequest());
    await session.put(makeRow("host.b"));
    await session.close();
    expect((await store.read("lab")).rows.size).toBe(2);
  });

  test("a file where the folder should be is said to be one", async () => {
    writeFileSync(dir, "");
    await expect(store.read("lab")).rejects.toMatchObject({ code: "E_STATE_READ" });
    await expect(store.open("lab", lockRequest())).rejects.toMatchObject({ code: "E_STATE_WRITE" });
  });

  test("lock files removed by hand do not make journals be ignored", async () => {
    await record(["host.a"]);
    await record(["host.b"]);
    for (const name of readdirSync(dir)) if (name.includes(".lock.")) rmSync(join(dir, name));
    const session = await store.open("lab", lockRequest());
    expect(session.lock.token).toBe(3);
    await session.put(makeRow("host.c"));
    expect((await store.read("lab")).rows.size).toBe(3);
    await session.close();
  });
});

describe("pull and push", () => {
  test("give back what was there, and refuse another lab's or an older state", async () => {
    await record(["host.a"]);
    const text = await store.pull("lab");
    await record(["host.b"]);
    await expect(store.push("lab", text, { force: false, lock: lockRequest() })).rejects.toMatchObject({
      code: "E_STATE_CONFLICT",
    });
    const other = text.replace(/"lineage": "[^"]*"/, '"lineage": "other"');
    await expect(store.push("lab", other, { force: false, lock: lockRequest() })).rejects.toMatchObject({
      code: "E_STATE_LINEAGE",
    });
    await store.push("lab", text, { force: true, lock: lockRequest() });
    expect([...(await store.read("lab")).rows.keys()]).toEqual(["host.a"]);
    expect(await store.pull("lab")).not.toContain("folded");
  });

  test("a row that was edited gets a new version, one that was not keeps its own", async () => {
    await record(["host.a", "host.b"]);
    const text = (await store.pull("lab")).replace("id-of-host.a", "edited");
    await store.push("lab", text, { force: false, lock: lockRequest() });
    const { rows } = await store.read("lab");
    expect(rows.get("host.a")).toMatchObject({ instance_id: "edited", version: 2 });
    expect(rows.get("host.b")?.version).toBe(1);
  });

  test("refuse what is no snapshot of that scope", async () => {
    await record(["host.a"]);
    const before = readFileSync(join(dir, "lab.json"), "utf8");
    const text = await store.pull("lab");
    for (const bad of ["", "[]", "{}", text.replace('"scope": "lab"', '"scope": "pipeline/x"')]) {
      await expect(store.push("lab", bad, { force: true, lock: lockRequest() })).rejects.toMatchObject({
        code: "E_STATE_DAMAGED",
      });
    }
    const newer = text.replace('"format_version": 1', '"format_version": 2');
    await expect(store.push("lab", newer, { force: true, lock: lockRequest() })).rejects.toMatchObject({
      code: "E_STATE_VERSION",
    });
    expect(readFileSync(join(dir, "lab.json"), "utf8")).toBe(before);
    await expect(store.pull("pipeline/none")).rejects.toMatchObject({ code: "E_STATE_NOT_FOUND" });
  });
});
