export { QmpClient, type QmpEvent, type QmpStatus } from "./client.ts";
