import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { libvirtArch } from "../../providers/libvirt/model/arch.ts";
import type { HostFacts } from "../../providers/libvirt/model/facts.ts";
import { diffVm } from "../../providers/libvirt/model/vm-diff.ts";
import { unsupported } from "../../providers/libvirt/model/vm-support.ts";
import type { VmModel } from "../../providers/libvirt/model/vm.ts";
import { parseCapabilities, parseDomainCapabilities } from "../../providers/libvirt/xml/capabilities.ts";
import { observeDomain } from "../../providers/libvirt/xml/domain-observe.ts";
import { buildDomain } from "../../providers/libvirt/xml/domain.ts";
import { el, formatXml, parseXml, xmlCanHold } from "../../providers/libvirt/xml/tree.ts";
import { hostile, spaced, vmArbitrary } from "../property/vm-arbitrary.ts";
import { liveOf } from "../property/vm-live.ts";
import { startLibvirtd, type TestLibvirtd } from "../support/libvirtd.ts";

const SCHEMAS = "/usr/share/libvirt/schemas";
let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "labctl-vm-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

let files = 0;
function fileOf(xml: string): string {
  const path = join(folder, `${files++}.xml`);
  writeFileSync(path, xml);
  return path;
}

/** Runs commands in one virsh, so that libvirt's test driver, which forgets everything at the end, sees them all. */
function virsh(uri: string, commands: readonly string[]): { stdout: string; stderr: string } {
  const { stdout, stderr } = spawnSync("virsh", ["-q", "-c", uri], {
    input: `${commands.join("\n")}\n`,
    encoding: "utf8",
    maxBuffer: 1 << 28,
    timeout: 100_000,
  });
  return { stdout, stderr };
}

/** Defines machines and gives what libvirt makes of each, by UUID. */
function defineAll(uri: string, models: readonly VmModel[]): Map<string, string> {
  const { stdout, stderr } = virsh(
    uri,
    models.flatMap((model) => [
      `define ${fileOf(buildDomain(model))}`,
      `dumpxml ${model.uuid} --inactive`,
      uri.startsWith("qemu:") ? `undefine ${model.uuid} --nvram` : `undefine ${model.uuid}`,
    ]),
  );
  const found = new Map<string, string>();
  for (const [xml] of stdout.matchAll(/<domain [\s\S]*?<\/domain>/g)) {
    found.set(/<uuid>([^<]*)<\/uuid>/.exec(xml)?.[1] ?? "", xml);
  }
  expect(stderr).toBe("");
  return found;
}

function sample(count: number, arbitrary: fc.Arbitrary<VmModel>): VmModel[] {
  return fc.sample(arbitrary, { numRuns: count });
}

describe("definitions of machines and libvirt's own schema", () => {
  test("property: Domain XML Validity: every machine's XML is valid by libvirt's schema", () => {
    const paths = sample(200, vmArbitrary({ definable: true })).map((model) => fileOf(buildDomain(model)));
    const said = spawnSync("xmllint", ["--noout", "--relaxng", join(SCHEMAS, "domain.rng"), ...paths], {
      encoding: "utf8",
    });
    expect(said.stderr.split("\n").filter((line) => line !== "" && !line.endsWith(" validates"))).toEqual([]);
    expect(said.status).toBe(0);
  });
});

describe("text in XML and libxml2, which libvirt reads it with", () => {
  test("property: XML Exactness: another parser reads every text and attribute as it went in", () => {
    const texts = fc.sample(fc.oneof(spaced, hostile, fc.string({ unit: "binary" })), { numRuns: 500 });
    const kept = texts.filter((text) => xmlCanHold(text) && !text.includes("\r"));
    const flat = kept.map((text) => text.replaceAll(/[\t\n]/g, " "));
    expect(kept.length).toBeGreaterThan(300);
    const tree = el("all", {}, ...kept.map((text, i) => el("one", { attribute: flat[i] }, text)));
    const path = fileOf(formatXml(tree));
    // Canonical XML (W3C, 1.0): what libxml2 made of it, in the one form in which everything is escaped.
    const canonical = execFileSync("xmllint", ["--c14n", path], { encoding: "utf8" });
    const seen = parseXml(canonical).children;
    expect(seen.map((one) => one.text)).toEqual(kept);
    expect(seen.map((one) => one.attrs["attribute"])).toEqual(flat);
    for (const bad of ["\r", "\0", "a\u0001b", "\u{fffe}", "\ud800"]) {
      expect(() => formatXml(el("a", {}, bad))).toThrow(expect.objectContaining({ code: "E_SPEC_VALUE" }));
      expect(() => formatXml(el("a", { b: bad }))).toThrow(expect.objectContaining({ code: "E_SPEC_VALUE" }));
    }
  });
});

describe("definitions of machines and libvirt's test driver", () => {
  test("property: Test Driver Round Trip: what libvirt gives back is what was defined", () => {
    const models = sample(150, vmArbitrary({ definable: true, type: "vm" }));
    const found = defineAll("test:///default", models);
    for (const model of models) {
      const xml = found.get(model.uuid) ?? "";
      expect(diffVm(model, observeDomain(xml, liveOf(model)))).toEqual([]);
      expect(observeDomain(xml, liveOf(model)).owner).toEqual(model.owner);
    }
  });
});

describe("definitions of machines and QEMU's driver", () => {
  let virt: TestLibvirtd;
  let facts: HostFacts;
  beforeAll(async () => {
    // A host on which nobody emulates a TPM: which of its machines have one is seen as they run (vm-guest-parts).
    virt = await startLibvirtd({ name: "vmdefs", setup: "rm -f /usr/bin/swtpm*" });
    const ask = (...args: readonly string[]): string =>
      execFileSync("virsh", ["-q", "-c", virt.uri, ...args], { encoding: "utf8" });
    const machines = [
      ["x86_64", "q35"],
      ["x86_64", "pc"],
      ["x86_64", "microvm"],
      ["arm64", "virt"],
      ["armv7", "virt"],
    ] as const;
    facts = {
      host: parseCapabilities(ask("capabilities")),
      kvm: false,
      domains: machines.map(([arch, machine]) =>
        parseDomainCapabilities(
          ask("domcapabilities", "--virttype", "qemu", "--arch", libvirtArch(arch), "--machine", machine),
        ),
      ),
    };
  });
  afterAll(() => virt.stop());

  test("property: Support Soundness: what labctl takes for runnable is defined, and comes back as it was", () => {
    const runnable = vmArbitrary({ definable: true, type: "vm" }).filter(
      (model) => unsupported(model, facts).length === 0,
    );
    const models = sample(100, runnable);
    const found = defineAll(virt.uri, models);
    for (const model of models) {
      const observed = observeDomain(found.get(model.uuid) ?? "", liveOf(model));
      expect(diffVm(model, observed)).toEqual([]);
      expect(observed.owner).toEqual(model.owner);
    }
  });

  test("property: Container Round Trip: containers are defined by LXC's driver, and come back as they were", () => {
    const uri = virt.uri.replace(/^qemu:/, "lxc:");
    const host = parseCapabilities(execFileSync("virsh", ["-q", "-c", uri, "capabilities"], { encoding: "utf8" }));
    const models = sample(100, vmArbitrary({ definable: true, type: "container" })).map((model) => ({
      ...model,
      networks: model.networks.filter((nic) => nic.user === undefined),
    }));
    for (const model of models) expect(unsupported(model, { host, kvm: false, domains: [] })).toEqual([]);
    const found = defineAll(uri, models);
    for (const model of models) {
      const observed = observeDomain(found.get(model.uuid) ?? "", liveOf(model));
      expect(diffVm(model, observed)).toEqual([]);
      expect(observed.owner).toEqual(model.owner);
    }
  });

  test("keeps devices in their places, and the version of the machine type, where a definition replaces another", () => {
    const runnable = vmArbitrary({ definable: true, type: "vm" }).filter(
      (model) => unsupported(model, facts).length === 0 && model.machine === "q35" && model.networks.length > 0,
    );
    for (const model of sample(5, runnable)) {
      const before = defineAll(virt.uri, [model]).get(model.uuid) ?? "";
      const wanted: VmModel = {
        ...model,
        watchdog: "reset",
        shares: [],
        disks: [
          {
            target: "vdy",
            device: "disk",
            bus: "virtio",
            source: "/new",
            kind: "file",
            format: "raw",
            discard: false,
            readonly: false,
          },
          ...model.disks,
        ],
      };
      const path = fileOf(buildDomain(wanted, before));
      const { stdout, stderr } = virsh(virt.uri, [
        `define ${fileOf(before)}`,
        `define ${path}`,
        `dumpxml ${model.uuid} --inactive`,
        `undefine ${model.uuid} --nvram`,
      ]);
      expect(stderr).toBe("");
      const after = /<domain [\s\S]*<\/domain>/.exec(stdout)?.[0] ?? "";
      expect(diffVm(wanted, observeDomain(after, liveOf(wanted)))).toEqual([]);
      expect(/machine='(pc-q35-[^']+)'/.exec(after)?.[1]).toBe(/machine='(pc-q35-[^']+)'/.exec(before)?.[1]);
      const places = placesOf(after);
      for (const [device, place] of placesOf(before)) {
        if (!device.startsWith("filesystem")) expect([device, places.get(device)]).toEqual([device, place]);
      }
      expect(places.has("disk vdy virtio")).toBe(true);
    }
  });
});

/** Where each disk and card sits. */
function placesOf(xml: string): Map<string, string> {
  const places = new Map<string, string>();
  for (const [device, name] of xml.matchAll(/<(disk|interface|filesystem|rng|memballoon|vsock) [\s\S]*?<\/\1>/g)) {
    const key =
      /<target dev='([^']*)' bus='([^']*)'/.exec(device)?.slice(1).join(" ") ??
      /<mac address='([^']*)'/.exec(device)?.[1] ??
      "";
    places.set(`${name} ${key}`, /<address type='pci'[^>]*>/.exec(device)?.[0] ?? "");
  }
  return places;
}
