/** Machines that are down, refuse, are somebody else, go away in the middle or are slow; what happens to the rest. */
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import { connect, createServer, type Server, type Socket } from "node:net";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import type { LabEvent, Problem } from "../../src/model/index.ts";
import { machinesUnavailable, startMachine, type TestMachine } from "../support/sshd.ts";
import { type AppliedRun, createWorkspace, hostOf, resultsOf, type Workspace } from "../support/workspace.ts";

const unavailable = machinesUnavailable();
if (unavailable !== undefined) console.log(`failures: skipped: ${unavailable}`);

const DEFAULTS = { timeouts: { connect: "700ms" }, retry: { attempts: 3, delay: "100ms", max_delay: "1s" } };

function of<T extends LabEvent["type"]>(events: readonly LabEvent[], type: T): Extract<LabEvent, { type: T }>[] {
  return events.filter((event): event is Extract<LabEvent, { type: T }> => event.type === type);
}

/** What every message must hold: what failed, where, and what to do. */
function expectUseful(problem: Problem | undefined, code: string, where: string): void {
  expect(problem?.code).toBe(code);
  expect(`${problem?.address ?? ""} ${problem?.message ?? ""}`).toContain(where);
  expect(problem?.hint ?? "", problem?.message).toMatch(/\w+ \w+/);
}

describe.skipIf(unavailable !== undefined)(
  "deployment failure handling, retry with backoff, environment unavailability",
  () => {
    let good: TestMachine;
    let bad: TestMachine;
    let lab: Workspace;

    beforeAll(async () => {
      [good, bad] = await Promise.all([startMachine({ name: "good" }), startMachine({ name: "bad" })]);
    });
    afterAll(() => Promise.all([good, bad].map((machine) => machine?.stop())));
    beforeEach(async () => {
      lab = createWorkspace();
      const key = (await bad.exec("cut -d' ' -f1,2 /etc/ssh/ssh_host_ed25519_key.pub")).stdout;
      writeFileSync(bad.knownHostsPath, `${bad.address} ${key}`);
      for (const machine of [good, bad]) await machine.exec("rm -rf /srv/lab /var/lib/labctl; mkdir -p /srv/lab");
    });
    afterEach(() => lab.remove());

    const write = (more: { badSsh?: object; badHost?: object; only?: "bad" } = {}): void => {
      const host = hostOf(bad) as { ssh: object };
      lab.write("lab.yaml", {
        labctl: 1,
        name: "failures",
        defaults: DEFAULTS,
        hosts: {
          ...(more.only === undefined && { good: { ...hostOf(good), files: { "/srv/lab/a": { content: "a\n" } } } }),
          bad: {
            ...host,
            ssh: { ...host.ssh, ...more.badSsh },
            files: { "/srv/lab/b": { content: "b\n" } },
            ...more.badHost,
          },
        },
      });
    };
    const has = async (machine: TestMachine, path: string): Promise<boolean> =>
      (await machine.exec(`test -e ${path}`)).code === 0;
    const converges = async (): Promise<void> => {
      await lab.apply();
      expect(await lab.pending()).toEqual({});
      expect(await has(bad, "/srv/lab/b")).toBe(true);
    };

    test("a host that is down: 3 retries with growing delays, offline; the rest converges; running again finishes", async () => {
      write();
      await bad.pause();
      let run: AppliedRun;
      try {
        const planned = await lab.run(["plan"]);
        expect(planned.code, planned.output).toBe(5);
        expect(planned.output).toContain("no answer within");
        run = await lab.apply([], 6);
      } finally {
        await bad.resume();
      }
      const retries = of(run.events, "host.retrying").filter(({ host }) => host === "host.bad");
      expect(retries.map(({ attempt }) => attempt)).toHaveLength(3);
      const delays = retries.map(({ delay_ms }) => delay_ms);
      // Doubling, with jitter at most.
      expect(delays[1]).toBeGreaterThan(delays[0] ?? 0);
      expect(delays[2]).toBeGreaterThan(delays[1] ?? 0);
      expect(of(run.events, "host.offline").map(({ host }) => host)).toEqual(["host.bad"]);
      expectUseful(run.summary.problems[0], "E_CONNECT", "host.bad");
      expect(await has(good, "/srv/lab/a")).toBe(true);
      expect(resultsOf(run.events)).toEqual({
        "host.good": "ok",
        'host.good/file["/srv/lab/a"]': "ok",
        "host.bad": "blocked",
        'host.bad/file["/srv/lab/b"]': "blocked",
      });
      await converges();
    });

    test("nothing begun is 5: only the unreachable host has something to do", async () => {
      write({ only: "bad" });
      await bad.stopSshd();
      try {
        const run = await lab.apply([], 5);
        expectUseful(run.summary.problems[0], "E_CONNECT", "host.bad");
        expect(run.summary.problems[0]?.message).toMatch(/refused/);
        expect(of(run.events, "host.retrying")).toHaveLength(3);
      } finally {
        await bad.startSshd();
      }
      await converges();
    });

    test("unreachable is not absent: nothing is deleted, forgotten or made again", async () => {
      write();
      await lab.apply();
      await bad.stopSshd();
      try {
        write({ badHost: { files: {} } });
        const plan = await lab.plan([], 5);
        const bads = plan.actions.filter(({ address }) => address.startsWith("host.bad"));
        expect(new Set(bads.map(({ action }) => action))).toEqual(new Set(["blocked"]));
        await lab.apply([], 5);
        await lab.destroy(["--target", "host.bad"], 5);
        const forced = await lab.destroy(["--target", "host.bad", "--force"], 5);
        expect(forced.summary.manual_steps.join("\n")).toContain('host.bad/file["/srv/lab/b"]');
      } finally {
        await bad.startSshd();
      }
      expect(await has(bad, "/srv/lab/b")).toBe(true);
      write();
      expect(await lab.pending()).toEqual({});
    });

    test("a refused key is E_AUTH, said once and not retried", async () => {
      const stranger = lab.path("stranger");
      const { spawnSync } = await import("node:child_process");
      spawnSync("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f", stranger]);
      write({ badSsh: { key: stranger } });
      const run = await lab.apply([], 6);
      expect(of(run.events, "host.retrying")).toEqual([]);
      expectUseful(run.summary.problems[0], "E_AUTH", "host.bad");
      expect(run.summary.problems[0]?.message).toContain("lab");
      const accepted = (await bad.exec("grep -c 'Connection closed by authenticating user' /var/log/sshd.log")).stdout;
      expect(Number(accepted), "one connection, one refusal").toBe(1);
      write();
      await converges();
    });

    test("a changed host key is refused and explained, not retried, and never accepted by accept-new", async () => {
      write();
      await lab.apply();
      const known = readFileSync(bad.knownHostsPath, "utf8");
      await bad.rotateHostKey();
      for (const host_key of ["strict", "accept-new"]) {
        write({ badSsh: { host_key } });
        const result = await lab.run(["plan"]);
        expect(result.code, host_key).toBe(5);
        expect(result.output).toContain("E_HOST_KEY_CHANGED");
        expect(result.output.match(/SHA256:[A-Za-z0-9+/]{43}/g)?.length ?? 0).toBeGreaterThan(0);
        const run = await lab.apply([], 5);
        expect(of(run.events, "host.retrying")).toEqual([]);
        expectUseful(run.summary.problems[0], "E_HOST_KEY_CHANGED", "host.bad");
        expect(readFileSync(bad.knownHostsPath, "utf8")).toBe(known);
      }
      const fresh = (await bad.exec("cut -d' ' -f1,2 /etc/ssh/ssh_host_ed25519_key.pub")).stdout;
      writeFileSync(bad.knownHostsPath, `${bad.address} ${fresh}`);
      write();
      await converges();
    });

    test("a cable that is cut in the middle: said, and finished by running again", async () => {
      write({
        badHost: {
          commands: {
            slow: { run: "echo begun; sleep 4; touch /srv/lab/slow", creates: "/srv/lab/slow", retry: { attempts: 0 } },
          },
        },
      });
      const process = lab.spawn(["apply", "--auto-approve", "--json"]);
      await process.event((event) => event.type === "log.line" && event.message.includes("begun"));
      await bad.cut();
      const { code } = await process.done;
      const summary = of(process.events, "run.finished")[0]?.summary;
      expect(code, JSON.stringify(summary)).toBe(6);
      expectUseful(summary?.problems[0], "E_DISCONNECTED", "host.bad");
      expect(resultsOf(process.events)['host.good/file["/srv/lab/a"]']).toBe("ok");
      expect(Object.keys(await lab.pending())).toEqual(["host.bad/command.slow"]);
      await converges();
      expect(await has(bad, "/srv/lab/slow")).toBe(true);
    });

    test("a drop that passes is tried again within the run", async () => {
      write({
        badHost: {
          commands: {
            slow: {
              run: "echo begun; sleep 2; touch /srv/lab/again",
              creates: "/srv/lab/again",
              retry: { attempts: 3, delay: "100ms" },
            },
          },
        },
      });
      const process = lab.spawn(["apply", "--auto-approve", "--json"]);
      await process.event((event) => event.type === "log.line" && event.message.includes("begun"));
      await bad.cut();
      const { code, output } = await process.done;
      expect(code, output.slice(-2000)).toBe(0);
      expect(of(process.events, "action.retrying").map(({ address }) => address)).toEqual(["host.bad/command.slow"]);
    });

    test("power fails in the middle: 6, bounded, and what could be done elsewhere was done", async () => {
      const victim = await startMachine({ name: "victim", setup: "mkdir -p /srv/lab" });
      try {
        lab.write("lab.yaml", {
          labctl: 1,
          name: "failures",
          defaults: { ...DEFAULTS, retry: { attempts: 1, delay: "50ms" } },
          hosts: {
            victim: {
              ...hostOf(victim),
              commands: { slow: { run: "echo begun; sleep 60", creates: "/srv/lab/never" } },
            },
            good: {
              ...hostOf(good),
              commands: { late: { run: "sleep 2; touch /srv/lab/late", creates: "/srv/lab/late" } },
            },
          },
        });
        const process = lab.spawn(["apply", "--auto-approve", "--json"]);
        await process.event((event) => event.type === "log.line" && event.message.includes("begun"));
        await victim.kill();
        const started = performance.now();
        const { code } = await process.done;
        expect(code).toBe(6);
        expect(performance.now() - started).toBeLessThan(40_000);
        expect(resultsOf(process.events)).toMatchObject({
          "host.good/command.late": "ok",
          "host.victim/command.slow": "failed",
        });
      } finally {
        await victim.stop();
      }
    });

    test("a slow link only takes longer", async () => {
      const link = await slowLink(good.address, 22, 60);
      try {
        const key = readFileSync(good.knownHostsPath, "utf8").split(" ").slice(1).join(" ");
        lab.write("known", `[127.0.0.1]:${link.port} ${key}`);
        const big = "0123456789abcdef".repeat(16 * 1024);
        lab.write("big.bin", big);
        lab.write("lab.yaml", {
          labctl: 1,
          name: "slow",
          defaults: { ...DEFAULTS, timeouts: { connect: "5s" } },
          hosts: {
            slow: {
              address: "127.0.0.1",
              sudo: true,
              ssh: { user: "lab", port: link.port, key: good.keyPath, known_hosts: "./known", host_key: "strict" },
              files: { "/srv/lab/small": { content: "s\n" }, "/srv/lab/big": { source: "./big.bin" } },
            },
          },
        });
        const run = await lab.apply();
        expect(of(run.events, "host.retrying")).toEqual([]);
        expect(await lab.pending()).toEqual({});
        expect((await good.exec("cat /srv/lab/big")).stdout).toBe(big);
      } finally {
        link.server.close();
      }
    });
  },
);

/** Passes bytes on both ways, each chunk `delay` milliseconds late. */
async function slowLink(host: string, port: number, delay: number): Promise<{ server: Server; port: number }> {
  const pipe = (from: Socket, to: Socket): void => {
    from.on("data", (chunk) => void setTimeout(() => to.writable && to.write(chunk), delay));
    from.on("close", () => void setTimeout(() => to.destroy(), delay));
    from.on("error", () => undefined);
  };
  const server = createServer((near) => {
    const far = connect({ host, port });
    pipe(near, far);
    pipe(far, near);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  return { server, port: typeof address === "object" && address !== null ? address.port : 0 };
}
