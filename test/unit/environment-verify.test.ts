import { describe, expect, it } from "vitest";
import { buildIdOf } from "../../providers/libvirt/environment-images.ts";
import {
  buildIdIn,
  consoleReader,
  type ConsoleReading,
  type Ready,
  requireKernelPlaced,
} from "../../providers/libvirt/environment-verify.ts";
import type { BuildRecord } from "../../src/index.ts";

const DIGEST = "0123456789abcdef".repeat(4);
const LINE = (builder: string): Buffer =>
  Buffer.from(`[    0.000000] Linux version 6.1.0-lab (${builder}) (gcc (Debian 12.2.0) 12.2.0) #1 Thu Jan 1\r\n`);

const record = (inputs: BuildRecord["inputs"]): BuildRecord => ({
  id: DIGEST,
  name: "kasan",
  status: "completed",
  arch: "x86_64",
  created_at: "2026-01-01T00:00:00Z",
  artifacts: {},
  inputs,
});

function read(recorded: Buffer, ready: Ready): ConsoleReading {
  const reader = consoleReader(ready);
  reader.write(recorded);
  return reader.end();
}

describe("the kernel that came up", () => {
  const found = { release: "6.1.0-lab", builder: "labctl@0123456789abcdef" };

  it("is the one placed: release and build id", () => {
    expect(() => requireKernelPlaced("environment.a", {}, found)).not.toThrow();
    expect(() =>
      requireKernelPlaced("environment.a", { release: "6.1.0-lab", buildId: "0123456789abcdef" }, found),
    ).not.toThrow();
  });

  it("is refused by name where its release or its build is another one", () => {
    const refused = (placed: { release?: string; buildId?: string }, is = found): unknown => {
      try {
        return requireKernelPlaced("environment.a", placed, is);
      } catch (error) {
        return error;
      }
    };
    expect(refused({ release: "6.1.1" })).toMatchObject({ code: "E_BOOT_STALE" });
    // A stale kernel of the same release.
    expect(refused({ release: "6.1.0-lab", buildId: "fedcba9876543210" })).toMatchObject({
      code: "E_BOOT_STALE",
      message: expect.stringContaining("the build fedcba9876543210"),
    });
    // Somebody else's.
    expect(refused({ buildId: "0123456789abcdef" }, { ...found, builder: "root@0123456789abcdef" })).toMatchObject({
      code: "E_BOOT_STALE",
    });
  });

  it("proves nothing where the console does not tell", () => {
    const silent = { release: undefined, builder: undefined };
    expect(() => requireKernelPlaced("environment.a", { release: "6", buildId: "0" }, silent)).not.toThrow();
  });

  it("carries its build's id in the line that a kernel prints first", () => {
    expect(read(LINE("labctl@0123456789abcdef"), "init")).toMatchObject({
      release: "6.1.0-lab",
      buildId: "0123456789abcdef",
    });
    expect(read(LINE("debian-kernel@lists.debian.org"), "init").buildId).toBeUndefined();
    expect(buildIdIn("labctl@0123")).toBeUndefined();
  });

  it("has a build id only where labctl's kernel build made it", () => {
    expect(buildIdOf(record({ release: "6.1.0-lab" }))).toEqual({ buildId: "0123456789abcdef" });
    expect(buildIdOf(record({}))).toEqual({});
    expect(buildIdOf(undefined)).toEqual({});
  });
});
