import fc from "fast-check";
import { stringify } from "yaml";

/** Plain values of every shape, hostile ones among them. */
export const anything: fc.Arbitrary<unknown> = fc.letrec((tie) => ({
  value: fc.oneof(
    { maxDepth: 2, withCrossShrink: true },
    fc.constantFrom<unknown>(
      null,
      true,
      false,
      0,
      1,
      -1,
      1.5,
      80,
      "x",
      "",
      "80",
      "0755",
      "30s",
      "1GiB",
      "yes",
      "~",
      "__proto__",
    ),
    fc.string({ maxLength: 8 }),
    fc.array(tie("value"), { maxLength: 3 }),
    fc.dictionary(fc.string({ maxLength: 6 }), tie("value"), { maxKeys: 3 }),
  ),
})).value;

/** Mostly what is right, sometimes anything. */
function mostly(good: fc.Arbitrary<unknown>, wild: number): fc.Arbitrary<unknown> {
  return wild === 0 ? good : fc.oneof({ weight: 12, arbitrary: good }, { weight: wild, arbitrary: anything });
}

function some(model: Record<string, fc.Arbitrary<unknown>>, wild: number): fc.Arbitrary<unknown> {
  const known = fc.record(Object.fromEntries(Object.entries(model).map(([key, value]) => [key, mostly(value, wild)])), {
    requiredKeys: [],
  });
  if (wild === 0) return known;
  return fc
    .tuple(known, fc.dictionary(fc.constantFrom("adress", "contents", "nope", "constructor"), anything, { maxKeys: 1 }))
    .map(([one, more]) => (Math.abs(Object.keys(one).length) % 4 === 0 ? { ...one, ...more } : one));
}

const name = fc.constantFrom("a", "b", "c-1", "d2");
const text = fc.constantFrom("x", "some text", "a: b", "# no", "'", '"', "6.10", "line\nline\n");
const duration = fc.constantFrom("1s", "500ms", "1h30m");

function dictionary(keys: fc.Arbitrary<string>, value: fc.Arbitrary<unknown>, wild: number): fc.Arbitrary<unknown> {
  return fc.dictionary(
    wild === 0
      ? keys
      : fc.oneof({ weight: 20, arbitrary: keys }, { weight: 1, arbitrary: fc.string({ maxLength: 5 }) }),
    mostly(value, wild),
    { maxKeys: 3 },
  );
}

function options(): Record<string, fc.Arbitrary<unknown>> {
  return {
    timeout: duration,
    optional: fc.boolean(),
    retry: fc.record({ attempts: fc.nat({ max: 9 }), delay: duration }, { requiredKeys: [] }),
    lifecycle: fc.record({ prevent_destroy: fc.boolean() }, { requiredKeys: [] }),
  };
}

/** Labs of the kinds in test/unit/config/kinds.ts without references; `wild` 0: only what the schemas allow. */
export function labs(wild: number): fc.Arbitrary<unknown> {
  const file = fc.oneof(
    fc.constant(null),
    some(
      { content: text, mode: fc.constantFrom("0644", "755"), owner: fc.constantFrom("root", "1000"), ...options() },
      wild,
    ),
    some({ source: fc.constant("./x"), validate: text, ...options() }, wild),
  );
  const command = fc
    .tuple(fc.constantFrom("run", "script"), fc.constantFrom("unless", "creates"))
    .map(([a, b]) => ({ [a]: "true", [b]: "true" }));
  const item = fc.oneof(
    fc.constantFrom<unknown>("p", "q", "r1"),
    fc.constant({ name: "z", version: "1.0" }),
    ...(wild === 0 ? [] : [fc.constant({ version: "1.0" })]),
  );
  const host = fc
    .tuple(
      fc.constantFrom({ connection: "local" }, { address: "10.0.0.1" }),
      some(
        {
          ssh: fc.record({ port: fc.integer({ min: 1, max: 65535 }), user: text }, { requiredKeys: [] }),
          sudo: fc.oneof(fc.boolean(), fc.constant({ password: "x" })),
          labels: fc.dictionary(name, text, { maxKeys: 2 }),
          disk_free: fc.constantFrom("1GiB", "20MB"),
          files: dictionary(fc.constantFrom("/a", "/b/c", "/d e"), file, wild),
          commands: dictionary(name, command, wild),
          packages: fc.uniqueArray(mostly(item, wild), { maxLength: 3, selector: (one) => JSON.stringify(one) }),
          ...options(),
        },
        wild,
      ),
    )
    .map(([one, other]) =>
      typeof other === "object" && other !== null && !Array.isArray(other) ? { ...one, ...other } : other,
    );
  const widget = some(
    {
      value: fc.constantFrom<unknown>(1, "x", true, "6.10"),
      ratio: fc.constantFrom(0, 0.5, 1),
      list: fc.uniqueArray(fc.nat({ max: 9 }), { minLength: 1, maxLength: 3 }),
      any: anything,
      choice: fc.constantFrom<unknown>(
        { git: "x" },
        { git: "x", ref: "y" },
        { path: "./x" },
        ...(wild === 0 ? [] : [{ ref: "y" }]),
      ),
    },
    wild,
  );
  const top = some(
    {
      limits: fc.record({ memory: fc.constant("1GiB"), cpus: fc.integer({ min: 1, max: 9 }) }, { requiredKeys: [] }),
      defaults: fc.record({ timeouts: fc.record({ connect: duration }, { requiredKeys: [] }) }, { requiredKeys: [] }),
      secrets: dictionary(name, fc.constantFrom<unknown>({ env: "X" }, { file: "./x" }, { command: ["x"] }), wild),
      outputs: dictionary(name, fc.oneof(text, fc.constant({ value: 1, description: "x" })), wild),
      hosts: dictionary(name, host, wild),
      widgets: dictionary(name, widget, wild),
      state: fc.constantFrom({ backend: "file" }, { path: "./state" }),
    },
    wild,
  );
  return top.map((one) => ({ labctl: 1, name: "test", ...(one as object) }));
}

/** As YAML text, in one of the ways that people write it. */
export const styles = fc.record({
  indent: fc.constantFrom(2, 4),
  lineWidth: fc.constantFrom(0, 40),
  flow: fc.boolean(),
  quotes: fc.constantFrom<"PLAIN" | "QUOTE_SINGLE" | "QUOTE_DOUBLE">("PLAIN", "QUOTE_SINGLE", "QUOTE_DOUBLE"),
});

export function asYaml(
  value: unknown,
  style: { indent: number; lineWidth: number; flow: boolean; quotes: "PLAIN" | "QUOTE_SINGLE" | "QUOTE_DOUBLE" },
): string {
  return stringify(value, {
    aliasDuplicateObjects: false,
    indent: style.indent,
    lineWidth: style.lineWidth,
    collectionStyle: style.flow ? "flow" : "any",
    defaultStringType: style.quotes,
    defaultKeyType: "PLAIN",
  });
}
