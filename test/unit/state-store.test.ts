import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { createFileStore } from "../../src/state/index.ts";
import { lockRequest, makeRow } from "./state-helpers.ts";

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "labctl-state-"));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

test("what a session recorded is there for the next one", async () => {
  const store = createFileStore({ dir });
  const session = await store.open("lab", lockRequest());
  await session.begin({ op: "1", run: "r", action: "create", row: makeRow("host.a") });
  expect(session.rows.get("host.a")?.status).toBe("interrupted");
  await session.end({ op: "1", result: "ok", row: makeRow("host.a") });
  await session.close();
  const view = await store.read("lab");
  expect(view.rows.get("host.a")).toMatchObject({ status: "ok", version: 2 });
  expect(view.serial).toBe(1);
});
