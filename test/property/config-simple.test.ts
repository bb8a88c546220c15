import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { globSync } from "tinyglobby";
import { expect, test } from "vitest";
import type { SpecNode } from "../../src/config/node.ts";
import { Problems } from "../../src/config/problems.ts";
import { readSimple } from "../../src/config/simple-yaml.ts";
import { SourceText } from "../../src/config/source.ts";
import { parseFully } from "../../src/config/yaml.ts";

/** Nodes as plain data, every place included. */
function shown(node: SpecNode): unknown {
  const place = [node.type, node.start, node.end];
  if (node.type === "scalar") return [...place, node.text, node.plain, node.literal];
  if (node.type === "list") return [...place, node.items.map(shown)];
  return [
    ...place,
    [...node.entries].map(([key, { key: same, at, value }]) => [key, same, at.start, at.end, shown(value)]),
  ];
}

/** Undefined where the short way leaves the text to the library. */
function agreement(text: string): boolean | undefined {
  const source = new SourceText({ path: "/lab.yaml", shown: "lab.yaml", dir: "/", text });
  const simple = readSimple(source);
  if (simple === undefined) return undefined;
  const problems = new Problems();
  const node = parseFully(source, problems);
  expect(problems.diagnostics(), text).toEqual([]);
  expect(shown(simple), text).toEqual(node && shown(node));
  return true;
}

const word = fc.constantFrom("a", "b1", "/srv/x.conf", "v1.2", "0644", "true", "null", "x-y", "_", "host.a", "e$", "8");
const words = fc.array(word, { minLength: 1, maxLength: 3 }).map((list) => list.join(" "));
const inside = fc.string({
  maxLength: 6,
  unit: fc.constantFrom("a", " ", ":", "#", "é", "😀", "{", "]", "- ", "${x.y}", "'"),
});
const quoted = fc.oneof(
  inside.map((text) => `"${text}"`),
  inside.map((text) => `"${text}\\n\\t\\"\\\\"`),
  inside.map((text) => `'${text.replaceAll("'", "")}'`),
);
const key = fc.oneof({ weight: 6, arbitrary: word }, { weight: 1, arbitrary: quoted });
const space = fc.constantFrom(" ", " ", " ", "  ");

const flow: fc.Arbitrary<string> = fc.letrec<{ value: string }>((tie) => ({
  value: fc.oneof(
    { maxDepth: 2 },
    words,
    quoted,
    fc.array(tie("value"), { maxLength: 3 }).map((items) => `[${items.join(", ")}]`),
    fc
      .tuple(fc.uniqueArray(key, { maxLength: 3 }), fc.array(tie("value"), { minLength: 3, maxLength: 3 }), space)
      .map(
        ([keys, values, gap]) => `{${gap}${keys.map((one, i) => `${one}:${gap}${values[i] ?? ""}`).join(",  ")}${gap}}`,
      ),
  ),
})).value;

const remark = fc.constantFrom("", "", "", "", " # why", "   # a: b", " ");
/** Lines between entries; a comment stands above what it is about, and seldom elsewhere. */
const between = fc
  .tuple(fc.constantFrom("", "", "", "\n", "   \n\n"), fc.constantFrom(...Array.from({ length: 20 }, (_, i) => i)))
  .map(
    ([gap, how]) =>
      (indent: number) =>
        gap + (how < 4 ? `${" ".repeat(how === 0 ? 6 : indent)}# note: a\n` : ""),
  );

type Block = (indent: number) => string;

/** A block map or list as text, from a given column on. */
const block: fc.Arbitrary<Block> = fc.letrec<{ map: Block; list: Block; body: Block }>((tie) => ({
  body: fc.oneof(
    { maxDepth: 3, withCrossShrink: true },
    fc.tuple(space, flow, remark).map(
      ([gap, value, end]) =>
        () =>
          `${gap}${value}${end}\n`,
    ),
    fc.tuple(fc.integer({ min: 1, max: 4 }), tie("map"), remark).map(
      ([by, map, end]) =>
        (indent: number) =>
          `${end}\n${map(indent + by)}`,
    ),
    fc.tuple(fc.integer({ min: 0, max: 3 }), tie("list"), remark).map(
      ([by, list, end]) =>
        (indent: number) =>
          `${end}\n${list(indent + by)}`,
    ),
  ),
  map: fc
    .tuple(
      fc.uniqueArray(key, { minLength: 1, maxLength: 4 }),
      fc.array(fc.tuple(between, tie("body")), { minLength: 4, maxLength: 4 }),
    )
    .map(
      ([keys, bodies]) =>
        (indent: number) =>
          keys
            .map(
              (one, i) =>
                `${bodies[i]?.[0](indent) ?? ""}${" ".repeat(indent)}${one}:${bodies[i]?.[1](indent) ?? " x\n"}`,
            )
            .join(""),
    ),
  list: fc.array(fc.tuple(between, fc.oneof(fc.tuple(flow, remark), tie("map"))), { minLength: 1, maxLength: 3 }).map(
    (items) => (indent: number) =>
      items
        .map(([gap, item]) => {
          const dash = `${gap(indent)}${" ".repeat(indent)}- `;
          if (typeof item !== "function") return `${dash}${item.join("")}\n`;
          // The first key stands behind the dash: what comes before it has no place there.
          return `${dash}${item(indent + 2).replace(/^(?: *(?:#[^\n]*)?\n)* */, "")}`;
        })
        .join(""),
  ),
})).map;

const documents = fc
  .tuple(block, fc.constantFrom("", "", "# end\n", "\n\n", "# end"))
  .map(([make, end]) => make(0) + end);

test("property: the short way through YAML gives the library's nodes and places", () => {
  const seen = { simple: 0, left: 0 };
  fc.assert(
    fc.property(documents, fc.boolean(), (text, cut) => {
      const given = cut ? text.replace(/\n$/, "") : text;
      seen[agreement(given) === undefined ? "left" : "simple"] += 1;
    }),
    { numRuns: 1000 },
  );
  // Agreement on nothing would prove little.
  expect(seen.simple).toBeGreaterThan(seen.left / 3);
});

test("property: what is not quite right is left to the library", () => {
  const scrap = fc.constantFrom(
    "\n",
    " ",
    "  ",
    ":",
    "-",
    "- ",
    "#",
    '"',
    "'",
    "{",
    "}",
    "[",
    "]",
    ",",
    "&a ",
    "*a",
    "!t ",
    "|",
    ">",
    "?",
    "%",
    "@",
    "\\",
    "\t",
    "\r",
    "---\n",
    "...\n",
    "<<",
    "é",
    "\u2028",
    "a: b\n",
  );
  fc.assert(
    fc.property(
      documents,
      fc.array(fc.tuple(fc.nat(), fc.nat(3), scrap), { minLength: 1, maxLength: 3 }),
      (text, edits) => {
        let given = text;
        for (const [where, drop, insert] of edits) {
          const at = where % (given.length + 1);
          given = given.slice(0, at) + insert + given.slice(at + drop);
        }
        agreement(given);
      },
    ),
    { numRuns: 3000 },
  );
});

test("the specs of examples and fixtures are read alike", () => {
  const root = fileURLToPath(new URL("../../", import.meta.url));
  const files = globSync(["examples/**/*.yaml", "test/fixtures/specs/**/*.yaml"], {
    cwd: root,
    absolute: true,
    ignore: ["**/node_modules/**"],
  });
  const simple = files.filter((file) => agreement(readFileSync(file, "utf8").replaceAll("\r\n", "\n")) === true);
  expect(simple.length).toBeGreaterThan(5);
});
