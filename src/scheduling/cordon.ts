import type { Hold, Plain } from "../model/index.ts";
import type { Candidate } from "./requirements.ts";

interface Held {
  readonly desired: Readonly<Record<string, Plain>>;
  readonly hold?: Hold;
}

/**
 * Why nothing new goes to a host: what the spec says (`maintenance:`), or a hold that was set at run time. Undefined: nothing keeps
 * it from being used. What has run out counts no more. Pure.
 */
export function cordonOf(host: Held | undefined, now: number): string | undefined {
  if (isDecommissioned(host)) return decommissionedText(host.hold);
  const over = (until: Plain | undefined): boolean => typeof until === "string" && Date.parse(until) <= now;
  const said = host?.desired["maintenance"];
  if (said === true) return "the spec says so";
  if (said !== null && typeof said === "object" && !Array.isArray(said)) {
    const { reason, until } = said as Readonly<Record<string, Plain>>;
    if (!over(until)) return typeof reason === "string" ? reason : "the spec says so";
  }
  const hold = host?.hold;
  return hold === undefined || over(hold.until) ? undefined : `${hold.why} (${hold.who})`;
}

/** The same as a candidate carries it; nothing where the host may be used. Pure. */
export function standingOf(
  host: Held | undefined,
  now: number,
): Partial<Pick<Candidate, "why" | "decommissioned">> & { readonly status?: "maintenance" } {
  const why = cordonOf(host, now);
  if (why === undefined) return {};
  return { status: "maintenance", why, ...(isDecommissioned(host) && { decommissioned: true }) };
}

/** Decommissioning has no end but being taken back. */
function isDecommissioned(host: Held | undefined): host is Held & { readonly hold: Hold } {
  return host?.hold?.kind === "decommissioned";
}

function decommissionedText(hold: Hold): string {
  return `decommissioned by ${hold.who} on ${hold.since.slice(0, 10)}: ${hold.why}`;
}
