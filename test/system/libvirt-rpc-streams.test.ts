import { createHash } from "node:crypto";
import { Readable } from "node:stream";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  DomainStart,
  isLibvirtError,
  type Libvirt,
  openLibvirt,
  type Pool,
  sharedLibvirt,
  VirErr,
  type Volume,
} from "../../providers/libvirt/rpc/index.ts";
import { createMachinePool, type Machine, type MachinePool } from "../../src/transport/index.ts";
import { bootSectorDisk, GUEST_READY } from "../support/boot-sector.ts";
import { failure, reads, until } from "../support/libvirt-waits.ts";
import { domainXml, poolXml, volumeXml } from "../support/libvirt-xml.ts";
import { libvirtdUnavailable, startLibvirtd, type TestLibvirtd } from "../support/libvirtd.ts";

const why = libvirtdUnavailable();
if (why !== undefined) console.log(`skipping libvirt's streams: ${why}`);

const MIB = 1 << 20;
const SIZE = 64 * MIB;
/** Less than what is moved: buffers on the way and what a busy machine has yet to give back, not the content. */
const MEMORY = 40 * MIB;
const BLOCK = 64 << 10;

/** Bytes that no compression or mistake in order survives, made as they are asked for; the digest of what was taken. */
function* noise(bytes: number, digest = createHash("sha256")): Generator<Buffer, void, undefined> {
  let seed = 88_172_645;
  for (let at = 0; at < bytes; at += BLOCK) {
    const block = Buffer.allocUnsafe(Math.min(BLOCK, bytes - at));
    for (let i = 0; i + 4 <= block.length; i += 4) {
      seed ^= seed << 13;
      seed ^= seed >>> 17;
      seed ^= seed << 5;
      block.writeInt32LE(seed, i);
    }
    digest.update(block);
    yield block;
  }
}

/** Makes what is garbage go, so that what is left is held. */
const collect = ((): (() => void) => {
  setFlagsFromString("--expose-gc");
  return runInNewContext("gc") as () => void;
})();

/** How much memory outside the heap is held at most, beyond what was before. */
async function peak<T>(work: () => Promise<T>): Promise<{ readonly result: T; readonly bytes: number }> {
  collect();
  const before = process.memoryUsage().external;
  let most = before;
  // What is given back is only counted a moment later.
  const timer = setInterval(() => {
    collect();
    setTimeout(() => {
      most = Math.max(most, process.memoryUsage().external);
    }, 10);
  }, 60);
  try {
    return { result: await work(), bytes: most - before };
  } finally {
    clearInterval(timer);
  }
}

async function digestOf(stream: Readable): Promise<string> {
  const digest = createHash("sha256");
  for await (const chunk of stream) digest.update(chunk as Buffer);
  return digest.digest("hex");
}

describe.skipIf(why !== undefined)("libvirt's streams, and libvirtd going away", () => {
  let virt: TestLibvirtd;
  let machines: MachinePool;
  beforeAll(async () => {
    virt = await startLibvirtd({ name: "streams" });
    machines = createMachinePool({ env: virt.host.env });
  });
  afterAll(async () => {
    await machines?.close();
    await virt?.stop();
  });
  const here = (): Machine => machines.machine({ type: "local", address: "host.here", become: { method: "none" } });
  const ways: [string, () => { machine: Machine; uri: string }][] = [
    ["locally", () => ({ machine: here(), uri: virt.uri })],
    ["over SSH", () => ({ machine: machines.machine(virt.host.connection()), uri: "qemu:///system" })],
  ];

  describe.each(ways)("%s", (way, target) => {
    const name = way === "locally" ? "local" : "ssh";
    let libvirt: Libvirt;
    let pool: Pool;
    const digestThere = async (volume: Volume): Promise<string> =>
      (await virt.run("sha256sum", volume.key)).split(" ")[0] ?? "";
    beforeAll(async () => {
      const { machine, uri } = target();
      libvirt = await openLibvirt(machine, { uri });
      pool = await libvirt.pools.define(poolXml(name, `/srv/${name}`));
      await libvirt.pools.build(pool);
      await libvirt.pools.create(pool);
    });
    afterAll(() => libvirt?.close());

    it("moves 64 MiB into a volume and out again, byte for byte, in little memory", async () => {
      const volume = await libvirt.volumes.create(pool, volumeXml("big.raw", SIZE));
      const digest = createHash("sha256");
      const progress: number[] = [];
      const up = await peak(() =>
        libvirt.volumes.upload(volume, Readable.from(noise(SIZE, digest)), {
          onProgress: (bytes) => progress.push(bytes),
        }),
      );
      const wanted = digest.digest("hex");
      expect(up.result).toBe(SIZE);
      expect(up.bytes).toBeLessThan(MEMORY);
      expect(progress).toHaveLength(SIZE / BLOCK);
      expect(progress.at(-1)).toBe(SIZE);
      expect(await digestThere(volume)).toBe(wanted);
      expect(JSON.parse(await virt.run("qemu-img", "info", "--output=json", volume.key))).toMatchObject({
        "virtual-size": SIZE,
      });

      const down = await peak(async () => {
        const stream = await libvirt.volumes.download(volume);
        // A reader that takes its time: what it has not taken stays at the other end, and other calls go on.
        await new Promise((resolve) => stream.once("readable", resolve));
        await new Promise((resolve) => setTimeout(resolve, 700));
        expect(await libvirt.volumes.path(volume)).toBe(volume.key);
        return await digestOf(stream);
      });
      expect(down.result).toBe(wanted);
      expect(down.bytes).toBeLessThan(MEMORY);
      await virt.virsh("vol-download", "--pool", name, "big.raw", "/tmp/by-virsh");
      expect((await virt.run("sha256sum", "/tmp/by-virsh")).split(" ")[0]).toBe(wanted);
      await libvirt.volumes.delete(volume);
    });

    it("moves holes as holes", async () => {
      const volume = await libvirt.volumes.create(pool, volumeXml("sparse.raw", SIZE));
      const image = Buffer.alloc(SIZE);
      for (const at of [0, 5 * MIB + 123, SIZE - 10]) image.write("ten bytes!", at);
      const wanted = createHash("sha256").update(image).digest("hex");
      const chunks = function* (): Generator<Buffer> {
        // Chunks of an odd length: runs of zeros begin and end anywhere.
        for (let at = 0; at < SIZE; at += 700_001) yield image.subarray(at, at + 700_001);
      };
      expect(await libvirt.volumes.upload(volume, Readable.from(chunks()), { sparse: true })).toBe(SIZE);
      expect(await digestThere(volume)).toBe(wanted);
      expect(Number(await virt.run("stat", "-c", "%s", volume.key))).toBe(SIZE);
      expect(Number(await virt.run("stat", "-c", "%b", volume.key)) * 512).toBeLessThan(MIB);
      expect(await digestOf(await libvirt.volumes.download(volume, { sparse: true }))).toBe(wanted);
      await libvirt.volumes.delete(volume);
    });

    it("has sent something when libvirt says so, and not before", async () => {
      const volume = await libvirt.volumes.create(pool, volumeXml("late.raw", MIB));
      const source = async function* (): AsyncGenerator<Buffer> {
        yield Buffer.from("all of it");
        await virt.freeze();
      };
      let done = false;
      const upload = libvirt.volumes.upload(volume, Readable.from(source())).then(() => {
        done = true;
      });
      await new Promise((resolve) => setTimeout(resolve, 1000));
      const early = done;
      await virt.thaw();
      await upload;
      expect(early).toBe(false);
      await libvirt.volumes.delete(volume);
    });

    it("moves a part, and an empty stream", async () => {
      const volume = await libvirt.volumes.create(pool, volumeXml("part.raw", MIB));
      await libvirt.volumes.upload(volume, Readable.from([Buffer.from("0123456789")]), { offset: 100, length: 10 });
      expect(await virt.run("dd", `if=${volume.key}`, "bs=1", "skip=98", "count=14", "status=none")).toContain(
        "0123456789",
      );
      const part = await libvirt.volumes.download(volume, { offset: 103, length: 4 });
      expect(Buffer.concat((await part.toArray()) as Buffer[]).toString()).toBe("3456");
      expect(await libvirt.volumes.upload(volume, Readable.from([]))).toBe(0);
      const [from, to] = await Promise.all([
        libvirt.volumes.download(volume, { length: MIB / 2 }),
        libvirt.volumes.download(volume, { offset: MIB / 2 }),
      ]);
      expect((await Promise.all([from.toArray(), to.toArray()])).flat().reduce((sum, one) => sum + one.length, 0)).toBe(
        MIB,
      );
      await libvirt.volumes.delete(volume);
    });

    it("says what libvirt says where it takes no more, and where there is nothing to read", async () => {
      const volume = await libvirt.volumes.create(pool, volumeXml("small.raw", MIB));
      const source = Readable.from(noise(8 * MIB));
      const error = await failure(libvirt.volumes.upload(volume, source, { length: MIB }));
      expect(error.code).toBe("E_LIBVIRT");
      expect(isLibvirtError(error)).toBe(true);
      expect(source.destroyed).toBe(true);
      await virt.run("rm", volume.key);
      const gone = await failure(libvirt.volumes.download(volume));
      expect(gone.message).toContain("No such file");
      await libvirt.pools.refresh(pool);
      expect(
        isLibvirtError(await failure(libvirt.volumes.upload(volume, Readable.from(["x"]))), VirErr.NO_STORAGE_VOL),
      ).toBe(true);
    });

    it("stops when told to, and libvirt lets go of the volume", async () => {
      const volume = await libvirt.volumes.create(pool, volumeXml("stop.raw", SIZE));
      const stop = new AbortController();
      const source = Readable.from(noise(SIZE));
      const error = await failure(
        libvirt.volumes.upload(volume, source, {
          signal: stop.signal,
          onProgress: (bytes) => bytes > 4 * MIB && stop.abort(),
        }),
      );
      expect(error.code).toBe("E_CANCELLED");
      expect(source.destroyed).toBe(true);
      const halt = new AbortController();
      const stream = await libvirt.volumes.download(volume, { signal: halt.signal });
      stream.once("readable", () => halt.abort());
      expect((await failure(digestOf(stream))).code).toBe("E_CANCELLED");
      const left = await libvirt.volumes.download(volume);
      left.destroy();
      // A volume that is still written to could not be removed.
      await until(() =>
        libvirt.volumes.delete(volume).then(
          () => true,
          () => false,
        ),
      );
      expect(await libvirt.hostname()).not.toBe("");
    });

    it("gives up an upload in which nothing moves", async () => {
      const volume = await libvirt.volumes.create(pool, volumeXml("stuck.raw", SIZE));
      await virt.freeze();
      try {
        const opening = await failure(libvirt.volumes.upload(volume, Readable.from(noise(SIZE)), { timeout: 300 }));
        expect(opening.code).toMatch(/E_TIMEOUT|E_LIBVIRT/);
      } finally {
        await virt.thaw();
      }
      const frozen = await failure(
        libvirt.volumes.upload(volume, Readable.from(noise(SIZE)), {
          stall: 500,
          onProgress: (bytes) => {
            if (bytes === 2 * MIB) void virt.freeze();
          },
        }),
      );
      await virt.thaw();
      expect(frozen).toMatchObject({ code: "E_TIMEOUT", retryable: true });
      expect(await libvirt.hostname()).not.toBe("");
      await until(() =>
        libvirt.volumes.delete(volume).then(
          () => true,
          () => false,
        ),
      );
    });

    it("fails all calls once when libvirtd is killed, and works on a new connection when it is back", async () => {
      const { machine, uri } = target();
      const own = await openLibvirt(machine, { uri });
      const shared = await sharedLibvirt(machine, { uri });
      expect(await sharedLibvirt(machine, { uri })).toBe(shared);
      await virt.freeze();
      const calls = Array.from({ length: 50 }, () => failure(own.hostname()));
      const subscribed = failure(own.events.lifecycle(() => undefined));
      await virt.kill();
      const errors = await Promise.all([...calls, subscribed]);
      const [error] = errors;
      expect(error).toMatchObject({ code: "E_LIBVIRT", retryable: true, address: machine.address });
      expect(error?.message).toContain(`the connection to libvirt on ${machine.address} broke`);
      expect(error?.hint).toContain("run again");
      expect(new Set(errors).size).toBe(1);
      expect(await own.closed).toBe(error);
      expect(own.lost).toBe(error);
      expect(await failure(own.hostname())).toBe(error);
      await own.close();
      const dead = await failure(openLibvirt(machine, { uri }));
      expect(dead).toMatchObject({ code: "E_LIBVIRT", retryable: true });
      expect(dead.message).toMatch(/nothing listens|refused/i);
      await virt.start();
      await until(async () => (await sharedLibvirt(machine, { uri })).lost === undefined);
      const anew = await sharedLibvirt(machine, { uri });
      expect(anew).not.toBe(shared);
      expect(await anew.hostname()).toBe("streams");
      libvirt = await openLibvirt(machine, { uri });
    });

    it("fails an upload once when libvirtd is killed in its middle, and repeats it when it is back", async () => {
      const { machine, uri } = target();
      const [started] = await libvirt.pools.list();
      expect(started).toBeDefined();
      pool = await libvirt.pools.lookupByName(name);
      if (!(await libvirt.pools.isActive(pool))) await libvirt.pools.create(pool);
      const volume = await libvirt.volumes.create(pool, volumeXml("killed.raw", SIZE));
      let killed: Promise<void> | undefined;
      let errors = 0;
      const source = Readable.from(noise(SIZE)).on("error", () => errors++);
      const error = await failure(
        libvirt.volumes.upload(volume, source, {
          onProgress: (bytes) => {
            if (bytes >= 8 * MIB) killed ??= virt.kill();
          },
        }),
      );
      await killed;
      expect(error).toMatchObject({ code: "E_LIBVIRT", retryable: true });
      expect(error.message).toContain("broke");
      expect(source.destroyed).toBe(true);
      expect(errors).toBeLessThanOrEqual(1);
      expect(await libvirt.closed).toMatchObject({ code: "E_LIBVIRT" });
      await virt.start();
      libvirt = await openLibvirt(machine, { uri });
      if (!(await libvirt.pools.isActive(pool))) await libvirt.pools.create(pool);
      const digest = createHash("sha256");
      await libvirt.volumes.upload(volume, Readable.from(noise(SIZE, digest)));
      expect(await digestThere(volume)).toBe(digest.digest("hex"));
      await libvirt.volumes.delete(volume);
    });

    it("notices a libvirtd that hangs: by its deadline, and by missing signs of life", async () => {
      const { machine, uri } = target();
      const patient = await openLibvirt(machine, { uri });
      const watchful = await openLibvirt(machine, { uri, keepalive: { interval: 100, count: 3 } });
      await new Promise((resolve) => setTimeout(resolve, 600));
      expect(watchful.lost).toBeUndefined();
      await virt.freeze();
      try {
        const late = await failure(patient.hostname({ timeout: 200 }));
        expect(late).toMatchObject({ code: "E_TIMEOUT", retryable: true });
        expect(late.message).toContain("did not answer connectGetHostname within 0.2 s");
        const stopped = new AbortController();
        const calling = failure(patient.hostname({ signal: stopped.signal }));
        stopped.abort();
        expect((await calling).code).toBe("E_CANCELLED");
        const silent = await failure(watchful.hostname());
        expect(silent).toMatchObject({ code: "E_LIBVIRT", retryable: true });
        expect(silent.message).toContain("no sign of life");
        const opening = await failure(openLibvirt(machine, { uri, timeout: 300 }));
        expect(opening).toMatchObject({ code: "E_TIMEOUT" });
      } finally {
        await virt.thaw();
      }
      // What was given up is answered by now; that confuses nothing.
      expect(await patient.hostname()).toBe("streams");
      await patient.close();
      expect(await patient.closed).toBeUndefined();
      expect((await failure(patient.hostname())).code).toBe("E_CANCELLED");
    });

    it("leaves domains, consoles and subscriptions in order when libvirtd restarts", async () => {
      const { machine, uri } = target();
      const own = await openLibvirt(machine, { uri });
      const disk = `/var/lib/libvirt/images/kept-${name}.img`;
      await virt.host.exec(`base64 -d >${disk}`, bootSectorDisk().toString("base64"));
      const paused = await own.domains.createXml(domainXml(`kept-${name}`, { disk }), { flags: DomainStart.PAUSED });
      const console = await own.domains.openConsole(paused);
      const printed = reads(console);
      await own.domains.resume(paused);
      await printed.contain(GUEST_READY);
      const ended = failure(printed.ended);
      const seen: string[] = [];
      const subscription = await own.events.lifecycle((event) => seen.push(event.event));
      await virt.restart();
      expect(await ended).toMatchObject({ code: "E_LIBVIRT", retryable: true });
      expect(await own.closed).toMatchObject({ code: "E_LIBVIRT" });
      await subscription.close();
      const anew = await openLibvirt(machine, { uri });
      expect(await anew.domains.state(paused)).toMatchObject({ state: "running" });
      const again = await anew.domains.openConsole(paused);
      const echoed = reads(again);
      again.write("still the same");
      await echoed.contain("still the same");
      again.destroy();
      await anew.domains.destroy(paused);
      expect(seen).toEqual([]);
      await anew.close();
      libvirt = await openLibvirt(machine, { uri });
    });
  });
});
