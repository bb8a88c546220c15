import {
  type ConnectionProperties,
  type ConnectionSpec,
  connectionOf,
  LabError,
  type MachineContext,
} from "../../src/index.ts";

/** How a guest wants to be logged in to, and what the lab says of that. */
export interface GuestLogin {
  readonly ssh?: ConnectionProperties["ssh"];
  readonly context: MachineContext;
}

/** Pure. The lab's usual jump host is not on the way: the guest's own host is, unless that is this machine. */
export function connectionTo(guest: GuestLogin, at: string, host: ConnectionSpec): ConnectionSpec {
  const { context, ssh } = guest;
  const { jump: _usual, ...defaults } = context.defaults.ssh;
  const own = { ...context, defaults: { ...context.defaults, ssh: defaults } };
  const spec = connectionOf({ address: at, ...(ssh && { ssh }) }, own);
  if (spec === undefined) {
    throw new LabError("E_CONNECT", "its jump host cannot be reached: where that is is not known yet", {
      address: context.address,
    });
  }
  return spec.type === "ssh" && spec.jump === undefined && host.type === "ssh" ? { ...spec, jump: host } : spec;
}
