export { createEngine, type EngineParts, locateState } from "./open.ts";
export type * from "./port.ts";
