export { type WatchedConsole, watchConsole } from "./stream.ts";
export type { ConsoleEvent, ConsoleKind, ConsoleOptions, ConsoleSeverity, ConsoleStatus } from "./types.ts";
export { ConsoleWatcher } from "./watch.ts";
