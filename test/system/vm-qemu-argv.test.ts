import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createConnection } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { qemuArgv } from "../../providers/libvirt/model/qemu-argv.ts";
import type { VmModel } from "../../providers/libvirt/model/vm.ts";
import { vmArbitrary } from "../property/vm-arbitrary.ts";
import { debianKernel } from "../support/kernels.ts";

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "labctl-argv-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A machine as a host without libvirt has it, with files that are there. */
function placed(model: VmModel, i: number, kernel: { x86: string; arm: string }): VmModel {
  const at = join(folder, `vm, ${i}`);
  mkdirSync(join(at, "share"), { recursive: true });
  const seed = join(at, "seed.iso");
  writeFileSync(seed, Buffer.alloc(4096));
  const { vsock: _none, hugepages: _few, ...rest } = model;
  return {
    ...rest,
    name: `a, b & ${i}`,
    firmware: { type: "bios", secure_boot: false },
    cpus: { count: model.cpus.count, max: model.cpus.max, model: "max" },
    memory: { size: 128 * 1024 ** 2, max: 128 * 1024 ** 2 },
    tpm: false,
    agent: false,
    console: { log: join(at, "console, log") },
    disks: model.disks.map((disk, n) => {
      const source = join(at, `disk ${n},x`);
      execFileSync("qemu-img", ["create", "-q", "-f", disk.format, source, "1M"]);
      return { ...disk, source, kind: "file" as const };
    }),
    networks: model.networks.map(({ network: _n, bridge: _b, mtu: _m, boot: _o, ...nic }) => ({
      ...nic,
      user: true as const,
      link: true,
    })),
    shares: model.shares.map((share, n) => ({
      ...share,
      type: "9p" as const,
      target: `tag${n}`,
      source: join(at, "share"),
    })),
    ...(model.boot !== undefined && {
      boot: { kernel: model.arch === "x86_64" ? kernel.x86 : kernel.arm, cmdline: "a=1,2 b" },
    }),
    ...(model.cloud_init !== undefined && { cloud_init: seed }),
  };
}

/** Waits for QMP's greeting, asks for the status, and ends the machine. */
async function greeted(child: ChildProcess, socket: string): Promise<string> {
  let said = "";
  let text = "";
  child.stderr?.on("data", (chunk: Buffer) => (said += chunk.toString()));
  const ended = once(child, "close");
  const attempt = (): void => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const connection = createConnection(socket);
    // It is not there yet, or nobody listens on it yet.
    connection.on("error", () => setTimeout(attempt, 50));
    connection.on("data", (chunk: Buffer) => {
      const first = text === "";
      text += chunk.toString();
      if (first) connection.write('{"execute":"qmp_capabilities"}\n{"execute":"query-status"}\n{"execute":"quit"}\n');
    });
  };
  attempt();
  await ended;
  return said === "" ? text : said;
}

describe("QEMU without libvirt", () => {
  test("QEMU takes the command lines of machines of all sorts, and makes them", async () => {
    const kernel = { x86: (await debianKernel("x86_64")).image, arm: (await debianKernel("aarch64")).image };
    const models = fc
      .sample(vmArbitrary({ definable: true, type: "vm" }), { numRuns: 40 })
      .map((model, i) => placed(model, i, kernel));
    const queue = [...models.entries()];
    const failures: string[] = [];
    const worker = async (): Promise<void> => {
      for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
        const [i, model] = next;
        const qmp = join(folder, `${i}.qmp`);
        const { program, args } = qemuArgv(model, { qmp, console: join(folder, `${i}.con`) });
        const child = spawn(program, [...args, "-S"], { stdio: ["ignore", "ignore", "pipe"] });
        const timer = setTimeout(() => child.kill("SIGKILL"), 20_000);
        const text = await greeted(child, qmp);
        clearTimeout(timer);
        if (!text.includes('"status": "prelaunch"')) failures.push(`${model.arch} ${model.machine}: ${text}`);
      }
    };
    await Promise.all([worker(), worker(), worker()]);
    expect(failures).toEqual([]);
  });
});
