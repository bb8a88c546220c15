import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { makeSeed } from "../../providers/libvirt/model/cloud-init.ts";
import { readImage } from "../../providers/libvirt/model/image.ts";
import { writeIso } from "../../providers/libvirt/model/iso9660.ts";

const context = { address: "vm.a", instance_id: "i-1", hostname: "a" };

describe("cloud-init seeds", () => {
  test("property: Seed Digest: equal content gives equal bytes, other content another digest and instance-id", () => {
    const part = fc.string({ unit: "grapheme", maxLength: 3000 });
    const given = fc
      .record({ user: part, meta: fc.option(part, { nil: undefined }), network: fc.option(part, { nil: undefined }) })
      .map(({ user, meta, network }) => ({
        user_data: `#cloud-config\n${user}`,
        ...(meta !== undefined && { meta_data: meta }),
        ...(network !== undefined && { network_config: network }),
      }));
    fc.assert(
      fc.property(given, given, (a, b) => {
        const [one, again, other] = [makeSeed(a, context), makeSeed({ ...a }, context), makeSeed(b, context)];
        expect(one.image.equals(again.image)).toBe(true);
        expect(one.digest === other.digest).toBe(JSON.stringify(a) === JSON.stringify(b));
        for (const part of ["user_data", "meta_data", "network_config"] as const) {
          expect(makeSeed({ ...a, [part]: `${a[part] ?? ""}x` }, context).digest).not.toBe(one.digest);
        }
        expect(one.image.includes(Buffer.from(a.user_data))).toBe(true);
        if (a.network_config !== undefined) expect(one.image.includes(Buffer.from(a.network_config))).toBe(true);
        expect(readImage(one.image, one.image.length)).toMatchObject({ format: "iso", virtual_size: one.image.length });
        expect(makeSeed(a, { ...context, instance_id: "i-2" }).digest).not.toBe(one.digest);
      }),
      { numRuns: 200 },
    );
  });

  test("runs again where the content changed, unless the spec says which instance it is", () => {
    const id = (meta?: string, user = "#cloud-config\n"): string | undefined =>
      /instance-id: (\S+)/.exec(
        makeSeed({ user_data: user, ...(meta !== undefined && { meta_data: meta }) }, context).image.toString("latin1"),
      )?.[1];
    expect(id()).toMatch(/^iid-[0-9a-f]{16}$/);
    expect(id(undefined, "#cloud-config\n#2\n")).not.toBe(id());
    expect(id("local-hostname: b\n")).toMatch(/^iid-/);
    expect(id("instance-id: mine\n")).toBe("mine");
    expect(
      makeSeed({ user_data: "", meta_data: '{"instance-id": "j"}' }, context).image.toString("latin1"),
    ).not.toContain("iid-");
  });

  test("refuses user data that cloud-init would pass over", () => {
    expect(() => makeSeed({ user_data: "hostname: a\n" }, context)).toThrow(/begins like this/);
    for (const fine of ["#!/bin/sh\n", "## template: jinja\n#cloud-config\n", "Content-Type: multipart/mixed\n", ""]) {
      expect(() => makeSeed({ user_data: fine }, context)).not.toThrow();
    }
  });

  test("refuses names and labels that the small writer is not for", () => {
    expect(() => writeIso("a label that is too long", [])).toThrow(RangeError);
    expect(() => writeIso("x", [{ name: "a/b", content: Buffer.alloc(0) }])).toThrow(RangeError);
    const many = Array.from({ length: 40 }, (_, i) => ({ name: `f${i}`, content: Buffer.alloc(1) }));
    expect(() => writeIso("x", many)).toThrow(RangeError);
  });
});
