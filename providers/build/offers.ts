import {
  type Address,
  type KindContext,
  readRequirements,
  type Requirements,
  select,
  type Selection,
} from "../../src/index.ts";
import type { BuildDesired } from "./build-model.ts";
import { isThere } from "./collect.ts";
import { buildDigest, type BuildInputs } from "./digest.ts";
import { inputsOf, type PreparedBuild } from "./inputs.ts";
import type { PoolServer } from "./pool.ts";

/** A server with what the build would be there. */
export interface Offer {
  readonly server: PoolServer;
  readonly inputs: BuildInputs;
  readonly digest: string;
}

export function requirementsOf(desired: BuildDesired): Requirements {
  const said = readRequirements(desired.requires as Parameters<typeof readRequirements>[0]);
  return { ...said, arch: desired.arch ?? "x86_64", toolchain: desired.toolchain ?? "gcc" };
}

export function selectionOf(
  address: Address,
  desired: BuildDesired,
  servers: readonly PoolServer[],
  sticky: string | undefined,
) {
  const request = { what: address, requires: requirementsOf(desired), ...(sticky !== undefined && { sticky }) };
  return {
    request,
    selection: select(
      request,
      servers.map((one) => one.candidate),
      Date.now(),
    ),
  };
}

export function wantedOf(desired: BuildDesired): { readonly toolchain: string; readonly arch: string } {
  return { toolchain: desired.toolchain ?? "gcc", arch: desired.arch ?? "x86_64" };
}

/** The servers that could do it, now or another time. */
export function ableOf({ ranking, rejected }: Selection): Address[] {
  return [...ranking, ...rejected.filter((one) => !one.permanent)].map((one) => one.address);
}

/** What the build would be on each server that could ever do it. */
export function offersOf(prepared: PreparedBuild, servers: readonly PoolServer[], selection: Selection): Offer[] {
  const able = new Set(ableOf(selection));
  return servers.flatMap((server) => {
    if (!able.has(server.address) || server.compiler === undefined) return [];
    const inputs = inputsOf(prepared, server.compiler);
    return [{ server, inputs, digest: buildDigest(inputs) }];
  });
}

/** The build that is there already, of whichever server's compiler; else that of the best server. */
export async function settle(
  ctx: KindContext,
  offers: readonly Offer[],
  selection: Selection,
): Promise<string | undefined> {
  for (const digest of new Set(offers.map((one) => one.digest)))
    if (await isThere(ctx.artifacts, await ctx.artifacts.build(digest))) return digest;
  const order = selection.ranking.map((one) => one.address);
  const best = [...offers].sort((a, b) => place(order, a) - place(order, b))[0];
  return best?.digest;
}

function place(order: readonly string[], offer: Offer): number {
  const at = order.indexOf(offer.server.address);
  return at < 0 ? order.length : at;
}
