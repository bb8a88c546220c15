import {
  type Address,
  type BuildRecord,
  defineKind,
  type KindContext,
  type Reading,
  selectionError,
  withAliases,
} from "../../src/index.ts";
import { buildAttributes, type BuildObserved, buildSchema } from "./build-model.ts";
import { cancelBuild } from "./cancel.ts";
import { aliasNow, isThere } from "./collect.ts";
import { Construction } from "./construction.ts";
import { prepareBuild } from "./inputs.ts";
import { offersOf, selectionOf, settle, wantedOf } from "./offers.ts";
import { buildServers, missingToolchain } from "./pool.ts";

function observedOf(record: BuildRecord): BuildObserved {
  const artifacts = Object.fromEntries(
    Object.entries(record.artifacts).map(([name, one]) => [name, `sha256:${one.sha256}`]),
  );
  const release = record.inputs["release"];
  return {
    ...artifacts,
    digest: record.id,
    ...(record.commit !== undefined && { commit: record.commit }),
    arch: record.arch,
    ...(record.toolchain && { toolchain_version: `${record.toolchain.name} ${record.toolchain.version}` }),
    ...(record.server !== undefined && { server: record.server }),
    ...(typeof release === "string" && { release }),
    artifacts,
  };
}

async function read(ctx: KindContext, digest: string | undefined): Promise<Reading<BuildObserved>> {
  if (digest === undefined) return { is: "absent" };
  const record = await ctx.artifacts.build(digest);
  if (record === undefined || !(await isThere(ctx.artifacts, record))) return { is: "absent" };
  return { is: "present", value: observedOf(record) };
}

/** What was built under another name, or for another branch, is found by these too. */
async function learn(ctx: KindContext, digest: string, name: string, branch: string | undefined): Promise<void> {
  const alias = aliasNow(name, branch);
  await ctx.artifacts.updateBuild(digest, (record) => withAliases(record, [alias]));
}

export const build = defineKind({
  kind: "build",
  title: "A build",
  description: `What is made from source on a build server: a kernel, or anything that commands make. It is identified by a digest of all that
goes into it: the commit (or tree, or tarball), the configuration, the toolchain's version, arguments and environment.
What was built once is not built again, by anybody, as long as it is in the artifact store.

Sources stay on the server between builds, and so do object files: an edit of one line compiles one file. Deleting a
build drops the reference to it; \`labctl artifact gc\` removes what nothing refers to.`,
  section: { name: "builds", document: "pipeline", shape: "map", key: "name" },
  schema: buildSchema,
  attributes: buildAttributes,
  ownership: "shared",
  stages: ["build", "collect"],

  awaits: (_desired, lab) => lab.filter((one) => one.kind === "build_server").flatMap((one) => [one.address]),

  async prepare(ctx, item) {
    const { desired } = item;
    if (item.unknown.size > 0) return {};
    const servers = await buildServers(ctx, wantedOf(desired));
    const { request, selection } = selectionOf(item.address, desired, servers, item.prior?.observed?.server);
    if (selection.verdict === "never") {
      throw missingToolchain(wantedOf(desired), selection) ?? selectionError(request, selection);
    }
    const prepared = await prepareBuild(ctx, desired, item.sensitive, servers);
    const { commit, branch } = prepared;
    const known = { ...(commit !== undefined && { commit }), ...(branch !== undefined && { branch }) };
    const digest = await settle(ctx, offersOf(prepared, servers, selection), selection);
    // Which compiler will do it may be known only once the server has it.
    return { ...known, digest };
  },

  async readMany(ctx, items) {
    const readings = new Map<Address, Reading<BuildObserved>>();
    for (const item of items) {
      const { digest } = item.desired;
      if (digest === undefined) {
        // No server could be asked for its compiler, so nobody can say which build this is.
        const servers = await buildServers(ctx, wantedOf(item.desired));
        if (servers.length > 0 && servers.every((one) => one.candidate.status !== "online")) {
          const { request, selection } = selectionOf(item.address, item.desired, servers, undefined);
          readings.set(item.address, { is: "unreachable", why: selectionError(request, selection) });
          continue;
        }
      }
      readings.set(item.address, await read(ctx, digest ?? item.prior?.observed?.digest));
    }
    return readings;
  },

  diff({ desired, observed, unknown }) {
    if (unknown.has("digest")) return [{ path: "digest", before: observed.digest }];
    if (desired.digest === undefined || desired.digest === observed.digest) return [];
    return [{ path: "digest", before: observed.digest, after: desired.digest }];
  },

  async reconcile(ctx, item) {
    const { desired } = item;
    const servers = await buildServers(ctx, wantedOf(desired));
    const prepared = await prepareBuild(ctx, desired, item.sensitive, servers);
    const sticky = item.prior?.observed?.server;
    const { selection } = selectionOf(item.address, desired, servers, sticky);
    const digest = desired.digest ?? (await settle(ctx, offersOf(prepared, servers, selection), selection));
    if (digest !== undefined) {
      const there = await read(ctx, digest);
      if (there.is === "present") {
        await learn(ctx, digest, desired.name, prepared.branch);
        return there.value;
      }
    }
    const record = await new Construction(ctx, item.address, desired, prepared).run(digest, sticky);
    return observedOf(record);
  },

  async adopted(ctx, { desired }) {
    if (desired.digest !== undefined) await learn(ctx, desired.digest, desired.name, desired.branch);
  },

  cancel: cancelBuild,

  /** The artifacts stay until `artifact gc` finds that nobody refers to them. */
  delete: async () => undefined,
});
