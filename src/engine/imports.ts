import { LabError } from "../diagnostics/index.ts";
import { type Address, lastSegment, type Resource } from "../model/index.ts";
import type { Kind } from "../provider/index.ts";

/** Refuses imports that name nothing in the spec, or an id that is not the one the spec gives. */
export function importRows(
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
    if (kind?.fromImportId !== undefined || kind?.ownership === "exclusive") continue;
    const key = lastSegment(address).key;
    if (id !== "" && id !== key) {
      throw new LabError(
        "E_ADDRESS_UNKNOWN",
        `cannot import "${id}" as ${address}: a ${resource.kind} is known by "${key}"`,
        {
          address,
          hint: `import it by its own name: labctl import '${address}' '${key}'`,
        },
      );
    }
  }
}
