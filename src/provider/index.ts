export { type ConnectionProperties, connectionOf, localPath, SSH_SCHEMA } from "./connection.ts";
export * from "./contract.ts";
export * from "./define.ts";
export type { Infer } from "./infer.ts";
export type { Annotations, ObjectSchema, Schema } from "./schema.ts";
