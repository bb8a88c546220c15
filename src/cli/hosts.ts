import { LabError } from "../diagnostics/index.ts";
import type { LabSession } from "../engine/port.ts";
import { canonicalAddress, formatSize, type Hold, isMap, type Plain, type Resource, type Row } from "../model/index.ts";
import type { Context } from "./context.ts";
import { holdText } from "./renderers/rows.ts";
import { visible } from "./renderers/text.ts";
import { isMap as isPlainMap } from "./renderers/value.ts";
import { activeHold, readWhole } from "./state-access.ts";

/** A machine of the lab: what the spec says of it, what the state knows, and whether it is held. */
export interface Known {
  readonly resource: Resource;
  readonly row: Row | undefined;
  readonly hold: Hold | undefined;
}

export async function hostsOf(context: Context, session: LabSession): Promise<Known[]> {
  const view = await readWhole(session.store);
  return session.lab.resources
    .filter((resource) => session.kinds.get(resource.kind)?.machine !== undefined)
    .map((resource) => ({
      resource,
      row: view.rows.get(resource.address),
      hold: activeHold(view.holds.get(resource.address), context.term.io.now()),
    }));
}

/** `builder-1` or `host.builder-1`. @throws LabError E_ADDRESS_UNKNOWN */
export function findHost(known: readonly Known[], text: string): Known {
  const address = canonicalAddress(text);
  const found = known.find(
    ({ resource }) =>
      resource.address === address || resource.address.slice(resource.address.indexOf(".") + 1) === text,
  );
  if (found !== undefined) return found;
  const names = known.map(({ resource }) => resource.address).slice(0, 5);
  throw new LabError("E_ADDRESS_UNKNOWN", `the lab has no host ${JSON.stringify(text)}`, {
    hint:
      names.length === 0 ? "the spec has no hosts" : `there are: ${names.join(", ")}${known.length > 5 ? ", …" : ""}`,
  });
}

/** Facts for people: bytes as sizes. */
export function readable(facts: { readonly [key: string]: Plain }): { readonly [key: string]: Plain } {
  return Object.fromEntries(
    Object.entries(facts).map(([key, value]) => [
      key,
      /^(memory|disk)/.test(key) && typeof value === "number" ? formatSize(value) : value,
    ]),
  );
}

export function fact(one: Known, name: string): Plain | undefined {
  const seen = one.row?.observed;
  return isPlainMap(seen) ? seen[name] : undefined;
}

export function textOf(value: Plain | undefined): string {
  return value === undefined || value === null || typeof value === "object" ? "" : String(value);
}

export function sizeText(value: Plain | undefined): string {
  return typeof value === "number" ? formatSize(value) : "";
}

export function plainText(value: unknown): string {
  return typeof value === "string" || typeof value === "number" ? visible(String(value)) : "";
}

export function addressText(one: Known): string {
  const { desired } = one.resource;
  return desired["connection"] === "local" ? "local" : textOf(fact(one, "address")) || plainText(desired["address"]);
}

export function labelText({ resource }: Known): string {
  const labels = resource.desired["labels"];
  if (!isMap(labels)) return "";
  return Object.entries(labels)
    .map(([key, value]) => `${visible(key)}=${plainText(value)}`)
    .join(" ");
}

/** The hold set at run time, else what the spec says. */
export function maintenanceText({ resource, hold }: Known): string {
  if (hold !== undefined) return holdText(hold);
  const declared = resource.desired["maintenance"];
  if (declared === true) return "in the spec";
  if (!isMap(declared)) return "";
  const until = plainText(declared["until"]);
  return `${plainText(declared["reason"])}${until === "" ? "" : ` until ${until}`} (in the spec)`;
}

export function hostJson({ resource, row, hold }: Known): Record<string, unknown> {
  return {
    address: resource.address,
    name: resource.address.slice(resource.address.indexOf(".") + 1),
    kind: resource.kind,
    desired: resource.desired,
    observed: row?.observed ?? null,
    status: row?.status ?? "not applied",
    updated_at: row?.updated_at ?? null,
    maintenance: hold ?? resource.desired["maintenance"] ?? false,
  };
}
