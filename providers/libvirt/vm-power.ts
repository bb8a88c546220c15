import { setTimeout as sleep } from "node:timers/promises";
import type { OperationContext } from "../../src/index.ts";
import type { GuestType, QemuHost } from "./host-facts.ts";
import { type Domain, DomainShutdown, isLibvirtError, VirErr } from "./rpc/index.ts";

/** How long a machine may take to shut down by itself before its power is cut. */
const SHUTDOWN_MS = 20_000;

/** A guest that is still starting does not hear its power button: it is pressed again. */
const PRESS_EVERY_MS = { vm: 4000, container: 1000 } as const;

/** Lets it shut down by itself; what does not hear that, or takes too long, loses its power. */
export async function powerOff(
  ctx: OperationContext,
  host: QemuHost,
  domain: Domain,
  type: GuestType = "vm",
): Promise<void> {
  const { domains } = host.libvirt;
  const options = { signal: ctx.signal };
  try {
    // One that stands still hears no button.
    if ((await domains.state(domain, options)).state === "paused") {
      await domains.resume(domain, options).catch((error: unknown) => {
        if (!isLibvirtError(error)) throw error;
      });
    }
    const until = performance.now() + SHUTDOWN_MS;
    let flags = 0;
    for (let pressed = -Infinity; performance.now() < until; await sleep(250, undefined, options)) {
      if (!(await domains.isActive(domain, options))) return;
      if (performance.now() - pressed < PRESS_EVERY_MS[type]) continue;
      pressed = performance.now();
      await domains.shutdown(domain, { ...options, flags }).catch((error: unknown) => {
        if (!isLibvirtError(error)) throw error;
      });
      // What is no init of System V or systemd is asked by a signal; libvirt does not notice that it should (9.0).
      if (type === "container") flags = DomainShutdown.SIGNAL;
    }
    ctx.log("warn", `${domain.name} does not shut down by itself: its power is cut`);
    await domains.destroy(domain, options);
  } catch (error) {
    // It went while it was waited for.
    if (!isLibvirtError(error, VirErr.NO_DOMAIN, VirErr.OPERATION_INVALID)) throw error;
  }
}
