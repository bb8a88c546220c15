import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { labSchema } from "../../src/config/index.ts";
import { formatSpec } from "../../src/config/index.ts";
import { parseSpec } from "../../src/config/yaml.ts";
import { Problems } from "../../src/config/problems.ts";
import { recordErrors } from "../../src/config/record.ts";
import { SourceText } from "../../src/config/source.ts";
import { type Diagnostic, DiagnosticsError, formatDiagnostic } from "../../src/diagnostics/index.ts";
import { parse } from "yaml";
import { anything, asYaml, labs, styles } from "./config-specs.ts";
import { load } from "../unit/config/load.ts";
import { kinds } from "../unit/config/kinds.ts";

/** Codes about the form of a spec: what a JSON Schema can see as well. */
const FORM = new Set([
  "E_SPEC_TYPE",
  "E_SPEC_VALUE",
  "E_SPEC_UNKNOWN_KEY",
  "E_SPEC_MISSING_KEY",
  "E_SPEC_UNSUPPORTED",
  "E_SPEC_MODE_UNQUOTED",
  "E_SPEC_NAME",
]);

const schema = labSchema(kinds);

function formOf(diagnostics: readonly Diagnostic[]): string[] {
  // What ajv says in the loader's name begins with a JSON pointer: here the walk has to stand on its own.
  return diagnostics.filter((d) => FORM.has(d.code) && !/^(\/|the spec )/.test(d.message)).map(formatDiagnostic);
}

describe("property: the walk and the published schema agree", () => {
  for (const [title, wild] of [
    ["specs that the schemas allow", 0],
    ["specs with something wrong in them", 1],
  ] as const) {
    test(title, async () => {
      const seen = { valid: 0, invalid: 0 };
      await fc.assert(
        fc.asyncProperty(labs(wild), styles, async (lab, style) => {
          const text = asYaml(lab, style);
          const problems = new Problems();
          const node = parseSpec(new SourceText({ path: "/lab.yaml", shown: "lab.yaml", dir: "/", text }), problems);
          fc.pre(node !== undefined && !problems.hasErrors);
          const record = recordErrors(node, schema).map((error) => `${error.instancePath} ${error.message}`);
          const loaded = await load({ "lab.yaml": text });
          const form = "ok" in loaded ? [] : formOf(loaded.diagnostics);
          if ("diagnostics" in loaded && form.length === 0) {
            // Something else is wrong (a name that stands twice): the form must be right all the same.
            expect(record, text).toEqual([]);
            return;
          }
          seen[form.length === 0 ? "valid" : "invalid"] += 1;
          expect(record.length === 0, `${text}\n${record.join("\n")}\n--\n${form.join("\n")}`).toBe(form.length === 0);
        }),
        { numRuns: 300 },
      );
      // Agreement on one verdict alone would prove little.
      if (wild === 0) expect(seen.invalid).toBe(0);
      else expect(Math.min(seen.valid, seen.invalid)).toBeGreaterThan(10);
    });
  }
});

/** The loader must answer anything with a lab or with diagnostics, soon. */
async function survives(files: Readonly<Record<string, string | Uint8Array>>): Promise<void> {
  const started = performance.now();
  const loaded = await load(files);
  if ("diagnostics" in loaded) {
    expect(loaded.diagnostics.length).toBeGreaterThan(0);
    for (const one of loaded.diagnostics) {
      const text = formatDiagnostic(one);
      expect(one.code).not.toBe("E_INTERNAL");
      expect(text).not.toMatch(/^\s+at .*\.(ts|js):\d+/m);
      expect(text.length).toBeLessThan(4000);
    }
  }
  expect(performance.now() - started).toBeLessThan(10_000);
}

const SEED = `labctl: 1
name: test
include: [./more.yaml]
variables: { v: { default: [a, b] }, s: { default: x, sensitive: true } }
secrets: { t: { env: TOKEN } }
defaults: { ssh: { user: lab }, timeouts: { connect: 10s } }
hosts: &all
  a: &base
    connection: local
    labels: { x: "\${host.b.kernel}-\${var.s}", y: "$\${z.y}" }
    files:
      /etc/motd: { content: "a\\n", mode: "0644", depends_on: [host.b] }
      "/x-\${each.key}": { for_each: "\${var.v}", content: "\${each.value}" }
    packages: [p, { name: q, version: 1.0 }]
    commands:
      c:
        run: |
          echo "$A"
        unless: "false"
        env: { A: "\${secret.t}" }
  b: { <<: *base, files: {}, labels: {} }
widgets: { w: { choice: { git: x }, list: [1, 2], on: a } }
moved: { host.old: host.a }
outputs: { o: "\${host.a/file[\\"/etc/motd\\"].digest}" }
`;

describe("property: whatever a spec holds, the loader answers with a lab or with diagnostics", () => {
  test("mutated specs", async () => {
    const scraps = fc.constantFrom(
      ..."\t,\n,:, ,- ,? ,{,},[,],',\",#,&a,*a,*all,<<: ,|,>,%,@,`,!!,!x,---\n,...\n,${,}, ${var.v},${each.key},${host.a,$${,~,null,__proto__: ,constructor,0755,\r,\u0085,\uFEFF,\u2028,🦊,0x,1e999,.nan".split(
        ",",
      ),
      ",",
    );
    const mutation = fc.record({
      at: fc.nat({ max: SEED.length }),
      cut: fc.nat({ max: 12 }),
      put: fc.oneof(
        scraps,
        fc.string({ maxLength: 4 }),
        fc.nat({ max: SEED.length - 40 }).map((from) => SEED.slice(from, from + 40)),
      ),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(mutation, { minLength: 1, maxLength: 5 }), async (mutations) => {
        let text = SEED;
        for (const { at, cut, put } of mutations) text = text.slice(0, at) + put + text.slice(at + cut);
        await survives({ "lab.yaml": text, "more.yaml": "groups: { g: {} }\n" });
      }),
      { numRuns: 300 },
    );
  });

  test("random bytes", async () => {
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 200 }), (bytes) => survives({ "lab.yaml": bytes })),
      { numRuns: 120 },
    );
  });

  test("values of the wrong shape everywhere", async () => {
    await fc.assert(
      fc.asyncProperty(labs(6), styles, (lab, style) => survives({ "lab.yaml": asYaml(lab, style) })),
      { numRuns: 120 },
    );
    const keys = fc.constantFrom(
      "hosts",
      "variables",
      "secrets",
      "groups",
      "import",
      "moved",
      "removed",
      "outputs",
      "include",
      "providers",
      "state",
      "defaults",
      "labctl",
      "name",
      "widgets",
    );
    await fc.assert(
      fc.asyncProperty(fc.dictionary(keys, anything), styles, (lab, style) =>
        survives({ "lab.yaml": asYaml(lab, style) }),
      ),
      { numRuns: 120 },
    );
  });

  test("the seed itself is valid", async () => {
    const loaded = await load({ "lab.yaml": SEED, "more.yaml": "groups: { g: {} }\n" });
    expect("ok" in loaded ? [] : loaded.diagnostics.map(formatDiagnostic)).toEqual([]);
  });
});

describe("property: fmt keeps meaning and comments, and formatting twice is formatting once", () => {
  const check = (text: string): void => {
    const formatted = formatSpec(text, "lab.yaml");
    expect(formatSpec(formatted, "lab.yaml")).toBe(formatted);
    const options = { schema: "failsafe", uniqueKeys: false, maxAliasCount: -1 } as const;
    expect(parse(formatted, options)).toEqual(parse(text, options));
    expect(commentsOf(formatted)).toEqual(commentsOf(text));
  };

  test("generated specs", () => {
    fc.assert(
      fc.property(labs(1), styles, (lab, style) => check(asYaml(lab, style))),
      { numRuns: 300 },
    );
  });

  test("specs with comments, blank lines and anchors put anywhere between lines", () => {
    const line = fc.constantFrom("# note", "    # deep", "", "\n", "# a: b", "#");
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat({ max: 60 }), line), { maxLength: 8 }),
        fc.shuffledSubarray(SEED.split(/^(?=[a-z])/m)),
        (put, sections) => {
          const lines = sections.join("").split("\n");
          for (const [at, comment] of put) lines.splice(Math.min(at, lines.length), 0, comment);
          const text = lines.join("\n");
          const problems = new Problems();
          const source = new SourceText({ path: "/x", shown: "x", dir: "/", text });
          fc.pre(parseSpec(source, problems) !== undefined && !problems.hasErrors);
          check(text);
        },
      ),
      { numRuns: 300 },
    );
  });

  test("mutated specs are formatted or refused", () => {
    fc.assert(
      fc.property(
        fc.nat({ max: SEED.length }),
        fc.nat({ max: 6 }),
        fc.constantFrom("", " ", "\n", "\n\n", "# c\n", "'", "- ", "|\n", "{}", "a: "),
        (at, cut, put) => {
          const text = SEED.slice(0, at) + put + SEED.slice(at + cut);
          try {
            formatSpec(text, "lab.yaml");
          } catch (error) {
            if (!(error instanceof DiagnosticsError)) throw error;
            return;
          }
          check(text);
        },
      ),
      { numRuns: 500 },
    );
  });
});

function commentsOf(text: string): string[] {
  return text
    .split("\n")
    .flatMap((line) => /(?:^|\s)(# note|# deep|# a: b|# c|#$)/.exec(line)?.[1] ?? [])
    .sort();
}
