/** `labctl ssh` and `exec` into guests that run an SSH server: however their address can be known on their host. */
import { afterAll, beforeAll, expect, test } from "vitest";
import { debianKernel } from "../support/kernels.ts";
import { startLibvirtd, type TestLibvirtd } from "../support/libvirtd.ts";
import { DHCP, LET_IN, sshGuest } from "../support/ssh-guest.ts";
import { createWorkspace, hostOf, type Workspace } from "../support/workspace.ts";

const INIT = `by=$(sed 's/.*test.by=\\([a-z]*\\).*/\\1/' /proc/cmdline); echo "$by" >/etc/by
case $by in
  dhcp) ${DHCP} ;;
  agent) ip address add 192.168.150.201/24 dev eth0; qemu-ga -d -p /dev/$(cd /sys/class/virtio-ports && dirname "$(grep -l guest_agent */name)") ;;
  arp) ip address add 192.168.150.202/24 dev eth0; ping -c 1 -W 9 192.168.150.1 ;;
esac
${LET_IN}
echo "labctl-test: up"
while :; do sleep 60; done
`;

let virt: TestLibvirtd;
let ws: Workspace;

beforeAll(async () => {
  const [started, kernel] = await Promise.all([startLibvirtd(), debianKernel("x86_64")]);
  virt = started;
  const { keyPath } = virt.host;
  const initrd = await sshGuest({ kernel, init: INIT, authorized: `${keyPath}.pub`, programs: ["qemu-ga"] });
  ws = createWorkspace();
  const vm = (by: string, more: object = {}): object => ({
    host: "kvm",
    memory: "256MiB",
    networks: ["test"],
    boot: { kernel: kernel.image, initrd, cmdline: `console=ttyS0 panic=0 test.by=${by}` },
    ssh: { user: "root", key: keyPath, host_key: "accept-new", known_hosts: "./guests" },
    ...more,
  });
  ws.write("lab.yaml", {
    labctl: 1,
    name: "vms",
    hosts: { kvm: hostOf(virt.host, { qemu_host: {} }) },
    networks: { test: { host: "kvm", cidr: "192.168.150.0/24" } },
    vms: { dhcp: vm("dhcp"), agent: vm("agent", { agent: true }), arp: vm("arp") },
  });
  await ws.apply();
}, 300_000);
afterAll(async () => {
  ws?.remove();
  await virt?.stop();
});

test.each([
  ["dhcp", "that its network's DHCP server gave", /^192\.168\.150\.(?!201|202)\d+$/],
  ["agent", "that only its agent knows", /^192\.168\.150\.201$/],
  ["arp", "that its neighbours have seen", /^192\.168\.150\.202$/],
])("%s: an address %s", { timeout: 180_000 }, async (by, _what, address) => {
  await expect
    .poll(() => virt.run("cat", `/var/log/libvirt/qemu/vms-${by}-console.log`), { timeout: 120_000, interval: 500 })
    .toContain("labctl-test: up");
  const says = 'set -- $SSH_CONNECTION; echo "$(cat /etc/by) $3"';
  const exec = await ws.run(["exec", by, "--", "sh", "-c", says]);
  expect(exec.code, exec.output).toBe(0);
  const [name, at] = exec.stdout.trim().split(" ");
  expect(name).toBe(by);
  expect(at).toMatch(address);
  const client = await ws.run(["ssh", `vm.${by}`, "--", `${says}; exit 3`]);
  expect(client.code, client.output).toBe(3);
  expect(client.stdout).toBe(exec.stdout);
});

test("the channel of the agent is read back, and put back", { timeout: 60_000 }, async () => {
  expect(await ws.pending()).toEqual({});
  const channel = /<channel type='unix'>[^]*?<\/channel>/.exec(
    await virt.virsh("dumpxml", "--inactive", "vms-agent"),
  )?.[0];
  await virt.run("sh", "-c", `printf %s "$1" >/tmp/channel.xml`, "sh", channel ?? "");
  await virt.virsh("detach-device", "vms-agent", "/tmp/channel.xml", "--config");
  expect(await ws.pending()).toEqual({ "vm.agent": "update agent" });
  await ws.apply();
  expect(await virt.virsh("dumpxml", "--inactive", "vms-agent")).toContain("org.qemu.guest_agent.0");
  expect(await ws.pending()).toEqual({});
});
