import type { Calls } from "./calls.ts";
import type { CallOptions, RpcClient } from "./client.ts";
import { procedures as call } from "./procedures.ts";

export interface NodeInfo {
  /** Of its processors: `x86_64`. */
  readonly model: string;
  /** KiB. */
  readonly memory: number;
  readonly cpus: number;
  /** 0 where unknown. */
  readonly mhz: number;
  readonly nodes: number;
  readonly sockets: number;
  readonly cores: number;
  readonly threads: number;
}

const ALL = -1;

/** The host that libvirt runs on. */
export class Node {
  readonly #calls: Calls;

  constructor(calls: Calls) {
    this.#calls = calls;
  }

  get #client(): RpcClient {
    return this.#calls.client;
  }

  info(options?: CallOptions): Promise<NodeInfo> {
    return this.#client.call(call.nodeGetInfo, undefined, options);
  }

  /** KiB, by name: `total`, `free`, `buffers`, `cached`. `cell`: a NUMA node, else all. */
  async memoryStats({
    cell = ALL,
    ...options
  }: CallOptions & { readonly cell?: number } = {}): Promise<Readonly<Record<string, number>>> {
    // Asked first how many there are, as libvirt's API wants it.
    const { count } = await this.#client.call(call.nodeGetMemoryStats, { count: 0, cell, flags: 0 }, options);
    const { params } = await this.#client.call(call.nodeGetMemoryStats, { count, cell, flags: 0 }, options);
    return Object.fromEntries(params.map(({ field, value }) => [field, value]));
  }

  /** Nanoseconds since the start, by name: `kernel`, `user`, `idle`, `iowait`. `cpu`: one, else all together. */
  async cpuStats({
    cpu = ALL,
    ...options
  }: CallOptions & { readonly cpu?: number } = {}): Promise<Readonly<Record<string, number>>> {
    const { count } = await this.#client.call(call.nodeGetCpuStats, { cpu, count: 0, flags: 0 }, options);
    const { params } = await this.#client.call(call.nodeGetCpuStats, { cpu, count, flags: 0 }, options);
    return Object.fromEntries(params.map(({ field, value }) => [field, value]));
  }

  /** Bytes. */
  async freeMemory(options?: CallOptions): Promise<number> {
    return (await this.#client.call(call.nodeGetFreeMemory, undefined, options)).bytes;
  }
}
