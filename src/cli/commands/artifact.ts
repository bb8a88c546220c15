import { access } from "node:fs/promises";
import { basename, resolve } from "node:path";
import type { Command } from "commander";
import type { Artifact, ArtifactStore, BuildQuery, BuildRecord, StoreNotice } from "../../artifacts/index.ts";
import { LabError } from "../../diagnostics/index.ts";
import { formatSize } from "../../model/index.ts";
import { type Context, selectionOf } from "../context.ts";
import type { Host } from "../program.ts";
import { paintFor } from "../renderers/paint.ts";
import { renderTable } from "../renderers/table.ts";
import { plural, visible } from "../renderers/text.ts";
import { version } from "../version.ts";
import { styleOf } from "./plan.ts";

interface Filters {
  readonly build?: string;
  readonly commit?: string;
  readonly branch?: string;
  readonly name?: string;
  readonly arch?: string;
  readonly type?: string;
  readonly latest?: boolean;
}

/** Exit code where something in the store is damaged or missing. */
const DAMAGED = 6;

export function registerArtifact(program: Command, host: Host): void {
  const artifact = program
    .command("artifact")
    .summary("what builds made: list, get, verify, clean up")
    .description("Works with the store of artifacts: what builds made, by the digest of its content.")
    .addHelpText(
      "after",
      "\nExamples:\n  labctl artifact list\n  labctl artifact get kernel_image --latest -o bzImage",
    );

  const list = artifact.command("list").summary("list builds and what they made");
  filters(list).addHelpText(
    "after",
    "\nExamples:\n  labctl artifact list\n  labctl artifact list --branch linux-6.1.y --arch arm64 --latest\n  labctl artifact list --type kernel_image --json",
  );
  list.action(async (flags: Filters) => {
    await host.invoke((context) => listArtifacts(context, flags), list);
  });

  const get = artifact.command("get").argument("[artifact]", "its name in the build, or its type");
  get
    .summary("write an artifact to a file")
    .description("Writes one artifact to a file, verified: whole or not at all.");
  filters(get)
    .option("-o, --output <path>", "the file to write; - for stdout (default: its own name, here)")
    .option("--provenance", "the build's in-toto statement (SLSA provenance v1), in place of an artifact")
    .addHelpText(
      "after",
      "\nExamples:\n  labctl artifact get kernel_image --latest --name kasan-x86_64 -o bzImage\n  labctl artifact get initrd --build 3fa1 -o - | cpio -it\n  labctl artifact get --build 3fa1 --provenance",
    )
    .action(async (what: string | undefined, flags: Filters & { output?: string; provenance?: boolean }) => {
      await host.invoke((context) => getArtifact(context, what, flags), get);
    });

  const verify = artifact.command("verify").summary("read everything and compare it with its digest");
  filters(verify).addHelpText(
    "after",
    "\nExamples:\n  labctl artifact verify\n  labctl artifact verify --build 3fa1\n\nExit codes: 0 all is whole; 6 something is damaged or missing.",
  );
  verify.action(async (flags: Filters) => {
    await host.invoke((context) => verifyArtifacts(context, flags), verify);
  });

  const gc = artifact.command("gc").summary("remove what retention lets go");
  gc.description(
    "Removes builds that `artifacts: { retention }` lets go, and content that no build refers to. What a state or an unfinished build refers to always stays.",
  )
    .option("--dry-run", "say what would go, and remove nothing")
    .addHelpText("after", "\nExamples:\n  labctl artifact gc --dry-run\n  labctl artifact gc")
    .action(async (flags: { dryRun?: boolean }) => {
      await host.invoke((context) => collectArtifacts(context, flags.dryRun === true), gc);
    });
}

function filters(command: Command): Command {
  return command
    .option("--build <id>", "a build's id, or the beginning of one")
    .option("--commit <commit>", "of a commit, or the beginning of one")
    .option("--branch <ref>", "of a branch or tag")
    .option("--name <build>", "of builds of this name in the spec")
    .option("--arch <arch>", "for this architecture")
    .option("--type <type>", "of this type: kernel_image, initrd, rootfs, device_tree, kernel_modules, build_log, …")
    .option("--latest", "of the completed build that finished last");
}

async function open(context: Context, forRemoval = false): Promise<ArtifactStore> {
  const { services, term } = context;
  const selection = selectionOf(context);
  return services.openArtifacts(selection, await services.locateState(selection), {
    forRemoval,
    onNotice: (notice) => term.err(noticeText(notice)),
  });
}

function noticeText(notice: StoreNotice): string {
  return notice.is === "full"
    ? `The artifact store is full: making room for ${visible(notice.what)}`
    : `Removed ${plural(notice.builds, "build")} and ${plural(notice.blobs, "blob")}: ${formatSize(notice.frees)} freed`;
}

function queryOf({ build, commit, branch, name, arch, latest }: Filters): BuildQuery {
  if (build !== undefined && !/^[0-9a-f]{1,64}$/i.test(build)) throw notHex("--build", build);
  if (commit !== undefined && !/^[0-9a-f]{4,64}$/i.test(commit)) throw notHex("--commit", commit);
  return {
    ...(build !== undefined && { build }),
    ...(commit !== undefined && { commit }),
    ...(branch !== undefined && { branch }),
    ...(name !== undefined && { name }),
    ...(arch !== undefined && { arch }),
    ...(latest === true && { latest }),
  };
}

function notHex(flag: string, text: string): LabError {
  return new LabError("E_USAGE", `${flag} takes hexadecimal digits, not ${JSON.stringify(text)}`, {
    hint:
      flag === "--build" ? "`labctl artifact list` shows the ids" : "at least four; for a branch or tag use --branch",
  });
}

/** All builds that the filters let through, newest first; with `latest` one for each name and architecture. */
async function select(store: ArtifactStore, flags: Filters): Promise<BuildRecord[]> {
  const { findBuild, latestOfEach } = await import("../../artifacts/index.ts");
  const query = queryOf({ ...flags, latest: false });
  const fitting = (await store.builds()).filter((record) => {
    const found = findBuild([{ ...record, status: "completed" }], query);
    return found.is === "found" && (flags.type === undefined || typesOf(record).includes(flags.type));
  });
  return flags.latest === true ? [...latestOfEach(fitting, query)] : fitting;
}

function typesOf(record: BuildRecord): string[] {
  return [
    ...Object.values(record.artifacts).map(({ type }) => type),
    ...(record.log === undefined ? [] : ["build_log"]),
  ];
}

interface Line {
  readonly record: BuildRecord;
  readonly name?: string;
  readonly artifact?: Artifact;
}

async function listArtifacts(context: Context, flags: Filters): Promise<number> {
  const { term } = context;
  const { branchesOf, namesOf } = await import("../../artifacts/index.ts");
  const store = await open(context);
  const records = await select(store, flags);
  if (term.options.json) {
    term.json({ store: store.root, builds: records });
    return 0;
  }
  const lines: Line[] = records.flatMap((record): Line[] => {
    const found = Object.entries(record.artifacts)
      .filter(([, { type }]) => flags.type === undefined || type === flags.type)
      .map(([name, artifact]) => ({ record, name, artifact }));
    return found.length > 0 ? found : [{ record }];
  });
  if (lines.length === 0) {
    const any = Object.keys(flags).length > 0 && (await store.builds()).length > 0;
    term.out(any ? "No build fits." : "The store is empty: nothing was built yet.");
    return 0;
  }
  const paint = paintFor(styleOf(term));
  const status = ({ record }: Line): string =>
    record.status === "completed"
      ? paint.green(record.status)
      : record.status === "failed"
        ? paint.red(record.status)
        : paint.yellow(record.status);
  const note = ({ artifact }: Line): string =>
    artifact?.corrupted ? paint.red("damaged") : artifact?.partial ? paint.yellow("partial") : "";
  const columns = [
    { title: "build", cell: ({ record }: Line) => record.id.slice(0, 12) },
    { title: "name", cell: ({ record }: Line) => visible(namesOf(record).join(", ")) },
    { title: "arch", cell: ({ record }: Line) => visible(record.arch) },
    { title: "status", cell: status },
    { title: "commit", cell: ({ record }: Line) => visible(record.commit?.slice(0, 12) ?? "") },
    { title: "branch", cell: ({ record }: Line) => visible(branchesOf(record).join(", ")), flexible: true },
    { title: "finished", cell: ({ record }: Line) => (record.finished_at ?? "").replace("T", " ").slice(0, 16) },
    { title: "artifact", cell: ({ name }: Line) => visible(name ?? ""), flexible: true },
    {
      title: "type",
      cell: ({ name, artifact }: Line) => (artifact?.type === name ? "" : visible(artifact?.type ?? "")),
      flexible: true,
    },
    {
      title: "size",
      cell: ({ artifact }: Line) => (artifact === undefined ? "" : formatSize(artifact.size)),
      align: "right" as const,
    },
    { title: "", cell: note },
  ];
  term.out(renderTable(lines, columns, styleOf(term)));
  return 0;
}

async function getArtifact(
  context: Context,
  what: string | undefined,
  flags: Filters & { readonly output?: string; readonly provenance?: boolean },
): Promise<number> {
  const { term } = context;
  const store = await open(context);
  if (flags.provenance === true) {
    const { provenanceOf } = await import("../../artifacts/index.ts");
    term.json(provenanceOf(await store.findBuild(queryOf(flags)), version()));
    return 0;
  }
  const { build, name, artifact } = await wanted(store, what ?? flags.type, flags);
  if (artifact.partial) {
    term.err(`${visible(name)} is partial: its build ${build.status === "failed" ? "failed" : `is ${build.status}`}`);
  }
  if (flags.output === "-") {
    if (term.options.json)
      throw new LabError("E_USAGE", "--json and -o - would both go to stdout", { hint: "use one" });
    // What was given cannot be taken back: all of it is verified before the first byte.
    for await (const _chunk of store.read(artifact.sha256, context.signals.cancellation.soft)) continue;
    for await (const chunk of store.read(artifact.sha256, context.signals.cancellation.soft)) {
      if (term.closed.aborted) return 0;
      if (!term.io.stdout.write(chunk)) await drained(context);
    }
    return 0;
  }
  const path = resolve(term.io.cwd, flags.output ?? basename(artifact.file));
  if (flags.output === undefined && (await exists(path))) {
    throw new LabError("E_USAGE", `${visible(path)} is there already`, { hint: "say where to with -o; that replaces" });
  }
  await store.copyTo(artifact.sha256, path, { mode: artifact.mode, signal: context.signals.cancellation.soft });
  if (term.options.json) term.json({ path, build: build.id, name, ...artifact });
  else term.out(`${visible(path)}  ${formatSize(artifact.size)}  sha256 ${artifact.sha256}`);
  return 0;
}

async function wanted(
  store: ArtifactStore,
  what: string | undefined,
  flags: Filters,
): Promise<{ build: BuildRecord; name: string; artifact: Artifact }> {
  const query = queryOf(flags);
  if (what !== undefined) {
    const build = await store.findBuild(query);
    // The log is kept with every build, and is no artifact of its own.
    if (what === "build_log" && build.log !== undefined && !Object.hasOwn(build.artifacts, what)) {
      const size = (await store.info(build.log))?.size ?? 0;
      const log: Artifact = { type: "build_log", sha256: build.log, size, mode: "0644", file: `${build.name}.log` };
      return { build, name: what, artifact: log };
    }
    return store.findArtifact({ build: build.id }, what);
  }
  const build = await store.findBuild(query);
  const names = Object.keys(build.artifacts);
  const [only] = names;
  if (names.length === 1 && only !== undefined) return store.findArtifact({ build: build.id }, only);
  throw new LabError("E_USAGE", `the build has ${plural(names.length, "artifact")}: which one?`, {
    hint: names.length > 0 ? `name one of: ${names.join(", ")}` : "see `labctl artifact list`",
  });
}

async function drained({ term }: Context): Promise<void> {
  await new Promise<void>((done) => {
    term.io.stdout.once("drain", done);
    term.closed.addEventListener("abort", () => done(), { once: true });
  });
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}

async function verifyArtifacts(context: Context, flags: Filters): Promise<number> {
  const { term, signals } = context;
  const store = await open(context);
  const { blobsOf, demandBuild } = await import("../../artifacts/index.ts");
  const chosen = Object.keys(flags).length > 0 ? await select(store, flags) : undefined;
  if (chosen?.length === 0) {
    // Nothing that is whole says nothing of what was meant.
    if (flags.type === undefined) demandBuild(await store.builds(), queryOf(flags));
    throw new LabError("E_ARTIFACT_NOT_FOUND", `no such build has an artifact of type ${flags.type ?? "any"}`, {
      hint: "`labctl artifact list` shows the types there are",
    });
  }
  const only = chosen && new Set(chosen.flatMap(blobsOf));
  const report = await store.check({ signal: signals.cancellation.soft, ...(only && { only }) });
  const bad = report.findings.length + report.records.length > 0;
  if (term.options.json) {
    term.json({ store: store.root, ok: !bad, ...report });
    return bad ? DAMAGED : 0;
  }
  const paint = paintFor(styleOf(term));
  for (const { sha256, is, builds } of report.findings) {
    const word = is === "missing" ? "missing" : is === "damaged" ? "damaged" : "damaged (found earlier)";
    const uses = builds.map((use) => `${visible(use.artifact)} of ${visible(use.name)} ${use.id.slice(0, 12)}`);
    term.out(`${paint.red(word)}  ${sha256}  ${uses.length > 0 ? uses.join(", ") : "no build refers to it"}`);
  }
  for (const path of report.records) term.out(`${paint.red("damaged")}  ${visible(path)}  (a build record)`);
  term.out(
    `${plural(report.checked, "blob")} read, ${formatSize(report.bytes)}: ${bad ? "not all is whole" : "all is whole"}`,
  );
  if (report.findings.length > 0) {
    term.err(
      "Build these again (the next apply does so for what an environment needs), or fetch them from another store. Damaged content was moved aside and is never used; if this goes on, check the disk and the memory of this machine.",
    );
  }
  if (report.records.length > 0) term.err("Move damaged records out of the store; until then gc removes nothing.");
  return bad ? DAMAGED : 0;
}

async function collectArtifacts(context: Context, dryRun: boolean): Promise<number> {
  const { term } = context;
  const store = await open(context, true);
  const result = await store.gc({ dryRun });
  if (term.options.json) {
    term.json({ store: store.root, dry_run: dryRun, ...result });
    return 0;
  }
  if (result.records.length > 0) {
    type Gone = (typeof result.records)[number];
    const columns = [
      { title: "build", cell: ({ id }: Gone) => id.slice(0, 12) },
      { title: "name", cell: ({ name }: Gone) => visible(name) },
      { title: "arch", cell: ({ arch }: Gone) => visible(arch) },
      { title: "why", cell: ({ why }: Gone) => why },
    ];
    term.out(renderTable(result.records, columns, styleOf(term)));
  }
  const words = [
    plural(result.records.length, "build"),
    `${plural(result.blobs.length, "blob")} (${formatSize(result.frees)})`,
    ...(result.temporary > 0 ? [plural(result.temporary, "abandoned temporary file")] : []),
    ...(result.corrupted > 0 ? [plural(result.corrupted, "damaged file")] : []),
  ];
  const kept = `${plural(result.kept.records, "build")} and ${plural(result.kept.blobs, "blob")} ${dryRun ? "would stay" : "stay"}`;
  term.out(`${dryRun ? "Would remove" : "Removed"} ${words.join(", ")}; ${kept}.`);
  return 0;
}
