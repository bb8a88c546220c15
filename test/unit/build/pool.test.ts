import { expect, test } from "vitest";
import { buildServers, prefixed } from "../../../providers/build/pool.ts";
import { type InventoryEntry, type KindContext, LabError, select } from "../../../src/index.ts";

type Hold = NonNullable<InventoryEntry["hold"]>;

const hold: Hold = { who: "anna", why: "sold", since: "2026-01-01T00:00:00Z" };

/** A lab of one build server that does not answer, and what is held of it. */
function lab(held?: Hold): KindContext {
  const server = { address: "host.b/build_server", parent: "host.b", desired: {} };
  const host = { address: "host.b", desired: {}, ...(held && { hold: held }) };
  return {
    inventory: { all: () => [server], get: () => host },
    machine: () => {
      throw new LabError("E_CONNECT", "no answer");
    },
    signal: new AbortController().signal,
  } as unknown as KindContext;
}

test.each([
  ["that is away may come back: a build waits for it", undefined, "busy", "offline", "no answer"],
  ["in maintenance comes back: a build waits for it", hold, "busy", "maintenance", "sold (anna)"],
  [
    "that was decommissioned does not: nothing fits",
    { ...hold, kind: "decommissioned" } as const,
    "never",
    "maintenance",
    "decommissioned by anna on 2026-01-01: sold",
  ],
])("a build server %s", async (_title, held, verdict, status, why) => {
  const [server] = await buildServers(lab(held), { toolchain: "gcc", arch: "x86_64" });
  expect(server?.candidate).toMatchObject({ status, why });
  const request = { what: "build.x", requires: { arch: "x86_64" } };
  expect(select(request, server === undefined ? [] : [server.candidate], 0).verdict).toBe(verdict);
});

test("a server that was never seen is not ruled out for another architecture than its own", async () => {
  const [server] = await buildServers(lab(), { toolchain: "gcc", arch: "arm64" });
  const request = { what: "build.x", requires: { arch: "arm64", toolchain: "gcc" } };
  expect(select(request, server === undefined ? [] : [server.candidate], 0).verdict).toBe("busy");
});

test("CROSS_COMPILE is what stands before gcc, or what the spec says for that compiler", () => {
  const gcc = {
    name: "aarch64-none-linux-gnu-gcc",
    family: "gcc",
    version: "12.2",
    machine: "aarch64-none-linux-gnu",
    arch: "arm64",
    path: "/opt/arm/bin/aarch64-none-linux-gnu-gcc",
    cross_compile: "aarch64-none-linux-gnu-",
    suffix: "",
    available: true,
    hosted: true,
    llvm_tools: false,
  } as const;
  const said = { name: gcc.name, arch: "arm64", cross_compile: "aarch64-elf-" } as const;
  expect(prefixed(gcc).cross_compile).toBe("aarch64-none-linux-gnu-");
  expect(prefixed(gcc, [said]).cross_compile).toBe("aarch64-elf-");
  expect(prefixed(gcc, [{ ...said, arch: "armv7" }]).cross_compile).toBe("aarch64-none-linux-gnu-");
});
