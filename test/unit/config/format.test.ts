import { describe, expect, test } from "vitest";
import { formatSpec } from "../../../src/config/index.ts";
import { DiagnosticsError } from "../../../src/diagnostics/index.ts";

const UNTIDY = `# yaml-language-server: $schema=x
hosts:   # all of them
    # the first
    a:   # c2
        address:  10.0.0.1
        files:   { /x: {content: "a\\n",   mode: "0755"} , "/y": { } }
        packages:
        - a
        - b   # why


        version: 6.10
        ref: 12345e7
        hex: 0x10
        single: 'it''s'
        empty:
        nothing: ~
        text: |
            line 1
              line 2

            line 4
        folded: >-
            some long text
            goes on
        keep: |+
            a

        plain: over
          two lines
        list: &a [1,
          2]
        again: *a
# about the version
labctl: 1


name: x # trailing
# end
`;

const TIDY = `# yaml-language-server: $schema=x

# about the version
labctl: 1

name: x # trailing

hosts:
  # all of them
  # the first
  a:
    # c2
    address: 10.0.0.1
    files: { /x: { content: "a\\n", mode: "0755" }, "/y": {} }
    packages:
      - a
      - b # why

    version: 6.10
    ref: 12345e7
    hex: 0x10
    single: 'it''s'
    empty:
    nothing: ~
    text: |
      line 1
        line 2

      line 4
    folded: >-
      some long text
      goes on
    keep: |+
      a

    plain: over two lines
    list: &a [1, 2]
    again: *a

# end
`;

describe("fmt", () => {
  test("a file in its normal form", () => {
    expect(formatSpec(UNTIDY, "lab.yaml")).toBe(TIDY);
    expect(formatSpec(TIDY, "lab.yaml")).toBe(TIDY);
  });

  test("sections stay where they are when an alias needs its anchor first", () => {
    const text = "outputs: { x: &x { value: 1 } }\nlabctl: 1\nhosts: { a: *x }\nvariables: { y: *x }\n";
    const formatted = formatSpec(text, "lab.yaml");
    expect(formatted.indexOf("&x")).toBeLessThan(formatted.indexOf("*x"));
  });

  test("what is not YAML is refused with its place", () => {
    for (const text of ["a: [", "a: 1\na: 2\n", "", "a: *x\n", "a: 1\n---\nb: 2\n"]) {
      expect(() => formatSpec(text, "lab.yaml")).toThrow(DiagnosticsError);
    }
  });
});
