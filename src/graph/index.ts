export { Graph } from "./graph.ts";
export { type Permit, type Place, type Unit, walk, type WalkOptions } from "./scheduler.ts";
