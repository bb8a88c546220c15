import { expect, test } from "vitest";
import { createFileStore, type StateStore } from "../../src/state/index.ts";
import { Disk } from "../property/state-disk.ts";
import { onlyProcess } from "../property/state-model.ts";
import { lockRequest, makeRow } from "./state-helpers.ts";

const storeOn = (disk: Disk, pid: number, foldBytes = 1e6): StateStore =>
  createFileStore({ dir: "/s", fs: disk, processes: onlyProcess(pid), foldBytes });

const fails = (code: string): never => {
  throw Object.assign(new Error(`${code}: made by the test`), { code });
};

/** What can go wrong with one append, and the code that says so. */
const APPEND_FAULTS = {
  "no space": { code: "E_DISK_FULL", fault: (op: string) => (op === "write" ? fails("ENOSPC") : undefined) },
  "over quota": { code: "E_DISK_FULL", fault: (op: string) => (op === "write" ? fails("EDQUOT") : undefined) },
  "input/output error": { code: "E_STATE_WRITE", fault: (op: string) => (op === "write" ? fails("EIO") : undefined) },
  "sync fails": { code: "E_STATE_WRITE", fault: (op: string) => (op === "datasync" ? fails("EIO") : undefined) },
  "nothing is written": { code: "E_STATE_WRITE", fault: (op: string) => (op === "write" ? 0 : undefined) },
  "a part is written, then there is no space": {
    code: "E_DISK_FULL",
    fault: (op: string, _path: string, size: number) =>
      op !== "write" ? undefined : size > 100 ? 100 : fails("ENOSPC"),
  },
  "a part is written, and cannot be cut off again": {
    code: "E_DISK_FULL",
    fault: (op: string, _path: string, size: number) => {
      if (op === "truncate") return fails("EIO");
      return op !== "write" ? undefined : size > 2700 ? 2700 : fails("ENOSPC");
    },
  },
} as const;

test.each(Object.entries(APPEND_FAULTS))("append: %s", async (_name, { code, fault }) => {
  const disk = new Disk();
  const session = await storeOn(disk, 1).open("lab", lockRequest());
  await session.put(makeRow("host.before"));
  disk.fault = fault;
  const one = session.put(makeRow("host.lost", { desired: "x".repeat(2000) }));
  const two = session.put(makeRow("host.lost2", { desired: "x".repeat(2000) }));
  await expect(one).rejects.toMatchObject({ code });
  await expect(two).rejects.toMatchObject({ code });
  await expect(session.put(makeRow("host.lost3"))).rejects.toMatchObject({ code: expect.stringMatching(/^E_/) });
  expect([...session.rows.keys()]).toEqual(["host.before"]);
  // Somebody who opens it now, after this process died, finds what was acknowledged and maybe some of the rest.
  const crashed = await storeOn(Disk.from(disk.moment(), "kill"), 2).read("lab");
  expect(crashed.rows.has("host.before")).toBe(true);
  disk.fault = undefined;
  await session.put(makeRow("host.after"));
  expect([...(await storeOn(disk, 1).read("lab")).rows.keys()].sort()).toEqual(["host.after", "host.before"]);
  await session.close();
  expect([...(await storeOn(disk, 2).read("lab")).rows.keys()].sort()).toEqual(["host.after", "host.before"]);
});

test("a system that takes only a part of each write loses nothing", async () => {
  const disk = new Disk();
  disk.fault = (op, _path, size) => (op === "write" ? Math.min(size, 7) : undefined);
  const session = await storeOn(disk, 1).open("lab", lockRequest());
  await session.put(makeRow("host.a"));
  await session.close();
  expect((await storeOn(disk, 2).read("lab")).rows.size).toBe(1);
});

test.each(["open", "write", "datasync", "rename"])(
  "a fold that fails at %s leaves the journal, and frees the lock",
  async (at) => {
    const disk = new Disk();
    const session = await storeOn(disk, 1).open("lab", lockRequest());
    await session.put(makeRow("host.a"));
    disk.fault = (op, path) => (op === at && path.includes("lab.json") ? fails("ENOSPC") : undefined);
    await expect(session.close()).rejects.toMatchObject({ code: "E_DISK_FULL" });
    expect(disk.list().some((path) => path.includes("tmp"))).toBe(false);
    expect(await storeOn(disk, 2).holder("lab")).toBeUndefined();
    expect((await storeOn(disk, 2).read("lab")).rows.size).toBe(1);
    await expect(storeOn(disk, 2).open("lab", lockRequest())).rejects.toMatchObject({ code: "E_DISK_FULL" });
    disk.fault = undefined;
    const next = await storeOn(disk, 2).open("lab", lockRequest());
    expect(next.rows.size).toBe(1);
    await next.close();
  },
);

test("a fold in the middle of a session that fails disturbs nothing, and is made up for", async () => {
  const disk = new Disk();
  const session = await storeOn(disk, 1, 1000).open("lab", lockRequest());
  disk.fault = (op, path) => (op !== "unlink" && path.includes("lab.json") ? fails("ENOSPC") : undefined);
  for (let i = 0; i < 20; i++) await session.put(makeRow(`host.h${i}`));
  expect((await storeOn(disk, 2).read("lab")).rows.size).toBe(20);
  expect(session.serial).toBe(0);
  disk.fault = (op, path) => (op === "open" && path.includes("journal") ? fails("ENOSPC") : undefined);
  for (let i = 20; i < 40; i++) await session.put(makeRow(`host.h${i}`));
  expect((await storeOn(disk, 2).read("lab")).rows.size).toBe(40);
  disk.fault = undefined;
  for (let i = 40; i < 60; i++) await session.put(makeRow(`host.h${i}`));
  await session.close();
  expect(disk.list().filter((path) => path.includes("journal"))).toEqual([]);
  expect((await storeOn(disk, 2).read("lab")).rows.size).toBe(60);
});

test.each([
  ["EROFS", /read-only/],
  ["EACCES", /permission denied/],
])("a folder that cannot be written (%s) is said to be so", async (code, why) => {
  const disk = new Disk();
  disk.fault = () => fails(code);
  await expect(storeOn(disk, 1).open("lab", lockRequest())).rejects.toMatchObject({
    code: "E_STATE_WRITE",
    message: expect.stringMatching(why),
  });
});
