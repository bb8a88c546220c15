/** What a quick SSH server (ssh2's own, in this process) says at once arrives in one piece, as it does on a busy machine. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { type AddressInfo, connect, createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import ssh2 from "ssh2";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Sensitive } from "../../src/model/index.ts";
import { createMachinePool, sh } from "../../src/transport/index.ts";

let server: ssh2.Server;
let busy: Server;
let folder: string;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "labctl-ssh2-"));
  const key = ssh2.utils.generateKeyPairSync("ed25519");
  server = new ssh2.Server({ hostKeys: [key.private] }, (client) => {
    client.on("error", () => undefined);
    client.on("authentication", (attempt) => attempt.accept());
    client.on("session", (accept) => {
      accept().on("exec", (agree) => {
        const channel = agree();
        channel.stderr.write("This account is currently not available.\n");
        channel.exit(7);
        channel.end();
      });
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  busy = createServer((client) => {
    const far = connect((server.address() as AddressInfo).port, "127.0.0.1");
    const waiting: Buffer[] = [];
    const timer = setInterval(() => client.write(Buffer.concat(waiting.splice(0))), 50);
    far.on("data", (piece: Buffer) => waiting.push(piece));
    client.pipe(far);
    for (const one of [client, far]) {
      one.on("error", () => undefined);
      one.on("close", () => {
        clearInterval(timer);
        client.destroy();
        far.destroy();
      });
    }
  });
  await new Promise<void>((resolve) => busy.listen(0, "127.0.0.1", resolve));
  writeFileSync(join(folder, "known_hosts"), `[127.0.0.1]:${port()} ${key.public}\n`);
});
afterAll(() => {
  busy.close();
  server.close();
  rmSync(folder, { recursive: true, force: true });
});

function port(): number {
  return (busy.address() as AddressInfo).port;
}

test("a command that ends with its beginning is told as it ended, and not as a lost connection", async () => {
  const pool = createMachinePool({ env: { HOME: folder, USER: "tester" } });
  try {
    const machine = pool.machine({
      type: "ssh",
      address: "host.quick",
      host: "127.0.0.1",
      port: port(),
      user: "lab",
      password: new Sensitive("any"),
      agent: false,
      known_hosts: join(folder, "known_hosts"),
      host_key: "strict",
      become: { method: "none" },
      connect_timeout: 5000,
      retry: { attempts: 0, delay: 1, max_delay: 1 },
      ssh_config: false,
    });
    await expect(machine.exec(sh`id`, { root: false })).rejects.toMatchObject({
      code: "E_AUTH",
      message: expect.stringMatching(/cannot run commands.*not available.*exit 7/),
    });
  } finally {
    await pool.close();
  }
});
