/** Volumes on a real libvirtd, through the CLI; what is there is asked of virsh and qemu-img. */
import { execFileSync } from "node:child_process";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { startLibvirtd, type TestLibvirtd } from "../support/libvirtd.ts";
import { createWorkspace, hostOf, type Workspace } from "../support/workspace.ts";

const IMAGES = "/var/lib/libvirt/images";
const MIB = 1024 ** 2;

let virt: TestLibvirtd;
let ws: Workspace;

function lab(volumes: Readonly<Record<string, object>>, more: object = {}): void {
  ws.write("lab.yaml", {
    labctl: 1,
    name: "vols",
    hosts: { kvm: hostOf(virt.host, { qemu_host: {} }) },
    volumes: Object.fromEntries(Object.entries(volumes).map(([name, of]) => [name, { host: "kvm", ...of }])),
    ...more,
  });
}

const ALL = {
  base: { source: "./base.qcow2", size: "48MiB" },
  layer: { backing: "base", size: "64MiB" },
  plain: { format: "raw", size: "8MiB" },
  seed: { seed: { user_data: "#cloud-config\nhostname: box\n" } },
};

async function image(name: string): Promise<Record<string, unknown>> {
  return JSON.parse(await virt.run("qemu-img", "info", "--output=json", `${IMAGES}/${name}`)) as Record<
    string,
    unknown
  >;
}

beforeAll(async () => {
  virt = await startLibvirtd();
  ws = createWorkspace();
  ws.write("content", "labctl ".repeat(100_000));
  execFileSync("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", ws.path("content"), ws.path("base.qcow2")]);
}, 120_000);
afterAll(async () => {
  ws?.remove();
  await virt?.stop();
});

describe("volumes", { timeout: 120_000 }, () => {
  test("are made of what the spec says, and made once", async () => {
    lab(ALL);
    await ws.apply();
    expect(await image("vols-base.qcow2")).toMatchObject({ format: "qcow2", "virtual-size": 48 * MIB });
    expect(await image("vols-layer.qcow2")).toMatchObject({
      "virtual-size": 64 * MIB,
      "backing-filename": `${IMAGES}/vols-base.qcow2`,
      "backing-filename-format": "qcow2",
    });
    expect(await image("vols-plain.img")).toMatchObject({ format: "raw", "virtual-size": 8 * MIB });
    expect(await virt.run("sh", "-c", `head -c 40000 ${IMAGES}/vols-seed.iso | grep -q CD001 && echo yes`)).toBe("yes");
    expect(
      await virt.run(
        "sh",
        "-c",
        `qemu-img convert -O raw ${IMAGES}/vols-base.qcow2 /tmp/base.raw && head -c 14 /tmp/base.raw`,
      ),
    ).toBe("labctl labctl");
    expect(await ws.pending()).toEqual({});
  });

  test("what the lab may have of disk in all is counted before anything is made, machines included", async () => {
    // A machine's layer over a volume counts, and a volume that it uses as it is counts once.
    const disks = [{ volume: "layer" }, { size: "20MiB" }, { volume: "plain", direct: true }];
    const vms = { box: { host: "kvm", memory: "64MiB", running: false, disks } };
    const there = await virt.run("sh", "-c", `ls ${IMAGES}`);
    for (const [disk, who] of [
      ["203MiB", "vm.box"],
      ["119MiB", "volume.plain"],
      ["47MiB", "volume.base"],
    ] as const) {
      lab(ALL, { vms, limits: { disk } });
      const run = await ws.run(["apply", "--auto-approve"]);
      expect(run.code, run.output).toBe(8);
      expect(run.output).toContain(
        "its disks and volumes have 204.0 MiB: volume.base 48.0 MiB, volume.layer 64.0 MiB, volume.plain 8.0 MiB, vm.box 84.0 MiB",
      );
      expect(run.output.match(/E_NEVER_FITS/g)).toHaveLength(1);
      expect(run.output).toContain(`${who} (lab.yaml:`);
    }
    lab(ALL, { vms, limits: { disk: "204MiB" } });
    expect(await ws.pending()).toMatchObject({ "vm.box": expect.stringMatching(/^create/) });
    expect(await virt.run("sh", "-c", `ls ${IMAGES}`)).toBe(there);
  });

  test("grow", async () => {
    lab({ ...ALL, plain: { format: "raw", size: "16MiB" } });
    expect(await ws.pending()).toEqual({ "volume.plain": "update size" });
    await ws.apply();
    expect(await image("vols-plain.img")).toMatchObject({ "virtual-size": 16 * MIB });
    expect(await ws.pending()).toEqual({});
  });

  const drifts: Readonly<Record<string, readonly [string, () => Promise<unknown>]>> = {
    "that is larger": ["replace", () => virt.virsh("vol-resize", "--pool", "default", "vols-plain.img", "20MiB")],
    "that was taken away": ["create", () => virt.virsh("vol-delete", "--pool", "default", "vols-plain.img")],
    "that nobody says whose it is": ["update owned", () => virt.run("rm", `${IMAGES}/vols-plain.img.labctl`)],
    "whose pool was stopped": ["update active", () => virt.virsh("pool-destroy", "default")],
  };
  for (const [what, [named, change]] of Object.entries(drifts)) {
    test(`one ${what} is named, and mended`, async () => {
      await change();
      const pending = await ws.pending();
      expect(pending["volume.plain"]).toBe(named);
      if (named !== "update active") expect(Object.keys(pending)).toEqual(["volume.plain"]);
      await ws.apply();
      expect(await ws.pending()).toEqual({});
      expect(await image("vols-plain.img")).toMatchObject({ "virtual-size": 16 * MIB });
    });
  }

  const wrong: Readonly<Record<string, readonly [object, number, string]>> = {
    "does not fit": [{ size: "900TiB" }, 8, "E_DISK_FIT"],
    "is smaller than its image": [{ source: "./base.qcow2", size: "100KiB" }, 8, "E_DISK_FIT"],
    "is no qcow2": [{ source: "./content" }, 3, "E_IMAGE_FORMAT"],
  };
  for (const [what, [volume, code, name]] of Object.entries(wrong)) {
    test(`one that ${what} is refused before anything is touched`, async () => {
      lab({ ...ALL, plain: { format: "raw", size: "16MiB" }, fine: { size: "1MiB" }, wrong: volume });
      const run = await ws.run(["apply", "--auto-approve"]);
      expect(run.output).toContain(name);
      expect(run.code, run.output).toBe(code);
      expect(await virt.run("ls", IMAGES)).not.toContain("fine");
    });
  }

  test("one of that name that labctl did not make is left alone", async () => {
    await virt.virsh("vol-create-as", "default", "vols-theirs.qcow2", "1MiB", "--format", "qcow2");
    lab({ ...ALL, plain: { format: "raw", size: "16MiB" }, theirs: { size: "1MiB" } });
    const plan = await ws.plan([], 6);
    expect(plan.actions.find((one) => one.address === "volume.theirs")).toMatchObject({
      reason: { code: "not-owned" },
    });
    await virt.virsh("vol-delete", "--pool", "default", "vols-theirs.qcow2");
  });

  test("another content is another volume", async () => {
    execFileSync("qemu-img", ["create", "-q", "-f", "qcow2", ws.path("base.qcow2"), "1M"]);
    lab({ base: ALL.base });
    await ws.apply();
    expect(await virt.run("ls", IMAGES)).toBe("vols-base.qcow2\nvols-base.qcow2.labctl");
    expect(await ws.pending()).toEqual({});
  });

  test("destroy leaves nothing", async () => {
    await ws.destroy();
    expect(await virt.run("ls", "-A", IMAGES)).toBe("");
    expect(await virt.virsh("pool-list", "--all", "--name")).toBe("");
  });
});
