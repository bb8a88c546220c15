import { readFile } from "node:fs/promises";
import { Ajv } from "ajv";
import { describe, expect, test } from "vitest";
import { parse } from "yaml";
import { hostProvider } from "../../../providers/host/index.ts";
import {
  formatSpec,
  initFiles,
  kindReference,
  labReference,
  labSchema,
  loadLab,
  pipelineSchema,
} from "../../../src/config/index.ts";
import { kinds } from "./kinds.ts";
import { builtinKinds } from "../../../src/cli/builtin.ts";
import { inFolder, selection } from "./load.ts";

describe("schemas", () => {
  test("what is checked in is what the kinds say", async () => {
    const read = async (path: string): Promise<unknown> =>
      JSON.parse(await readFile(new URL(`../../../${path}`, import.meta.url), "utf8"));
    const all = await builtinKinds();
    const now = (schema: object): unknown => JSON.parse(JSON.stringify(schema));
    expect(await read("schemas/lab.schema.json"), "run `npm run generate`").toEqual(now(labSchema(all)));
    expect(await read("schemas/pipeline.schema.json")).toEqual(now(pipelineSchema(all)));
  });

  test("they are good draft-07 schemas, and take references where values may stand", () => {
    const validate = new Ajv({ strict: false, allErrors: true }).compile(labSchema(kinds));
    const good = parse(`
labctl: 1
name: x
hosts:
  a:
    for_each: "\${var.names}"
    connection: "\${var.connection}"
    ssh: { port: "\${var.port}", key: "\${var.dir}/key" }
    sudo: "\${var.sudo}"
    labels: "\${var.labels}"
    files: { "/etc/\${each.key}": { mode: "\${var.mode}", for_each: { a: 1 } } }
    packages: [a, { name: b, version: 6.10 }]
  b:
    address: 10.0.0.1
    labels: { number: 6.10, truth: true }
    files: { /empty: }
`);
    expect(validate(good), JSON.stringify(validate.errors)).toBe(true);
    for (const bad of [
      "hosts: { a: { adress: x } }",
      "hosts: { a: { address: x, ssh: { port: twenty } } }",
      "hosts: { a: { address: x, ssh: { port: '2${var.x}' } } }",
      "hosts: { a: { address: x, files: { /x: { mode: 0755 } } } }",
      "hosts: { a: { address: x, files: { relative: {} } } }",
      "hosts: { a: { address: x, disk_free: 80 } }",
      "hosts: { A: { address: x } }",
      "vms: {}",
    ]) {
      expect(validate(parse(`labctl: 1\nname: x\n${bad}`)), bad).toBe(false);
    }
  });

  test("pages name every property, and link the kinds inside", () => {
    for (const kind of hostProvider.kinds) {
      const page = kindReference(kind, hostProvider.kinds);
      for (const [name, schema] of Object.entries(kind.schema.properties)) {
        const hidden =
          schema["x-labctl"]?.identity === true || schema["x-labctl"]?.derived === true || name === kind.section.key;
        expect(
          page.includes(`| \`${name}\` |`) || Object.hasOwn(kind.attributes.properties, name),
          `${kind.kind}.${name}`,
        ).toBe(!hidden || Object.hasOwn(kind.attributes.properties, name));
      }
    }
    expect(labReference(hostProvider.kinds)).toContain("[file](./file.md)");
  });
});

test("init writes a lab that is valid and in its normal form", async () => {
  const files = initFiles({ name: "my-lab", folder: "/tmp/my-lab" });
  const lab = files.find((file) => file.path === "lab.yaml")?.content ?? "";
  expect(formatSpec(lab, "lab.yaml")).toBe(lab);
  await inFolder(Object.fromEntries(files.map((file) => [file.path, file.content])), async (folder) => {
    const loaded = await loadLab(selection(folder), hostProvider.kinds);
    expect(loaded.warnings).toEqual([]);
    expect(loaded.lab.resources.map((one) => one.kind)).toEqual(["host", "directory", "file", "command"]);
  });
});
