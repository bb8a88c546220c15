import type { Duplex } from "node:stream";
import { randomBytes } from "node:crypto";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { LabError } from "../../src/diagnostics/index.ts";
import { Sensitive } from "../../src/model/index.ts";
import { createMachinePool, type Machine, type MachinePool, sh } from "../../src/transport/index.ts";
import { machinesUnavailable, startMachine, type TestMachine } from "../support/sshd.ts";

const why = machinesUnavailable();
if (why !== undefined) console.log(`skipping sockets: ${why}`);

/** At the other end socat, which gives back what it gets, or sends without end. */
const SETUP = [
  "socat UNIX-LISTEN:/run/echo.sock,fork,mode=666 EXEC:cat >/dev/null 2>&1 &",
  "socat UNIX-LISTEN:/run/flood.sock,fork,mode=666 'SYSTEM:cat /dev/zero' >/dev/null 2>&1 &",
  "socat UNIX-LISTEN:/run/root.sock,fork,mode=600 EXEC:id >/dev/null 2>&1 &",
  "socat UNIX-LISTEN:/run/bye.sock,fork,mode=666 'SYSTEM:printf goodbye' >/dev/null 2>&1 &",
  // A file of a socket that nobody listens on any more.
  "perl -MSocket -e 'socket(S,PF_UNIX,SOCK_STREAM,0); bind(S,pack_sockaddr_un(\"/run/stale.sock\"))'; chmod 666 /run/stale.sock",
  "while ! [ -S /run/bye.sock ] || ! [ -S /run/echo.sock ]; do sleep 0.01; done",
].join("\n");

async function failure(promise: Promise<unknown>): Promise<LabError> {
  const error: unknown = await promise.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  if (error instanceof LabError) return error;
  throw new Error(`expected a LabError, not ${String(error)}`);
}

/** Everything until the end; rejects where the stream errors. */
async function all(stream: Duplex): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of stream) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks).toString("latin1");
}

/** Sends and ends, and reads what comes back. */
async function echoed(stream: Duplex, bytes: Buffer): Promise<Buffer> {
  const chunks: Buffer[] = [];
  const back = new Promise<void>((resolve, reject) => {
    let length = 0;
    stream.on("data", (chunk: Buffer) => {
      chunks.push(chunk);
      length += chunk.length;
      if (length >= bytes.length) resolve();
    });
    stream.once("error", reject);
  });
  stream.write(bytes);
  await back;
  stream.destroy();
  return Buffer.concat(chunks);
}

describe.skipIf(why !== undefined)("streams to Unix sockets of a machine", () => {
  let open: TestMachine;
  let closed: TestMachine;
  let pool: MachinePool;
  beforeAll(async () => {
    [open, closed] = await Promise.all([
      startMachine({
        name: "open",
        maxSessions: 1,
        setup: SETUP,
        users: { lab: { sudo: "nopasswd" }, asks: { sudo: "password", password: "right" } },
      }),
      startMachine({ name: "closed", sshdConfig: ["AllowStreamLocalForwarding no"], setup: SETUP }),
    ]);
    pool = createMachinePool({ env: open.env });
  });
  afterAll(async () => {
    await pool?.close();
    await open?.stop();
    await closed?.stop();
  });

  const local = (): Machine => pool.machine({ type: "local", address: "host.here", become: { method: "none" } });
  const ways: [string, () => [Machine, (path: string) => string]][] = [
    ["here", () => [local(), (path) => open.root(path)]],
    ["forwarded by sshd", () => [pool.machine(open.connection()), (path) => path]],
    ["through a program there", () => [pool.machine(closed.connection()), (path) => path]],
  ];

  describe.each(ways)("%s", (_way, target) => {
    it("carries bytes both ways, several at once, beside commands", async () => {
      const [machine, path] = target();
      const sent = Array.from({ length: 3 }, () => randomBytes(3 << 20));
      const streams = await Promise.all(sent.map(() => machine.openSocket(path("/run/echo.sock"))));
      // Where a server allows one session, streams that it forwards leave it to commands.
      const { stdout } = await machine.exec(sh`echo still here`);
      expect(stdout.toString()).toBe("still here\n");
      const back = await Promise.all(streams.map((stream, i) => echoed(stream, sent[i] ?? Buffer.alloc(0))));
      for (const [i, bytes] of back.entries()) expect(bytes.equals(sent[i] ?? Buffer.alloc(0))).toBe(true);
    });

    it("holds the other side back while nobody reads", async () => {
      const [machine, path] = target();
      const stream = await machine.openSocket(path("/run/flood.sock"));
      await new Promise((resolve) => stream.once("readable", resolve));
      await new Promise((resolve) => setTimeout(resolve, 500));
      const first = process.memoryUsage().arrayBuffers;
      await new Promise((resolve) => setTimeout(resolve, 500));
      expect(process.memoryUsage().arrayBuffers - first).toBeLessThan(8 << 20);
      stream.destroy();
      await new Promise((resolve) => stream.once("close", resolve));
    });

    it("ends when the other side does", async () => {
      const [machine, path] = target();
      expect(await all(await machine.openSocket(path("/run/bye.sock")))).toBe("goodbye");
    });

    it("says that there is none, or that nobody listens", async () => {
      const [machine, path] = target();
      const none = await failure(machine.openSocket(path("/run/none.sock")));
      expect(none).toMatchObject({ code: "E_SOCKET", address: machine.address, retryable: true });
      expect(none.message).toContain("/run/none.sock");
      expect(none.message).toContain("there is none");
      expect(none.hint).toContain("start the program");
      // A relay has begun before it finds out.
      const stale = await failure(machine.openSocket(path("/run/stale.sock")).then(all));
      expect(stale.code).toBe("E_SOCKET");
      expect(stale.message).toMatch(/nothing listens|refused/i);
    });

    it("refuses what cannot be a path, and stops when told to", async () => {
      const [machine, path] = target();
      for (const wrong of ["run/x", "/run/a\0b", `/${"x".repeat(107)}`]) {
        expect(await failure(machine.openSocket(wrong))).toMatchObject({ code: "E_SOCKET" });
      }
      const gone = AbortSignal.abort();
      expect(await failure(machine.openSocket(path("/run/echo.sock"), { signal: gone }))).toMatchObject({
        code: "E_CANCELLED",
      });
      const later = new AbortController();
      const opening = failure(machine.openSocket(path("/run/echo.sock"), { signal: later.signal }));
      later.abort();
      expect(await opening).toMatchObject({ code: "E_CANCELLED" });
    });
  });

  it("opens what only root may through sudo, and only where asked to", async () => {
    for (const host of [open, closed]) {
      const machine = pool.machine(host.connection());
      const refused = await failure(machine.openSocket("/run/root.sock").then(all));
      expect(refused).toMatchObject({ code: "E_SOCKET" });
      expect(refused.message).toMatch(/permission denied|may not/i);
      expect(await all(await machine.openSocket("/run/root.sock", { root: true }))).toContain("uid=0(root)");
    }
  });

  it("gives sudo the password that it asks for, and says when that is wrong", async () => {
    const as = (password: string): Machine =>
      pool.machine(open.connection({ user: "asks", become: { method: "sudo", password: new Sensitive(password) } }));
    expect(await all(await as("right").openSocket("/run/root.sock", { root: true }))).toContain("uid=0(root)");
    expect(await failure(as("wrong").openSocket("/run/root.sock", { root: true }))).toMatchObject({ code: "E_SUDO" });
  });

  it("ends with the connection, saying that this broke", async () => {
    const own = createMachinePool({ env: open.env });
    try {
      const machine = own.machine(open.connection());
      const stream = await machine.openSocket("/run/echo.sock");
      const error = failure(all(stream));
      await open.cut();
      expect(await error).toMatchObject({ code: "E_DISCONNECTED", retryable: true });
      expect(await echoed(await machine.openSocket("/run/echo.sock"), Buffer.from("again"))).toEqual(
        Buffer.from("again"),
      );
    } finally {
      await own.close();
    }
  });

  it("falls back on what copying program there is, and says what to install where there is none", async () => {
    const machine = pool.machine(closed.connection());
    const works = async (): Promise<void> => {
      const bytes = randomBytes(1 << 20);
      expect((await echoed(await machine.openSocket("/run/echo.sock"), bytes)).equals(bytes)).toBe(true);
      expect(await all(await machine.openSocket("/run/bye.sock"))).toBe("goodbye");
    };
    await works();
    await closed.exec("mkdir /aside; mv /usr/bin/perl* /aside/");
    await works();
    await closed.exec("mv /usr/bin/socat* /aside/");
    await works();
    await closed.exec("mv /usr/bin/nc* /bin/nc* /etc/alternatives/nc /aside/ 2>/dev/null; hash -r");
    const none = await failure(machine.openSocket("/run/echo.sock"));
    expect(none).toMatchObject({ code: "E_SOCKET", retryable: false });
    expect(none.hint).toContain("AllowStreamLocalForwarding");
    expect(none.hint).toContain("install socat");
    await closed.exec("mv /aside/socat* /aside/perl* /usr/bin/");
  });
});
