import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { LabError } from "../../../src/index.ts";
import { absentAs, type Calls, type FlagOptions } from "./calls.ts";
import type { CallOptions, RpcClient } from "./client.ts";
import { type PoolState, poolState, SPARSE_STREAM, type VolumeType, volumeType } from "./constants.ts";
import { procedures as call } from "./procedures.ts";
import type { Pool, Volume } from "./shapes.ts";
import { VirErr } from "./virterror.ts";

/** Bytes. */
export interface PoolInfo {
  readonly state: PoolState;
  readonly capacity: number;
  readonly allocation: number;
  readonly available: number;
}

/** Bytes. */
export interface VolumeInfo {
  readonly type: VolumeType;
  readonly capacity: number;
  readonly allocation: number;
}

/** Calls on storage pools. All reject as RpcClient.call does. */
export class Pools {
  readonly #calls: Calls;

  constructor(calls: Calls) {
    this.#calls = calls;
  }

  get #client(): RpcClient {
    return this.#calls.client;
  }

  async list(options?: CallOptions): Promise<readonly Pool[]> {
    return (await this.#client.call(call.connectListAllStoragePools, { need: 1, flags: 0 }, options)).pools;
  }

  async lookupByName(name: string, options?: CallOptions): Promise<Pool> {
    return (await this.#client.call(call.storagePoolLookupByName, { name }, options)).pool;
  }

  async lookupByUuid(uuid: string, options?: CallOptions): Promise<Pool> {
    return (await this.#client.call(call.storagePoolLookupByUuid, { uuid }, options)).pool;
  }

  async lookupByVolume(volume: Volume, options?: CallOptions): Promise<Pool> {
    return (await this.#client.call(call.storagePoolLookupByVolume, { volume }, options)).pool;
  }

  /** Undefined where there is none of this name. */
  find(name: string, options?: CallOptions): Promise<Pool | undefined> {
    return absentAs([VirErr.NO_STORAGE_POOL], this.lookupByName(name, options));
  }

  async define(xml: string, options?: CallOptions): Promise<Pool> {
    return (await this.#client.call(call.storagePoolDefineXml, { xml, flags: 0 }, options)).pool;
  }

  /** Makes what it stands on: for a directory the directory. Flags: virStoragePoolBuildFlags. */
  build(pool: Pool, { flags = 0, ...options }: FlagOptions = {}): Promise<void> {
    return this.#client.call(call.storagePoolBuild, { pool, flags }, options);
  }

  /** Starts it. */
  create(pool: Pool, options?: CallOptions): Promise<void> {
    return this.#client.call(call.storagePoolCreate, { pool, flags: 0 }, options);
  }

  /** Looks anew at what volumes there are. */
  refresh(pool: Pool, options?: CallOptions): Promise<void> {
    return this.#client.call(call.storagePoolRefresh, { pool, flags: 0 }, options);
  }

  /** Stops it; its volumes stay. */
  destroy(pool: Pool, options?: CallOptions): Promise<void> {
    return this.#client.call(call.storagePoolDestroy, { pool }, options);
  }

  /** Removes what it stands on, which has to be empty. */
  delete(pool: Pool, options?: CallOptions): Promise<void> {
    return this.#client.call(call.storagePoolDelete, { pool, flags: 0 }, options);
  }

  undefine(pool: Pool, options?: CallOptions): Promise<void> {
    return this.#client.call(call.storagePoolUndefine, { pool }, options);
  }

  async info(pool: Pool, options?: CallOptions): Promise<PoolInfo> {
    const info = await this.#client.call(call.storagePoolGetInfo, { pool }, options);
    return { ...info, state: poolState(info.state) };
  }

  async xml(pool: Pool, options?: CallOptions): Promise<string> {
    return (await this.#client.call(call.storagePoolGetXmlDesc, { pool, flags: 0 }, options)).xml;
  }

  async autostart(pool: Pool, options?: CallOptions): Promise<boolean> {
    return (await this.#client.call(call.storagePoolGetAutostart, { pool }, options)).autostart;
  }

  setAutostart(pool: Pool, autostart: boolean, options?: CallOptions): Promise<void> {
    return this.#client.call(call.storagePoolSetAutostart, { pool, autostart }, options);
  }

  async isActive(pool: Pool, options?: CallOptions): Promise<boolean> {
    return (await this.#client.call(call.storagePoolIsActive, { pool }, options)).active;
  }
}

export interface StreamCallOptions extends CallOptions {
  /** Where in the volume it begins, and how many bytes at most; default: all of it. */
  readonly offset?: number;
  readonly length?: number;
  /**
   * Runs of zeros travel as holes. Uploading, they are skipped in the volume, so it must read as zeros there: use it for one
   * that was just made.
   */
  readonly sparse?: boolean;
  /** Milliseconds without any progress until E_TIMEOUT; default 60 s. `timeout` is for the opening alone. */
  readonly stall?: number;
}

const STALL_MS = 60_000;

/** Calls on storage volumes. All reject as RpcClient.call does. */
export class Volumes {
  readonly #calls: Calls;

  constructor(calls: Calls) {
    this.#calls = calls;
  }

  get #client(): RpcClient {
    return this.#calls.client;
  }

  async list(pool: Pool, options?: CallOptions): Promise<readonly Volume[]> {
    return (await this.#client.call(call.storagePoolListAllVolumes, { pool, need: 1, flags: 0 }, options)).volumes;
  }

  async lookupByName(pool: Pool, name: string, options?: CallOptions): Promise<Volume> {
    return (await this.#client.call(call.storageVolLookupByName, { pool, name }, options)).volume;
  }

  async lookupByPath(path: string, options?: CallOptions): Promise<Volume> {
    return (await this.#client.call(call.storageVolLookupByPath, { path }, options)).volume;
  }

  /** Undefined where the pool has none of this name (as it last looked: see Pools.refresh). */
  find(pool: Pool, name: string, options?: CallOptions): Promise<Volume | undefined> {
    return absentAs([VirErr.NO_STORAGE_VOL], this.lookupByName(pool, name, options));
  }

  /** Flags: VolumeCreate. */
  async create(pool: Pool, xml: string, { flags = 0, ...options }: FlagOptions = {}): Promise<Volume> {
    return (await this.#client.call(call.storageVolCreateXml, { pool, xml, flags }, options)).volume;
  }

  /** With the content of another. Flags: VolumeCreate. */
  async createFrom(
    pool: Pool,
    xml: string,
    from: Volume,
    { flags = 0, ...options }: FlagOptions = {},
  ): Promise<Volume> {
    return (await this.#client.call(call.storageVolCreateXmlFrom, { pool, xml, from, flags }, options)).volume;
  }

  delete(volume: Volume, options?: CallOptions): Promise<void> {
    return this.#client.call(call.storageVolDelete, { volume, flags: 0 }, options);
  }

  async info(volume: Volume, options?: CallOptions): Promise<VolumeInfo> {
    const info = await this.#client.call(call.storageVolGetInfo, { volume }, options);
    return { ...info, type: volumeType(info.type) };
  }

  async xml(volume: Volume, options?: CallOptions): Promise<string> {
    return (await this.#client.call(call.storageVolGetXmlDesc, { volume, flags: 0 }, options)).xml;
  }

  async path(volume: Volume, options?: CallOptions): Promise<string> {
    return (await this.#client.call(call.storageVolGetPath, { volume }, options)).path;
  }

  /** Bytes. Flags: VolumeResize. */
  resize(volume: Volume, capacity: number, { flags = 0, ...options }: FlagOptions = {}): Promise<void> {
    return this.#client.call(call.storageVolResize, { volume, capacity, flags }, options);
  }

  /**
   * Writes into it, on a connection of its own. Resolves to the number of bytes when libvirt has confirmed them. Where it fails the
   * volume is left half written; the source is destroyed.
   */
  async upload(
    volume: Volume,
    source: Readable | AsyncIterable<Uint8Array>,
    options: StreamCallOptions & { readonly onProgress?: (bytes: number) => void } = {},
  ): Promise<number> {
    const { offset = 0, length = 0, sparse = false, stall = STALL_MS, onProgress, signal } = options;
    const client = await this.#calls.aside(options);
    let bytes = 0;
    try {
      const args = { volume, offset, length, flags: sparse ? SPARSE_STREAM : 0 };
      const stream = await client.openStream(call.storageVolUpload, args, { mode: "write", sparse, stall }, options);
      await pipeline(
        source,
        async function* (chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
          for await (const chunk of chunks) {
            yield chunk;
            bytes += chunk.length;
            onProgress?.(bytes);
          }
        },
        stream,
        signal ? { signal } : {},
      );
      return bytes;
    } catch (error) {
      if (signal?.aborted) throw new LabError("E_CANCELLED", "cancelled", { address: client.address, cause: error });
      throw error;
    } finally {
      client.close();
      if (source instanceof Readable) source.destroy();
    }
  }

  /**
   * Reads it, on a connection of its own. The stream ends when libvirt has confirmed that nothing failed, and errors else; destroying
   * it ends the transfer.
   */
  async download(volume: Volume, options: StreamCallOptions = {}): Promise<Readable> {
    const { offset = 0, length = 0, sparse = false, stall = STALL_MS, signal } = options;
    const client = await this.#calls.aside(options);
    try {
      const args = { volume, offset, length, flags: sparse ? SPARSE_STREAM : 0 };
      const stream = await client.openStream(
        call.storageVolDownload,
        args,
        { mode: "read", stall, onClose: () => client.close(), ...(signal && { signal }) },
        options,
      );
      return stream;
    } catch (error) {
      client.close();
      throw error;
    }
  }
}
