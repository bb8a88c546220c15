import type { CallOptions, RpcClient } from "./client.ts";
import { isLibvirtError } from "./virterror.ts";

/** A call that takes flags of libvirt's API, joined with `|`; see constants. */
export interface FlagOptions extends CallOptions {
  readonly flags?: number;
}

/** What a part of the API works with: the shared connection, and fresh ones of the same kind for streams. */
export interface Calls {
  readonly client: RpcClient;
  /** A connection of its own, so that a slow reader holds back nobody else. */
  aside(options: CallOptions): Promise<RpcClient>;
}

/** Undefined where libvirt says that there is no such thing. */
export async function absentAs<T>(codes: readonly number[], call: Promise<T>): Promise<T | undefined> {
  try {
    return await call;
  } catch (error) {
    if (isLibvirtError(error, ...codes)) return undefined;
    throw error;
  }
}
