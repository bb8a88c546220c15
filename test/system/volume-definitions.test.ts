import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { uuidOf } from "../../providers/libvirt/model/ids.ts";
import { formatSidecar, parseSidecar, sidecarName } from "../../providers/libvirt/model/volume.ts";
import { buildPool, buildVolume, observePool, observeVolume } from "../../providers/libvirt/xml/storage.ts";
import { startLibvirtd, type TestLibvirtd } from "../support/libvirtd.ts";

const MIB = 1024 ** 2;
let folder: string;
let virt: TestLibvirtd;
let files = 0;
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "labctl-volume-"));
  virt = await startLibvirtd({ name: "voldefs" });
});
afterAll(async () => {
  rmSync(folder, { recursive: true, force: true });
  await virt.stop();
});

function fileOf(text: string): string {
  const path = join(folder, `${files++}`);
  writeFileSync(path, text);
  return path;
}
const virsh = (...args: readonly string[]): string =>
  execFileSync("virsh", ["-q", "-c", virt.uri, ...args], { encoding: "utf8", timeout: 60_000 });
const valid = (schema: string, xml: string): void => {
  execFileSync("xmllint", ["--noout", "--relaxng", `/usr/share/libvirt/schemas/${schema}.rng`, fileOf(xml)], {
    stdio: "pipe",
  });
};

describe("pools and volumes on a real libvirtd", () => {
  const pool = { name: "lab & <pool>", uuid: uuidOf("pool"), path: "/srv/a & <b> 'c'" };

  test("a pool is made, and says what it has", async () => {
    const xml = buildPool(pool);
    valid("storagepool", xml);
    virsh("pool-define", fileOf(xml));
    virsh("pool-build", pool.uuid);
    virsh("pool-start", pool.uuid);
    const seen = observePool(virsh("pool-dumpxml", pool.uuid));
    expect(seen).toMatchObject({ ...pool, type: "dir" });
    const free = await virt.run("df", "-B1", "--output=size", pool.path);
    expect(seen.capacity).toBe(Number(free.split("\n")[1]));
    expect(seen.available).toBeGreaterThan(0);
    expect(seen.available + seen.allocation).toBe(seen.capacity);
  });

  test("volumes are what was asked for, also by qemu-img", async () => {
    const base = { name: "ba<s>&e.qcow2", format: "qcow2", size: 64 * MIB };
    const raw = { name: "plain.img", format: "raw", size: 3 * MIB };
    for (const volume of [base, raw]) {
      const xml = buildVolume(volume);
      valid("storagevol", xml);
      virsh("vol-create", pool.uuid, fileOf(xml));
    }
    const below = observeVolume(virsh("vol-dumpxml", "--pool", pool.uuid, base.name));
    expect(below).toMatchObject({ ...base, path: `${pool.path}/${base.name}` });
    expect(below.backing).toBeUndefined();
    expect(observeVolume(virsh("vol-dumpxml", "--pool", pool.uuid, raw.name))).toMatchObject(raw);

    const layer = {
      name: "layer.qcow2",
      format: "qcow2",
      size: 128 * MIB,
      backing: { path: below.path, format: "qcow2" },
    };
    valid("storagevol", buildVolume(layer));
    virsh("vol-create", pool.uuid, fileOf(buildVolume(layer)));
    const seen = observeVolume(virsh("vol-dumpxml", "--pool", pool.uuid, layer.name));
    expect(seen).toMatchObject(layer);
    const info = JSON.parse(await virt.run("qemu-img", "info", "--output=json", seen.path)) as Record<string, unknown>;
    expect(info).toMatchObject({
      format: "qcow2",
      "virtual-size": layer.size,
      "backing-filename": below.path,
      "backing-filename-format": "qcow2",
    });
    // Blocks are taken when they are written.
    expect(Number(info["actual-size"])).toBeLessThan(MIB);
  });

  test("a sidecar keeps its owner through libvirt", () => {
    const owner = { lab: 'l"<&', address: "volume.a", instance_id: "i", lineage: "l", digest: "d" };
    const text = formatSidecar(owner);
    const name = sidecarName("plain.img");
    virsh("vol-create", pool.uuid, fileOf(buildVolume({ name, format: "raw", size: Buffer.byteLength(text) })));
    virsh("vol-upload", "--pool", pool.uuid, name, fileOf(text));
    const back = fileOf("");
    virsh("vol-download", "--pool", pool.uuid, name, back);
    expect(parseSidecar(execFileSync("cat", [back], { encoding: "utf8" }))).toEqual(owner);
  });
});
