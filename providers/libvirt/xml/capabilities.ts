import { archOf } from "../model/arch.ts";
import type { DomainCapabilities, GuestCapabilities, HostCapabilities } from "../model/facts.ts";
import { all, attrAt, bytesAt, bytesOf, find, parseXml, textAt, wholeNumber, type XmlElement } from "./tree.ts";

/** What virConnectGetCapabilities says, of QEMU's and of LXC's connection alike. */
export function parseCapabilities(xml: string): HostCapabilities {
  const root = parseXml(xml, "capabilities");
  const host = find(root, "host");
  const cells = all(find(host, "topology", "cells"), "cell");
  const counts = new Map<number, number>();
  for (const page of cells.flatMap((cell) => all(cell, "pages"))) {
    const size = bytesOf(page.attrs["size"], page.attrs["unit"] ?? "KiB");
    if (size !== undefined) counts.set(size, (counts.get(size) ?? 0) + (wholeNumber(page.text) ?? 0));
  }
  for (const page of all(find(host, "cpu"), "pages")) {
    const size = bytesOf(page.attrs["size"], page.attrs["unit"] ?? "KiB");
    if (size !== undefined && !counts.has(size)) counts.set(size, 0);
  }
  const model = textAt(host, "cpu", "model");
  const counter = all(find(host, "cpu"), "counter").find((one) => one.attrs["name"] === "tsc");
  const tsc = wholeNumber(counter?.attrs["frequency"]);
  return {
    arch: archOf(textAt(host, "cpu", "arch") ?? ""),
    cpus: cells.reduce((sum, cell) => sum + all(find(cell, "cpus"), "cpu").length, 0),
    memory: cells.reduce((sum, cell) => sum + (bytesAt(cell, ["memory"]) ?? 0), 0),
    ...(model !== undefined && { cpu_model: model }),
    ...(tsc !== undefined && { tsc }),
    pages: [...counts].map(([size, count]) => ({ size, count })).sort((a, b) => a.size - b.size),
    guests: all(root, "guest").flatMap(guestOf),
  };
}

function guestOf(guest: XmlElement): GuestCapabilities[] {
  const element = find(guest, "arch");
  const arch = archOf(element?.attrs["name"] ?? "");
  const os = textAt(guest, "os_type");
  if (element === undefined || arch === undefined || (os !== "hvm" && os !== "exe")) return [];
  return [
    {
      arch,
      os,
      emulator: textAt(element, "emulator") ?? "",
      types: all(element, "domain").map((one) => one.attrs["type"] ?? ""),
      machines: all(element, "machine").map((one) => {
        const max = wholeNumber(one.attrs["maxCpus"]);
        return {
          name: one.text,
          canonical: one.attrs["canonical"] ?? one.text,
          ...(max !== undefined && { max_cpus: max }),
        };
      }),
    },
  ];
}

/** What virConnectGetDomainCapabilities says of one emulator, machine type and way of running it. */
export function parseDomainCapabilities(xml: string): DomainCapabilities {
  const root = parseXml(xml, "domainCapabilities");
  const os = find(root, "os");
  const cpu = find(root, "cpu");
  const devices = find(root, "devices");
  const modes = all(cpu, "mode");
  const max = wholeNumber(attrAt(root, ["vcpu"], "max"));
  const custom = modes.find((mode) => mode.attrs["name"] === "custom");
  const vsock = find(devices, "vsock");
  return {
    emulator: textAt(root, "path") ?? "",
    type: textAt(root, "domain") ?? "",
    arch: archOf(textAt(root, "arch") ?? ""),
    machine: textAt(root, "machine") ?? "",
    ...(max !== undefined && { max_cpus: max }),
    uefi: values(os, "firmware").includes("efi"),
    secure_boot: values(find(os, "loader"), "secure").includes("yes"),
    cpu_modes: modes.filter((mode) => mode.attrs["supported"] === "yes").map((mode) => mode.attrs["name"] ?? ""),
    cpu_models: all(custom, "model")
      .filter((model) => model.attrs["usable"] !== "no")
      .map((model) => model.text),
    disk_buses: values(find(devices, "disk"), "bus"),
    filesystems: values(supported(devices, "filesystem"), "driverType"),
    memory_sources: values(supported(root, "memoryBacking"), "sourceType"),
    tpm_backends: values(supported(devices, "tpm"), "backendModel"),
    rng: supported(devices, "rng") !== undefined,
    vsock: vsock === undefined ? undefined : vsock.attrs["supported"] === "yes",
  };
}

function supported(from: XmlElement | undefined, name: string): XmlElement | undefined {
  const element = find(from, name);
  return element?.attrs["supported"] === "yes" ? element : undefined;
}

function values(from: XmlElement | undefined, name: string): string[] {
  const list = all(from, "enum").find((one) => one.attrs["name"] === name);
  return all(list, "value").map((one) => one.text);
}
