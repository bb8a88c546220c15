import { chmodSync, existsSync, mkdirSync, readFileSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { Artifact, ArtifactStore, BuildRecord } from "../../src/artifacts/index.ts";
import { createArtifactStore, withAliases } from "../../src/artifacts/index.ts";
import { loadLab, locateArtifacts } from "../../src/config/index.ts";
import { build, digest } from "./artifact-helpers.ts";
import { cli, ScriptedLab } from "./cli-harness.ts";
import { kinds } from "./config/kinds.ts";
import { codes, inFolder, selection, spec } from "./config/load.ts";

let lab: ScriptedLab;
let store: ArtifactStore;
let kasan: BuildRecord;
let plain: BuildRecord;
let failed: BuildRecord;

const put = async (content: string, more: Partial<Artifact> = {}): Promise<Artifact> => {
  const { sha256, size } = await store.put({ content });
  return { type: "kernel_image", sha256, size, mode: "0644", file: "bzImage", ...more };
};

beforeEach(async () => {
  lab = new ScriptedLab();
  mkdirSync(lab.root, { recursive: true });
  store = createArtifactStore({ root: join(lab.statePath, "artifacts") });
  const common = { commit: "abcdef0123456789abcdef0123456789abcdef01", branch: "main" };
  kasan = build({
    ...common,
    name: "kasan",
    finished_at: "2026-01-02T00:00:00.000Z",
    artifacts: {
      kernel: await put("the kernel"),
      tool: await put("#!/bin/sh\n", { type: "binary", file: "tool", mode: "0755" }),
    },
    log: (await store.put({ content: "make: all is well\n" })).sha256,
  });
  plain = build({
    ...common,
    name: "plain",
    arch: "arm64",
    finished_at: "2026-01-03T00:00:00.000Z",
    artifacts: { image: await put("arm kernel", { file: "Image" }) },
  });
  failed = build({
    name: "kasan",
    status: "failed",
    finished_at: "2026-01-04T00:00:00.000Z",
    artifacts: { kernel: await put("half a kernel", { partial: true }) },
  });
  for (const record of [kasan, plain, failed]) await store.saveBuild(record);
});
afterEach(async () => lab.remove());

describe("labctl artifact list", () => {
  test("shows each artifact with its build, newest first", async () => {
    const { code, out } = await cli(lab, ["artifact", "list"]);
    expect(code).toBe(0);
    const [head = "", first = "", second = "", third = ""] = out.split("\n");
    expect(head).toMatch(/^BUILD +NAME +ARCH +STATUS +COMMIT +BRANCH +FINISHED +ARTIFACT +TYPE +SIZE/);
    expect(first).toMatch(
      new RegExp(`^${failed.id.slice(0, 12)} +kasan +x86_64 +failed .*kernel +kernel_image +13 B +partial`),
    );
    expect(second).toMatch(/plain +arm64 +completed +abcdef012345 +main +2026-01-03 00:00 +image +kernel_image/);
    expect(third).toMatch(new RegExp(`^${kasan.id.slice(0, 12)} .*kernel`));
  });

  test.each([
    [["--arch", "arm64"], ["plain"]],
    [
      ["--commit", "abcdef"],
      ["plain", "kasan"],
    ],
    [["--branch", "refs/heads/main", "--name", "kasan"], ["kasan"]],
    [["--type", "binary"], ["kasan"]],
    [["--latest"], ["plain", "kasan"]],
    [["--latest", "--name", "kasan"], ["kasan"]],
    [["--arch", "riscv64"], []],
  ])("filters: %j", async (flags, names) => {
    const { out } = await cli(lab, ["artifact", "list", "--json", ...flags]);
    const { builds } = JSON.parse(out) as { builds: BuildRecord[] };
    expect(builds.map(({ name }) => name)).toEqual(names);
    if (flags.includes("--latest")) expect(builds.every(({ status }) => status === "completed")).toBe(true);
  });

  test("a build is listed by each name and branch that led to it; the latest of a branch is what it came to last", async () => {
    await store.updateBuild(kasan.id, (record) =>
      withAliases(record, [
        { name: "other", branch: "v1.0", at: "2026-01-09T00:00:00.000Z" },
        { name: "kasan", branch: "main", at: "2026-01-09T00:00:00.000Z" },
      ]),
    );
    const later = build({ name: "kasan", branch: "main", finished_at: "2026-01-05T00:00:00.000Z" });
    await store.saveBuild(later);
    const ids = async (...flags: string[]): Promise<string[]> =>
      (
        JSON.parse((await cli(lab, ["artifact", "list", "--json", ...flags])).out) as { builds: BuildRecord[] }
      ).builds.map(({ id }) => id);
    expect(await ids("--branch", "v1.0")).toEqual([kasan.id]);
    expect(await ids("--name", "other")).toEqual([kasan.id]);
    expect(await ids("--branch", "main", "--name", "kasan")).toEqual([later.id, kasan.id]);
    expect(await ids("--branch", "main", "--name", "kasan", "--latest")).toEqual([kasan.id]);
    expect((await cli(lab, ["artifact", "list", "--name", "other"])).out).toMatch(
      / kasan, other +x86_64 .* main, v1.0 /,
    );
    const got = await cli(lab, ["artifact", "get", "tool", "--branch", "v1.0"]);
    expect(got.code).toBe(0);
  });

  test("says so where there is nothing", async () => {
    expect((await cli(lab, ["artifact", "list", "--arch", "mips"])).out).toBe("No build fits.\n");
    const empty = new ScriptedLab();
    expect((await cli(empty, ["artifact", "list"])).out).toBe("The store is empty: nothing was built yet.\n");
    await empty.remove();
    expect((await cli(lab, ["artifact", "list", "--build", "xyz"])).code).toBe(3);
    expect((await cli(lab, ["artifact", "list", "--commit", "main"])).err).toContain("--branch");
  });
});

describe("labctl artifact get", () => {
  test("writes a file whole, with its mode, and replaces only what -o names", async () => {
    const { code, out } = await cli(lab, ["artifact", "get", "tool", "--latest", "--name", "kasan"]);
    expect([code, out]).toEqual([0, expect.stringContaining("tool  10 B  sha256 ")]);
    expect(statSync(join(lab.root, "tool")).mode & 0o777).toBe(0o755);
    const again = await cli(lab, ["artifact", "get", "tool", "--latest", "--name", "kasan"]);
    expect([again.code, again.err]).toEqual([3, expect.stringContaining("is there already")]);
    const named = await cli(lab, [
      "artifact",
      "get",
      "kernel_image",
      "--commit",
      "abcdef",
      "--arch",
      "arm64",
      "-o",
      "tool",
      "--json",
    ]);
    expect(named.code).toBe(0);
    expect(JSON.parse(named.out)).toMatchObject({ path: join(lab.root, "tool"), build: plain.id, name: "image" });
    expect(readFileSync(join(lab.root, "tool"), "utf8")).toBe("arm kernel");
  });

  test("writes to stdout exactly what it is; a log too; one artifact needs no name", async () => {
    const id = kasan.id.slice(0, 10);
    expect((await cli(lab, ["artifact", "get", "kernel", "--build", id, "-o", "-"])).out).toBe("the kernel");
    expect((await cli(lab, ["artifact", "get", "--type", "build_log", "--build", id, "-o", "-"])).out).toBe(
      "make: all is well\n",
    );
    expect((await cli(lab, ["artifact", "get", "--build", plain.id, "-o", "-"])).out).toBe("arm kernel");
    const which = await cli(lab, ["artifact", "get", "--build", id]);
    expect([which.code, which.err]).toEqual([3, expect.stringContaining("kernel, tool")]);
    const partial = await cli(lab, ["artifact", "get", "--build", failed.id, "-o", "-"]);
    expect([partial.out, partial.err]).toEqual(["half a kernel", expect.stringContaining("partial")]);
  });

  test("not found: exit 8, and what comes near; damaged: exit 6, and nothing is written", async () => {
    const none = await cli(lab, ["artifact", "get", "kernel", "--commit", "abcdef", "--arch", "riscv64"]);
    expect([none.code, none.err]).toEqual([
      8,
      expect.stringMatching(/E_ARTIFACT_NOT_FOUND[\s\S]*same commit, for arm64/),
    ]);
    const several = await cli(lab, ["artifact", "get", "kernel", "--commit", "abcdef"]);
    expect([several.code, several.err]).toEqual([3, expect.stringContaining("--latest")]);
    damage(kasan.artifacts["kernel"]?.sha256 ?? "");
    const bad = await cli(lab, ["artifact", "get", "kernel", "--build", kasan.id, "-o", "-"]);
    expect([bad.code, bad.out, bad.err]).toEqual([6, "", expect.stringContaining("E_ARTIFACT_CORRUPT")]);
    expect((await cli(lab, ["artifact", "get", "kernel", "--build", kasan.id])).code).toBe(6);
    expect(existsSync(join(lab.root, "bzImage"))).toBe(false);
  });

  test("gives the provenance of a build", async () => {
    const { out } = await cli(lab, ["artifact", "get", "--build", kasan.id, "--provenance"]);
    expect(JSON.parse(out)).toMatchObject({
      predicateType: "https://slsa.dev/provenance/v1",
      subject: [{ digest: { sha256: digest("the kernel") } }, { name: "tool" }],
    });
  });
});

function damage(sha256: string): void {
  const path = join(store.root, "blobs/sha256", sha256.slice(0, 2), sha256);
  chmodSync(path, 0o600);
  writeFileSync(path, "X");
}

describe("labctl artifact verify", () => {
  test("does not call whole what is not there", async () => {
    const name = await cli(lab, ["artifact", "verify", "--name", "kasam"]);
    expect(name.code).toBe(8);
    expect(name.err).toContain("no completed build fits name kasam");
    const type = await cli(lab, ["artifact", "verify", "--type", "device_tree"]);
    expect(type.code).toBe(8);
  });

  test("exit 0 where all is whole", async () => {
    const { code, out } = await cli(lab, ["artifact", "verify"]);
    expect([code, out]).toEqual([0, expect.stringMatching(/^5 blobs read, .*: all is whole\n$/)]);
  });

  test("exit 6 where something is not, with what to do; filters leave out the rest", async () => {
    damage(plain.artifacts["image"]?.sha256 ?? "");
    expect((await cli(lab, ["artifact", "verify", "--name", "kasan"])).code).toBe(0);
    const { code, out, err } = await cli(lab, ["artifact", "verify"]);
    expect([code, out]).toEqual([6, expect.stringMatching(/^damaged +[0-9a-f]{64} +image of plain/)]);
    expect(err).toContain("Build these again");
    const json = await cli(lab, ["artifact", "verify", "--json"]);
    expect(json.code).toBe(6);
    expect(JSON.parse(json.out)).toMatchObject({ ok: false, findings: [{ is: "marked", builds: [{ id: plain.id }] }] });
  });
});

describe("labctl artifact gc", () => {
  beforeEach(() => {
    for (const record of [kasan, plain, failed]) {
      for (const { sha256 } of Object.values(record.artifacts)) {
        utimesSync(join(store.root, "blobs/sha256", sha256.slice(0, 2), sha256), 1, 1);
      }
    }
    lab.now = () => Date.parse("2027-01-01T00:00:00Z");
  });

  test("a dry run removes nothing; the real one what it said; what the state pins stays", async () => {
    const dry = await cli(lab, ["artifact", "gc", "--dry-run"]);
    // The completed ones are the latest of their names.
    expect(dry.out).toMatch(
      new RegExp(
        `${failed.id.slice(0, 12)} +kasan +x86_64 +failed 36\\d days ago[\\s\\S]*Would remove 1 build, 1 blob`,
      ),
    );
    expect(await store.builds()).toHaveLength(3);
    lab.pins = new Set([failed.artifacts["kernel"]?.sha256 ?? ""]);
    expect((await cli(lab, ["artifact", "gc"])).out).toMatch(
      /^Removed 0 builds, 0 blobs .*; 3 builds and 5 blobs stay\.\n$/,
    );
    lab.pins = new Set();
    const done = await cli(lab, ["artifact", "gc", "--json"]);
    expect(JSON.parse(done.out)).toMatchObject({ dry_run: false, records: [{ id: failed.id }], blobs: [{ size: 13 }] });
    expect(await store.builds()).toHaveLength(2);
  });
});

describe("artifacts: of a spec", () => {
  const settings = (body: string): Promise<object> =>
    inFolder(spec(body), async (folder) => {
      const loaded = await loadLab(selection(folder), kinds);
      const found = await locateArtifacts(selection(folder), loaded.lab.state.path);
      expect(found).toEqual(loaded.lab.artifacts);
      return { ...found, store: found.store.replace(folder, "") };
    });

  test("stands beside the state by default, and says what is kept", async () => {
    expect(await settings("")).toEqual({ store: "/.labctl/artifacts", retention: { days: 30, keep_latest: 5 } });
    expect(await settings("state: { path: ./elsewhere }\n")).toMatchObject({ store: "/elsewhere/artifacts" });
    expect(await settings("artifacts: { store: ./big, retention: { days: 7, keep_latest: 0 } }\n")).toEqual({
      store: "/big",
      retention: { days: 7, keep_latest: 0 },
    });
    expect(await settings("artifacts: { retention: { days: 7 } }\n")).toMatchObject({
      retention: { days: 7, keep_latest: 5 },
    });
  });

  test("what is wrong is said with its place", async () => {
    expect(await codes(spec("artifacts: { retention: { days: -1 } }\n"))).toEqual([
      expect.stringMatching(/^E_SPEC_VALUE 3:/),
    ]);
    expect(await codes(spec("artifacts: { stor: x }\n"))).toEqual([expect.stringMatching(/^E_SPEC_UNKNOWN_KEY 3:/)]);
    await inFolder(spec("artifacts: { retention: { days: many } }\n"), async (folder) => {
      const { problem } = await locateArtifacts(selection(folder), join(folder, ".labctl"));
      expect(problem).toMatchObject({ code: "E_SPEC_TYPE" });
    });
  });
});
