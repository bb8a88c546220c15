export { execute, type ExecuteOptions, type ExecutionResult } from "./executor.ts";
export type { ExecutorPorts } from "./ports.ts";
