import { childAddress } from "../model/index.ts";
import type { Kind, Schema, SpecDocument } from "../provider/index.ts";
import { keySchemaOf, KindTables, optionsOf, userSchema } from "./tables.ts";
import { expected } from "./types.ts";
import { fixedSections, OPTIONS, PIPELINE_SECTIONS } from "./top.ts";

const NOTE = "<!-- Written by `npm run generate` from the kinds' schemas. Do not edit. -->";

/** The reference page of a kind, in Markdown. `kinds`: all there are, for what can stand inside it. */
export function kindReference(kind: Kind, kinds: Iterable<Kind> = [kind]): string {
  const tables = new KindTables([...kinds]);
  const children = [...tables.childrenOf(kind.kind)].sort(([a], [b]) => (a < b ? -1 : 1));
  const { section } = kind;
  const where =
    section.within === undefined
      ? `\`${section.name}:\` in ${tables.documentOf(kind)}.yaml`
      : `\`${section.name}:\` inside a ${section.within}`;
  const keys = keySchemaOf(kind);
  const attributes = Object.entries(kind.attributes.properties);
  return `${[
    NOTE,
    "",
    `# ${kind.kind}: ${lowerFirst(kind.title)}`,
    "",
    kind.description,
    "",
    ...facts(kind),
    "## Where it is written",
    "",
    `Under ${where}, ${shapeOf(section)}.`,
    `Its address is \`${exampleAddress(kind, tables)}\`.`,
    ...(keys.description === undefined ? [] : ["", `\`${section.key}\`: ${keys.description}`]),
    "",
    "```yaml",
    exampleOf(kind),
    "```",
    "",
    "## Properties",
    "",
    ...table(userSchema(kind), "What is not set is not managed."),
    ...(children.length === 0
      ? []
      : [
          "## Sections inside it",
          "",
          "| section | what |",
          "| --- | --- |",
          ...children.map(
            ([name, child]) => `| \`${name}\` | ${cell(child.title)} ([${child.kind}](./${child.kind}.md)) |`,
          ),
          "",
        ]),
    "## What every resource can have",
    "",
    `${[...optionsOf(kind).keys()].map((name) => `\`${name}\``).join(", ")}: see [lab.yaml](./lab.md#what-every-resource-can-have).`,
    "",
    "## Attributes",
    "",
    ...(attributes.length === 0
      ? ["None.", ""]
      : [
          `What labctl finds, and what \`\${${referenceTo(kind, tables)}.ATTRIBUTE}\` can name, beside the properties.`,
          "",
          ...rows(kind.attributes, false),
          "",
        ]),
  ].join("\n")}`;
}

function facts(kind: Kind): string[] {
  const said = [
    kind.ownership === "exclusive"
      ? "- Owned: one that exists already and is not labctl's is an error, unless it is imported."
      : "- Shared: taken over as it is found; deleting it brings back what was there before.",
    ...(kind.irreversible === true ? ["- What it did cannot be taken back."] : []),
    ...(kind.critical === true ? ["- Its operations are not cut short by the first Ctrl-C."] : []),
    ...(kind.experimental === true ? ["- Experimental: needs `--experimental`."] : []),
  ];
  return [...said, ""];
}

/** The reference page of lab.yaml and pipeline.yaml: sections that no kind brings, and the list of kinds. */
export function labReference(kinds: readonly Kind[]): string {
  const tables = new KindTables(kinds);
  const fixed = Object.entries(fixedSections(kinds));
  const sections = (which: SpecDocument): string[] => [
    "| section | kind | what |",
    "| --- | --- | --- |",
    ...kinds
      .filter((kind) => tables.documentOf(kind) === which)
      .map((kind) => `| \`${sectionPath(kind, tables)}\` | [${kind.kind}](./${kind.kind}.md) | ${cell(kind.title)} |`),
    "",
  ];
  return [
    NOTE,
    "",
    "# lab.yaml",
    "",
    "What a lab is. Sections that kinds bring:",
    "",
    ...sections("lab"),
    ...fixed.flatMap(([name, schema]) => [`## ${name}`, "", ...describeSection(schema)]),
    "## What every resource can have",
    "",
    ...rows({ type: "object", properties: OPTIONS }, false),
    "",
    "## References",
    "",
    ...REFERENCES,
    "# pipeline.yaml",
    "",
    "What is built, deployed, proved and tested on a lab. Sections that kinds bring:",
    "",
    ...sections("pipeline"),
    ...rows({ type: "object", properties: PIPELINE_SECTIONS }, false),
    "",
  ].join("\n");
}

const REFERENCES = [
  "Any value may hold references, and one that is nothing but a reference keeps the type of what it names.",
  "`$${` stands for a literal `${`; `${HOME}` and other text without a dot is no reference.",
  "",
  "| reference | what |",
  "| --- | --- |",
  "| `${var.NAME}` | a variable; `${var.NAME.key}` a part of it |",
  "| `${secret.NAME}` | a secret, read at use |",
  "| `${each.key}`, `${each.value}` | beside and below `for_each:`; also in keys |",
  "| `${host.NAME.ATTRIBUTE}` | a property or attribute of a resource, by kind and name |",
  '| `${host.NAME/file["/etc/motd"].digest}` | the same of a resource inside another, by its address |',
  '| `${host.NAME.labels."odd key"}` | parts that are no plain words stand in quotes |',
  "",
  "They are not allowed in text that a shell runs (pass values through `env:`), in keys (but `each.*`), and where a name",
  "must be known when the spec is loaded, except `var.*` and `each.*`.",
  "",
];

function sectionPath(kind: Kind, tables: KindTables): string {
  const { within, name } = kind.section;
  if (within === undefined) return name;
  return `${tables.kinds.get(within)?.section.name ?? within}.*.${name}`;
}

function describeSection(schema: Schema): string[] {
  const entry = schema.additionalProperties;
  const out = [schema.description ?? "", "", ...exampleLines(schema)];
  if (schema.properties !== undefined) return [...out, ...rows(schema, false), ""];
  if (typeof entry === "object" && entry.properties !== undefined) return [...out, ...rows(entry, true), ""];
  return out;
}

function exampleLines(schema: Schema): string[] {
  const example = schema.examples?.[0];
  return example === undefined ? [] : [`For example \`${JSON.stringify(example)}\`.`, ""];
}

function table(schema: Schema, empty: string): string[] {
  if (Object.keys(schema.properties ?? {}).length === 0) return ["None.", ""];
  return [...rows(schema, true), "", empty, ""];
}

function rows(schema: Schema, required: boolean): string[] {
  const out = ["| name | type | what |", "| --- | --- | --- |"];
  const visit = (of: Schema, prefix: string): void => {
    for (const [name, one] of Object.entries(of.properties ?? {})) {
      const must = required && of.required?.includes(name) === true ? " **Required.**" : "";
      out.push(
        `| \`${prefix}${name}\` | ${cell(typeText(one))} | ${cell(`${one.description ?? ""}${must}${moreOf(one)}`)} |`,
      );
      for (const part of [one, ...(one.oneOf ?? []), ...(one.anyOf ?? [])]) visit(part, `${prefix}${name}.`);
      if (one.items?.properties !== undefined) visit(one.items, `${prefix}${name}[].`);
      if (typeof one.additionalProperties === "object" && one.additionalProperties.properties !== undefined) {
        visit(one.additionalProperties, `${prefix}${name}.*.`);
      }
    }
  };
  visit(schema, "");
  return out;
}

function typeText(schema: Schema): string {
  if (schema.enum !== undefined) return schema.enum.map((one) => `\`${String(one)}\``).join(", ");
  const unit = schema["x-labctl"]?.unit;
  return unit ?? (schema["x-labctl"]?.path === true ? "path" : expected(schema));
}

function moreOf(schema: Schema): string {
  const notes = schema["x-labctl"];
  const out: string[] = [];
  if (schema.default !== undefined) out.push(`Default: \`${JSON.stringify(schema.default)}\`.`);
  if (schema.examples !== undefined && schema.enum === undefined) {
    out.push(`For example ${schema.examples.map((one) => `\`${JSON.stringify(one)}\``).join(", ")}.`);
  }
  if (notes?.replace === true) out.push("A change replaces the resource.");
  if (notes?.restart === true) out.push("A change restarts it.");
  if (notes?.sensitive === true) out.push("Never shown or stored.");
  if (notes?.shell === true) out.push("Run by a shell: holds no references.");
  if (notes?.refers !== undefined) out.push(`Names a ${notes.refers}, which comes first.`);
  return out.length === 0 ? "" : ` ${out.join(" ")}`;
}

function cell(text: string): string {
  return text.replaceAll("|", String.raw`\|`).replaceAll("\n", " ").trim();
}

function lowerFirst(text: string): string {
  return /^[A-Z][a-z ]/.test(text) ? text[0]?.toLowerCase() + text.slice(1) : text;
}

function shapeOf(section: Kind["section"]): string {
  if (section.shape === "one") return "at most once";
  if (section.shape === "map") return `as a map from \`${section.key}\` to properties`;
  return `as a list of \`${section.key}\`s, or of maps that hold \`${section.key}\``;
}

function exampleKey(kind: Kind): string | undefined {
  if (kind.section.key === undefined) return undefined;
  const schema = keySchemaOf(kind);
  const named = kind.schema.properties[kind.section.key];
  const example = [...(schema.examples ?? []), ...(named?.examples ?? [])].find((one) => typeof one === "string");
  if (typeof example === "string") return example;
  return schema.pattern?.includes("/") === true ? "/etc/example" : "example";
}

function exampleAddress(kind: Kind, tables: KindTables): string {
  const parent = kind.section.within === undefined ? undefined : tables.kinds.get(kind.section.within);
  const above =
    parent === undefined
      ? kind.section.within === undefined
        ? undefined
        : `${kind.section.within}.NAME`
      : exampleAddress(parent, tables);
  return childAddress(above, kind.kind, exampleKey(kind));
}

function referenceTo(kind: Kind, tables: KindTables): string {
  return exampleAddress(kind, tables);
}

function exampleOf(kind: Kind): string {
  const { section } = kind;
  const schema = userSchema(kind);
  // Of properties that exclude each other, the first.
  const alternatives = [schema.oneOf, schema.anyOf].flatMap((branches) => branches?.slice(1) ?? []);
  const excluded = new Set([
    ...(schema.not?.required ?? []).slice(1),
    ...(schema.not?.anyOf ?? []).flatMap((one) => (one.required ?? []).slice(1)),
    ...alternatives.flatMap((one) => one.required ?? []),
  ]);
  const lines = Object.entries(schema.properties)
    .filter(([name, one]) => one.examples?.[0] !== undefined && !excluded.has(name))
    .slice(0, 6)
    .map(([name, one]) => `${name}: ${JSON.stringify(one.examples?.[0])}`);
  const indent = section.within === undefined ? "" : "    ";
  const head = section.within === undefined ? [] : [`# inside a ${section.within}`];
  if (section.shape === "list")
    return [...head, `${indent}${section.name}: [${JSON.stringify(exampleKey(kind))}]`].join("\n");
  if (section.shape === "one") {
    if (lines.length === 0) return [...head, `${indent}${section.name}: {}`].join("\n");
    return [...head, `${indent}${section.name}:`, ...lines.map((line) => `${indent}  ${line}`)].join("\n");
  }
  const body =
    lines.length === 0
      ? [`${indent}  ${exampleKey(kind)}: {}`]
      : [`${indent}  ${exampleKey(kind)}:`, ...lines.map((line) => `${indent}    ${line}`)];
  return [...head, `${indent}${section.name}:`, ...body].join("\n");
}
