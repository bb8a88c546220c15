import { LabError } from "../diagnostics/index.ts";
import type { Address, Lab, Resource, Row } from "../model/index.ts";
import type { Kind } from "../provider/index.ts";
import type { ScopedView } from "../state/index.ts";

/** A state that is another lab's would be torn down to make room for this one. @throws LabError E_STATE_LINEAGE */
export function refuseOtherLab(lab: Lab, view: ScopedView): void {
  if (view.rows.size === 0) return;
  const other = lab.scopes.map((scope) => view.labs[scope]).find((one) => one !== undefined && one !== lab.name);
  if (other === undefined) return;
  throw new LabError(
    "E_STATE_LINEAGE",
    `the state in ${lab.state.path} is that of the lab "${other}", and this spec is "${lab.name}"`,
    {
      hint: `where the lab was renamed: \`labctl state rename ${lab.name}\`; where it is another one: give it a \`state: { path }\` of its own, or a folder`,
    },
  );
}

/** @throws LabError E_EXPERIMENTAL */
export function refuseExperimental(
  kinds: ReadonlyMap<string, Kind>,
  resources: readonly Resource[],
  rows: ReadonlyMap<Address, Row>,
  allowed: boolean,
): void {
  if (allowed) return;
  for (const one of [...resources, ...rows.values()]) {
    if (kinds.get(one.kind)?.experimental !== true) continue;
    throw new LabError("E_EXPERIMENTAL", `the kind "${one.kind}" of ${one.address} is experimental`, {
      address: one.address,
      ...("at" in one && { at: one.at }),
      hint: "it has not been shown to work on anything that labctl's authors did not write; run with --experimental to use it all the same",
    });
  }
}
