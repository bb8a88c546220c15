import {
  type Address,
  aliasesOf,
  type Allocation,
  type Artifact,
  type BuildAlias,
  type BuildRecord,
  type Candidate,
  explainChoice,
  LabError,
  type OperationContext,
  passes,
  waitingText,
  withAliases,
} from "../../src/index.ts";
import type { BuildDesired } from "./build-model.ts";
import { aliasNow, collectLog, collectOutputs, newRecord, partialOf } from "./collect.ts";
import { objectsDigest } from "./digest.ts";
import type { PreparedBuild } from "./inputs.ts";
import { buildPaths } from "./layout.ts";
import { ableOf, type Offer, offersOf, requirementsOf, selectionOf, wantedOf } from "./offers.ts";
import { buildServers } from "./pool.ts";
import { runBuild } from "./runner.ts";

/** What there is to choose from. */
interface Servers {
  readonly offers: readonly Offer[];
  readonly running: Offer | undefined;
  /** Servers are there, and none of them has the compiler that was planned with. */
  readonly stale: boolean;
  readonly candidates: readonly Candidate[];
}

/** Where it is built; leased, but where it runs there already. */
interface Place {
  readonly offer: Offer;
  readonly allocation?: Allocation;
}

/** Failures of a machine, not of the build: another server may do. */
const OF_THE_SERVER = new Set([
  "E_DISCONNECTED",
  "E_CONNECT",
  "E_TIMEOUT",
  "E_BUILD_LOST",
  "E_BUILD_TOOL",
  "E_BUILD_DISK",
  "E_DISK_FULL",
  "E_SUDO",
  "E_AUTH",
  "E_HOST_KEY_UNKNOWN",
  "E_HOST_KEY_CHANGED",
]);

/** Builds on the best server that has room, and on the next where that one fails us. */
export class Construction {
  readonly #ctx: OperationContext;
  readonly #address: Address;
  readonly #name: string;
  readonly #desired: BuildDesired;
  readonly #prepared: PreparedBuild;
  /** From when its source was resolved: it may wait long for a place, and its branch go on meanwhile. */
  readonly #alias: BuildAlias;
  readonly #failed = new Set<string>();

  constructor(ctx: OperationContext, address: Address, desired: BuildDesired, prepared: PreparedBuild) {
    this.#ctx = ctx;
    this.#address = address;
    this.#name = desired.name;
    this.#desired = desired;
    this.#prepared = prepared;
    this.#alias = aliasNow(desired.name, prepared.branch);
  }

  async run(digest: string | undefined, sticky: string | undefined): Promise<BuildRecord> {
    let approved = digest;
    for (let last: LabError | undefined; ; ) {
      const place = await this.#take(approved, sticky, last);
      const { offer, allocation } = place;
      approved = offer.digest;
      try {
        return await this.#on(place);
      } catch (error) {
        if (!(error instanceof LabError) || !OF_THE_SERVER.has(error.code) || this.#ctx.signal.aborted) throw error;
        this.#failed.add(offer.server.address);
        last = error;
        this.#ctx.log("warn", `${offer.server.address} failed the build (${error.message}): trying another server`);
      } finally {
        await allocation?.release();
      }
    }
  }

  /** The servers as they are now: where this very build runs, where it may be built, and all that there is to say of them. */
  async #look(digest: string | undefined, sticky: string | undefined): Promise<Servers> {
    const servers = await buildServers(this.#ctx, wantedOf(this.#desired), { fresh: true });
    const { selection } = selectionOf(this.#address, this.#desired, servers, sticky);
    const offers = offersOf(this.#prepared, servers, selection).filter(
      (one) => digest === undefined || one.digest === digest,
    );
    const running = offers.find((one) => one.server.active.includes(one.digest) && !this.#failed.has(addressOf(one)));
    const able = new Set(ableOf(selection));
    const others = servers.filter(
      (one) => !able.has(one.address) || (one.candidate.status !== "online" && one.compiler === undefined),
    );
    const stale = offers.length === 0 && others.length < servers.length;
    return {
      offers,
      running,
      stale,
      candidates: [...offers.map((one) => one.server), ...others].map((one) => one.candidate),
    };
  }

  /** A place on a server that makes this very build; waits for one. Where it runs already, it needs none. */
  async #take(digest: string | undefined, sticky: string | undefined, last: LabError | undefined): Promise<Place> {
    const ctx = this.#ctx;
    let now = await this.#look(digest, sticky);
    if (now.running !== undefined) return { offer: now.running };
    const estimate = await this.#estimate();
    let first: Servers | undefined = now;
    try {
      const allocation = await ctx.scheduler.allocate(
        {
          what: this.#address,
          requires: requirementsOf(this.#desired),
          // Builds share the processors and the memory of a server: what is required of it is not taken from others.
          amounts: { builds: 1 },
          priority: this.#desired.priority ?? 0,
          ...(sticky !== undefined && { sticky }),
          ...(estimate !== undefined && { estimate }),
        },
        {
          candidates: async () => {
            now = first ?? (await this.#look(digest, sticky));
            first = undefined;
            if (now.stale && last === undefined) throw staleError(this.#address);
            return now.candidates;
          },
          failed: this.#failed,
          wait: ctx.noWait !== true,
          waitFor: passes,
          signal: ctx.signal,
          onWaiting: (waiting) => {
            const text = waitingText(waiting);
            ctx.progress(undefined, text);
            // Told at once, also where progress is only shown now and then: this may take an hour.
            ctx.log("warn", text);
          },
        },
      );
      const offer = now.offers.find((one) => addressOf(one) === allocation.address);
      if (offer === undefined) throw new LabError("E_INTERNAL", "a server was chosen that offers no build");
      ctx.log("info", `building on ${explainChoice(allocation.selection, allocation.address)}`);
      return { offer, allocation };
    } catch (error) {
      const refused = error instanceof LabError && (error.code === "E_NEVER_FITS" || error.code === "E_BUSY");
      throw refused && last !== undefined ? last : error;
    }
  }

  async #on({ offer, allocation }: Place): Promise<BuildRecord> {
    const { inputs, digest, server } = offer;
    const ctx = this.#ctx;
    const machine = ctx.machine(server.address);
    const { compiler } = server;
    if (compiler === undefined) throw new LabError("E_INTERNAL", "a server was chosen without a compiler");
    const signal = allocation === undefined ? ctx.signal : AbortSignal.any([ctx.signal, allocation.lost]);
    const started = Date.now();
    const fresh: BuildRecord = {
      ...newRecord(digest, this.#name, inputs, this.#prepared, ctx.lab.run),
      status: "building",
      server: server.address,
      started_at: new Date(started).toISOString(),
      known_as: [this.#alias],
    };
    // It may have been lost and be built again, or be built for another name at this moment.
    const named = async (one: BuildRecord): Promise<BuildRecord> => {
      const before = await ctx.artifacts.build(digest);
      return before === undefined ? one : withAliases(one, aliasesOf(before));
    };
    const record = await named(fresh);
    await ctx.artifacts.saveBuild(record);
    const paths = buildPaths({
      workdir: server.workdir,
      digest,
      scope: `${ctx.lab.name}/${ctx.lab.scope}`,
      build: this.#address,
      source: this.#prepared.sourceName,
      configuration: objectsDigest(inputs),
      outOfTree: this.#prepared.work.type === "kernel",
    });
    const finish = async (status: BuildRecord["status"], more: Partial<BuildRecord>): Promise<BuildRecord> => {
      const log = await collectLog(ctx, machine, server.workdir, digest);
      const now = Date.now();
      const done: BuildRecord = {
        ...record,
        status,
        finished_at: new Date(now).toISOString(),
        duration_ms: now - started,
        ...(log !== undefined && { log }),
        ...more,
      };
      await ctx.artifacts.saveBuild(await named(done));
      return done;
    };
    const expected = await this.#expectedSteps(objectsDigest(inputs));
    const artifacts: Record<string, Artifact> = {};
    try {
      const outcome = await ctx.stage("build", () =>
        runBuild(
          machine,
          {
            paths,
            digest,
            source: this.#prepared.source,
            work: this.#prepared.work,
            ...(this.#prepared.config && { config: this.#prepared.config }),
            compiler,
            env: this.#prepared.env,
            ccache: this.#desired.ccache ?? true,
            clean: this.#desired.clean ?? false,
            timeout: this.#prepared.timeout,
            holder: `${ctx.lab.name} ${this.#address} (run ${ctx.lab.run})`,
            ...(expected !== undefined && { expectedSteps: expected }),
          },
          {
            signal,
            onStarted: () =>
              void allocation
                ?.placed()
                .catch((error: unknown) =>
                  ctx.log("warn", `its place could not be marked as in use: ${String(error)}`),
                ),
            onLog: (chunk) => ctx.output("stdout", chunk),
            onProgress: ({ phase, percent }) => ctx.progress(percent === undefined ? undefined : percent / 100, phase),
            onNote: (text) => ctx.log("info", text),
          },
        ),
      );
      if (outcome.is === "completed") {
        await ctx.stage("collect", () => collectOutputs(ctx, machine, outcome, artifacts));
        return await finish("completed", {
          artifacts,
          inputs: {
            ...record.inputs,
            steps: outcome.steps,
            objects: objectsDigest(inputs),
            ...(outcome.release !== undefined && { release: outcome.release }),
          },
        });
      }
      await finish(outcome.is, { problem: { code: outcome.error.code, message: outcome.error.message } });
      if (allocation?.lost.aborted === true && !ctx.signal.aborted) throw allocation.lost.reason as LabError;
      throw outcome.error;
    } catch (error) {
      if (error instanceof LabError && (await ctx.artifacts.build(digest))?.status === "building") {
        const status = signal.aborted ? "cancelled" : "failed";
        await ctx.artifacts.updateBuild(digest, (now) => ({
          ...now,
          status,
          artifacts: partialOf(artifacts),
          finished_at: new Date().toISOString(),
          problem: { code: error.code, message: error.message },
        }));
      }
      throw error;
    }
  }

  /** How long the last build of this name took, in milliseconds. */
  async #estimate(): Promise<number | undefined> {
    const all = (await this.#ctx.artifacts.builds()).filter(
      (one) => one.status === "completed" && one.name === this.#name && one.duration_ms !== undefined,
    );
    return all.toSorted((a, b) => (b.started_at ?? "").localeCompare(a.started_at ?? ""))[0]?.duration_ms;
  }

  /** Steps of the last build with the same objects. */
  async #expectedSteps(objects: string): Promise<number | undefined> {
    const same = (await this.#ctx.artifacts.builds()).find(
      (one) => one.status === "completed" && one.name === this.#name && one.inputs["objects"] === objects,
    );
    const steps = same?.inputs["steps"];
    return typeof steps === "number" ? steps : undefined;
  }
}

function addressOf(offer: Offer): Address {
  return offer.server.address;
}

function staleError(address: Address): LabError {
  return new LabError("E_PLAN_STALE", `${address}: no server has the compiler any more that the plan was made for`, {
    address,
    hint: "plan again: the build would come out differently now",
  });
}
