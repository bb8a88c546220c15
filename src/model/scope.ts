/** What one apply owns: `lab`, or `pipeline/NAME`, or `pipeline/NAME/INSTANCE`. */
export type Scope = string;

export const LAB_SCOPE: Scope = "lab";

export function pipelineScope(name: string, instance?: string): Scope {
  return instance === undefined ? `pipeline/${name}` : `pipeline/${name}/${instance}`;
}
