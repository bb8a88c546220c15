import type { Hold, Plain } from "../model/index.ts";

/**
 * Why nothing new goes to a host: what the spec says (`maintenance:`), or a hold that was set at run time. Undefined: nothing keeps
 * it from being used. What has run out counts no more. Pure.
 */
export function cordonOf(
  host: { readonly desired: Readonly<Record<string, Plain>>; readonly hold?: Hold } | undefined,
  now: number,
): string | undefined {
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
