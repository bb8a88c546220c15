import { LabError } from "../diagnostics/index.ts";
import { type Address, lastSegment, type Resource, type Row } from "../model/index.ts";
import type { Readings } from "../plan/index.ts";
import type { Kind } from "../provider/index.ts";

/**
 * Refuses imports that name nothing in the spec, and ids that speak of another thing than the spec does: passed over in silence,
 * they would take over what nobody meant.
 */
export function checkImports(
  imports: ReadonlyMap<Address, string>,
  resources: ReadonlyMap<Address, Resource>,
  kinds: ReadonlyMap<string, Kind>,
): void {
  for (const [address, id] of imports) {
    const resource = resources.get(address);
    if (resource === undefined) {
      throw new LabError("E_ADDRESS_UNKNOWN", `cannot import ${address}: the spec does not describe it`, {
        address,
        hint: "write the resource into the spec first; import then takes over what exists",
      });
    }
    const kind = kinds.get(resource.kind);
    if (id === "" || kind?.importId !== undefined) continue;
    const { key } = lastSegment(address);
    if (id === key || (kind?.fromImportId !== undefined && agrees(kind.fromImportId(id), resource))) continue;
    throw new LabError("E_IMPORT", `cannot import "${id}" as ${address}: a ${resource.kind} is known by "${key}"`, {
      address,
      hint: `import it by its own name: labctl import '${address}' '${key}'`,
    });
  }
}

/** Whether the spec says the same of what an id stands for; what is computed says nothing yet. */
function agrees(named: Readonly<Record<string, unknown>>, { desired }: Resource): boolean {
  return Object.entries(named).every(([key, value]) => desired[key] === value);
}

/**
 * Refuses to make what was to be taken over: whoever imports something says that it is there.
 *
 * @throws LabError E_IMPORT
 */
export function requireImported(
  imports: ReadonlyMap<Address, string>,
  rows: ReadonlyMap<Address, Row>,
  readings: Readings,
  kinds: ReadonlyMap<string, Kind>,
  resources: ReadonlyMap<Address, Resource>,
  refreshed: boolean,
): void {
  for (const [address, id] of imports) {
    if (rows.has(address) || readings.get(address)?.is !== "absent") continue;
    if (!refreshed) {
      throw new LabError("E_USAGE", `cannot import ${address} without looking at it`, {
        address,
        hint: "leave out --no-refresh until the state has it",
      });
    }
    const kind = kinds.get(resources.get(address)?.kind ?? "");
    throw new LabError("E_IMPORT", `cannot import ${address}: there is no ${id === "" ? "such thing" : `"${id}"`}`, {
      address,
      hint: `${kind?.importId === undefined ? "" : `it is known by ${kind.importId}; `}leave the import away to have it made`,
    });
  }
}
