import { readFileSync } from "node:fs";
import { Duplex } from "node:stream";
import fc from "fast-check";
import { afterEach, describe, expect, it, vi } from "vitest";
import { RpcClient } from "../../providers/libvirt/rpc/client.ts";
import { Events } from "../../providers/libvirt/rpc/events.ts";
import { messages, type Procedure, procedures } from "../../providers/libvirt/rpc/procedures.ts";
import { domain, errorShape, hole, statsRecord, typedParam, uuid } from "../../providers/libvirt/rpc/shapes.ts";
import { isLibvirtError, LibvirtFault, libvirtFault, VirErr } from "../../providers/libvirt/rpc/index.ts";
import { remoteError } from "../../providers/libvirt/rpc/virterror.ts";
import {
  encodePacket,
  KEEPALIVE_PROGRAM,
  MESSAGE_MAX,
  MessageType,
  type Packet,
  PacketReader,
  REMOTE_PROGRAM,
  Status,
} from "../../providers/libvirt/rpc/wire.ts";
import * as xdr from "../../providers/libvirt/rpc/xdr.ts";
import { LabError } from "../../src/diagnostics/index.ts";

/** Recorded between virsh and libvirtd, both of libvirt 9.0.0 (Debian 12), by a program that copied the bytes. */
const RECORDED = JSON.parse(
  readFileSync(new URL("../fixtures/libvirt/virsh-9.0.0.json", import.meta.url), "utf8"),
) as readonly { readonly from: "client" | "server"; readonly hex: string }[];

const BY_NUMBER = new Map<number, Procedure<unknown, unknown>>(
  Object.values(procedures).map((one) => [one.number, one as Procedure<unknown, unknown>]),
);

function recorded(from: "client" | "server", procedure: number, type: number, status: number = Status.ok): Packet {
  for (const frame of RECORDED) {
    const [packet] = new PacketReader().push(Buffer.from(frame.hex, "hex"));
    if (packet === undefined || frame.from !== from) continue;
    if (packet.procedure === procedure && packet.type === type && packet.status === status) return packet;
  }
  throw new Error(`nothing recorded of ${from} ${procedure}`);
}

const UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f";
const RECORDED_DOMAIN = { name: "recorded", uuid: UUID, id: -1 };
const VOLUME = { pool: "pool", name: "vol", key: "/srv/pool/vol" };

describe("frames recorded between virsh and libvirtd", () => {
  it("are understood to the last byte, and made anew to the bit", () => {
    let calls = 0;
    for (const { from, hex } of RECORDED) {
      const bytes = Buffer.from(hex, "hex");
      const [packet, ...more] = new PacketReader().push(bytes);
      expect(more).toEqual([]);
      if (packet === undefined) throw new Error("no packet");
      const { payload, ...header } = packet;
      expect(header).toMatchObject({ program: REMOTE_PROGRAM, version: 1 });
      expect(Buffer.concat(encodePacket(header, payload)).equals(bytes)).toBe(true);
      const procedure = BY_NUMBER.get(packet.procedure);
      const codec: xdr.Codec<unknown> | undefined =
        packet.type === MessageType.stream
          ? undefined
          : packet.status === Status.error
            ? (errorShape as xdr.Codec<unknown>)
            : packet.type === MessageType.message
              ? (messages.lifecycle.body as xdr.Codec<unknown>)
              : from === "client"
                ? procedure?.args
                : procedure?.reply;
      if (codec === undefined) continue;
      calls++;
      const again = xdr.encode(codec, xdr.decode(codec, payload));
      expect(again.toString("hex"), `${from} ${procedure?.name ?? packet.procedure}`).toBe(payload.toString("hex"));
    }
    expect(calls).toBeGreaterThan(60);
  });

  it("mean what virsh was told to do", () => {
    const asked = <A>(procedure: Procedure<A, unknown>): A =>
      xdr.decode(procedure.args, recorded("client", procedure.number, MessageType.call).payload);
    const p = procedures;
    expect(asked(p.connectOpen)).toEqual({ name: "qemu:///system", flags: 0 });
    expect(asked(p.domainDefineXmlFlags)).toMatchObject({ flags: 1 });
    expect(asked(p.domainSetVcpusFlags)).toEqual({ domain: RECORDED_DOMAIN, vcpus: 2, flags: 2 });
    expect(asked(p.domainSetMemoryFlags)).toEqual({ domain: RECORDED_DOMAIN, kib: 50_000, flags: 2 });
    expect(asked(p.domainSetAutostart)).toEqual({ domain: RECORDED_DOMAIN, autostart: true });
    expect(asked(p.domainAttachDeviceFlags)).toMatchObject({ flags: 2, xml: "<input type='tablet' bus='usb'/>" });
    expect(asked(p.domainSetMetadata)).toEqual({
      domain: RECORDED_DOMAIN,
      type: 2,
      metadata: "<a/>",
      key: "k",
      uri: "urn:x",
      flags: 2,
    });
    expect(asked(p.domainCreateWithFlags)).toEqual({ domain: RECORDED_DOMAIN, flags: 1 });
    expect(asked(p.connectGetAllDomainStats)).toMatchObject({ domains: [RECORDED_DOMAIN], stats: 0 });
    expect(asked(p.connectGetDomainCapabilities)).toEqual({
      emulator: undefined,
      arch: "x86_64",
      machine: "q35",
      virttype: "qemu",
      flags: 0,
    });
    expect(asked(p.storageVolUpload)).toEqual({ volume: VOLUME, offset: 5, length: 9, flags: 1 });
    expect(asked(p.storageVolDownload)).toEqual({ volume: VOLUME, offset: 5, length: 9, flags: 0 });
    expect(asked(p.storageVolResize)).toEqual({ volume: VOLUME, capacity: 2 << 20, flags: 0 });
    expect(recorded("client", p.storageVolUpload.number, MessageType.stream, Status.continue).payload.toString()).toBe(
      "upload me",
    );
    const { params } = xdr.decode(
      p.nodeGetMemoryStats.reply,
      recorded("server", p.nodeGetMemoryStats.number, MessageType.reply).payload,
    );
    expect(params).toEqual([]);
    const event = recorded("server", messages.lifecycle.number, MessageType.message);
    expect(xdr.decode(messages.lifecycle.body, event.payload)).toMatchObject({
      domain: { name: "recorded", uuid: UUID },
      event: 6,
      detail: 2,
    });
  });

  it("carry errors as libvirt said them", () => {
    const { payload } = recorded("server", procedures.domainLookupByName.number, MessageType.reply, Status.error);
    const error = remoteError(payload, "libvirt on host.a", "host.a");
    expect(error).toMatchObject({ code: "E_LIBVIRT", address: "host.a", retryable: false });
    expect(error.message).toBe(
      "libvirt on host.a: Domain not found: no domain with matching name 'nobody' (VIR_ERR_NO_DOMAIN, 42)",
    );
    expect(libvirtFault(error)).toMatchObject({ code: VirErr.NO_DOMAIN, domain: 10, level: 2 });
    expect(isLibvirtError(error.atAddress("x"), VirErr.NO_DOMAIN)).toBe(true);
    expect(isLibvirtError(new LabError("E_COMMAND_FAILED", "around it", { cause: error }), VirErr.NO_DOMAIN)).toBe(
      true,
    );
    expect(isLibvirtError(error, VirErr.NO_NETWORK)).toBe(false);
    expect(isLibvirtError(new Error("other"))).toBe(false);
  });
});

describe("XDR", () => {
  const name = fc.string({ unit: "grapheme", maxLength: 40 }).filter((text) => !text.includes("\0"));
  const uuids = fc.uuid();
  const domains = fc.record({ name, uuid: uuids, id: fc.integer({ min: -1, max: 2 ** 31 - 1 }) });
  const values = fc.oneof(
    fc.record({ type: fc.constant(1), value: fc.integer() }),
    fc.record({ type: fc.constant(2), value: fc.nat({ max: 2 ** 32 - 1 }) }),
    fc.record({ type: fc.constant(3), value: fc.maxSafeInteger() }),
    fc.record({ type: fc.constant(4), value: fc.maxSafeNat() }),
    fc.record({ type: fc.constant(5), value: fc.double({ noNaN: true }) }),
    fc.record({ type: fc.constant(6), value: fc.boolean() }),
    fc.record({ type: fc.constant(7), value: name }),
  );
  const cases: readonly [string, xdr.Codec<unknown>, fc.Arbitrary<unknown>][] = [
    ["int", xdr.int, fc.integer()],
    ["uint", xdr.uint, fc.nat({ max: 2 ** 32 - 1 })],
    ["hyper", xdr.hyper, fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n })],
    ["uhyper", xdr.uhyper, fc.bigInt({ min: 0n, max: 2n ** 64n - 1n })],
    ["quantity", xdr.quantity, fc.maxSafeNat()],
    ["double", xdr.double, fc.double({ noNaN: true })],
    ["flag", xdr.flag, fc.boolean()],
    ["text", xdr.text(1000), name],
    ["chars", xdr.chars(32), fc.string({ maxLength: 31 }).filter((text) => !text.includes("\0"))],
    ["uuid", uuid, uuids],
    ["optional", xdr.optional(xdr.int), fc.option(fc.integer(), { nil: undefined })],
    ["list", xdr.list(xdr.text(1000), 50), fc.array(name, { maxLength: 50 })],
    ["a domain", domain, domains],
    ["a typed parameter", typedParam, fc.record({ field: name, value: values })],
    [
      "stats",
      statsRecord,
      fc.record({ domain: domains, params: fc.array(fc.record({ field: name, value: values }), { maxLength: 20 }) }),
    ],
    ["a hole", hole, fc.record({ length: fc.bigInt({ min: 0n, max: 2n ** 63n - 1n }), flags: fc.constant(0) })],
  ];
  it.each(cases)("reads back what it wrote: %s", (_name, codec, arbitrary) => {
    fc.assert(
      fc.property(arbitrary, (value) => {
        const bytes = xdr.encode(codec, value);
        expect(bytes.length % 4).toBe(0);
        expect(xdr.decode(codec, bytes)).toEqual(value);
      }),
      { numRuns: 200 },
    );
  });

  it("writes the bytes of RFC 4506", () => {
    const hex = <T>(codec: xdr.Codec<T>, value: T): string => xdr.encode(codec, value).toString("hex");
    expect(hex(xdr.int, -2)).toBe("fffffffe");
    expect(hex(xdr.hyper, -2n)).toBe("fffffffffffffffe");
    expect(hex(xdr.text(99), "sillyprog")).toBe("0000000973696c6c7970726f67000000");
    expect(hex(xdr.optional(xdr.int), undefined)).toBe("00000000");
    expect(hex(xdr.optional(xdr.int), 7)).toBe("0000000100000007");
    expect(hex(xdr.list(xdr.uint, 9), [1, 2])).toBe("000000020000000100000002");
    expect(hex(xdr.double, 1)).toBe("3ff0000000000000");
  });

  it("refuses what does not fit, instead of writing something else", () => {
    const wrong: readonly [xdr.Codec<unknown>, unknown][] = [
      [xdr.int, 2 ** 31],
      [xdr.int, 0.5],
      [xdr.uint, -1],
      [xdr.uint, Number.NaN],
      [xdr.hyper, 2n ** 63n],
      [xdr.uhyper, -1n],
      [xdr.quantity, 2 ** 53],
      [xdr.quantity, -1],
      [xdr.text(3), "four"],
      [xdr.text(9), "a\0b"],
      [uuid, "not-a-uuid"],
      [xdr.list(xdr.int, 1), [1, 2]],
      [xdr.chars(4), "four"],
      [typedParam, { field: "x", value: { type: 1, value: "text" } }],
    ];
    for (const [codec, value] of wrong) expect(() => xdr.encode(codec, value)).toThrow(xdr.XdrError);
  });

  it("never trusts a length: whatever arrives is a value or an XdrError, and soon", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), fc.constantFrom(...cases), (bytes, [, codec]) => {
        try {
          xdr.decode(codec, Buffer.from(bytes));
        } catch (error) {
          expect(error).toBeInstanceOf(xdr.XdrError);
        }
      }),
      { numRuns: 1000 },
    );
    const many = Buffer.from("ffffffff00000000", "hex");
    expect(() => xdr.decode(xdr.list(xdr.int, 2 ** 32), many)).toThrow(/do not fit/);
  });
});

describe("frames", () => {
  it("come whole out of chunks of any size", () => {
    const packets = fc.array(fc.uint8Array({ maxLength: 300 }), { minLength: 1, maxLength: 8 });
    fc.assert(
      fc.property(packets, fc.array(fc.nat({ max: 60 }), { minLength: 1 }), (payloads, sizes) => {
        const bytes = Buffer.concat(
          payloads.flatMap((payload, serial) =>
            encodePacket(
              { program: REMOTE_PROGRAM, version: 1, procedure: 7, type: MessageType.reply, serial, status: 0 },
              payload,
            ),
          ),
        );
        const reader = new PacketReader();
        const found: Packet[] = [];
        for (let at = 0, i = 0; at < bytes.length; i++) {
          const size = Math.max(1, sizes[i % sizes.length] ?? 1);
          found.push(...reader.push(bytes.subarray(at, at + size)));
          at += size;
        }
        expect(found.map(({ serial, payload }) => [serial, payload.toString("hex")])).toEqual(
          payloads.map((payload, serial) => [serial, Buffer.from(payload).toString("hex")]),
        );
      }),
      { numRuns: 200 },
    );
  });

  it("of a length that cannot be are refused before anything is gathered", () => {
    for (const length of [0, 27, MESSAGE_MAX + 1, 0xffff_ffff]) {
      const head = Buffer.alloc(4);
      head.writeUInt32BE(length);
      expect(() => new PacketReader().push(head)).toThrow(xdr.XdrError);
    }
    const header = { program: 1, version: 1, procedure: 1, type: 0, serial: 1, status: 0 };
    expect(() => encodePacket(header, Buffer.alloc(MESSAGE_MAX))).toThrow(xdr.XdrError);
  });
});

/** A server in this process: what the client sends comes to `got`, and what is told to `say` goes to the client. */
class Peer extends Duplex {
  readonly got: Packet[] = [];
  readonly #reader = new PacketReader();
  onPacket: (packet: Packet) => void = () => undefined;

  override _read(): void {}

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: () => void): void {
    for (const packet of this.#reader.push(chunk)) {
      this.got.push(packet);
      this.onPacket(packet);
    }
    done();
  }

  say(header: Partial<Packet>, payload: Uint8Array = new Uint8Array()): void {
    const whole = { program: REMOTE_PROGRAM, version: 1, procedure: 0, type: 1, serial: 0, status: 0, ...header };
    for (const part of encodePacket(whole, payload)) this.push(part);
  }

  reply<R>(to: Packet, procedure: { readonly reply: xdr.Codec<R> }, value: R): void {
    this.say({ procedure: to.procedure, serial: to.serial }, xdr.encode(procedure.reply, value));
  }
}

const client = (peer: Peer, keepalive?: { readonly interval: number; readonly count: number }): RpcClient =>
  new RpcClient(peer, { address: "host.a", where: "libvirt on host.a", ...(keepalive && { keepalive }) });
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

describe("a connection", () => {
  afterEach(() => void vi.useRealTimers());

  it("gives each call its own answer, in whatever order and pieces they come", async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 40 }), fc.infiniteStream(fc.nat()), async (count, order) => {
        const peer = new Peer();
        const rpc = client(peer);
        const calls = Array.from({ length: count }, (_, i) =>
          rpc.call(procedures.domainLookupByName, { name: `d${i}` }),
        );
        await turn();
        const asked = [...peer.got];
        expect(asked).toHaveLength(count);
        expect(new Set(asked.map((packet) => packet.serial)).size).toBe(count);
        while (asked.length > 0) {
          const [packet] = asked.splice((order.next().value ?? 0) % asked.length, 1);
          if (packet === undefined) break;
          const { name } = xdr.decode(procedures.domainLookupByName.args, packet.payload);
          peer.reply(packet, procedures.domainLookupByName, { domain: { name, uuid: UUID, id: 1 } });
        }
        const answers = await Promise.all(calls);
        expect(answers.map((answer) => answer.domain.name)).toEqual(calls.map((_, i) => `d${i}`));
        rpc.close();
      }),
      { numRuns: 100 },
    );
  });

  it("fails every call once, and only once, wherever it breaks", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 20 }),
        fc.nat({ max: 20 }),
        fc.constantFrom("end", "error", "garbage"),
        async (count, answered, how) => {
          const peer = new Peer();
          const rpc = client(peer);
          let settled = 0;
          const calls = Array.from({ length: count }, () =>
            rpc.call(procedures.connectGetHostname, undefined).then(
              () => (settled++, "answered"),
              (error: unknown) => (settled++, error),
            ),
          );
          await turn();
          for (const packet of peer.got.slice(0, answered)) {
            peer.reply(packet, procedures.connectGetHostname, { hostname: "h" });
          }
          await turn();
          if (how === "end") peer.push(null);
          else if (how === "error") peer.destroy(new Error("reset"));
          else peer.push(Buffer.from("SSH-2.0-OpenSSH_9.2p1"));
          const results = await Promise.all(calls);
          expect(settled).toBe(count);
          const errors = results.filter((result) => result !== "answered");
          expect(errors).toHaveLength(Math.max(0, count - answered));
          for (const error of errors) expect(error).toBe(rpc.lost);
          const lost = await rpc.closed;
          expect(lost).toMatchObject({ code: "E_LIBVIRT", retryable: true, address: "host.a" });
          await expect(rpc.call(procedures.connectGetHostname, undefined)).rejects.toBe(lost);
        },
      ),
      { numRuns: 100 },
    );
  });

  it("takes an answer that cannot be read for that call's failure alone", async () => {
    const peer = new Peer();
    const rpc = client(peer);
    const bad = rpc.call(procedures.connectGetHostname, undefined);
    const good = rpc.call(procedures.connectGetHostname, undefined);
    await turn();
    const [first, second] = peer.got as [Packet, Packet];
    peer.say({ procedure: first.procedure, serial: first.serial }, Buffer.from("00000fff", "hex"));
    peer.reply(second, procedures.connectGetHostname, { hostname: "fine" });
    await expect(bad).rejects.toMatchObject({ code: "E_LIBVIRT" });
    expect(await good).toEqual({ hostname: "fine" });
    await expect(rpc.call(procedures.domainLookupByName, { name: "a\0b" })).rejects.toMatchObject({
      code: "E_LIBVIRT",
    });
    rpc.close();
    expect(await rpc.closed).toBeUndefined();
  });

  it("answers signs of life, and asks for them", async () => {
    vi.useFakeTimers({ toFake: ["setInterval", "clearInterval"] });
    const peer = new Peer();
    const rpc = client(peer, { interval: 1000, count: 2 });
    const ping = { program: KEEPALIVE_PROGRAM, type: MessageType.message };
    peer.say({ ...ping, procedure: 1 });
    await turn();
    expect(peer.got.splice(0)).toMatchObject([{ ...ping, procedure: 2 }]);
    for (let i = 0; i < 10; i++) {
      vi.advanceTimersByTime(1000);
      await turn();
      peer.say({ ...ping, procedure: 2 });
      await turn();
    }
    expect(peer.got.length).toBeGreaterThan(5);
    expect(peer.got.every((packet) => packet.program === KEEPALIVE_PROGRAM && packet.procedure === 1)).toBe(true);
    expect(rpc.lost).toBeUndefined();
    vi.advanceTimersByTime(4000);
    await turn();
    expect(rpc.lost?.message).toContain("no sign of life");
  });

  it("concludes nothing from the silence of a server that has as many calls as it takes", async () => {
    vi.useFakeTimers({ toFake: ["setInterval", "clearInterval"] });
    const peer = new Peer();
    const rpc = client(peer, { interval: 1000, count: 2 });
    const calls = Array.from({ length: 5 }, () => rpc.call(procedures.connectGetHostname, undefined));
    await turn();
    vi.advanceTimersByTime(60_000);
    await turn();
    expect(rpc.lost).toBeUndefined();
    for (const packet of peer.got.filter((one) => one.program === REMOTE_PROGRAM)) {
      peer.reply(packet, procedures.connectGetHostname, { hostname: "slow" });
    }
    expect(await Promise.all(calls)).toHaveLength(5);
    rpc.close();
  });

  it("reports an event that overtakes the answer to its subscription, and none of others", async () => {
    const peer = new Peer();
    const events = new Events(client(peer));
    const seen: string[] = [];
    const subscribing = events.lifecycle((event) => seen.push(`${event.event} ${event.stopped ?? ""}`));
    await turn();
    const [asked] = peer.got as [Packet];
    const event = (callback: number, number: number): void => {
      const body = { callback, domain: RECORDED_DOMAIN, event: number, detail: 1 };
      peer.say(
        { procedure: messages.lifecycle.number, type: MessageType.message },
        xdr.encode(messages.lifecycle.body, body),
      );
    };
    event(7, 2);
    event(8, 3);
    peer.reply(asked, procedures.connectDomainEventCallbackRegisterAny, { callback: 7 });
    const subscription = await subscribing;
    event(8, 4);
    event(7, 5);
    await turn();
    expect(seen).toEqual(["started ", "stopped destroyed"]);
    const closing = subscription.close();
    event(7, 5);
    await turn();
    const left = peer.got.at(-1);
    expect(left?.procedure).toBe(procedures.connectDomainEventCallbackDeregisterAny.number);
    if (left) peer.say({ procedure: left.procedure, serial: left.serial });
    await closing;
    expect(seen).toHaveLength(2);
  });

  it("names a fault that has no name here by its number", () => {
    const payload = xdr.encode(errorShape, {
      code: 4711,
      domain: 99,
      message: "something new",
      level: 2,
      dom: undefined,
      str1: undefined,
      str2: undefined,
      str3: undefined,
      int1: 0,
      int2: 0,
      net: undefined,
    });
    const error = remoteError(payload, "libvirt on host.a", "host.a");
    expect(error.message).toBe("libvirt on host.a: something new (libvirt's error 4711)");
    expect(libvirtFault(error)).toBeInstanceOf(LibvirtFault);
  });
});
