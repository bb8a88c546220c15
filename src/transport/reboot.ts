import { LabError } from "../diagnostics/index.ts";
import { pause } from "./deferred.ts";
import type { Link } from "./link.ts";
import type { Become, ExecResult } from "./ports.ts";
import { cancelled, run, throwIfCancelled } from "./run.ts";
import { fullScript } from "./wire.ts";

const BOOT_ID = "cat /proc/sys/kernel/random/boot_id";
/** The shell answers first; then the machine goes down. Who restarts it is tried in turn. */
const RESTART = `PATH=$PATH:/sbin:/usr/sbin; export PATH
command -v reboot >/dev/null 2>&1 || command -v systemctl >/dev/null 2>&1 || { echo "neither reboot nor systemctl is there" >&2; exit 1; }
( trap "" HUP; sleep 1; reboot || systemctl reboot || reboot -f ) </dev/null >/dev/null 2>&1 &
exit 0`;
const POLL_MS = 1_000;
const ASK_MS = 10_000;

/** Restarts a machine and waits for another boot id. Rejects with E_REBOOT where none comes in time. */
export async function reboot(
  link: Link,
  become: Become,
  options: { readonly timeout: number; readonly signal?: AbortSignal },
): Promise<{ readonly boot_id: string }> {
  const deadline = performance.now() + options.timeout;
  // Connecting has waits of its own, which may be longer than what is left.
  const late = AbortSignal.timeout(options.timeout);
  const signal = options.signal ? AbortSignal.any([options.signal, late]) : late;
  const ask = (script: string): Promise<ExecResult> =>
    run(link, {
      script: fullScript({ script }),
      become,
      root: script === RESTART,
      timeout: Math.max(1, Math.min(ASK_MS, deadline - performance.now())),
      keep: 4096,
      signal,
    });
  const before = (await ask(BOOT_ID)).stdout.toString("utf8").trim();
  if (before === "")
    throw failed(link, "its boot id cannot be read", "it has no /proc/sys/kernel/random/boot_id; restart it by hand");
  const started = await ask(RESTART);
  if (started.code !== 0) {
    throw failed(
      link,
      `it cannot be restarted: ${started.stderr.toString("utf8").trim().slice(0, 300)}`,
      "restart it by hand, then run again",
    );
  }
  let last = "it never went down";
  while (performance.now() < deadline) {
    if (!(await pause(Math.min(POLL_MS, Math.max(1, deadline - performance.now())), options.signal)))
      throw cancelled(link);
    try {
      const boot_id = (await ask(BOOT_ID)).stdout.toString("utf8").trim();
      if (boot_id !== "" && boot_id !== before) return { boot_id };
    } catch (error) {
      throwIfCancelled(link, options.signal);
      // A new host key or a login that fails does not mend itself by waiting.
      if (!(error instanceof LabError)) throw error;
      if (error.code === "E_HOST_KEY_CHANGED" || error.code === "E_HOST_KEY_UNKNOWN") throw error;
      if (error.code !== "E_CANCELLED") last = error.message;
      await link.reset();
    }
  }
  throw failed(
    link,
    `it did not come back within ${options.timeout / 1000} s (${last})`,
    "look at its console; raise `timeouts.boot` where it needs longer",
  );
}

function failed(link: Link, why: string, hint: string): LabError {
  return new LabError("E_REBOOT", `restarting ${link.name} failed: ${why}`, { address: link.address, hint });
}
