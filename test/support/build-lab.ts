/** A build server for tests: a real sshd machine, and builds on it with what most of them have in common. */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import type { Compiler, RunBuild } from "../../providers/build/build-script.ts";
import { type BuildPaths, buildPaths } from "../../providers/build/layout.ts";
import type { BuildObserver, BuildOutcome, BuildRequest } from "../../providers/build/build-types.ts";
import { runBuild } from "../../providers/build/runner.ts";
import { type Machine, userScript } from "../../src/index.ts";

export const WORKDIR = "/srv/build";

export const GCC: Compiler = {
  name: "gcc",
  family: "gcc",
  path: "/usr/bin/gcc",
  cross_compile: "",
  suffix: "",
  llvm_tools: false,
};

export const digestOf = (text: string): string => createHash("sha256").update(text).digest("hex");

export function runWork(run: string, outputs: Readonly<Record<string, string>> = {}): RunBuild {
  return {
    type: "run",
    arch: "x86_64",
    run: userScript(run),
    outputs: Object.fromEntries(Object.entries(outputs).map(([name, path]) => [name, { path }])),
  };
}

export function pathsOf(build: string, digest: string, workdir = WORKDIR): BuildPaths {
  return buildPaths({
    workdir,
    digest,
    scope: "test",
    build: `build.${build}`,
    source: build,
    configuration: "one",
    outOfTree: false,
  });
}

/** A request with a digest of its own; whatever matters to a test is given. */
export function requestOf(
  build: string,
  version: string,
  more: Pick<BuildRequest, "source" | "work"> & Partial<BuildRequest> & { readonly workdir?: string },
): BuildRequest {
  const digest = digestOf(`${build} ${version}`);
  const { workdir, ...rest } = more;
  return {
    paths: pathsOf(build, digest, workdir),
    digest,
    compiler: GCC,
    holder: "a test",
    lease: 20_000,
    ccache: false,
    ...rest,
  };
}

export interface Watched {
  readonly outcome: BuildOutcome;
  readonly log: string;
  readonly notes: readonly string[];
  readonly phases: readonly string[];
}

export async function watch(machine: Machine, request: BuildRequest, observer: BuildObserver = {}): Promise<Watched> {
  let log = "";
  const notes: string[] = [];
  const phases: string[] = [];
  const outcome = await runBuild(machine, request, {
    ...observer,
    onLog: (chunk) => {
      log += chunk.toString("utf8");
      observer.onLog?.(chunk);
    },
    onNote: (text) => notes.push(text),
    onProgress: ({ phase }) => {
      if (phases.at(-1) !== phase) phases.push(phase);
    },
  });
  return { outcome, log, notes, phases };
}

/** A project of two files and a header, with a Makefile that says what it compiles. */
export const PROJECT: Readonly<Record<string, string>> = {
  Makefile: `hello: main.o part.o
	$(CC) -o $@ main.o part.o
%.o: %.c part.h
	@echo "compiling $<"
	$(CC) -c -o $@ $<
`,
  "main.c": `#include <stdio.h>
#include "part.h"
int main(void) { printf("%s\\n", part()); return 0; }
`,
  "part.c": `#include "part.h"
const char *part(void) { return "one"; }
`,
  "part.h": "const char *part(void);\n",
};

export function writeTree(root: string, files: Readonly<Record<string, string>>): void {
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(dirname(join(root, name)), { recursive: true });
    writeFileSync(join(root, name), content);
  }
}

/** git with an identity of its own, whatever this machine's user has configured. */
export function git(cwd: string, ...args: readonly string[]): string {
  return execFileSync(
    "git",
    ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main", ...args],
    {
      cwd,
      encoding: "utf8",
      env: { PATH: process.env["PATH"], HOME: cwd, GIT_CONFIG_NOSYSTEM: "1" },
      stdio: ["ignore", "pipe", "pipe"],
    },
  ).trim();
}
