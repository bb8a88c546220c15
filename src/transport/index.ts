export type * from "./ports.ts";
export { createMachinePool, type MachinePoolOptions, type ResettablePool } from "./pool.ts";
export { quoteWord, sh, shCommand, shJoin, type ShellPart, ShellText, userScript } from "./shell.ts";
export { hostKeyToPin } from "./ssh/host-key.ts";
export { hostKeyFingerprint } from "./ssh/known-hosts.ts";
export { sshAlias, sshConfigText, type SshHop, type SshWay, sshWay } from "./ssh/openssh.ts";
