import type { Command } from "commander";
import type { ArtifactStore, BuildRecord } from "../../artifacts/index.ts";
import { LabError } from "../../diagnostics/index.ts";
import { outcomeOf } from "../../events/index.ts";
import {
  type Address,
  canonicalAddress,
  isEffective,
  type LabEvent,
  lastSegment,
  type Plan,
  type Row,
} from "../../model/index.ts";
import { type Context, selectionOf } from "../context.ts";
import type { Work } from "../lab.ts";
import type { Host } from "../program.ts";
import { type BuiltLine, renderBuilds } from "../renderers/builds.ts";
import { visible } from "../renderers/text.ts";
import { isMap } from "../renderers/value.ts";
import { readWhole } from "../state-access.ts";
import { addApplyOptions, type ApplyFlags, change } from "./apply.ts";
import { styleOf } from "./plan.ts";

type BuildFlags = Pick<ApplyFlags, "autoApprove" | "jsonInto" | "onFailure" | "wait">;

/** What changes nothing but build servers' work directories and the artifact store: nobody is asked about it. */
const HARMLESS: ReadonlySet<string> = new Set(["build"]);

export function registerBuild(program: Command, host: Host): void {
  const build = program
    .command("build")
    .argument(
      "[builds...]",
      "their names or addresses; of a matrix the name without its variant takes all; all without",
    )
    .summary("make the pipeline's builds, and nothing else")
    .description(
      "Applies builds of the pipeline and what they need, and prints of each its digest, server, duration and artifacts. What was built before is not built again. Asks only where something else than builds has to change.",
    );
  addApplyOptions(build).addHelpText(
    "after",
    "\nExamples:\n  labctl build\n  labctl build kasan --no-wait\n  labctl build kasan-x86_64 --json | jq -r '.builds[].digest'",
  );
  build.action(async (names: string[], flags: BuildFlags) => {
    await host.invoke((context) => buildCommand(context, names, flags), build);
  });
}

async function buildCommand(context: Context, names: readonly string[], flags: BuildFlags): Promise<number> {
  const { term } = context;
  let wanted: readonly Address[] = [];
  const events: LabEvent[] = [];
  return change(context, {
    command: "build",
    selection: selectionOf(context),
    flags: { target: [], exclude: [], replace: [], refresh: true, ...flags },
    document: true,
    harmless: (plan) => plan.actions.every((one) => !isEffective(one.action) || HARMLESS.has(one.kind)),
    prepare: async ({ session, bus }) => {
      bus.on((event) => {
        if (event.type === "plan.made" || event.type.startsWith("action.")) events.push(event);
      });
      const all = session.lab.resources.filter((one) => one.kind === "build").map((one) => one.address);
      wanted = await findBuilds(all, names);
      return { targets: [...wanted] };
    },
    done: async (work, plan, summary) => {
      const builds = await builtLines(context, work, plan, wanted, events);
      if (term.options.json) term.json({ run: work.run, builds, summary });
      else term.out(`${summary.results.ok === undefined ? "" : "\n"}${renderBuilds(builds, styleOf(term))}`);
    },
  });
}

/** Pure but for what is said of a typo. @throws LabError E_ADDRESS_UNKNOWN */
export async function findBuilds(all: readonly Address[], names: readonly string[]): Promise<readonly Address[]> {
  if (all.length === 0) {
    throw new LabError("E_ADDRESS_UNKNOWN", "the spec has no builds", {
      hint: "declare them under `builds:` in pipeline.yaml, and run this where it is (or name it with -f)",
    });
  }
  if (names.length === 0) return all;
  const found = new Set<Address>();
  for (const name of names) {
    const key = (address: Address): string => String(lastSegment(address).key ?? "");
    const exact = all.filter((one) => one === canonicalAddress(name) || key(one) === name);
    // What a matrix made of `kasan` is called `kasan-x86_64`, `kasan-arm64`.
    const bare = name.replace(/^build\./, "");
    const family = exact.length > 0 ? exact : all.filter((one) => key(one).startsWith(`${bare}-`));
    if (family.length === 0) {
      const { didYouMean } = await import("../../config/index.ts");
      throw new LabError("E_ADDRESS_UNKNOWN", `the spec has no build ${JSON.stringify(name)}`, {
        hint: didYouMean(bare, all.map(key)) ?? `there are: ${all.slice(0, 8).map(visible).join(", ")}`,
      });
    }
    for (const one of family) found.add(one);
  }
  return [...found];
}

async function builtLines(
  context: Context,
  { session }: Work,
  plan: Plan,
  wanted: readonly Address[],
  events: readonly LabEvent[],
): Promise<BuiltLine[]> {
  const { rows } = await readWhole(session.store);
  const store = await context.services.openArtifacts(selectionOf(context), session.lab.state, { forRemoval: false });
  const { resources } = outcomeOf(events);
  return Promise.all(
    wanted.map(async (address): Promise<BuiltLine> => {
      const planned = plan.actions.find((one) => one.address === address)?.action;
      const result = resultOf(planned, resources.get(address)?.result);
      const row = rows.get(address);
      const record = result === "built" || result === "there" ? await recordOf(store, row) : undefined;
      return {
        address,
        result,
        ...(record !== undefined && { digest: record.id }),
        ...(record?.commit !== undefined && { commit: record.commit }),
        ...(record?.server !== undefined && { server: record.server }),
        ...(record?.duration_ms !== undefined && { duration_ms: record.duration_ms }),
        artifacts: Object.entries(record?.artifacts ?? {}).map(([name, { type, sha256, size }]) => ({
          name,
          type,
          sha256,
          size,
        })),
      };
    }),
  );
}

function resultOf(planned: string | undefined, result: string | undefined): BuiltLine["result"] {
  if (planned === "noop") return "there";
  if (planned === "blocked") return "blocked";
  switch (result) {
    case "ok":
      return "built";
    case "failed":
    case "skipped":
    case "blocked":
    case "cancelled":
    case "unfinished":
      return result;
    default:
      return "unstarted";
  }
}

async function recordOf(store: ArtifactStore, row: Row | undefined): Promise<BuildRecord | undefined> {
  const seen = row?.observed ?? null;
  const digest = isMap(seen) ? seen["digest"] : undefined;
  return typeof digest === "string" ? store.build(digest) : undefined;
}
