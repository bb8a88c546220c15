import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { makeSeed } from "../../providers/libvirt/model/cloud-init.ts";

const GIVEN = {
  user_data: `#cloud-config\nhostname: scratch\n# ${"é".repeat(3000)}\n`,
  meta_data: "local-hostname: scratch\n",
  network_config: "version: 2\n",
};

describe("cloud-init seeds, as others see them", () => {
  let folder: string;
  let image: string;
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), "labctl-seed-"));
    image = join(folder, "seed.iso");
    writeFileSync(image, makeSeed(GIVEN, { address: "vm.a", instance_id: "i-1", hostname: "a" }).image);
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  test("blkid finds the label that NoCloud looks for, and the kind of file system", () => {
    // libblkid's low-level probe: what udev in the guest does too.
    const said = execFileSync("/sbin/blkid", ["-p", "-o", "export", image], { encoding: "utf8" });
    expect(said).toContain("LABEL=cidata\n");
    expect(said).toContain("TYPE=iso9660\n");
    expect(said).toContain("VERSION=Joliet");
  });

  test("isoinfo lists the names by Rock Ridge and by Joliet, and gives the contents back", () => {
    const isoinfo = (...args: readonly string[]): string =>
      execFileSync("isoinfo", ["-i", image, ...args], { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
    const files = ["/meta-data", "/network-config", "/user-data"];
    expect(isoinfo("-f", "-R").trim().split("\n").sort()).toEqual(files);
    expect(isoinfo("-f", "-J").trim().split("\n").sort()).toEqual(files);
    expect(isoinfo("-d")).toMatch(
      /Volume id: cidata[\s\S]*Joliet with UCS level 3[\s\S]*Rock Ridge signatures version 1 found/,
    );
    for (const way of ["-R", "-J"]) {
      expect(isoinfo(way, "-x", "/user-data")).toBe(GIVEN.user_data);
      expect(isoinfo(way, "-x", "/network-config")).toBe(GIVEN.network_config);
      expect(isoinfo(way, "-x", "/meta-data")).toMatch(/^instance-id: iid-[0-9a-f]{16}\nlocal-hostname: scratch\n$/);
    }
    // Passwords may stand in it.
    expect(isoinfo("-l", "-R")).toMatch(/-r--------\s.*user-data/);
  });
});
