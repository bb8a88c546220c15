/** An environment that is up when it can be logged in to: that alone says so, at each apply and at each plan. */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { type DebianKernel, debianKernel } from "../support/kernels.ts";
import { startLibvirtd, type TestLibvirtd } from "../support/libvirtd.ts";
import { DHCP, LET_IN, sshGuest } from "../support/ssh-guest.ts";
import { createWorkspace, hostOf, type Workspace } from "../support/workspace.ts";

/** `test.does=`: what it does in place of letting people in. */
const INIT = `does=$(sed -n 's/.*test.does=\\([a-z]*\\).*/\\1/p' /proc/cmdline)
${DHCP}
case $does in
  refuse) echo nobody >/root/.ssh/authorized_keys ;;
  panic) echo c >/proc/sysrq-trigger ;;
esac
[ "$does" = closed ] || ${LET_IN}
while :; do sleep 60; done
`;
const QUIET = "console=ttyS0 panic=0 quiet loglevel=0";

let virt: TestLibvirtd;
let kernel: DebianKernel;
let initrd: string;
let ws: Workspace;

function spec(boot: object = {}, vm: object = {}): void {
  ws.write("pipeline.yaml", {
    labctl: 1,
    name: "ci",
    environments: {
      smoke: {
        vm: { memory: "256MiB", networks: ["test"], ...vm },
        boot: { kernel: kernel.image, initrd, cmdline: QUIET, ready: "ssh", attempts: 0, timeout: "90s", ...boot },
        ssh: { user: "root", key: virt.host.keyPath },
      },
    },
  });
}

async function observed(): Promise<Record<string, unknown>> {
  const { code, stdout, output } = await ws.run(["state", "show", "environment.smoke", "--json"]);
  expect(code, output).toBe(0);
  const { observed: found } = JSON.parse(stdout) as { observed: Record<string, unknown> };
  return found;
}

const exec = (...words: string[]) => ws.run(["exec", "environment.smoke", "--", ...words]);

beforeAll(async () => {
  [virt, kernel] = await Promise.all([startLibvirtd(), debianKernel("x86_64")]);
  initrd = await sshGuest({ kernel, init: INIT, authorized: `${virt.host.keyPath}.pub` });
  ws = createWorkspace();
  ws.write("lab.yaml", {
    labctl: 1,
    name: "lab",
    hosts: { kvm: hostOf(virt.host, { qemu_host: {} }) },
    networks: { test: { host: "kvm", cidr: "192.168.151.0/24" } },
  });
  await ws.apply(["-f", "lab.yaml"]);
}, 300_000);
afterAll(async () => {
  ws?.remove();
  await virt?.stop();
});
beforeEach(() => spec());

const PLAN = ["-f", "pipeline.yaml"];

describe("an environment that is up when it can be logged in to", { timeout: 300_000 }, () => {
  test("is up as soon as it lets in, and its kernel says over SSH what it is", async () => {
    await ws.apply(PLAN);
    expect(await observed()).toMatchObject({ ready: true, status: "completed", release: kernel.release });
    // Nothing of that came from the console.
    expect(await virt.run("cat", "/var/log/libvirt/qemu/lab-ci-smoke-console.log")).not.toContain("Linux version");
    expect(await ws.pending(PLAN)).toEqual({});
  });

  test("is logged in to with the key that it showed, which nobody had to write down", async () => {
    await ws.apply(PLAN);
    const ran = await exec("uname", "-r");
    expect(ran.code, ran.output).toBe(0);
    expect(ran.stdout.trim()).toBe(kernel.release);
    const client = await ws.run(["ssh", "environment.smoke", "--", "exit 3"]);
    expect(client.code, client.output).toBe(3);
  });

  test("with another host key it is not the one that was booted", async () => {
    await ws.apply(PLAN);
    const put = "rm -f /etc/dropbear/*_key; killall dropbear; sleep 1; dropbear -R -s -p 22";
    await exec("sh", "-c", `setsid sh -c '${put}' >/dev/null 2>&1 </dev/null &`);
    await expect
      .poll(async () => (await exec("true")).output, { timeout: 60_000, interval: 1000 })
      .toMatch(/E_HOST_KEY_CHANGED/);
    const plan = await ws.run(["plan", ...PLAN]);
    expect(plan.output).toMatch(/nobody can log in: SSH to 192\.168\.151\.\d+: .* shows the host key SHA256:/);
    expect(await ws.pending(PLAN)).toEqual({ "environment.smoke": "update ready" });
  });

  test("is booted again where nobody can log in any more; its new key is as good as the first", async () => {
    await ws.apply(PLAN);
    expect((await exec("killall", "dropbear")).output).toContain("E_DISCONNECTED");
    expect(await ws.pending(PLAN)).toEqual({ "environment.smoke": "update ready" });
    await ws.apply(PLAN);
    expect(await observed()).toMatchObject({ ready: true });
    expect((await exec("true")).code).toBe(0);
    expect(await ws.pending(PLAN)).toEqual({});
  });

  test("without a network it is refused before anything is touched", async () => {
    spec({}, { networks: [] });
    const plan = await ws.run(["plan", ...PLAN]);
    expect(plan.code, plan.output).toBe(3);
    expect(plan.output).toContain("has no network");
    expect(plan.output).toContain("vm: { networks }");
  });

  test("another kernel than the one that was placed is found out over SSH, where the console is quiet", async () => {
    spec({ release: "6.6.6-placed" });
    const run = await ws.apply(PLAN, 7);
    expect(run.output).toContain("E_BOOT_STALE");
    expect(run.output).toContain(`it is ${kernel.release}, and 6.6.6-placed was placed`);
  });

  test("who refuses the login is not up, and is said to refuse it", async () => {
    spec({ cmdline: `${QUIET} test.does=refuse`, timeout: "20s" });
    const run = await ws.apply(PLAN, 7);
    expect(run.output).toContain("E_BOOT_UNVERIFIED");
    expect(run.output).toMatch(/not shown to be up after 20 s; SSH to 192\.168\.151\.\d+: /);
    expect((await ws.run(["show", "environment.smoke"])).output).toMatch(/stopped at +unverified/);
  });

  test("who has no server is not up, though user space began long ago", async () => {
    spec({ cmdline: `console=ttyS0 panic=0 test.does=closed`, timeout: "16s", silence: "8s" });
    const run = await ws.apply(PLAN, 7);
    expect(run.output).toMatch(/not shown to be up after 16 s; no SSH server answers at 192\.168\.151\.\d+/);
  });

  test("a panic is not waited out", async () => {
    spec({ cmdline: `console=ttyS0 panic=0 test.does=panic`, timeout: "10m" });
    const run = await ws.apply(PLAN, 7);
    expect(run.output).toContain("E_BOOT_CRASHED");
    expect(run.output).toContain("sysrq triggered crash");
  });
});
