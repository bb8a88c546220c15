/**
 * examples/kernel-to-vm as it stands: a kernel from Debian's linux-source package and an initramfs, built over SSH, kept, booted
 * under libvirt and QEMU, shown to be up, and torn down. `npm run test:kernel`; LABCTL_LINUX_SOURCE names a
 * linux-source-*.tar.xz that is there already.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { sha256File } from "../../providers/build/source-directory.ts";
import { linuxSource } from "../support/linux-source.ts";
import { startLibvirtd, type TestLibvirtd } from "../support/libvirtd.ts";
import { createWorkspace, type Workspace } from "../support/workspace.ts";

const MINUTE = 60_000;

let folder: string;
let virt: TestLibvirtd;
let ws: Workspace;
let vars: readonly string[];

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "labctl-example-"));
  virt = await startLibvirtd();
  ws = createWorkspace({ copy: join(import.meta.dirname, "../../examples/kernel-to-vm") });
  const tarball = linuxSource(folder);
  const { host } = virt;
  vars = Object.entries({
    address: host.address,
    user: "lab",
    key: host.keyPath,
    port: String(host.port),
    known_hosts: host.knownHostsPath,
    linux_source: tarball,
    linux_source_sha256: await sha256File(tarball),
  }).flatMap(([name, value]) => ["--var", `${name}=${value}`]);
}, 10 * MINUTE);
afterAll(async () => {
  ws?.remove();
  await virt?.stop();
  rmSync(folder, { recursive: true, force: true });
});

describe("examples/kernel-to-vm", () => {
  const run = async (args: readonly string[], code: number): Promise<string> => {
    const ended = await ws.spawn([...args, ...vars], { timeout: 40 * MINUTE }).done;
    expect(ended.code, ended.output).toBe(code);
    return ended.output;
  };
  const console = (): Promise<string> =>
    virt.run("cat", "/var/log/libvirt/qemu/kernel-to-vm-kernel-ci-smoke-console.log");

  test("goes from source to a booted machine, and a second apply does nothing", { timeout: 45 * MINUTE }, async () => {
    await run(["apply", "--auto-approve"], 0);
    expect(await virt.virsh("list", "--name", "--state-running")).toBe("kernel-to-vm-kernel-ci-smoke");
    expect(await console()).toMatch(/lab-env: up on 6\.1\.\d+\S* x86_64/);
    await run(["plan", "--detailed-exitcode"], 0);
  });

  test("a line of the initramfs is built and booted, and the kernel is not built again", {
    timeout: 10 * MINUTE,
  }, async () => {
    const file = ws.path("initramfs/init.c");
    writeFileSync(file, readFileSync(file, "utf8").replace("lab-env: up on", "lab-env: up and changed on"));
    // The marker is what the environment waits for: it is still there.
    const spec = ws.path("pipeline.yaml");
    writeFileSync(
      spec,
      readFileSync(spec, "utf8").replace('marker: "lab-env: up"', 'marker: "lab-env: up and changed"'),
    );
    const planned = await run(["plan", "--detailed-exitcode"], 2);
    expect(planned).toContain("build.initramfs");
    expect(planned).not.toContain("build.tiny");
    await run(["apply", "--auto-approve"], 0);
    expect(await console()).toContain("lab-env: up and changed on 6.1.");
    await run(["plan", "--detailed-exitcode"], 0);
  });

  test("destroy leaves nothing", { timeout: 5 * MINUTE }, async () => {
    await run(["destroy", "--auto-approve"], 0);
    expect(await virt.virsh("list", "--all", "--name")).toBe("");
  });
});
