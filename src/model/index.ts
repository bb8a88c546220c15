export * from "./address.ts";
export * from "./event.ts";
export * from "./plan.ts";
export * from "./resource.ts";
export * from "./source.ts";
export * from "./state.ts";
export * from "./units.ts";
export * from "./value.ts";
