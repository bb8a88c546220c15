import { Ajv } from "ajv";
import { describe, expect, test } from "vitest";
import { hostProvider } from "../../../providers/host/index.ts";

const ajv = new Ajv({ allErrors: true, strictSchema: false });
const validators = new Map(hostProvider.kinds.map((kind) => [kind.kind, ajv.compile(kind.schema)]));
const accepts = (kind: string, value: object): boolean => validators.get(kind)?.(value) === true;

describe("what users write", () => {
  test.each([
    [
      "host",
      {
        name: "a",
        address: "10.0.0.11",
        arch: "x86_64",
        ssh: { port: 22, user: "build", jump: "gateway" },
        labels: { site: "berlin" },
        group: "b",
        maintenance: false,
        thresholds: { disk_free: "20GiB" },
      },
    ],
    ["host", { name: "a", connection: "local" }],
    [
      "host",
      { name: "a", address: "fe80::1", maintenance: { reason: "disks", until: "2026-12-01" }, sudo: { password: "x" } },
    ],
    ["package", { name: "g++" }],
    ["package", { name: "libc6:i386", version: "2.36-9+deb12u8" }],
    ["package", { name: "r" }],
    ["file", { path: "/etc/security/limits.d/lab.conf", source: "./files/limits.conf", mode: "0644", owner: "root" }],
    ["file", { path: "/srv/motd", content: "managed by labctl\n" }],
    ["file", { path: "/srv/..hidden/a b'\n$(x)" }],
    ["directory", { path: "/srv/build", mode: "2755", owner: "build" }],
    [
      "user",
      {
        name: "build",
        groups: ["kvm"],
        authorized_keys: [
          "./keys/ci.pub",
          "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA a b",
          'no-pty,command="echo hi" ssh-rsa AAAAB3Nza',
        ],
      },
    ],
    ["service", { name: "getty@tty1.service", enabled: true, running: true }],
    ["sysctl", { key: "kernel.perf_event_paranoid", value: 1 }],
    ["sysctl", { key: "net.ipv4.conf.eth0/1.forwarding", value: "1" }],
    ["module", { name: "loop", options: { max_loop: 64 } }],
    ["mount", { path: "/srv/src", source: "nas:/src", type: "nfs", options: ["ro"] }],
    ["command", { name: "warm-cache", script: "./warm.sh", unless: "test -d /srv/cache/warm", env: { SIZE: "10" } }],
  ])("%s %j", (kind, value) => {
    expect(validators.get(kind)?.(value), JSON.stringify(validators.get(kind)?.errors)).toBe(true);
  });

  test.each([
    ["host", { name: "a" }],
    ["host", { name: "a", address: "user@host" }],
    ["host", { name: "a", address: "-oProxyCommand=x" }],
    ["package", { name: "bc=1.0" }],
    ["package", { name: "bc-" }],
    ["package", { name: "-y" }],
    ["package", { name: "bc; reboot" }],
    ["file", { path: "relative" }],
    ["file", { path: "/a/../etc/passwd" }],
    ["file", { path: "/a//b" }],
    ["file", { path: "/a/" }],
    ["file", { path: "/a", content: "x", source: "y" }],
    ["file", { path: "/a", mode: "0888" }],
    ["user", { name: "root; reboot" }],
    ["user", { name: "u", comment: "a:b" }],
    ["user", { name: "u", authorized_keys: ["no key at all"] }],
    ["service", { name: "--now" }],
    ["service", { name: "a/../b" }],
    ["sysctl", { key: "../etc/passwd", value: 1 }],
    ["sysctl", { key: "kernel", value: 1 }],
    ["module", { name: "loop", options: { a: "1 install=x" } }],
    ["mount", { path: "/m", source: "-o", type: "tmpfs" }],
    ["mount", { path: "/m", source: "x", type: "tmpfs", options: ["a,b"] }],
    ["command", { name: "c", run: "true" }],
    ["command", { name: "c", creates: "/x" }],
    ["command", { name: "c", run: "true", script: "x", creates: "/x" }],
    ["command", { name: "c", run: "true", creates: "/x", env: { "A B": "1" } }],
  ])("refused: %s %j", (kind, value) => {
    expect(accepts(kind, value)).toBe(false);
  });

  test("every example and default is valid for its own property", () => {
    for (const kind of hostProvider.kinds) {
      for (const [name, property] of Object.entries(kind.schema.properties)) {
        // Whole-string references stand in examples of secrets: the loader takes them before this schema is asked.
        for (const example of [
          ...(property.examples ?? []),
          ...(property.default === undefined ? [] : [property.default]),
        ]) {
          expect(ajv.validate(property, example), `${kind.kind}.${name}: ${JSON.stringify(example)}`).toBe(true);
        }
      }
    }
  });
});
