import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { option } from "../../providers/qemu/machine.ts";
import { inspectKernel } from "../../providers/qemu/image.ts";
import { moduleDepends } from "../../providers/qemu/modules.ts";

/** How QEMU reads an option (util/keyval.c, util/qemu-option.c): a comma ends a value unless another follows. */
function parseOption(text: string): readonly string[] {
  const parts: string[] = [];
  let part = "";
  for (let at = 0; at < text.length; at += 1) {
    if (text[at] !== ",") part += text.charAt(at);
    else if (text[at + 1] === ",") {
      part += ",";
      at += 1;
    } else {
      parts.push(part);
      part = "";
    }
  }
  return [...parts, part];
}

describe("QEMU Option Values Survive QEMU's Parser", () => {
  it("whatever a path or a tag holds, it stays one value", () => {
    const value = fc.string({ unit: fc.constantFrom(",", "=", "a", "/", " ", "o", "é", '"', "$") });
    fc.assert(
      fc.property(fc.array(value, { minLength: 1, maxLength: 5 }), (list) => {
        const record = Object.fromEntries(list.map((one, index) => [`k${index}`, one]));
        expect(parseOption(option("driver", record))).toEqual([
          "driver",
          ...list.map((one, index) => `k${index}=${one}`),
        ]);
      }),
      { numRuns: 500 },
    );
  });
});

describe("Foreign Files Are Looked At Safely", () => {
  it("no bytes make the readers of kernels and modules throw", () => {
    const magic = fc.constantFrom("", "MZ", "\x7fELF\x02\x01", "\x7fELF\x01\x01");
    fc.assert(
      fc.property(magic, fc.uint8Array({ maxLength: 700, size: "max" }), fc.boolean(), (head, body, header) => {
        const bytes = Buffer.concat([Buffer.from(head, "latin1"), body]);
        if (header && bytes.length > 0x240) bytes.write("HdrS", 0x202, "latin1");
        inspectKernel(bytes);
        moduleDepends(bytes);
      }),
      { numRuns: 500 },
    );
  });
});
