import { Ajv } from "ajv";
import { describe, expect, test } from "vitest";
import { networkSchema } from "../../providers/libvirt/model/network-schema.ts";
import { vmSchema } from "../../providers/libvirt/model/vm-schema.ts";
import { volumeSchema } from "../../providers/libvirt/model/volume-schema.ts";
import { builtinKinds } from "../../src/cli/builtin.ts";
import { loadLab } from "../../src/config/index.ts";
import type { Schema } from "../../src/index.ts";
import { inFolder, selection } from "./config/load.ts";

const ajv = new Ajv({ allErrors: true, strictSchema: false });
const schemas: Readonly<Record<string, Schema>> = {
  network: networkSchema,
  vm: vmSchema,
  volume: volumeSchema,
};
const validators = new Map(Object.entries(schemas).map(([name, schema]) => [name, ajv.compile(schema)]));

describe("what users write", () => {
  test.each([
    ["network", { name: "test", host: "kvm-1", cidr: "192.168.100.0/24", dhcp: true, isolated: true }],
    ["network", { name: "test", host: "h", forward: "bridge", bridge: "br0" }],
    [
      "network",
      {
        name: "t",
        host: "h",
        cidr: "10.0.0.0/24",
        dhcp: { start: "10.0.0.5", end: "10.0.0.9" },
        dns: { domain: "lab.test", hosts: { a: "10.0.0.1" } },
        hosts: { b: { mac: "52:54:00:00:00:01", address: "10.0.0.6" } },
        mtu: 9000,
        ipv6: "fd00::/64",
      },
    ],
    ["volume", { name: "base", host: "kvm-1", pool: "default", source: "./images/base.qcow2", format: "qcow2" }],
    ["volume", { name: "s", host: "h", seed: { user_data: "#cloud-config\n" } }],
    [
      "vm",
      {
        name: "scratch-1",
        host: "kvm-1",
        type: "vm",
        machine: "q35",
        cpus: 2,
        memory: "2GiB",
        hugepages: false,
        disks: [{ volume: "base", size: "20GiB", cache: "none", io: "native" }],
        networks: ["test"],
        shares: [{ source: "/src", target: "/mnt/src" }],
      },
    ],
    [
      "vm",
      {
        name: "a",
        requires: { arch: "arm64", memory: "2GiB" },
        boot: { kernel: "./Image", cmdline: "a b" },
        networks: [{ user: true }, { network: "n", address: "10.0.0.9", mac: "52:54:00:00:00:01" }],
        vsock: 42,
        console: { log: "/var/log/x" },
        cloud_init: { user_data: "" },
        watchdog: "reset",
        firmware: { type: "uefi", secure_boot: true },
      },
    ],
    ["vm", { name: "c", host: "h", type: "container", container: { root: "/srv/c", args: ["-c", "x"] } }],
  ])("%s %j", (name, value) => {
    const validate = validators.get(name);
    expect(validate?.(value), JSON.stringify(validate?.errors)).toBe(true);
  });

  test.each([
    ["network", { name: "a" }],
    ["network", { name: "a", host: "h", forward: "private" }],
    ["network", { name: "a", host: "h", bridge: "a-name-that-is-too-long" }],
    // A multicast address is no card's.
    ["network", { name: "a", host: "h", hosts: { b: { mac: "53:54:00:00:00:01", address: "10.0.0.1" } } }],
    ["volume", { name: "a", host: "h", format: "vmdk" }],
    ["vm", { name: "a", disks: [{ bus: "ide" }] }],
    ["vm", { name: "a", memory: 2048 }],
    ["vm", { name: "a", qemu_args: ["-s"] }],
    ["vm", { name: "a", shares: [{ source: "/a" }] }],
    ["vm", { name: "a", boot: {} }],
    ["vm", { name: "a", cpus: 0 }],
  ])("not %s %j", (name, value) => {
    expect(validators.get(name)?.(value)).toBe(false);
  });
});

test.each(["test", "{ network: test }"])("a machine waits for the network that it names as %s", async (card) => {
  const spec = `labctl: 1
name: cards
hosts: { kvm: { connection: local, qemu_host: {} } }
networks: { test: { host: kvm, cidr: 10.9.0.0/24 } }
vms: { box: { host: kvm, networks: [${card}] } }
`;
  const kinds = await builtinKinds();
  const load = (text: string) => inFolder({ "lab.yaml": text }, (folder) => loadLab(selection(folder), kinds));
  const { lab } = await load(spec);
  expect(lab.resources.find((one) => one.address === "vm.box")?.depends).toContain("network.test");
  await expect(load(spec.replace("networks: { test:", "networks: { tests:"))).rejects.toMatchObject({
    diagnostics: [{ code: "E_REF_UNKNOWN", at: { line: 5 }, hint: expect.stringContaining("tests") as unknown }],
  });
});

/** Every property at any depth, with its path. */
function* properties(schema: Schema, path: string): Generator<[string, Schema]> {
  for (const [key, inner] of Object.entries(schema.properties ?? {})) {
    yield [`${path}.${key}`, inner];
    yield* properties(inner, `${path}.${key}`);
  }
  if (schema.items !== undefined) yield* properties(schema.items, `${path}[]`);
  for (const branch of [...(schema.anyOf ?? []), ...(schema.oneOf ?? [])]) yield* properties(branch, path);
}

describe("the reference that is made of it", () => {
  test.each(Object.entries(schemas))(
    "every property of %s is described, and its examples and default are valid",
    (name, schema) => {
      for (const [path, property] of properties(schema, name)) {
        expect(property.description, path).toMatch(/^[A-Z`][^]*[.:]$|^[a-z][^]*\.$/);
        const validate = ajv.compile(property);
        for (const example of [
          ...(property.examples ?? []),
          ...(property.default === undefined ? [] : [property.default]),
        ]) {
          expect(validate(example), `${path}: ${JSON.stringify(example)}`).toBe(true);
        }
      }
    },
  );

  test("what a change costs is said in the schema as the diff says it", () => {
    const cost = (schema: Schema | undefined) =>
      schema?.["x-labctl"]?.replace === true ? "replace" : schema?.["x-labctl"]?.restart === true ? "restart" : "live";
    const found = new Map([...properties(vmSchema, "vm")].map(([path, schema]) => [path, cost(schema)]));
    const expected = {
      host: "replace",
      arch: "replace",
      machine: "restart",
      "cpus.count": "live",
      "cpus.max": "restart",
      "memory.size": "live",
      "memory.max": "restart",
      "disks[].volume": "replace",
      "disks[].size": "live",
      "disks[].cache": "restart",
      "networks[].network": "live",
      "networks[].link": "live",
      "networks[].mac": "restart",
      "boot.kernel": "restart",
      "firmware.type": "restart",
      tpm: "restart",
      autostart: "live",
      running: "live",
    };
    for (const [path, effect] of Object.entries(expected))
      expect([path, found.get(`vm.${path}`)]).toEqual([path, effect]);
  });
});
