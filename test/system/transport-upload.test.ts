import { createHash, randomBytes } from "node:crypto";
import { lstatSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { LabError } from "../../src/diagnostics/index.ts";
import { Sensitive } from "../../src/model/index.ts";
import {
  createMachinePool,
  type Machine,
  type ResettablePool,
  sh,
  type UploadSource,
} from "../../src/transport/index.ts";
import { startMachine, type TestMachine } from "../support/sshd.ts";

let host: TestMachine;
let noSftp: TestMachine;
let pool: ResettablePool;
let folder: string;
let serial = 0;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "labctl-upload-"));
  const setup = "mkdir -m 1777 /srv/any; groupadd -g 777 crew";
  host = await startMachine({ name: "up", tmpfs: { "/srv/small": "1m" }, setup });
  noSftp = await startMachine({ name: "shellonly", sftp: false, setup });
  pool = createMachinePool({ env: host.env });
});
afterAll(async () => {
  await pool.close();
  await Promise.all([host.stop(), noSftp.stop()]);
  rmSync(folder, { recursive: true, force: true });
});

const source = (content: Uint8Array | string): UploadSource & { readonly content: Uint8Array } => {
  const bytes = Buffer.from(content);
  return { content: bytes, sha256: createHash("sha256").update(bytes).digest("hex") };
};
const fileSource = (bytes: Buffer): UploadSource => {
  const file = join(folder, `source-${serial++}`);
  writeFileSync(file, bytes);
  return { file, sha256: createHash("sha256").update(bytes).digest("hex"), size: bytes.length };
};
const failure = async (promise: Promise<unknown>): Promise<LabError> => {
  try {
    await promise;
  } catch (error) {
    return error as LabError;
  }
  throw new Error("it did not fail");
};
const mode = (machine: TestMachine, path: string): string =>
  (statSync(machine.root(path)).mode & 0o7777).toString(8).padStart(4, "0");
const leftovers = (machine: TestMachine, directory: string): string[] =>
  readdirSync(machine.root(directory)).filter((name) => name.startsWith(".labctl-"));
const byLogin = (): Machine => pool.machine(host.connection({ become: { method: "none" } }));

/** Every way that content can take: SFTP, a shell, and a shell below sudo; and this machine. */
const ways = {
  "SFTP as the login": () => ({ machine: byLogin(), at: host, dir: "/srv/any" }),
  "a shell below sudo": () => ({ machine: pool.machine(host.connection()), at: host, dir: "/srv" }),
  "a shell, SFTP being off": () => ({
    machine: pool.machine(noSftp.connection({ become: { method: "none" } })),
    at: noSftp,
    dir: "/srv/any",
  }),
} as const;

describe.each(Object.keys(ways) as (keyof typeof ways)[])("upload through %s", (way) => {
  test.each([0, 1, 65_536, 65_537, 5_000_000])("%i bytes arrive exactly, and are not sent again", async (size) => {
    const { machine, at, dir } = ways[way]();
    const path = `${dir}/size-${size}`;
    const bytes = randomBytes(size);
    for (const from of [source(bytes), fileSource(bytes)]) {
      rmSync(at.root(path), { force: true });
      expect(await machine.upload(from, { path })).toEqual({ sent: true, bytes: size });
      expect(readFileSync(at.root(path)).equals(bytes)).toBe(true);
      expect(mode(at, path)).toBe("0644");
      const inode = statSync(at.root(path)).ino;
      expect(await machine.upload(from, { path })).toEqual({ sent: false, bytes: 0 });
      expect(statSync(at.root(path)).ino).toBe(inode);
    }
    expect((await machine.download(path)).equals(bytes)).toBe(true);
    expect(leftovers(at, dir)).toEqual([]);
  });

  test("progress ends at the whole", async () => {
    const { machine, dir } = ways[way]();
    const seen: number[] = [];
    await machine.upload(
      source(randomBytes(3_000_000)),
      { path: `${dir}/progress` },
      { onProgress: (sent) => seen.push(sent) },
    );
    expect(seen.at(-1)).toBe(3_000_000);
    expect(seen).toEqual([...seen].sort((x, y) => x - y));
  });

  test("a broken link leaves the old file whole, and the next upload removes what was left", async () => {
    const { machine, at, dir } = ways[way]();
    const path = `${dir}/cut`;
    await machine.upload(source("old"), { path });
    const big = source(randomBytes(40_000_000));
    const sending = machine.upload(big, { path }, { onProgress: (sent) => sent > 4_000_000 && cut() });
    let cutting: Promise<void> | undefined;
    const cut = (): void => {
      cutting ??= at.cut();
    };
    const error = await failure(sending);
    await cutting;
    expect([error.code, error.retryable]).toEqual(["E_DISCONNECTED", true]);
    // What still runs there sees the end of its input only now.
    await expect.poll(async () => (await at.exec("pgrep -f 'labctl_[h]' || true")).stdout).toBe("");
    expect(readFileSync(at.root(path), "utf8")).toBe("old");
    await machine.upload(source("new"), { path });
    expect(readFileSync(at.root(path), "utf8")).toBe("new");
    await expect.poll(() => leftovers(at, dir)).toEqual([]);
  });

  test("cancelled in the middle: the old file stays, nothing is left", async () => {
    const { machine, at, dir } = ways[way]();
    const path = `${dir}/cancelled`;
    await machine.upload(source("old"), { path });
    const abort = new AbortController();
    const options = { signal: abort.signal, onProgress: (sent: number) => sent > 2_000_000 && abort.abort() };
    expect((await failure(machine.upload(source(randomBytes(30_000_000)), { path }, options))).code).toBe(
      "E_CANCELLED",
    );
    expect(readFileSync(at.root(path), "utf8")).toBe("old");
    await expect.poll(() => leftovers(at, dir)).toEqual([]);
  });
});

describe("what an upload replaces", () => {
  test("keeps mode and owner where none is asked for, sets what is", async () => {
    const machine = pool.machine(host.connection());
    await host.exec("echo old >/srv/kept; chown lab:crew /srv/kept; chmod 2751 /srv/kept");
    await machine.upload(source("new"), { path: "/srv/kept" });
    expect((await host.exec("stat -c '%a %U %G' /srv/kept")).stdout).toBe("2751 lab crew\n");
    await machine.upload(source("newer"), { path: "/srv/kept", mode: "4755", owner: "root", group: "777" });
    expect((await host.exec("stat -c '%a %U %G' /srv/kept; cat /srv/kept")).stdout).toBe("4755 root crew\nnewer");
    expect(await machine.upload(source("newer"), { path: "/srv/kept", mode: "0600", owner: "lab" })).toEqual({
      sent: false,
      bytes: 0,
    });
    expect((await host.exec("stat -c '%a %U %G' /srv/kept")).stdout).toBe("600 lab crew\n");
  });

  test("a symbolic link is replaced, not followed, also one to a directory", async () => {
    const machine = pool.machine(host.connection());
    await host.exec("mkdir -p /srv/d; echo safe >/srv/aim; ln -sf /srv/aim /srv/link; ln -sfn /srv/d /srv/dirlink");
    for (const path of ["/srv/link", "/srv/dirlink"]) {
      await machine.upload(source("mine"), { path });
      expect(lstatSync(host.root(path)).isFile()).toBe(true);
    }
    expect(readFileSync(host.root("/srv/aim"), "utf8")).toBe("safe\n");
    expect(readdirSync(host.root("/srv/d"))).toEqual([]);
  });

  test.each([10, 100_000])("a directory is never moved into (%i bytes)", async (size) => {
    await host.exec("mkdir -p /srv/directory");
    const error = await failure(
      pool.machine(host.connection()).upload(source(randomBytes(size)), { path: "/srv/directory" }),
    );
    expect(error.code).toBe("E_MISMATCH");
    expect(readdirSync(host.root("/srv/directory"))).toEqual([]);
    expect(leftovers(host, "/srv")).toEqual([]);
  });

  test("what a crashed upload of the same target left is removed, that of another is not", async () => {
    const machine = pool.machine(host.connection());
    const { placement } = await import("../../src/transport/place.ts");
    const [own, other] = [placement("/srv/mine").temporary, placement("/srv/others").temporary];
    writeFileSync(host.root(own), "stale secret");
    writeFileSync(host.root(other), "stale");
    await machine.upload(source("x"), { path: "/srv/mine" });
    expect(leftovers(host, "/srv")).toEqual([basename(other)]);
    rmSync(host.root(other));
  });

  test("a temporary file is readable by its owner alone", async () => {
    const machine = byLogin();
    const seen = new Set<string>();
    const onProgress = (): void => {
      for (const name of leftovers(host, "/srv/any")) seen.add(mode(host, `/srv/any/${name}`));
    };
    await machine.upload(source(randomBytes(3_000_000)), { path: "/srv/any/wide", mode: "0666" }, { onProgress });
    expect([...seen]).toEqual(["0600"]);
    expect(mode(host, "/srv/any/wide")).toBe("0666");
  });
});

describe("what goes wrong", () => {
  test.each([
    ["through SFTP", () => byLogin(), 3_000_000],
    ["through a shell", () => pool.machine(host.connection()), 3_000_000],
    ["in one go", () => pool.machine(host.connection()), 60_000],
  ])("a full disk %s", async (_how, machine, size) => {
    await host.exec("rm -rf /srv/small/*; head -c 1000000 /dev/zero >/srv/small/filler");
    const error = await failure(machine().upload(source(randomBytes(size)), { path: "/srv/small/f" }));
    expect([error.code, error.message]).toEqual(["E_DISK_FULL", expect.stringContaining("/srv/small")]);
    expect(readdirSync(host.root("/srv/small"))).toEqual(["filler"]);
  });

  test("a missing directory, a place that may not be written, an owner that is not there", async () => {
    const root = pool.machine(host.connection());
    expect(await failure(root.upload(source("x"), { path: "/srv/no/such/file" }))).toMatchObject({
      code: "E_TRANSFER",
      hint: expect.stringContaining("directories:"),
    });
    for (const size of [1, 100_000]) {
      const denied = await failure(byLogin().upload(source(randomBytes(size)), { path: "/etc/mine" }));
      expect(denied).toMatchObject({ code: "E_TRANSFER" });
    }
    const owner = await failure(root.upload(source("x"), { path: "/srv/owned", owner: "nobody-of-that-name" }));
    expect([owner.code, owner.message]).toEqual(["E_TRANSFER", expect.stringContaining("nobody-of-that-name")]);
    expect((await failure(root.upload(source("x"), { path: "/srv/m", mode: "644" }))).code).toBe("E_SPEC_VALUE");
    expect((await failure(root.upload(source("x"), { path: "/srv/" }))).code).toBe("E_TRANSFER");
    expect(leftovers(host, "/srv")).toEqual([]);
  });

  test("a local file that changed, or went away, after it was digested", async () => {
    for (const size of [100, 300_000]) {
      const from = fileSource(randomBytes(size));
      if (!("file" in from)) throw new Error("a file was meant");
      writeFileSync(from.file, randomBytes(size));
      expect((await failure(pool.machine(host.connection()).upload(from, { path: "/srv/moved" }))).code).toBe(
        "E_MISMATCH",
      );
      rmSync(from.file);
      expect((await failure(pool.machine(host.connection()).upload(from, { path: "/srv/moved" }))).code).toBe(
        "E_SOURCE_FILE",
      );
    }
    expect(leftovers(host, "/srv")).toEqual([]);
  });

  test("downloads: missing, a directory, too large, and what the kernel makes", async () => {
    const machine = pool.machine(host.connection());
    expect((await failure(machine.download("/srv/nothing"))).message).toContain("is not there");
    expect((await failure(machine.download("/srv"))).message).toContain("is a directory");
    await host.exec("head -c 2000 /dev/zero >/srv/two");
    expect((await failure(machine.download("/srv/two", { limit: 1999 }))).message).toContain(
      "larger than 1999 bytes (2000 bytes)",
    );
    expect((await machine.download("/srv/two", { limit: 2000 })).length).toBe(2000);
    expect((await machine.download("/proc/version")).toString()).toContain("Linux");
  });
});

test("small files take one round trip: one session", async () => {
  const machine = pool.machine(host.connection());
  await machine.exec(sh`true`);
  const count = async (): Promise<number> =>
    Number((await host.exec("grep -c 'Starting session' /var/log/sshd.log")).stdout);
  const before = await count();
  await machine.upload(source(randomBytes(60_000)), { path: "/srv/one-trip", mode: "0640", owner: "lab" });
  expect((await count()) - before).toBe(1);
});

test("no content of a sensitive file on a command line or left behind", async () => {
  const content = new Sensitive("CANARY-9b2e");
  const sha256 = createHash("sha256").update(content.reveal()).digest("hex");
  await pool.machine(host.connection()).upload({ content, sha256 }, { path: "/srv/secret", mode: "0600" });
  expect(readFileSync(host.root("/srv/secret"), "utf8")).toBe("CANARY-9b2e");
  expect((await host.exec("grep -rl CANARY-9b2e /srv /tmp /run /var/log /home --exclude=secret || true")).stdout).toBe(
    "",
  );
});

/** Names as an attacker would choose them, without what no file name can have. */
const hostile = fc
  .oneof(
    fc.string({ unit: "grapheme", minLength: 1, maxLength: 40 }),
    fc.string({ unit: "binary", minLength: 1, maxLength: 30 }),
    fc
      .array(
        fc.constantFrom(
          "'",
          '"',
          "\\",
          "$(touch /srv/owned)",
          "`id`",
          "\n",
          " ",
          "-",
          "-rf",
          "*",
          "?",
          "~",
          ";",
          "&",
          "|",
          "#",
          "!",
          "%s",
          "${HOME}",
          "é",
          "😀",
          "\u0081",
          "\t",
          "[",
          "]",
          "{a,b}",
        ),
        { minLength: 1, maxLength: 8 },
      )
      .map((parts) => parts.join("")),
  )
  .map((name) => name.replaceAll(/[/\0]/g, "_").replaceAll(/[\uD800-\uDFFF]/gu, "_"))
  .filter((name) => name !== "." && name !== ".." && Buffer.byteLength(name) <= 200);

test("property: hostile names and file permission consistency through sshd", async () => {
  await host.exec("mkdir /srv/hostile");
  const machine = pool.machine(host.connection());
  await fc.assert(
    fc.asyncProperty(
      hostile,
      fc.uint8Array({ maxLength: 300 }),
      fc.integer({ min: 0, max: 0o7777 }).map((bits) => bits.toString(8).padStart(4, "0")),
      fc.constantFrom("root", "lab"),
      fc.constantFrom("root", "crew"),
      async (name, content, wanted, owner, group) => {
        const path = `/srv/hostile/${name}`;
        await machine.upload(source(content), { path, mode: wanted, owner, group });
        expect(readdirSync(host.root("/srv/hostile"))).toEqual([name]);
        expect((await machine.download(path)).equals(Buffer.from(content))).toBe(true);
        const seen = await machine.exec(sh`stat -c '%a %U %G' -- ${path}; rm -f -- ${path}`, { cwd: "/srv/hostile" });
        expect(seen.stdout.toString()).toBe(`${Number.parseInt(wanted, 8).toString(8)} ${owner} ${group}\n`);
      },
    ),
    { numRuns: 120 },
  );
  expect((await host.exec("ls /srv/owned 2>/dev/null || true")).stdout).toBe("");
});
