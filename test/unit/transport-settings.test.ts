import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir, userInfo } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { SshConnection } from "../../src/transport/index.ts";
import { resolveSettings } from "../../src/transport/ssh/settings.ts";

let home: string;
const spec: SshConnection = {
  type: "ssh",
  address: "host.a",
  host: "box",
  host_key: "strict",
  become: { method: "none" },
  connect_timeout: 10_000,
  retry: { attempts: 0, delay: 1, max_delay: 1 },
};
const settings = (overrides: Partial<SshConnection> = {}, env: Record<string, string> = {}) =>
  resolveSettings({ ...spec, ...overrides }, { HOME: home, USER: "me", ...env });

beforeAll(() => {
  home = mkdtempSync(join(tmpdir(), "labctl-settings-"));
  mkdirSync(join(home, ".ssh", "d"), { recursive: true });
  writeFileSync(
    join(home, ".ssh", "config"),
    [
      "Include d/*.conf nothing-there",
      "User everybody",
      "Host jumped",
      "  ProxyJump first@hop1:2201,hop2",
      "Host pinned",
      "  ProxyCommand nc %h %p",
      'Match exec "touch /should-not-run"',
      "  Port 9",
      "Host *",
      "  ConnectTimeout 3",
    ].join("\n"),
  );
  writeFileSync(
    join(home, ".ssh", "d", "box.conf"),
    "host BOX box\n\thostname=real.example\n\tPort 2222\n\tidentityfile ~/.ssh/%r@%h:%p\n\tIdentityFile %d/two\n\tIdentitiesOnly yes\n\tIdentityAgent ~/agent.sock\n\tUserKnownHostsFile ~/k1 ~/k2\n",
  );
});
afterAll(() => rmSync(home, { recursive: true, force: true }));

test("values of the file, its tokens, and an Include before what follows", async () => {
  expect(await settings()).toMatchObject({
    host: "real.example",
    port: 2222,
    user: "everybody",
    files: [
      { path: join(home, ".ssh/everybody@real.example:2222"), required: false },
      { path: join(home, "two"), required: false },
    ],
    identitiesOnly: true,
    agent: join(home, "agent.sock"),
    knownHosts: [join(home, "k1"), join(home, "k2"), "/etc/ssh/ssh_known_hosts"],
    connectTimeout: 3000,
    jump: undefined,
  });
});

test("explicit settings win, and the file can be left out", async () => {
  const own = { port: 22, user: "root", keys: ["/k"], agent: false as const, known_hosts: "/kh" };
  expect(await settings(own)).toMatchObject({
    host: "real.example",
    port: 22,
    user: "root",
    files: [{ path: "/k", required: true }],
    agent: undefined,
    knownHosts: ["/kh"],
  });
  expect(await settings({ ssh_config: false })).toMatchObject({
    host: "box",
    port: 22,
    user: "me",
    connectTimeout: 10_000,
    knownHosts: [join(home, ".ssh/known_hosts"), join(home, ".ssh/known_hosts2"), "/etc/ssh/ssh_known_hosts"],
  });
  expect(
    (await settings({ host: "other", ssh_config: join(home, "no-such-file") }, { SSH_AUTH_SOCK: "/s" })).agent,
  ).toBe("/s");
});

test("ProxyJump is a chain, the last hop nearest to the target", async () => {
  const { jump } = await settings({ host: "jumped", password: undefined as never });
  expect(jump).toMatchObject({ host: "hop2", jump: { host: "hop1", port: 2201, user: "first" } });
  expect(jump?.port).toBeUndefined();
  expect((await settings({ host: "jumped", jump: { ...spec, host: "mine" } })).jump?.host).toBe("mine");
});

test("what is not run is said", async () => {
  await expect(settings({ host: "pinned" })).rejects.toMatchObject({
    code: "E_CONNECT",
    hint: expect.stringContaining("jump:"),
  });
  await expect(settings({ host: "other", port: 70_000 })).rejects.toMatchObject({ code: "E_SPEC_VALUE" });
  expect((await settings({ host: "other" })).port).toBe(22);
  expect(userInfo().username).not.toBe("");
});
