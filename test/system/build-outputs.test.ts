/** What a build publishes is its own: made from this source, under its own name, with its own mode. On this machine, without SSH. */
import { statSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { LabEvent } from "../../src/model/index.ts";
import { createWorkspace, type Workspace } from "../support/workspace.ts";

let ws: Workspace;

function lab(builds: object): void {
  ws.write("lab.yaml", {
    labctl: 1,
    name: "lab",
    hosts: { here: { connection: "local", build_server: { workdir: ws.path("server"), min_free_disk: "1MB" } } },
  });
  ws.write("pipeline.yaml", { labctl: 1, name: "ci", builds });
}

const PLAIN = {
  source: { path: "./plain" },
  run: "sh build.sh",
  outputs: { gen: "gen.txt", prog: "bin/prog", notes: "./notes.txt" },
};

async function get(name: string, ...args: string[]): Promise<string> {
  const got = await ws.run(["artifact", "get", name, "--name", "plain", "--latest", "-o", "-", ...args]);
  expect(got.code, got.output).toBe(0);
  return got.stdout;
}

const codes = (events: readonly LabEvent[]): readonly string[] =>
  events.flatMap((event) => (event.type === "run.finished" ? event.summary.problems.map((one) => one.code) : []));

beforeAll(() => {
  ws = createWorkspace();
  ws.write("plain/notes.txt", "of the source\n");
});
afterAll(() => ws?.remove());

describe("what a build made", { timeout: 60_000 }, () => {
  test("keeps its name and its executable bit; a file of the source may be an output", async () => {
    ws.write("plain/build.sh", "mkdir -p bin; echo one >gen.txt; echo 1 >bin/prog; chmod 755 bin/prog\n");
    lab({ plain: PLAIN });
    await ws.apply(["-f", "pipeline.yaml"]);
    expect(await get("gen")).toBe("one\n");
    expect(await get("notes")).toBe("of the source\n");
    const got = await ws.run(["artifact", "get", "prog", "--name", "plain"]);
    expect(got.code, got.output).toBe(0);
    expect(statSync(ws.path("prog")).mode & 0o777).toBe(0o755);
    expect((await ws.run(["artifact", "get", "gen", "--name", "plain"])).code).toBe(0);
    expect(statSync(ws.path("gen.txt")).mode & 0o777).toBe(0o644);
  });

  test("is none of an earlier source", async () => {
    ws.write("plain/build.sh", "mkdir -p bin; echo 2 >bin/prog\n");
    const run = await ws.apply(["-f", "pipeline.yaml"], 6);
    expect(codes(run.events)).toContain("E_BUILD_OUTPUT");
    expect(run.output).toContain("gen.txt is not there after the build");
  });

  test("and not touched, since nothing of it changed, is made again where somebody knows how", async () => {
    ws.write("plain/build.sh", "mkdir -p bin; [ -e gen.txt ] || echo two >gen.txt; echo 3 >bin/prog\n");
    await ws.apply(["-f", "pipeline.yaml"]);
    ws.write("plain/build.sh", "mkdir -p bin; [ -e gen.txt ] || echo three >gen.txt; echo 4 >bin/prog\n");
    await ws.apply(["-f", "pipeline.yaml"]);
    expect(await get("gen")).toBe("three\n");
    expect(await get("notes")).toBe("of the source\n");
    expect(await ws.pending(["-f", "pipeline.yaml"])).toEqual({});
  });

  test("a build that takes too long is ended once; another try is the user's to ask for", async () => {
    lab({ slow: { source: { path: "./plain" }, timeout: "2s", run: "echo begun; sleep 60", outputs: { o: "o" } } });
    const run = await ws.apply(["-f", "pipeline.yaml"], 6);
    expect(codes(run.events)).toEqual(["E_BUILD_TIMEOUT"]);
    expect(run.events.filter((event) => event.type === "stage.started" && event.stage === "build")).toHaveLength(1);
  });
});
