import { type ChildProcess, spawn } from "node:child_process";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  CompletionRequest,
  createProtocolConnection,
  DidOpenTextDocumentNotification,
  type Diagnostic,
  ExitNotification,
  HoverRequest,
  InitializedNotification,
  InitializeRequest,
  type ProtocolConnection,
  PublishDiagnosticsNotification,
  ShutdownRequest,
  StreamMessageReader,
  StreamMessageWriter,
} from "vscode-languageserver-protocol/node";

const root = fileURLToPath(new URL("../../", import.meta.url));
const schema = pathToFileURL(join(root, "schemas", "lab.schema.json")).href;

/** The real yaml-language-server, spoken to as an editor does, with the schema that is checked in. */
let server: ChildProcess;
let connection: ProtocolConnection;
const published = new Map<string, Diagnostic[]>();
const waiting = new Map<string, () => void>();
let opened = 0;

beforeAll(async () => {
  const require = createRequire(import.meta.url);
  const manifest = require.resolve("yaml-language-server/package.json");
  const bin = join(dirname(manifest), "bin", "yaml-language-server");
  server = spawn(process.execPath, [bin, "--stdio"], { stdio: ["pipe", "pipe", "inherit"] });
  if (server.stdout === null || server.stdin === null) throw new Error("no pipes to the language server");
  connection = createProtocolConnection(new StreamMessageReader(server.stdout), new StreamMessageWriter(server.stdin));
  connection.onNotification(PublishDiagnosticsNotification.type, ({ uri, diagnostics }) => {
    published.set(uri, diagnostics);
    waiting.get(uri)?.();
  });
  connection.listen();
  await connection.sendRequest(InitializeRequest.type, {
    processId: process.pid,
    rootUri: null,
    capabilities: { textDocument: { completion: { completionItem: { snippetSupport: false } } } },
    workspaceFolders: null,
  });
  await connection.sendNotification(InitializedNotification.type, {});
}, 60_000);

afterAll(async () => {
  await connection.sendRequest(ShutdownRequest.type);
  await connection.sendNotification(ExitNotification.type);
  connection.dispose();
  server.kill();
});

/** Opens a spec as users write it, its schema named by the modeline; gives its address. */
async function open(body: string): Promise<string> {
  opened += 1;
  const uri = pathToFileURL(join("/labctl-editor-test", String(opened), "lab.yaml")).href;
  const text = `# yaml-language-server: $schema=${schema}\n${body}`;
  await connection.sendNotification(DidOpenTextDocumentNotification.type, {
    textDocument: { uri, languageId: "yaml", version: 1, text },
  });
  return uri;
}

async function diagnosticsOf(body: string): Promise<Diagnostic[]> {
  const uri = await open(body);
  if (!published.has(uri)) {
    await new Promise<void>((done, fail) => {
      const timer = setTimeout(() => fail(new Error("the language server says nothing")), 30_000);
      waiting.set(uri, () => {
        clearTimeout(timer);
        done();
      });
    });
  }
  return published.get(uri) ?? [];
}

/** Labels that the server offers at the place of the `|`. */
async function completionsAt(body: string): Promise<string[]> {
  const before = body.slice(0, body.indexOf("|")).split("\n");
  const uri = await open(body.replace("|", ""));
  const position = { line: before.length, character: before.at(-1)?.length ?? 0 };
  const found = await connection.sendRequest(CompletionRequest.type, { textDocument: { uri }, position });
  const items = Array.isArray(found) ? found : (found?.items ?? []);
  return items.map((item) => item.label);
}

describe("editor: yaml-language-server with schemas/lab.schema.json", () => {
  test("completes sections", async () => {
    const labels = await completionsAt("labctl: 1\nname: x\n|\n");
    for (const section of ["hosts", "variables", "secrets", "defaults", "groups", "outputs"])
      expect(labels).toContain(section);
    expect(labels).not.toContain("labctl");
  });

  test("completes the keys of a host, its sections and what every resource can have", async () => {
    const labels = await completionsAt("labctl: 1\nname: x\nhosts:\n  a:\n    address: 10.0.0.1\n    |\n");
    for (const key of ["ssh", "labels", "files", "packages", "users", "depends_on", "retry"])
      expect(labels).toContain(key);
    expect(labels).not.toContain("name");
  });

  test("completes the keys of a file", async () => {
    const labels = await completionsAt(
      "labctl: 1\nname: x\nhosts:\n  a:\n    connection: local\n    files:\n      /etc/motd:\n        content: x\n        |\n",
    );
    for (const key of ["mode", "owner", "source", "timeout"]) expect(labels).toContain(key);
    expect(labels).not.toContain("digest");
  });

  test("completes values", async () => {
    const labels = await completionsAt("labctl: 1\nname: x\nhosts:\n  a:\n    connection: |\n");
    expect(labels).toEqual(expect.arrayContaining(["ssh", "local"]));
  });

  test("shows what a key is for", async () => {
    const uri = await open("labctl: 1\nname: x\nhosts:\n  a:\n    address: 10.0.0.1\n");
    const hover = await connection.sendRequest(HoverRequest.type, {
      textDocument: { uri },
      position: { line: 5, character: 6 },
    });
    expect(JSON.stringify(hover?.contents)).toContain("IP address");
  });

  test("has nothing to say of a good spec", async () => {
    const good = [
      "labctl: 1",
      "name: x",
      "variables: { names: { default: [a, b] }, port: { default: 22 } }",
      "hosts:",
      "  gateway: { address: 10.0.0.1 }",
      "  a:",
      '    for_each: "${var.names}"',
      '    address: "${each.key}.lab"',
      '    ssh: { port: "${var.port}", jump: gateway }',
      "    packages: [gcc, make]",
      '    files: { "/etc/${each.key}": { content: x, mode: "0644", owner: root } }',
      "    retry: { attempts: 3, delay: 1s }",
      'outputs: { a: "${host.gateway.kernel}", b: { value: 1, description: one } }',
      "",
    ];
    expect((await diagnosticsOf(good.join("\n"))).map((one) => one.message)).toEqual([]);
  });

  test.each([
    ["an unknown key", "hosts:\n  a:\n    adress: 10.0.0.1\n", /adress is not allowed/, 5],
    ["a wrong type", "hosts:\n  a:\n    address: 10.0.0.1\n    ssh: { port: twenty }\n", /must be a whole number/, 6],
    ["an unquoted mode", "hosts:\n  a:\n    connection: local\n    files: { /x: { mode: 0755 } }\n", /string/, 6],
    ["an unknown section", "hostz: {}\n", /hostz is not allowed/, 3],
    ["a duration without a unit", "hosts:\n  a:\n    connection: local\n    timeout: 30\n", /string/, 6],
  ])("finds %s", async (_, body, message, line) => {
    const found = await diagnosticsOf(`labctl: 1\nname: x\n${body}`);
    expect(found.map((one) => JSON.stringify(one.message)).join("\n")).toMatch(message);
    expect(found.map((one) => one.range.start.line)).toContain(line);
  });
});
