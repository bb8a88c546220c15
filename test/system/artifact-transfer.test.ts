import { randomBytes } from "node:crypto";
import { chmodSync, closeSync, openSync, readFileSync, statSync, writeFileSync, writeSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { BLOCK, PIECE } from "../../src/artifacts/block-map.ts";
import type { ArtifactStore, HostTransferOptions } from "../../src/artifacts/index.ts";
import { createMachinePool, type ResettablePool, sh } from "../../src/transport/index.ts";
import { machinesUnavailable, startMachine, type TestMachine } from "../support/sshd.ts";
import { build, digest, failure, MEMORY, type Scratch, scratch } from "../unit/artifact-helpers.ts";

const MB = 1 << 20;
const CACHE = "/var/lib/labctl/artifacts";
let host: TestMachine;
let plain: TestMachine;
let pool: ResettablePool;
let place: Scratch;
let store: ArtifactStore;

const quick: HostTransferOptions = { retry: { attempts: 3, delay: 20, max_delay: 100 } };
const cached = (sha256: string, base = CACHE): string => `${base}/sha256/${sha256.slice(0, 2)}/${sha256}`;

describe.skipIf(machinesUnavailable() !== undefined)("artifacts on real machines", () => {
  beforeAll(async () => {
    place = scratch(MEMORY);
    store = place.store();
    host = await startMachine({
      name: "far",
      tmpfs: { "/srv/small": "3m", "/srv/other": "200m" },
      setup: "mkdir -m 1777 /srv/any",
    });
    // No SFTP, and busybox in place of everything that an upload calls; no openssl.
    plain = await startMachine({
      name: "plain",
      sftp: false,
      setup: `mkdir -m 1777 /srv/any; mkdir -p /opt/bb
for t in dd sha256sum stat touch cp mv rm mkdir chmod chown find df gzip sync cat ln sh; do ln -s "$(command -v busybox)" /opt/bb/$t; done
ln -sf "$(command -v busybox)" /bin/sh
printf '#!/bin/sh\\nexit 127\\n' >/opt/bb/openssl; chmod 755 /opt/bb/openssl`,
      sshdConfig: ["SetEnv PATH=/opt/bb:/usr/bin:/bin"],
    });
    pool = createMachinePool({ env: host.env });
  });
  afterAll(async () => {
    await pool.close();
    await Promise.all([host.stop(), plain.stop()]);
    place.remove();
  });

  const ways = {
    "root through sudo": () => ({ machine: pool.machine(host.connection()), at: host, base: CACHE, root: true }),
    "a login without root": () => ({
      machine: pool.machine(host.connection({ become: { method: "none" } })),
      at: host,
      base: "/home/lab/.cache/labctl/artifacts",
      root: false,
    }),
    "busybox, and no SFTP": () => ({
      machine: pool.machine(plain.connection({ become: { method: "none" } })),
      at: plain,
      base: "/home/lab/.cache/labctl/artifacts",
      root: false,
    }),
  } as const;

  describe.each(Object.keys(ways) as (keyof typeof ways)[])("as %s", (way) => {
    test.each([0, 1, BLOCK, PIECE - 1, PIECE, PIECE + BLOCK + 7])(
      "%i bytes arrive, once for all that use them",
      async (size) => {
        const { machine, at, base, root } = ways[way]();
        const bytes = randomBytes(size);
        const { sha256 } = await store.put({ content: bytes });
        const dir = root ? "/srv" : "/srv/any";
        const first = await store.send(machine, sha256, { path: `${dir}/new/${size}/kernel` });
        expect(first).toEqual({ cached: cached(sha256, base), sent: true, wire: expect.any(Number), resumed: 0 });
        expect(first.wire).toBeLessThanOrEqual(size + BLOCK);
        expect(readFileSync(at.root(`${dir}/new/${size}/kernel`)).equals(bytes)).toBe(true);
        const again = await store.send(machine, sha256, { path: `${dir}/new/${size}/other` });
        expect(again).toMatchObject({ sent: false, wire: 0 });
        await store.send(machine, sha256, { path: `${dir}/new/${size}/kernel` });
        const inode = (path: string): number => statSync(at.root(path)).ino;
        expect(inode(`${dir}/new/${size}/other`)).toBe(inode(`${dir}/new/${size}/kernel`));
        expect(inode(cached(sha256, base))).toBe(inode(`${dir}/new/${size}/kernel`));
        // A copy of one's own, to write to.
        const copy = { path: `${dir}/new/${size}/disk`, mode: "0755" };
        await store.send(machine, sha256, copy);
        const own = inode(copy.path);
        expect(own).not.toBe(inode(cached(sha256, base)));
        expect(statSync(at.root(copy.path)).mode & 0o7777).toBe(0o755);
        expect(readFileSync(at.root(copy.path)).equals(bytes)).toBe(true);
        await store.send(machine, sha256, copy);
        expect(inode(copy.path)).toBe(own);
        expect(statSync(at.root(cached(sha256, base))).mode & 0o7777).toBe(0o444);
        expect((await at.exec(`ls -A ${base}/part; find ${dir}/new -name '.labctl*'`)).stdout).toBe("");
        expect(await store.presentOn(machine, [sha256, digest("no")], { root })).toEqual(new Set([sha256]));
        expect(await store.presentOn(machine, [sha256], { root: !root, cache: "/nowhere" })).toEqual(new Set());
      },
    );

    test("a file comes from there, once, with its mode", async () => {
      const { machine, at } = ways[way]();
      const bytes = Buffer.concat([randomBytes(PIECE + 5), Buffer.alloc(3 * BLOCK), randomBytes(10)]);
      writeFileSync(at.root("/srv/any/built image"), bytes);
      chmodSync(at.root("/srv/any/built image"), 0o755);
      const target = scratch(MEMORY);
      try {
        const own = target.store();
        const sha256 = digest(bytes);
        const fetched = await own.fetch(machine, "/srv/any/built image");
        expect(fetched).toMatchObject({ sha256, size: bytes.length, mode: "0755", fetched: true });
        expect((await own.content(sha256, 1 << 30)).equals(bytes)).toBe(true);
        expect(await own.fetch(machine, "/srv/any/built image")).toMatchObject({ sha256, fetched: false, wire: 0 });
        expect((await failure(own.fetch(machine, "/srv/any/none"))).message).toContain("is not there");
        expect((await failure(own.fetch(machine, "/srv/any"))).message).toContain("is a directory");
      } finally {
        target.remove();
      }
    });

    test("a cut in the middle is mended: what arrived is not sent again", async () => {
      const { machine, at } = ways[way]();
      const bytes = randomBytes(6 * PIECE);
      const { sha256 } = await store.put({ content: bytes });
      let cuts = 0;
      let cutting: Promise<void> | undefined;
      const retries: string[] = [];
      const sent = await store.send(machine, sha256, undefined, {
        ...quick,
        onRetry: (why) => retries.push(why),
        onProgress: ({ done }) => {
          if (done < 4 * PIECE || cuts > 0) return;
          cuts += 1;
          cutting = at.cut();
        },
      });
      await cutting;
      expect(retries).toHaveLength(1);
      expect(sent.resumed).toBeGreaterThan(0);
      expect(sent.wire).toBeLessThan(10 * PIECE);
      const far = readFileSync(at.root(sent.cached));
      expect(far.equals(bytes)).toBe(true);
    });

    test("another process goes on where a killed one left off", async () => {
      const { machine, at } = ways[way]();
      const bytes = randomBytes(6 * PIECE);
      const { sha256 } = await store.put({ content: bytes });
      const abort = new AbortController();
      const stopped = store.send(machine, sha256, undefined, {
        signal: abort.signal,
        // The far end checks no more than two pieces at a time: with the fourth under way, the first was checked.
        onProgress: ({ done }) => done >= 4 * PIECE && abort.abort(),
      });
      expect((await failure(stopped)).code).toBe("E_CANCELLED");
      const sent = await store.send(machine, sha256);
      expect(sent.resumed).toBeGreaterThan(0);
      expect(sent.wire + sent.resumed).toBe(bytes.length);
      expect(readFileSync(at.root(sent.cached)).equals(bytes)).toBe(true);
    });
  });

  test("the machine without tools is what it is said to be", async () => {
    const machine = pool.machine(plain.connection({ become: { method: "none" } }));
    const found = await machine.exec(
      sh`for t in dd sha256sum stat find mv cp gzip sh; do $t --help 2>&1 | grep -m1 -o BusyBox; done; openssl dgst -sha256 </dev/null`,
    );
    expect(found.stdout.toString()).toBe("BusyBox\n".repeat(8));
    expect(found.code).toBe(127);
  });

  test("200 MiB that are mostly holes arrive so, and little is sent", async () => {
    const machine = pool.machine(host.connection());
    const { root } = place;
    const file = `${root}/sparse`;
    const handle = openSync(file, "w");
    for (const at of [0, 50 * MB + 12_345, 200 * MB - 100]) writeSync(handle, randomBytes(100), 0, 100, at);
    closeSync(handle);
    const { sha256, size } = await store.put({ file });
    expect(size).toBe(200 * MB);
    const started = performance.now();
    const sent = await store.send(machine, sha256, { path: "/srv/images/disk", mode: "0600" });
    expect(performance.now() - started).toBeLessThan(20_000);
    expect(sent.wire).toBeLessThanOrEqual(4 * BLOCK);
    expect((await host.exec("sha256sum </srv/images/disk")).stdout.split(" ")[0]).toBe(sha256);
    for (const path of [sent.cached, "/srv/images/disk"]) {
      expect(statSync(host.root(path)).size).toBe(200 * MB);
      expect(statSync(host.root(path)).blocks * 512).toBeLessThan(MB);
    }
    const target = scratch(MEMORY);
    const back = await target.store().fetch(machine, "/srv/images/disk");
    expect(back).toMatchObject({ sha256, fetched: true });
    expect(back.wire).toBeLessThan(MB);
    expect((await target.store().info(sha256))?.allocated).toBeLessThan(MB);
    target.remove();
  });

  test("compressed content unpacks to itself, also by busybox", async () => {
    for (const [machine, at] of [
      [pool.machine(host.connection()), host],
      [pool.machine(plain.connection({ become: { method: "none" } })), plain],
    ] as const) {
      const bytes = Buffer.from(Array.from({ length: 400_000 }, (_, i) => `line ${i} of ${at.name}\n`).join(""));
      const { sha256 } = await store.put({ content: bytes });
      const sent = await store.send(machine, sha256, undefined, { compress: "always" });
      expect(sent.wire).toBeLessThan(bytes.length / 3);
      expect(readFileSync(at.root(sent.cached)).equals(bytes)).toBe(true);
      const back = scratch(MEMORY);
      const fetched = await back.store().fetch(machine, sent.cached, { compress: "always" });
      expect(fetched).toMatchObject({ sha256, fetched: true });
      expect(fetched.wire).toBeLessThan(bytes.length / 3);
      back.remove();
    }
  });

  test("what is damaged on its way is sent again; always damaged is E_ARTIFACT_CORRUPT, and nothing is put in place", async () => {
    const machine = pool.machine(host.connection());
    // A dd that turns what it writes into something else: once, then always.
    await host.exec(`mv /usr/bin/dd /usr/bin/dd.real
cat >/usr/bin/dd <<'EOT'
#!/bin/sh
case "$*" in *of=*conv=notrunc*) if [ -s /tmp/damage ]; then
  n=$(cat /tmp/damage); if [ "$n" = always ]; then :; else : >/tmp/damage; fi
  /usr/bin/dd.real "$@"; for a in "$@"; do case $a in of=*) f=\${a#of=} ;; seek=*) s=\${a#seek=} ;; esac; done
  printf X | /usr/bin/dd.real of="$f" bs=1 seek=$((s * 65536 + 5)) conv=notrunc 2>/dev/null; exit 0
fi ;; esac
exec /usr/bin/dd.real "$@"
EOT
chmod 755 /usr/bin/dd`);
    try {
      for (const how of ["once", "always"]) {
        const bytes = randomBytes(2 * PIECE);
        const { sha256 } = await store.put({ content: bytes });
        await host.exec(`echo ${how} >/tmp/damage`);
        if (how === "once") {
          const sent = await store.send(machine, sha256, { path: "/srv/whole" });
          expect(sent.wire).toBe(3 * PIECE);
          expect(readFileSync(host.root("/srv/whole")).equals(bytes)).toBe(true);
        } else {
          const error = await failure(store.send(machine, sha256, { path: "/srv/never" }));
          expect([error.code, error.address]).toEqual(["E_ARTIFACT_CORRUPT", "host.far"]);
          expect(error.hint).toContain("whole here");
          expect((await host.exec(`ls /srv/never ${cached(sha256)}`)).code).not.toBe(0);
          expect((await store.check({ only: new Set([sha256]) })).findings).toEqual([]);
        }
      }
    } finally {
      await host.exec("mv /usr/bin/dd.real /usr/bin/dd");
    }
  });

  test("what is damaged in the store is found on the way, and marked", async () => {
    const machine = pool.machine(host.connection());
    const bytes = randomBytes(PIECE);
    const { sha256 } = await store.put({ content: bytes });
    const kernel = { type: "kernel_image", sha256, size: bytes.length, mode: "0644", file: "bzImage" };
    const record = build({ artifacts: { kernel } });
    await store.saveBuild(record);
    chmodSync(place.blob(sha256), 0o600);
    const handle = openSync(place.blob(sha256), "r+");
    writeSync(handle, Buffer.from([(bytes[777] ?? 0) ^ 1]), 0, 1, 777);
    closeSync(handle);
    const error = await failure(store.send(machine, sha256, { path: "/srv/damaged" }));
    expect([error.code, error.message]).toEqual(["E_ARTIFACT_CORRUPT", expect.stringContaining(sha256)]);
    expect((await host.exec("ls /srv/damaged")).code).not.toBe(0);
    expect((await store.build(record.id))?.artifacts["kernel"]?.corrupted).toBe(true);
  });

  test("what was written to on the host, or lost by a power failure, is noticed and sent again", async () => {
    const machine = pool.machine(host.connection());
    const bytes = randomBytes(MB);
    const { sha256 } = await store.put({ content: bytes });
    const { cached: path } = await store.send(machine, sha256);
    await host.exec(`printf X | dd of=${path} bs=1 seek=5 conv=notrunc`);
    expect(await store.presentOn(machine, [sha256])).toEqual(new Set());
    expect((await store.send(machine, sha256)).sent).toBe(true);
    expect(readFileSync(host.root(path)).equals(bytes)).toBe(true);
    // As after a restart: it is read once, and then trusted again.
    await host.exec(`echo another-boot >${path}.boot`);
    expect(await store.presentOn(machine, [sha256])).toEqual(new Set());
    expect((await store.send(machine, sha256)).sent).toBe(false);
    expect(await store.presentOn(machine, [sha256])).toEqual(new Set([sha256]));
    await host.exec(
      `t=$(stat -c %Y ${path}); printf X | dd of=${path} bs=1 seek=5 conv=notrunc; touch -d @$t ${path}; echo another-boot >${path}.boot`,
    );
    expect((await store.send(machine, sha256)).sent).toBe(true);
    expect(readFileSync(host.root(path)).equals(bytes)).toBe(true);
  });

  test("two that send the same at once: one copy travels, both are served", async () => {
    const bytes = randomBytes(4 * PIECE);
    const { sha256 } = await store.put({ content: bytes });
    const second = createMachinePool({ env: host.env });
    try {
      const [a, b] = await Promise.all([
        store.send(pool.machine(host.connection()), sha256, { path: "/srv/both/a" }),
        place.store().send(second.machine(host.connection()), sha256, { path: "/srv/both/b" }),
      ]);
      expect(a.wire + b.wire).toBeLessThan(1.5 * bytes.length);
      for (const name of ["a", "b"]) expect(readFileSync(host.root(`/srv/both/${name}`)).equals(bytes)).toBe(true);
    } finally {
      await second.close();
    }
  });

  test("a full disk is told before anything is sent; a directory is left alone; another file system gets a copy", async () => {
    const machine = pool.machine(host.connection());
    const { sha256 } = await store.put({ content: randomBytes(5 * MB) });
    const full = await failure(store.send(machine, sha256, undefined, { cache: "/srv/small/cache" }));
    expect([full.code, full.message]).toEqual(["E_DISK_FULL", expect.stringContaining("/srv/small")]);
    expect((await host.exec("find /srv/small -type f -size +4k")).stdout).toBe("");
    await host.exec("mkdir -p /srv/folder/x");
    expect((await failure(store.send(machine, sha256, { path: "/srv/folder" }))).code).toBe("E_MISMATCH");
    await store.send(machine, sha256, { path: "/srv/other/kernel" });
    expect((await host.exec("sha256sum </srv/other/kernel")).stdout.split(" ")[0]).toBe(sha256);
    const tight = await failure(store.send(machine, sha256, { path: "/srv/small/kernel" }));
    expect(tight.code).toBe("E_DISK_FULL");
    expect((await host.exec("ls -A /srv/small | grep -v cache")).stdout).toBe("");
    expect((await failure(store.send(machine, sha256, { path: "relative" }))).code).toBe("E_SPEC_VALUE");
    const both = { path: "/srv/x", mode: "0600", how: "link" } as const;
    expect((await failure(store.send(machine, sha256, both))).code).toBe("E_SPEC_VALUE");
  });

  test("given up, it says what is kept, and the next goes on from there", async () => {
    const machine = pool.machine(host.connection());
    const bytes = randomBytes(4 * PIECE);
    const { sha256 } = await store.put({ content: bytes });
    let cutting: Promise<void> | undefined;
    const error = await failure(
      store.send(machine, sha256, undefined, {
        retry: { attempts: 0, delay: 1, max_delay: 1 },
        onProgress: ({ done }) => {
          if (done >= 3 * PIECE) cutting ??= host.cut();
        },
      }),
    );
    await cutting;
    expect([error.code, error.retryable]).toEqual(["E_DISCONNECTED", true]);
    expect(error.message).toMatch(/tried 1 times\); [\d.]+ MiB of 64.0 MiB are kept on host.far/);
    expect((await store.send(machine, sha256)).resumed).toBeGreaterThan(0);
  });

  test("a fetch that is cut goes on; a file that changes meanwhile is not taken for either", async () => {
    const machine = pool.machine(host.connection());
    const bytes = randomBytes(5 * PIECE);
    writeFileSync(host.root("/srv/big"), bytes);
    const target = scratch(MEMORY);
    const own = target.store();
    let cutting: Promise<void> | undefined;
    const fetched = await own.fetch(machine, "/srv/big", {
      ...quick,
      onProgress: ({ done }) => {
        if (done >= 2 * PIECE) cutting ??= host.cut();
      },
    });
    await cutting;
    expect(fetched).toMatchObject({ sha256: digest(bytes), fetched: true });
    expect(fetched.wire).toBeLessThan(9 * PIECE);
    // By another call, after one that gave up.
    writeFileSync(host.root("/srv/big"), Buffer.concat([bytes, Buffer.from("more")]));
    let again: Promise<void> | undefined;
    const gaveUp = await failure(
      own.fetch(machine, "/srv/big", {
        retry: { attempts: 0, delay: 1, max_delay: 1 },
        onProgress: ({ done }) => {
          if (done >= 2 * PIECE) again ??= host.cut();
        },
      }),
    );
    await again;
    expect(gaveUp.message).toMatch(/[\d.]+ MiB of 80.0 MiB are kept here/);
    const rest = await own.fetch(machine, "/srv/big");
    expect(rest.fetched).toBe(true);
    expect(rest.wire).toBeLessThanOrEqual(3 * PIECE + 4);
    let changed = false;
    const other = await own.fetch(machine, "/srv/big", {}).then(async () => {
      writeFileSync(host.root("/srv/big"), randomBytes(5 * PIECE));
      return own.fetch(machine, "/srv/big", {
        onProgress: () => {
          if (changed) return;
          changed = true;
          writeFileSync(host.root("/srv/big"), randomBytes(4 * PIECE));
        },
      });
    });
    expect(other.sha256).toBe(digest(readFileSync(host.root("/srv/big"))));
    expect((await own.check()).findings).toEqual([]);
    target.remove();
  });

  test("a host's cache loses what nobody keeps and nobody uses", async () => {
    const machine = pool.machine(host.connection());
    const [kept, linked, unused, young] = (await Promise.all(
      [1, 2, 3, 4].map(async () => (await store.put({ content: randomBytes(MB) })).sha256),
    )) as [string, string, string, string];
    await store.send(machine, linked, { path: "/srv/linked" });
    for (const sha256 of [kept, unused, young]) await store.send(machine, sha256);
    await host.exec(
      `for f in ${[kept, linked, unused].map((one) => `${cached(one)}.boot`).join(" ")}; do touch -d '3 days ago' $f; done`,
    );
    expect(await store.cleanHost(machine, [kept])).toBeGreaterThanOrEqual(MB);
    expect(await store.presentOn(machine, [kept, linked, unused, young])).toEqual(new Set([kept, linked, young]));
  });

  test("on the machine itself", async () => {
    const local = pool.machine({ type: "local", address: "host.self", become: { method: "none" } });
    const { root } = place;
    const { sha256 } = await store.put({ content: "local" });
    await store.send(local, sha256, { path: `${root}/here` }, { cache: `${root}/cache` });
    expect(readFileSync(`${root}/here`, "utf8")).toBe("local");
    expect((await local.exec(sh`ls -A ${root}/cache/part`)).stdout.toString()).toBe("");
  });
});
