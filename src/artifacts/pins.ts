import type { StateStore } from "../state/index.ts";
import { digestsIn } from "./retention.ts";

/** What any scope of a state refers to: it must not go. */
export async function pinsOf(states: StateStore): Promise<ReadonlySet<string>> {
  const pins = new Set<string>();
  for (const scope of await states.scopes()) digestsIn((await states.read(scope)).rows, pins);
  return pins;
}
