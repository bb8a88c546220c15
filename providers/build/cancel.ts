import type { Item, KindContext } from "../../src/index.ts";
import type { BuildDesired, BuildObserved } from "./build-model.ts";
import { cancelJob } from "./jobs.ts";
import type { ServerDesired } from "./server-model.ts";
import { workdirOf } from "./server.ts";

/** Ends the jobs of a build on the servers that its records say they are on, also where no labctl follows them any more. */
export async function cancelBuild(
  ctx: KindContext,
  item: Item<BuildDesired, BuildObserved>,
): Promise<string | undefined> {
  const going = (await ctx.artifacts.builds()).filter(
    (one) => one.name === item.desired.name && one.status === "building" && one.server !== undefined,
  );
  const ended: string[] = [];
  for (const { id, server = "" } of going) {
    const entry = ctx.inventory.all("build_server").find((one) => one.parent === server);
    if (entry === undefined) continue;
    const was = await cancelJob(ctx.machine(server), workdirOf(entry.desired as unknown as ServerDesired), id);
    // Who follows the job writes what it knows of its end; where nobody does, this is all.
    await ctx.artifacts.updateBuild(id, (now) =>
      now.status === "building"
        ? {
            ...now,
            status: "cancelled",
            finished_at: new Date().toISOString(),
            problem: { code: "E_CANCELLED", message: "the build was cancelled" },
          }
        : now,
    );
    if (was) ended.push(`${item.address}: its job ${id.slice(0, 12)} on ${server} was ended`);
  }
  return ended.length === 0 ? undefined : ended.join("; ");
}
