import { createHash } from "node:crypto";
import { type KindContext, LabError, type OperationContext, shCommand } from "../../../src/index.ts";
import { qemuArgv, type QemuCommand, type QemuRuntime } from "../model/qemu-argv.ts";
import type { VmModel } from "../model/vm.ts";
import type { PlainHost } from "./host.ts";
import type { PlainMachine } from "./look.ts";
import { withMonitor } from "./monitor.ts";
import { killScript, startScript, waitScript } from "./process.ts";
import { runtimeOf } from "./support.ts";

/** Seconds that a machine may take to shut down by itself before its power is cut, and QEMU to end when it is told to. */
const SHUTDOWN = 20;
const QUIT = 5;

/** Milliseconds for a start: QEMU answers when all of the machine is there, before its first instruction. */
const START_MS = 120_000;

/** How many ports are tried before the kernel chooses one. */
const PORTS = 8;

/**
 * Ports of the host that may lead to a machine, the same ones each time: whoever has written down its host key finds it there
 * again. Below those that systems give out by themselves (32768 and up on Linux). 0: any that is free.
 */
export function forwardPorts(instanceId: string): readonly number[] {
  const own = Array.from({ length: PORTS }, (_, i) => {
    const digest = createHash("sha256").update(`forward\0${instanceId}\0${i}`).digest();
    return 20_000 + (digest.readUInt32BE(0) % 12_000);
  });
  return [...new Set(own), 0];
}

function commandOf(model: VmModel, files: PlainMachine["files"], forward: QemuRuntime["forward"]): QemuCommand {
  const { program, args } = qemuArgv(model, runtimeOf(files, forward));
  return { program, args: [...args, "-daemonize", "-pidfile", files.pid] };
}

/** Starts it, with a port of the host that leads to its `guestPort` where it is on QEMU's own network. Nothing where it runs. */
export async function start(
  ctx: OperationContext,
  host: PlainHost,
  found: Pick<PlainMachine, "files" | "uuid">,
  model: VmModel,
  at: { readonly address: string; readonly instance_id: string; readonly guestPort: number },
): Promise<void> {
  const { files, uuid } = found;
  // Its balloon is filled before its first instruction; a run that is cut off in between leaves one that does not run.
  const waits = model.memory.size < model.memory.max;
  const reachable = model.networks.some((nic) => nic.user === true);
  let said = "";
  for (const port of reachable ? forwardPorts(at.instance_id) : [0]) {
    const { program, args } = commandOf(model, files, reachable ? { port, guest: at.guestPort } : undefined);
    const script = startScript(shCommand([program, ...args, ...(waits ? ["-S"] : [])]), {
      uuid,
      lock: files.lock,
      log: model.console.log,
      sockets: [files.qmp, files.console],
    });
    const done = await host.machine.exec(script, { signal: ctx.signal, timeout: START_MS });
    said = done.stderr.toString("utf8").trim();
    if (done.code === 0) {
      if (said !== "") ctx.log("warn", `${model.name}: ${said}`);
      if (waits)
        await changeLive(ctx, host, files, { ...model, memory: { ...model.memory, size: model.memory.max } }, model);
      return;
    }
    if (!/host forwarding rule/.test(said)) break;
  }
  throw new LabError("E_QEMU", `${model.name} does not start on ${host.address}: ${said || "QEMU says nothing"}`, {
    address: at.address,
    hint: `its console is in ${model.console.log ?? "no file"}`,
  });
}

/** Lets it shut down by itself; what does not hear that, or takes too long, loses its power. */
export async function powerOff(ctx: OperationContext, host: PlainHost, found: PlainMachine): Promise<void> {
  const { files, uuid } = found;
  const gone = async (seconds: number): Promise<boolean> => {
    const options = { signal: ctx.signal, timeout: (seconds + 30) * 1000 };
    return (await host.machine.exec(waitScript(uuid, seconds), options)).code === 0;
  };
  if (found.processes.length === 0) return;
  try {
    const asked = await withMonitor(ctx, host.machine, files.qmp, async (qmp) => {
      if (!(await qmp.status()).running) return false;
      await qmp.execute("system_powerdown", {}, { signal: ctx.signal });
      return true;
    });
    if (asked && (await gone(SHUTDOWN))) return;
    if (asked) ctx.log("warn", `${uuid} does not shut down by itself: its power is cut`);
    await withMonitor(ctx, host.machine, files.qmp, (qmp) => qmp.quit());
    if (await gone(QUIT)) return;
  } catch (error) {
    // It went while it was waited for, or hears nobody any more.
    if (!(error instanceof LabError) || !["E_QEMU", "E_SOCKET", "E_DISCONNECTED"].includes(error.code)) throw error;
  }
  for (const { pid } of found.processes) {
    await host.machine.exec(killScript(pid, uuid), { signal: ctx.signal, brief: true });
  }
  if (await gone(QUIT)) return;
  throw new LabError("E_QEMU", `the QEMU of ${uuid} on ${host.address} cannot be ended`, {
    address: host.address,
    hint: "the host's disk or kernel may hang: look at it there",
  });
}

/**
 * Brings a machine that runs to what can change without a restart: memory, larger disks, going on after a pause. False: it is in a
 * state from which only a start leads on (it panicked, its disk is full).
 */
export async function changeLive(
  ctx: KindContext,
  host: PlainHost,
  files: PlainMachine["files"],
  now: VmModel,
  wanted: VmModel,
): Promise<boolean> {
  const options = { signal: ctx.signal };
  return await withMonitor(ctx, host.machine, files.qmp, async (qmp) => {
    const { running, status } = await qmp.status();
    if (!running && status !== "paused" && status !== "prelaunch") return false;
    if ((!running || wanted.memory.size !== now.memory.size) && wanted.memory.size <= now.memory.max) {
      await qmp.execute("balloon", { value: wanted.memory.size }, options);
    }
    for (const { target, size } of wanted.disks) {
      const there = now.disks.find((one) => one.target === target);
      if (size === undefined || there?.size === undefined || size <= there.size) continue;
      await qmp.execute("block_resize", { "node-name": target, size }, options);
    }
    if (!running) await qmp.cont();
    return true;
  });
}
