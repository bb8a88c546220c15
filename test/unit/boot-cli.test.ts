import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { Services } from "../../src/cli/services.ts";
import { cli, ScriptedLab } from "./cli-harness.ts";

type Request = Parameters<Services["boot"]>[0];
type Report = Awaited<ReturnType<Services["boot"]>>;

const REPORT: Report = {
  verdict: "exited",
  exit_code: 0,
  started: true,
  stage: "command",
  kernel: { path: "/k", arch: "x86_64", release: "6.1.0-lab" },
  machine: "q35",
  accel: "tcg",
  accel_reason: "there is no /dev/kvm",
  boot_ms: 2500,
  duration_ms: 4000,
  events: [],
  tail: ["last words"],
  notes: [],
  root: "9p",
  shares: [],
  qemu: ["qemu-system-x86_64", "-m", "1024M"],
};

let lab: ScriptedLab;
let requests: Request[];

function answer(report: Partial<Report>, output: { readonly out?: string; readonly err?: string } = {}): void {
  lab.onBoot = async (request, streams) => {
    requests.push(request);
    if (output.out !== undefined) await streams.stdout(Buffer.from(output.out));
    if (output.err !== undefined) await streams.stderr(Buffer.from(output.err));
    return { ...REPORT, ...report };
  };
}

beforeEach(() => {
  lab = new ScriptedLab();
  requests = [];
  answer({});
});
afterEach(() => lab.remove());

describe("labctl boot", () => {
  it("takes apart what was typed", async () => {
    const { code } = await cli(lab, [
      ..."boot bzImage --initrd rd.gz --cpus 4 --memory 2G --arch arm64 --share x:rw --share /y".split(" "),
      "--append",
      "a=b c",
      ..."--timeout 90s -- ls -la --json".split(" "),
    ]);
    expect(code).toBe(0);
    expect(requests[0]).toMatchObject({
      kernel: `${lab.root}/bzImage`,
      initrd: `${lab.root}/rd.gz`,
      command: ["ls", "-la", "--json"],
      cpus: 4,
      memory: 2 * 2 ** 30,
      arch: "arm64",
      append: "a=b c",
      shares: [
        { path: `${lab.root}/x`, writable: true },
        { path: "/y", writable: false },
      ],
      timeout: 90_000,
      silence: 30_000,
      cwd: lab.root,
    });
    expect(requests[0]?.terminal).toBeUndefined();
  });

  it("exits as the command did, whatever it was, and adds no word", async () => {
    for (const exit of [0, 1, 3, 7, 130, 137, 255]) {
      answer({ exit_code: exit }, { out: "out\n", err: "err\n" });
      expect(await cli(lab, ["boot", "k", "--", "x"])).toEqual({ code: exit, out: "out\n", err: "err\n" });
    }
  });

  it("says how far it came where there was no command", async () => {
    const { out } = await cli(lab, ["boot", "k"]);
    expect(out).toBe("Booted 6.1.0-lab to user space in 2.5s (x86_64, q35, emulated).\n");
  });

  it("has a terminal where it stands in one, and not with --json", async () => {
    await cli(lab, ["boot", "k"], { tty: true, columns: 91 });
    await cli(lab, ["boot", "k", "--json"], { tty: true });
    expect(requests[0]?.terminal).toEqual({ rows: 30, columns: 91 });
    expect(requests[1]?.terminal).toBeUndefined();
  });

  it("tells a machine's end from a command's: before it began 7, after 6, with the lines that matter", async () => {
    const cause = {
      kind: "panic",
      severity: "fatal",
      title: "Kernel panic - not syncing: x",
      lines: ["Kernel panic - not syncing: x", "f+0x1/0x2"],
      at: { offset: 1, ms: 2 },
    } as const;
    const { exit_code: _, ...none } = REPORT;
    const of = async (report: Partial<Report>): Promise<readonly [number, string]> => {
      lab.onBoot = () => Promise.resolve({ ...none, ...report });
      const { code, err } = await cli(lab, ["boot", "k", "--", "x"]);
      return [code, err];
    };
    const before = await of({ verdict: "crashed", started: false, stage: "kernel", cause });
    expect(before[0]).toBe(7);
    expect(before[1]).toContain("  f+0x1/0x2\n");
    expect(before[1]).toContain("[E_BOOT_CRASHED]");
    const cases: readonly (readonly [Partial<Report>, number, string])[] = [
      [{ verdict: "crashed", cause }, 6, "E_GUEST_CRASHED"],
      [{ verdict: "hung", started: false, stage: "init" }, 7, "E_BOOT_HUNG"],
      [{ verdict: "hung" }, 6, "E_GUEST_HUNG"],
      [{ verdict: "late", started: false, stage: "nothing" }, 7, "E_BOOT_HUNG"],
      [{ verdict: "lost", started: false, stage: "kernel" }, 7, "E_BOOT_CRASHED"],
      [{ verdict: "lost" }, 6, "E_GUEST_CRASHED"],
      [{ verdict: "timeout" }, 6, "E_TIMEOUT"],
    ];
    for (const [report, exit, code] of cases) {
      const [actual, err] = await of(report);
      expect([actual, err.match(/\[(E_\w+)\]/)?.[1]]).toEqual([exit, code]);
    }
  });

  it("--json holds the verdict, the command's output, and one code to exit with", async () => {
    answer({ exit_code: 7 }, { out: "out\n", err: "err\n" });
    const { code, out, err } = await cli(lab, ["boot", "k", "--json", "--", "x"]);
    expect(JSON.parse(out)).toMatchObject({
      verdict: "exited",
      exit_code: 7,
      exit: 7,
      stdout: "out\n",
      stderr: "err\n",
      command: ["x"],
    });
    expect([code, err]).toEqual([7, ""]);
    const { exit_code: _, ...none } = REPORT;
    lab.onBoot = () => Promise.resolve({ ...none, verdict: "hung", started: false, stage: "nothing" });
    const failed = await cli(lab, ["boot", "k", "--json", "--", "x"]);
    expect(JSON.parse(failed.out)).toMatchObject({ verdict: "hung", exit: 7, error: { code: "E_BOOT_HUNG" } });
    expect(failed.code).toBe(7);
  });

  it("shows notes and defects that the command survived, cleaned of what would move a terminal", async () => {
    answer({
      exit_code: 0,
      notes: ["a \x1b[2Jnote"],
      events: [
        { kind: "kasan", severity: "error", title: "BUG: KASAN: x\x1b[1m", lines: [], at: { offset: 0, ms: 0 } },
      ],
    });
    const { err, code } = await cli(lab, ["boot", "k", "--", "x"]);
    expect(err).toContain("note");
    expect(err).toContain("error on the console: BUG: KASAN: x");
    expect(err).not.toContain("\x1b");
    expect(code).toBe(0);
  });

  it("asks for what is missing, and refuses what makes no sense", async () => {
    for (const args of [
      ["boot"],
      ["boot", "k", "--memory", "1MiB"],
      ["boot", "k", "--cpus", "0"],
      ["boot", "k", "--timeout", "soon"],
      ["boot", "k", "--accel", "warp"],
    ]) {
      const { code, err } = await cli(lab, args);
      expect([args, code]).toEqual([args, 3]);
      expect(err).toContain("[E_USAGE]");
    }
    expect(requests).toEqual([]);
  });
});
