import { type Address, type KindContext, LabError } from "../../src/index.ts";
import { objectName } from "./model/ids.ts";

/** The lab's volumes and networks that a machine uses, by their names. */
export interface Used {
  readonly volumes: readonly string[];
  readonly networks: readonly string[];
}

/** Those of them that the lab has, with the names of the hosts that they are on. */
export function thingsOf(ctx: KindContext, used: Used): readonly { readonly what: string; readonly host: string }[] {
  const named = [...used.volumes.map((name) => `volume.${name}`), ...used.networks.map((name) => `network.${name}`)];
  return named.flatMap((what) => {
    const host = ctx.inventory.get(what)?.desired["host"];
    return typeof host === "string" ? [{ what, host }] : [];
  });
}

/** The name of the only host where all of them are. @throws LabError E_SPEC_VALUE where there is none */
export function whereThingsAre(ctx: KindContext, address: Address, used: Used): string | undefined {
  const things = thingsOf(ctx, used);
  const [first] = things;
  const other = things.find((one) => one.host !== first?.host);
  if (first !== undefined && other !== undefined) {
    throw new LabError("E_SPEC_VALUE", `${first.what} is on ${first.host}, and ${other.what} on ${other.host}`, {
      address,
      hint: "a machine uses what is on its own host: put them on one",
    });
  }
  return first?.host;
}

/** What libvirt calls one of `networks:` of the host with that name; undefined: it has none of that name. */
export function libvirtNetwork(ctx: KindContext, name: string, host: string | undefined): string | undefined {
  const entry = ctx.inventory.get(`network.${name}`);
  if (entry === undefined || entry.desired["host"] !== host) return undefined;
  const known = entry.observed?.["libvirt_name"];
  return typeof known === "string" ? known : objectName(ctx.lab.name, name);
}
