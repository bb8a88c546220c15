import { decodeValue, encodeValue, type Plain, type Plan } from "../model/index.ts";
import type { ExecutorPorts } from "./ports.ts";
import type { TargetMaker } from "./target.ts";

/** The outputs after the plan; one that is still unknown keeps what it was. */
export async function resolveOutputs(
  plan: Plan,
  ports: ExecutorPorts,
  targets: TargetMaker,
): Promise<Record<string, Plain>> {
  const outputs: Record<string, Plain> = { ...ports.session.outputs };
  for (const change of plan.outputs) {
    if (change.after === undefined) {
      delete outputs[change.name];
      continue;
    }
    const value = await targets.resolve(decodeValue(change.after));
    if (value !== undefined) outputs[change.name] = encodeValue(value, ports.seal);
  }
  return outputs;
}
