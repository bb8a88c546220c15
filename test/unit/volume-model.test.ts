import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { diskFitErrors } from "../../providers/libvirt/model/disk-fit.ts";
import {
  diffVolume,
  diskVolumeName,
  formatSidecar,
  isSidecar,
  parseSidecar,
  resolveVolume,
  seedVolumeName,
  sidecarName,
  type VolumeContext,
  type VolumeModel,
} from "../../providers/libvirt/model/volume.ts";
import type { VolumeDesired } from "../../providers/libvirt/model/volume-schema.ts";
import { buildVolume, observeVolume } from "../../providers/libvirt/xml/storage.ts";

const GIB = 1024 ** 3;
const context: VolumeContext = {
  lab: "lab",
  address: "volume.a",
  instance_id: "i",
  lineage: "l",
  volume: (name) => (name === "base" ? { path: "/p/base.qcow2", format: "qcow2", size: 2 * GIB } : undefined),
};
const resolve = (desired: object, more: Partial<VolumeContext> = {}) =>
  resolveVolume({ name: "a", host: "h", ...desired } as VolumeDesired, { ...context, ...more });

describe("volumes from a spec", () => {
  test("empty, from an image, as a layer, as a seed", () => {
    expect(resolve({ size: "1GiB" })).toMatchObject({
      name: "lab-a.qcow2",
      pool: "default",
      format: "qcow2",
      size: GIB,
    });
    expect(resolve({ size: "1000B", format: "raw" })).toMatchObject({ name: "lab-a.img", size: 1024 });
    const image = resolve({ source: "./a", digest: "d" }, { content_size: GIB });
    expect(image).toMatchObject({ size: GIB, digest: "d", owner: { digest: "d", instance_id: "i" } });
    expect(resolve({ source: "./a", size: "2GiB" }, { content_size: GIB }).size).toBe(2 * GIB);
    expect(resolve({ backing: "base" })).toMatchObject({
      size: 2 * GIB,
      backing: { path: "/p/base.qcow2", format: "qcow2" },
    });
    expect(resolve({ seed: { user_data: "#!" } }, { content_size: 4096 })).toMatchObject({
      name: "lab-a.iso",
      format: "raw",
      size: 4096,
    });
    expect(diskVolumeName("lab", "vm", "vda")).toBe("lab-vm-vda.qcow2");
    expect(seedVolumeName("lab", "vm", "0123456789abcdef0123")).toBe("lab-vm-seed-0123456789abcdef.iso");
  });

  test.each([
    [{}, "E_SPEC_VALUE", /needs a `size`/],
    [{ source: "./a", backing: "base" }, "E_SPEC_VALUE", /different things/],
    [{ backing: "other" }, "E_SPEC_VALUE", /no volume other/],
    [{ backing: "base", format: "raw" }, "E_SPEC_VALUE", /only qcow2/],
    [{ seed: { user_data: "" }, size: "1GiB" }, "E_SPEC_VALUE", /as large as it is/],
    [{ backing: "base", size: "1GiB" }, "E_DISK_FIT", /needs 2147483648/],
  ])("%j is %s", (desired, code, message) => {
    expect(() => resolve(desired)).toThrow(message);
    expect(() => resolve(desired)).toThrow(expect.objectContaining({ code, address: "volume.a" }));
  });

  test("an image larger than the disk that is asked for: E_DISK_FIT, with the size that would do", () => {
    expect(() => resolve({ source: "./a", size: "1GiB" }, { content_size: GIB + 1 })).toThrow(
      expect.objectContaining({ code: "E_DISK_FIT", hint: "`size` of at least 1025MiB, or none" }),
    );
  });

  test("each change is named, with what it takes", () => {
    const base: VolumeModel = { name: "n", pool: "p", format: "qcow2", size: GIB, digest: "d" };
    const changes = (more: Partial<VolumeModel>) =>
      diffVolume({ ...base, ...more }, base).map((one) => [one.path, one.effect]);
    expect(changes({})).toEqual([]);
    expect(changes({ size: 2 * GIB })).toEqual([["size", "live"]]);
    expect(changes({ size: GIB - 1 })).toEqual([["size", "replace"]]);
    expect(changes({ format: "raw" })).toEqual([["format", "replace"]]);
    expect(changes({ digest: "e" })).toEqual([["digest", "replace"]]);
    expect(changes({ pool: "q" })).toEqual([["pool", "replace"]]);
    expect(changes({ backing: { path: "/b", format: "raw" } })).toEqual([["backing", "replace"]]);
    const { size: _open, ...open } = base;
    expect(diffVolume(open, base)).toEqual([]);
  });
});

describe("volumes as XML and beside it", () => {
  const text = fc
    .string({ unit: "grapheme", minLength: 1, maxLength: 20 })
    .filter((one) => /^[^\p{Cc}\p{Cs}\u{fffe}\u{ffff}]+$/u.test(one));

  test("property: Volume Round Trip: what is read back of a definition is what was asked for", () => {
    fc.assert(
      fc.property(
        text,
        fc.constantFrom("qcow2", "raw"),
        fc.nat(),
        fc.option(text, { nil: undefined }),
        (name, format, sectors, under) => {
          const size = sectors * 512;
          const backing = under === undefined ? undefined : { path: `/${under}`, format: "raw" };
          const seen = observeVolume(buildVolume({ name, format, size, ...(backing !== undefined && { backing }) }));
          expect(seen).toMatchObject({ name, format, size });
          expect(seen.backing).toEqual(backing);
        },
      ),
      { numRuns: 200 },
    );
  });

  test("property: Sidecar Round Trip: an owner is read back as written, also with zeros behind it, and never from half of it", () => {
    fc.assert(
      fc.property(
        fc.record({ lab: text, address: text, instance_id: text, lineage: text, digest: text }),
        fc.nat(600),
        (owner, cut) => {
          const line = formatSidecar(owner);
          expect(parseSidecar(line)).toEqual(owner);
          expect(parseSidecar(line + "\0".repeat(cut))).toEqual(owner);
          if (cut < line.trimEnd().length) expect(parseSidecar(line.slice(0, cut))).toBeUndefined();
        },
      ),
      { numRuns: 200 },
    );
    expect(isSidecar(sidecarName("x.qcow2"))).toBe(true);
    expect(isSidecar("x.qcow2")).toBe(false);
    for (const not of ["", "3", "null", "[]", '{"lab":"a"}']) expect(parseSidecar(not)).toBeUndefined();
  });
});

describe("disks that do not fit", () => {
  const disk = (size: number, content = 0, there = 0) => ({ address: `volume.v${size}`, size, content, there });
  const pool = { name: "default", available: 100 };

  test("property: Disk Fit: what is let through has room, and the first that is not has none", () => {
    const sizes = fc.array(fc.tuple(fc.nat(60), fc.nat(60), fc.nat(60)), { maxLength: 8 });
    fc.assert(
      fc.property(sizes, fc.nat(200), fc.boolean(), (list, available, overcommit) => {
        const wanted = list.map(([size, content, there], i) => ({ address: `volume.v${i}`, size, content, there }));
        const failed = new Set(
          diskFitErrors({ name: "p", available }, wanted, overcommit).map((error) => error.address),
        );
        const need = (one: (typeof wanted)[number]) =>
          Math.max(0, (overcommit ? one.content : Math.max(one.size, one.content)) - one.there);
        const passed = wanted.filter((one) => !failed.has(one.address)).reduce((sum, one) => sum + need(one), 0);
        expect(passed).toBeLessThanOrEqual(available);
        for (const one of wanted.filter((each) => failed.has(each.address)))
          expect(need(one)).toBeGreaterThan(available - passed);
      }),
      { numRuns: 300 },
    );
  });

  test("says how much there is and how much it may take; lending more than there is is possible", () => {
    expect(
      diskFitErrors(pool, [disk(60), disk(50)]).map((error) => [error.code, error.address, error.message]),
    ).toEqual([["E_DISK_FIT", "volume.v50", "the pool default has 40 B left for it, and it may take 50 B"]]);
    expect(diskFitErrors(pool, [disk(60), disk(50)], true)).toEqual([]);
    expect(diskFitErrors(pool, [disk(500, 101)], true)).toHaveLength(1);
    // What is there already has its room.
    expect(diskFitErrors({ name: "p", available: 0 }, [disk(60, 0, 60)])).toEqual([]);
  });
});
