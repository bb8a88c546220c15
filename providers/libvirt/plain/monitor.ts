import { type KindContext, LabError, type Machine, QmpClient } from "../../../src/index.ts";
import type { DiskModel, VmModel } from "../model/vm.ts";

/** What a running QEMU says of itself through its monitor. Sizes in bytes. */
export interface Monitored {
  readonly uuid: string;
  /** `running`, `paused`, `shutdown`, ... as QEMU calls them. */
  readonly status: string;
  readonly cpus: number;
  /** Most that the guest can have. */
  readonly memory: number;
  /** What the guest has now, where it has a balloon driver. */
  readonly balloon: number | undefined;
  /** By target. */
  readonly disks: ReadonlyMap<string, Pick<DiskModel, "source" | "format" | "readonly" | "size" | "backing">>;
  /** What `info usernet` prints. */
  readonly usernet: string;
}

/** Opens the monitor, which serves one at a time: others wait for a moment. Rejects with E_QEMU, E_SOCKET. */
export async function withMonitor<T>(
  ctx: Pick<KindContext, "signal">,
  machine: Machine,
  socket: string,
  body: (qmp: QmpClient) => Promise<T>,
): Promise<T> {
  const stream = await machine.openSocket(socket, { root: true, signal: ctx.signal });
  try {
    return await body(await QmpClient.connect(stream, ctx.signal));
  } finally {
    stream.destroy();
  }
}

type Answer = Readonly<Record<string, unknown>>;

/** Asks for all of it; changes nothing. */
export async function monitored(qmp: QmpClient, signal: AbortSignal): Promise<Monitored> {
  const ask = async (command: string): Promise<unknown> => await qmp.execute(command, {}, { signal });
  const [uuid, status, cpus, memory, blocks] = await Promise.all([
    ask("query-uuid"),
    qmp.status(),
    ask("query-cpus-fast"),
    ask("query-memory-size-summary"),
    ask("query-block"),
  ]);
  const balloon = await ask("query-balloon").catch((error: unknown) => {
    // A machine without a balloon has all its memory.
    if (!(error instanceof LabError) || error.code !== "E_QEMU") throw error;
    return {};
  });
  return readMonitored({
    uuid,
    status: status.status,
    cpus,
    memory,
    blocks,
    balloon,
    usernet: await usernet(qmp, signal),
  });
}

/** QEMU has these in words for people only. */
async function usernet(qmp: QmpClient, signal: AbortSignal): Promise<string> {
  const said = await qmp.execute("human-monitor-command", { "command-line": "info usernet" }, { signal });
  return typeof said === "string" ? said : "";
}

/** Pure. Throws E_QEMU for answers that are none. */
export function readMonitored(said: {
  readonly uuid: unknown;
  readonly status: string;
  readonly cpus: unknown;
  readonly memory: unknown;
  readonly blocks: unknown;
  readonly balloon: unknown;
  readonly usernet: string;
}): Monitored {
  const number = (value: unknown, key: string): number | undefined => {
    const found = record(value)?.[key];
    return typeof found === "number" ? found : undefined;
  };
  const uuid = record(said.uuid)?.["UUID"];
  const base = number(said.memory, "base-memory");
  if (typeof uuid !== "string" || base === undefined || !Array.isArray(said.cpus) || !Array.isArray(said.blocks)) {
    throw new LabError("E_QEMU", "QEMU's answers about its machine are none that labctl knows");
  }
  return {
    uuid,
    status: said.status,
    cpus: said.cpus.length,
    memory: base + (number(said.memory, "plugged-memory") ?? 0),
    balloon: number(said.balloon, "actual"),
    disks: new Map(said.blocks.flatMap(blockOf)),
    usernet: said.usernet,
  };
}

function blockOf(value: unknown): [string, Pick<DiskModel, "source" | "format" | "readonly" | "size" | "backing">][] {
  const inserted = record(record(value)?.["inserted"]);
  const image = record(inserted?.["image"]);
  const [node, format, ro] = [inserted?.["node-name"], inserted?.["drv"], inserted?.["ro"]];
  if (typeof node !== "string" || typeof format !== "string" || image === undefined) return [];
  const size = image["virtual-size"];
  const source = image["filename"];
  const backing = image["full-backing-filename"] ?? image["backing-filename"];
  return [
    [
      node,
      {
        format,
        readonly: ro === true,
        ...(typeof source === "string" && { source }),
        ...(typeof size === "number" && { size }),
        ...(typeof backing === "string" && { backing }),
      },
    ],
  ];
}

function record(value: unknown): Answer | undefined {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Answer) : undefined;
}

/** Pure. A machine as QEMU says that it is, over what it was started as. */
export function overlaid(started: Omit<VmModel, "owner" | "autostart" | "running">, seen: Monitored) {
  return {
    ...started,
    uuid: seen.uuid,
    cpus: { ...started.cpus, count: seen.cpus },
    memory: { size: Math.min(seen.balloon ?? seen.memory, seen.memory), max: seen.memory },
    disks: started.disks.map((disk) => {
      const { source: _source, ...rest } = disk;
      const there = seen.disks.get(disk.target);
      // Nothing is in it: a CD that somebody took out, a disk that was unplugged.
      return there === undefined ? rest : { ...rest, ...there };
    }),
  };
}

/** Pure. The port of the host's 127.0.0.1 that QEMU forwards to one of the guest, from `info usernet`. */
export function forwardedPort(usernet: string, guest: number): number | undefined {
  for (const line of usernet.split("\n")) {
    // Protocol[State] FD SourceAddress Port DestAddress Port RecvQ SendQ
    const [protocol, , , port, , to] = line.trim().split(/\s+/);
    if (protocol === "TCP[HOST_FORWARD]" && Number(to) === guest) return Number(port);
  }
  return undefined;
}
