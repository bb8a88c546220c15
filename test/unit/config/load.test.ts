import { mkdir, symlink, writeFile } from "node:fs/promises";
import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { buildLab, loadDocuments, loadLab, locateState } from "../../../src/config/index.ts";
import { DiagnosticsError } from "../../../src/diagnostics/index.ts";
import { type Resource, Template } from "../../../src/model/index.ts";
import { kinds } from "./kinds.ts";
import { codes, inFolder, load, mustLoad, selection, spec } from "./load.ts";

function find(resources: readonly Resource[], address: string): Resource {
  const found = resources.find((one) => one.address === address);
  if (found === undefined) throw new Error(`no ${address} among ${resources.map((one) => one.address).join(", ")}`);
  return found;
}

describe("values", () => {
  test("a string property takes the scalar's source text", async () => {
    const text = [
      "version: 6.10",
      "ref: 12345e7",
      "yes: yes",
      "date: 2026-01-02",
      "hex: 0x10",
      "under: 1_000",
      "octal: 0o17",
      "bool: True",
      "inf: .inf",
      'quoted: "6.10"',
      "float: 1.0",
    ];
    const { lab } = await mustLoad(
      spec(`hosts:\n  a:\n    connection: local\n    labels:\n      ${text.join("\n      ")}\n`),
    );
    expect(find(lab.resources, "host.a").desired["labels"]).toEqual({
      version: "6.10",
      ref: "12345e7",
      yes: "yes",
      date: "2026-01-02",
      hex: "0x10",
      under: "1_000",
      octal: "0o17",
      bool: "True",
      inf: ".inf",
      quoted: "6.10",
      float: "1.0",
    });
  });

  test("a property of several types keeps what reads back, and the text of what does not", async () => {
    const values = { a: "10", b: "6.10", c: "true", d: '"10"', e: "0x10", f: "True" };
    const body = Object.entries(values).map(([name, value]) => `  ${name}: { value: ${value} }`);
    const { lab } = await mustLoad(spec(`widgets:\n${body.join("\n")}\n`));
    expect(lab.resources.map((one) => one.desired["value"])).toEqual([10, "6.10", true, "10", "0x10", "True"]);
  });

  test("merge keys, aliases and keys that are traps for objects", async () => {
    const { lab } = await mustLoad(
      spec(
        "hosts:\n  a: &a { connection: local, labels: { __proto__: x, constructor: y } }\n  b: { <<: *a, connection: ssh }\n  c: *a\n",
      ),
    );
    const [a, b, c] = ["a", "b", "c"].map((name) => find(lab.resources, `host.${name}`));
    expect(Object.keys(a?.desired["labels"] ?? {})).toEqual(["__proto__", "constructor"]);
    expect(b?.desired["connection"]).toBe("ssh");
    expect(c?.desired["labels"]).toEqual(a?.desired["labels"]);
    expect(({} as Record<string, unknown>)["x"]).toBeUndefined();
  });

  test("options are read to milliseconds, with the lab's defaults for what they leave out", async () => {
    const { lab } = await mustLoad(
      spec(
        "defaults: { retry: { attempts: 5, delay: 2s }, timeouts: { boot: 1h } }\nhosts:\n  a: { connection: local, timeout: 1m30s, retry: { max_delay: 4s }, optional: true, lifecycle: { prevent_destroy: true, ignore_changes: [labels] } }\n",
      ),
    );
    expect(lab.defaults).toMatchObject({
      timeouts: { connect: 10_000, command: 300_000, boot: 3_600_000 },
      retry: { attempts: 5, delay: 2000, max_delay: 30_000 },
    });
    expect(find(lab.resources, "host.a").options).toEqual({
      timeout: 90_000,
      retry: { attempts: 5, delay: 2000, max_delay: 4000 },
      optional: true,
      lifecycle: { prevent_destroy: true, ignore_changes: ["labels"] },
    });
  });

  test("an alias bomb, deep nesting and a huge file are refused in bounded time", async () => {
    const bomb = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"];
    for (let i = 1; i < 12; i++)
      bomb.push(`a${i}: &a${i} [${Array.from({ length: 10 }, () => `*a${i - 1}`).join(", ")}]`);
    const started = performance.now();
    expect((await codes({ "lab.yaml": bomb.join("\n") })).some((code) => code.startsWith("E_YAML_ALIAS"))).toBe(true);
    for (const deep of ["[".repeat(50_000), "- ".repeat(50_000), `${"{a: ".repeat(50_000)}`, "? ".repeat(50_000)]) {
      expect(await codes({ "lab.yaml": deep })).toEqual([expect.stringMatching(/^E_YAML_SYNTAX /)]);
    }
    expect(await codes({ "lab.yaml": `# ${"x".repeat(5_000_000)}` })).toEqual(["E_SPEC_TOO_LARGE 1:1"]);
    expect(performance.now() - started).toBeLessThan(20_000);
  });
});

describe("files", () => {
  test("wrong encodings and files that are none", async () => {
    const text = "labctl: 1\nname: test\n";
    const cases: [Uint8Array, string][] = [
      [Buffer.from(`\uFEFF${text}`, "utf16le"), "E_SPEC_ENCODING 1:1"],
      [Buffer.from(text, "utf16le"), "E_SPEC_ENCODING 1:2"],
      [Buffer.from([...Buffer.from("labctl: 1\nna"), 0xff, 0xfe]), "E_SPEC_ENCODING 2:3"],
      [Buffer.from("labctl: 1\nname: \0x"), "E_SPEC_ENCODING 2:7"],
      [Buffer.from("labctl: 1\nname: \u0007"), "E_SPEC_ENCODING 2:7"],
      [Buffer.from("\x7fELF\x02\x01\x01"), "E_SPEC_ENCODING 1:1"],
    ];
    for (const [bytes, expected] of cases) expect(await codes({ "lab.yaml": bytes })).toEqual([expected]);
    expect((await mustLoad({ "lab.yaml": `\uFEFF${text}` })).lab.name).toBe("test");
    expect((await mustLoad({ "lab.yaml": text.replaceAll("\n", "\r\n") })).lab.name).toBe("test");
  });

  test("FIFOs, devices and folders are not read", async () => {
    await inFolder({}, async (folder) => {
      const attempt = (path: string): Promise<string> =>
        loadLab(selection(folder, { paths: [path] }), kinds).then(
          () => "ok",
          (error: unknown) => (error instanceof DiagnosticsError ? error.code : String(error)),
        );
      execFileSync("mkfifo", [join(folder, "fifo.yaml")]);
      await mkdir(join(folder, "folder"));
      await mkdir(join(folder, "odd", "lab.yaml"), { recursive: true });
      expect(await attempt("fifo.yaml")).toBe("E_SPEC_UNREADABLE");
      expect(await attempt("/dev/zero")).toBe("E_SPEC_UNREADABLE");
      expect(await attempt("odd")).toBe("E_SPEC_UNREADABLE");
      expect(await attempt("folder")).toBe("E_SPEC_NOT_FOUND");
      expect(await attempt("nope.yaml")).toBe("E_SPEC_NOT_FOUND");
      expect(await attempt("fifo.yaml/x")).toBe("E_SPEC_NOT_FOUND");
    });
  });

  test("includes: globs, wildcards that match nothing, files that are named twice, links", async () => {
    await inFolder(
      {
        "lab.yaml": "labctl: 1\nname: test\ninclude: [./parts/*.yaml, ./parts/b.yaml, ./none/*.yaml, ./*.yaml]\n",
        "parts/a.yaml": "hosts: { a: { connection: local } }\ninclude: [../deep.d/c.yaml]\n",
        "parts/b.yaml": "hosts: { b: { connection: local, ssh: { jump: c, key: ./key } } }\n",
        "deep.d/c.yaml": "hosts: { c: { connection: local, ssh: { key: ./key } } }\n",
      },
      async (folder) => {
        await symlink("b.yaml", join(folder, "parts", "link.yaml"));
        const { lab } = await loadLab(selection(folder), kinds);
        expect(lab.resources.map((one) => one.address)).toEqual(["host.a", "host.c", "host.b"]);
        expect(find(lab.resources, "host.b").desired["ssh"]).toEqual({ jump: "c", key: "parts/key" });
        expect(find(lab.resources, "host.c").desired["ssh"]).toEqual({ key: "deep.d/key" });
        expect(find(lab.resources, "host.b").depends).toEqual(["host.c"]);
        expect(lab.files.map((file) => file.path)).toEqual([
          "lab.yaml",
          "parts/a.yaml",
          "deep.d/c.yaml",
          "parts/b.yaml",
        ]);
      },
    );
  });

  test("profiles merge maps, replace lists, delete with null, and keep places", async () => {
    const files = {
      "lab.yaml":
        "labctl: 1\nname: base\nhosts:\n  a: { address: x, labels: { one: a, two: b }, packages: [p, q] }\n  b: { connection: local }\n",
      "lab.ci.yaml":
        "name: ci\nhosts:\n  a: { labels: { two: ~, three: c }, packages: [r] }\n  b:\n  c: { connection: local }\n",
    };
    const { lab } = await mustLoad(files, { profile: "ci" });
    expect(lab.name).toBe("ci");
    expect(lab.resources.map((one) => one.address)).toEqual(["host.a", "host.a/package.r", "host.c"]);
    const a = find(lab.resources, "host.a");
    expect(a.desired["labels"]).toEqual({ one: "a", three: "c" });
    expect(a.places["labels.three"]).toMatchObject({ file: "lab.ci.yaml", line: 3 });
    expect(a.places["address"]).toMatchObject({ file: "lab.yaml", line: 4 });
    expect(await codes(files, { profile: "cd" })).toEqual(["E_SPEC_NOT_FOUND -"]);
    expect(await codes(files, { profile: "../x" })).toEqual(["E_USAGE -"]);
  });

  test("a pipeline names its lab, and several files make one lab", async () => {
    const files = {
      "lab/lab.yaml": "labctl: 1\nname: far\nhosts: { a: { connection: local } }\n",
      "ci/pipeline.yaml": "labctl: 1\nname: ci\nlab: ../lab\n",
      "more.yaml": "hosts: { b: { connection: local } }\n",
    };
    expect((await mustLoad(files, { paths: ["ci"] })).lab.name).toBe("far");
    const { lab } = await mustLoad(files, { paths: ["lab/lab.yaml", "more.yaml"] });
    expect(lab.resources.map((one) => one.address)).toEqual(["host.a", "host.b"]);
    expect(await codes({ "pipeline.yaml": "labctl: 1\nname: ci\nlab: ../nope\n" })).toEqual(["E_SPEC_NOT_FOUND 3:6"]);
  });

  test("the state is found in a spec that is broken otherwise", async () => {
    await inFolder(
      { "lab.yaml": "name: 7\nhostz: []\nstate: { path: ../there }\nvariables: { a: {} }\n", "sub/lab.yaml": "{" },
      async (folder) => {
        expect(await locateState(selection(folder))).toEqual({ backend: "file", path: join(folder, "..", "there") });
        expect((await locateState(selection(folder, { paths: ["sub"] }))).path).toBe(join(folder, "sub", ".labctl"));
        expect((await locateState(selection(folder, { paths: ["nope"] }))).path).toMatch(/\.labctl$/);
      },
    );
  });

  test("requirements of providers come before kinds, with paths relative to the lab", async () => {
    await inFolder(
      {
        "lab.yaml": "labctl: 1\nname: x\ninclude: [./d/p.yaml]\nwidgets: { w: { value: 1 } }\n",
        "d/p.yaml": "providers: { acme: { source: ./acme, version: ^2 }, far: { source: 'npm:far', version: 1.0 } }\n",
      },
      async (folder) => {
        const documents = await loadDocuments(selection(folder));
        expect(documents.providers).toMatchObject([
          { name: "acme", source: "d/acme", version: "^2" },
          { name: "far", source: "npm:far", version: "1.0" },
        ]);
        expect((await buildLab(documents, kinds)).lab.resources.map((one) => one.address)).toEqual(["widget.w"]);
        await expect(buildLab(documents, [])).rejects.toThrow('there is no section "widgets"');
      },
    );
  });
});

describe("references", () => {
  test("a whole reference keeps its type, text around one makes text, $${ escapes", async () => {
    const { lab } = await mustLoad(
      spec(
        [
          "variables: { port: { default: 2200 }, list: { default: [1, 2] }, map: { default: { a: { b: c } } }, v: { default: 6.10 } }",
          "hosts:",
          "  a:",
          "    connection: local",
          '    ssh: { port: "${var.port}", user: "u${var.port}" }',
          '    labels: { v: "${var.v}", deep: "${var.map.a.b}", not: "$${var.port} ${HOME} ${x:-y}", mixed: "${host.b.kernel}-${var.v}" }',
          "  b: { connection: local }",
          "widgets:",
          '  w: { list: "${var.list}", any: "${host.b.cores}" }',
        ].join("\n"),
      ),
    );
    const a = find(lab.resources, "host.a");
    expect(a.desired["ssh"]).toEqual({ port: 2200, user: "u2200" });
    expect(a.desired["labels"]).toMatchObject({ v: "6.10", deep: "c", not: "${var.port} ${HOME} ${x:-y}" });
    const mixed = (a.desired["labels"] as Record<string, unknown>)["mixed"];
    expect(mixed).toBeInstanceOf(Template);
    expect(String(mixed)).toBe("${host.b.kernel}-6.10");
    expect(a.depends).toEqual(["host.b"]);
    const w = find(lab.resources, "widget.w");
    expect(w.desired["list"]).toEqual([1, 2]);
    expect((w.desired["any"] as Template).whole).toEqual({ root: "host", path: ["b", "cores"] });
  });

  test("resources inside others are named by their address; siblings by what follows the slash", async () => {
    const { lab } = await mustLoad(
      spec(
        [
          "hosts:",
          "  a:",
          "    connection: local",
          "    files:",
          '      /x: { content: "${host.a/file["/y z"].digest}" }',
          '      "/y z": { content: "" }',
          "      /w: { depends_on: ['file[\"/x\"]', host.b] }",
          "    commands:",
          '      run: { run: "true", unless: "false", after: first }',
          '      first: { run: "true", creates: /x, lifecycle: { replace_when: [\'file["/x"].digest\'] } }',
          "  b: { connection: local, depends_on: [host.a/file.x-y] }",
        ]
          .join("\n")
          .replace('content: "${host.a/file["/y z"].digest}"', "content: '${host.a/file[\"/y z\"].digest}'")
          .replace("host.a/file.x-y", "'host.a/file[\"/y z\"]'"),
      ),
    );
    expect(find(lab.resources, 'host.a/file["/x"]').depends).toEqual(['host.a/file["/y z"]']);
    expect(find(lab.resources, 'host.a/file["/w"]').depends).toEqual(['host.a/file["/x"]', "host.b"]);
    expect(find(lab.resources, "host.a/command.run").depends).toEqual(["host.a/command.first"]);
    expect(find(lab.resources, "host.a/command.first").depends).toEqual(['host.a/file["/x"]']);
    expect(find(lab.resources, "host.b").depends).toEqual(['host.a/file["/y z"]']);
  });

  test("for_each: lists, maps, nested, in keys, from a variable", async () => {
    const { lab } = await mustLoad(
      spec(
        [
          "variables: { names: { default: [x, y] } }",
          "hosts:",
          "  n:",
          '    for_each: "${var.names}"',
          '    address: "${each.value}.lab"',
          "    files:",
          '      "/etc/${each.key}-${each.value.name}":',
          "        for_each: { p: { name: one }, q: { name: two } }",
          '        content: "${each.key} ${each.value.name}"',
          "    packages:",
          '      - { name: "lib${each.key}", for_each: [1, 2] }',
          "  m: { for_each: { 1: { at: one } }, address: '${each.value.at}' }",
        ].join("\n"),
      ),
    );
    const addresses = lab.resources.map((one) => one.address);
    expect(addresses).toContain("host.n-x");
    expect(addresses).toContain('host.n-y/file["/etc/q-two"]');
    expect(addresses).toContain("host.n-y/package.lib2");
    expect(addresses).toHaveLength(1 + 2 * (1 + 2 + 2));
    expect(find(lab.resources, "host.n-x").desired["address"]).toBe("x.lab");
    expect(find(lab.resources, "host.m-1").desired["address"]).toBe("one");
    expect(find(lab.resources, 'host.n-x/file["/etc/p-one"]').desired["content"]).toBe("p one");
  });

  test("groups have members, and outputs say what they are", async () => {
    const { lab } = await mustLoad(
      spec(
        'groups: { g: { labels: { a: 1 } }, h: }\nhosts: { b: { connection: local, group: g }, a: { connection: local, group: g } }\noutputs: { x: "${host.a.kernel}", y: { value: 3, description: three }, z: [1] }\n',
      ),
    );
    expect(lab.groups).toEqual({
      g: { labels: { a: "1" }, policy: {}, members: ["host.a", "host.b"] },
      h: { labels: {}, policy: {}, members: [] },
    });
    expect(lab.outputs["y"]).toMatchObject({ value: 3, description: "three" });
    expect(lab.outputs["z"]?.value).toEqual([1]);
  });

  test("import, moved and removed", async () => {
    const { lab } = await mustLoad(
      spec(
        'hosts: { a: { connection: local, files: { /x: { } } } }\nimport: { \'host["a"]/file["/x"]\': /x }\nmoved: { host.o: host.p, host.p: host.a }\nremoved: { host.z: { forget: true }, host.y: }\n',
      ),
    );
    expect(lab.imports).toMatchObject([{ address: 'host.a/file["/x"]', id: "/x" }]);
    expect(lab.moved).toMatchObject([
      { from: "host.o", to: "host.a" },
      { from: "host.p", to: "host.a" },
    ]);
    expect(lab.removed).toMatchObject([
      { address: "host.z", forget: true },
      { address: "host.y", forget: false },
    ]);
  });
});

describe("variables", () => {
  const files = {
    "lab.yaml":
      'labctl: 1\nname: test\nvariables: { v: { default: spec }, n: { default: 1 }, l: { default: [a] }, p: { default: ./k } }\nhosts: { a: { address: "${var.v}", ssh: { port: "${var.n}", key: "${var.p}" } } }\nwidgets: { w: { any: "${var.l}" } }\n',
    "lab.prod.yaml": "variables: { v: { default: profile } }\n",
    "vars/x.yaml": "v: file\np: ./k\n",
  };
  const address = async (more: Parameters<typeof load>[1]): Promise<unknown> =>
    find((await mustLoad(files, more)).lab.resources, "host.a").desired["address"];

  test("later wins: spec, profile, environment, file, flag", async () => {
    const env = { LABCTL_VAR_v: "env" };
    expect(await address({})).toBe("spec");
    expect(await address({ profile: "prod" })).toBe("profile");
    expect(await address({ profile: "prod", env })).toBe("env");
    expect(await address({ profile: "prod", env, varFiles: ["vars/x.yaml"] })).toBe("file");
    expect(await address({ profile: "prod", env, varFiles: ["vars/x.yaml"], vars: { v: "${host.a.kernel}" } })).toBe(
      "${host.a.kernel}",
    );
  });

  test("values from flags have the type of the default, and paths are relative to who wrote them", async () => {
    const { lab } = await mustLoad(files, { vars: { n: "2", l: "[x, 'y']" }, varFiles: ["vars/x.yaml"] });
    expect(find(lab.resources, "host.a").desired["ssh"]).toEqual({ port: 2, key: "vars/k" });
    expect(find(lab.resources, "widget.w").desired["any"]).toEqual(["x", "y"]);
    expect(await codes(files, { vars: { n: "x" } })).toEqual(["E_SPEC_TYPE 3:36"]);
    const wrong = await load(files, { vars: { nn: "x", list: "y" } });
    expect("diagnostics" in wrong && wrong.diagnostics.map((d) => `${d.code} ${d.hint}`)).toEqual([
      expect.stringContaining("E_VAR_UNKNOWN"),
      expect.stringContaining("E_VAR_UNKNOWN"),
    ]);
  });

  test("a sensitive variable never becomes part of the lab", async () => {
    const canary = "c4n4ry-value";
    const loaded = await mustLoad(
      spec(
        'variables: { s: { sensitive: true } }\nhosts: { a: { address: x, files: { /x: { content: "a ${var.s}" } } } }\n',
      ),
      { vars: { s: canary } },
    );
    expect(JSON.stringify(loaded.lab)).not.toContain(canary);
    const content = find(loaded.lab.resources, 'host.a/file["/x"]').desired["content"];
    expect(content instanceof Template && content.references).toEqual([{ root: "secret", path: ["var.s"] }]);
    expect(loaded.lab.secrets["var.s"]).toEqual({ variable: "s" });
    expect(loaded.variables.get("s")?.reveal()).toBe(canary);
    const wrong = await load(spec("variables: { s: { sensitive: true, type: number } }\n"), { vars: { s: canary } });
    expect(JSON.stringify(wrong)).not.toContain(canary);
  });
});

test("every problem of every file comes at once, sorted by place", async () => {
  const loaded = await load({
    "lab.yaml": "labctl: 1\nname: x\ninclude: [./b.yaml, ./a.yaml]\nhosts: { a: { adress: x } }\n",
    "a.yaml": "widgets: { w: { ratio: 7 } }\n",
    "b.yaml": "widgetz: {}\n",
  });
  if ("ok" in loaded) throw new Error("accepted");
  expect(loaded.diagnostics.map((d) => d.at?.file)).toEqual(["a.yaml", "b.yaml", "lab.yaml"]);
  for (const one of loaded.diagnostics) expect(one.frame).toContain("^");
});

test("paths in diagnostics are relative to where the user stands", async () => {
  await inFolder({ "deep/lab.yaml": "labctl: 1\nname: x\nnope: 1\n" }, async (folder) => {
    await mkdir(join(folder, "stand"));
    await writeFile(join(folder, "stand", "x"), "");
    const error = await loadLab(selection(join(folder, "stand"), { paths: ["../deep"] }), kinds).catch(
      (e: unknown) => e,
    );
    expect(error instanceof DiagnosticsError && error.diagnostics[0]?.at?.file).toBe("../deep/lab.yaml");
  });
});
