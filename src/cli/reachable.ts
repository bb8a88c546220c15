import { LabError } from "../diagnostics/index.ts";
import type { LabSession } from "../engine/port.ts";
import { type Address, canonicalAddress, lastSegment } from "../model/index.ts";
import { visible } from "./renderers/text.ts";
import { readWhole } from "./state-access.ts";

/** Everything that people can log in to: machines, guests, environments; those of the spec first. */
export async function reachables(session: LabSession): Promise<Address[]> {
  const can = (kind: string): boolean => {
    const known = session.kinds.get(kind);
    return known?.machine !== undefined || known?.reach !== undefined;
  };
  const { rows } = await readWhole(session.store);
  const declared = session.lab.resources.filter((one) => can(one.kind)).map((one) => one.address);
  const left = [...rows.values()].filter((row) => can(row.kind)).map((row) => row.address);
  return [...new Set([...declared, ...left])];
}

/** `builder-1`, `vm.scratch-1`, `smoke`. @throws LabError E_ADDRESS_UNKNOWN, E_USAGE where several are called that */
export async function findReachable(session: LabSession, text: string): Promise<Address> {
  const all = await reachables(session);
  const exact = all.find((one) => one === canonicalAddress(text));
  if (exact !== undefined) return exact;
  const named = all.filter((one) => lastSegment(one).key === text);
  const [only] = named;
  if (only !== undefined && named.length === 1) return only;
  if (named.length > 1) {
    throw new LabError("E_USAGE", `${JSON.stringify(text)} is several machines: ${named.map(visible).join(", ")}`, {
      hint: "say which, by its address",
    });
  }
  throw new LabError("E_ADDRESS_UNKNOWN", `the lab has no machine ${JSON.stringify(text)}`, {
    hint: await hintFor(session, text, all),
  });
}

async function hintFor(session: LabSession, text: string, all: readonly Address[]): Promise<string> {
  const { didYouMean } = await import("../config/index.ts");
  const other = session.lab.resources.find((one) => one.address === canonicalAddress(text));
  if (other !== undefined) {
    const around = other.parent === undefined ? undefined : all.find((one) => one === other.parent);
    return around === undefined
      ? `${visible(other.address)} is a ${other.kind}, which nobody can log in to`
      : `${visible(other.address)} is on ${visible(around)}: log in to that`;
  }
  const near = didYouMean(text, text.includes(".") ? all : all.map((one) => String(lastSegment(one).key ?? "")));
  if (near !== undefined) return near;
  if (all.length === 0) return "the spec has no machines";
  return `there are: ${all.slice(0, 5).map(visible).join(", ")}${all.length > 5 ? ", …" : ""}`;
}
