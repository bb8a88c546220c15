import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { diffNetwork, type NetworkModel } from "../../providers/libvirt/model/network.ts";
import { overlapErrors, routesUsed } from "../../providers/libvirt/model/overlap.ts";
import { buildDhcpHost, buildDnsHost, buildNetwork, observeNetwork } from "../../providers/libvirt/xml/network.ts";
import { networkDesired, networkModel } from "../property/network-arbitrary.ts";
import { startLibvirtd, type TestLibvirtd } from "../support/libvirtd.ts";

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "labctl-net-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

let files = 0;
function fileOf(xml: string): string {
  const path = join(folder, `${files++}.xml`);
  writeFileSync(path, xml);
  return path;
}

function virsh(uri: string, ...args: readonly string[]): string {
  return execFileSync("virsh", ["-q", "-c", uri, ...args], { encoding: "utf8", timeout: 60_000 });
}

function sample(count: number): NetworkModel[] {
  return fc
    .sample(fc.tuple(networkDesired, fc.uuid()), { numRuns: count })
    .map(([desired, id]) => networkModel(desired, id));
}

const liveOf = (model: NetworkModel) => ({ running: model.running, autostart: model.autostart });

/** Defines networks in one virsh, and gives what libvirt makes of each, by UUID. */
function defineAll(uri: string, models: readonly NetworkModel[]): Map<string, string> {
  const input = models.flatMap((model) => [
    `net-define ${fileOf(buildNetwork(model))}`,
    `net-dumpxml ${model.uuid}`,
    `net-undefine ${model.uuid}`,
  ]);
  const { stdout, stderr } = spawnSync("virsh", ["-q", "-c", uri], {
    input: `${input.join("\n")}\n`,
    encoding: "utf8",
    timeout: 60_000,
  });
  expect(stderr).toBe("");
  return new Map(
    [...stdout.matchAll(/<network>[\s\S]*?<\/network>|<network [\s\S]*?<\/network>/g)].map(([xml]) => [
      /<uuid>([^<]*)<\/uuid>/.exec(xml)?.[1] ?? "",
      xml,
    ]),
  );
}

describe("definitions of networks", () => {
  test("property: Network XML Validity: every network's XML is valid by libvirt's schema", () => {
    const paths = sample(200).map((model) => fileOf(buildNetwork(model)));
    const said = spawnSync("xmllint", ["--noout", "--relaxng", "/usr/share/libvirt/schemas/network.rng", ...paths], {
      encoding: "utf8",
    });
    expect(said.stderr.split("\n").filter((line) => line !== "" && !line.endsWith(" validates"))).toEqual([]);
    expect(said.status).toBe(0);
  });

  test("property: Network Test Driver Round Trip: what libvirt gives back is what was defined", () => {
    const models = sample(100);
    const found = defineAll("test:///default", models);
    for (const model of models) {
      const observed = observeNetwork(found.get(model.uuid) ?? "", liveOf(model));
      expect(diffNetwork(model, observed)).toEqual([]);
      // This driver forgets metadata; QEMU's keeps it.
      expect(observed.reservations).toEqual(model.reservations);
    }
  });
});

describe("networks on a real libvirtd", () => {
  let virt: TestLibvirtd;
  beforeAll(async () => {
    virt = await startLibvirtd({ name: "netdefs" });
  });
  afterAll(() => virt.stop());

  test("property: Network Driver Round Trip: what libvirt gives back is what was defined, owner and all", () => {
    const models = sample(100);
    const found = defineAll(virt.uri, models);
    for (const model of models) {
      const observed = observeNetwork(found.get(model.uuid) ?? "", liveOf(model));
      expect(diffNetwork(model, observed)).toEqual([]);
      expect(observed.owner).toEqual(model.owner);
      expect(observed.reservations).toEqual(model.reservations);
    }
  });

  test("a running one is as it was asked for; fixed addresses and names change without a restart; its routes are seen", async () => {
    const model: NetworkModel = {
      ...networkModel(
        {
          name: "live",
          host: "h",
          cidr: "10.77.0.0/24",
          ipv6: "fd77::/64",
          isolated: true,
          dhcp: true,
          dns: { domain: "lab.test", hosts: { mirror: "10.77.0.1" } },
          hosts: { board: { mac: "52:54:00:00:00:01", address: "10.77.0.20" } },
          mtu: 1400,
          autostart: true,
          running: true,
        },
        "live",
      ),
      reservations: {},
    };
    virsh(virt.uri, "net-define", fileOf(buildNetwork(model)));
    virsh(virt.uri, "net-start", model.name);
    const observe = (): NetworkModel =>
      observeNetwork(virsh(virt.uri, "net-dumpxml", model.name), { running: true, autostart: true });
    expect(diffNetwork(model, observe())).toEqual([]);
    expect(observe().owner).toEqual(model.owner);

    const update = (...args: readonly string[]): string =>
      virsh(virt.uri, "net-update", model.name, ...args, "--live", "--config");
    update("add", "ip-dhcp-host", fileOf(buildDhcpHost("52:54:00:00:00:02", "10.77.0.21", "another")));
    update("add", "ip-dhcp-host", fileOf(buildDhcpHost("52:54:00:00:00:03", "10.77.0.22")));
    update("add", "dns-host", fileOf(buildDnsHost("10.77.0.9", ["one", "two"])));
    const seen = observe();
    expect(diffNetwork(model, seen).map((change) => change.path)).toEqual([
      "dns.hosts.one",
      "dns.hosts.two",
      "hosts.another",
    ]);
    expect(seen.reservations).toEqual({ "52:54:00:00:00:03": "10.77.0.22" });

    const said = await virt.run("ip", "-json", "route");
    const six = await virt.run("ip", "-json", "-6", "route");
    const used = routesUsed([...(JSON.parse(said) as unknown[]), ...(JSON.parse(six) as unknown[])]);
    expect(used).toContainEqual({ cidr: "10.77.0.0/24", by: `the route by ${model.bridge}`, device: model.bridge });
    expect(overlapErrors([{ ...model, address: "network.live" }], used)).toEqual([]);
    const clashes = overlapErrors(
      [{ address: "network.new", bridge: "lab-new", ipv4: { cidr: "10.77.0.128/25" }, ipv6: { cidr: "fd77::/64" } }],
      used,
    );
    expect(clashes.map((error) => error.code)).toEqual(["E_NETWORK_OVERLAP", "E_NETWORK_OVERLAP"]);
  });
});
