export type * from "./ports.ts";
export { quoteWord, sh, shCommand, shJoin, type ShellPart, ShellText, userScript } from "./shell.ts";
