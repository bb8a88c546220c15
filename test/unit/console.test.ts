import { describe, expect, it } from "vitest";
import { type ConsoleEvent, type ConsoleKind, type ConsoleOptions, ConsoleWatcher } from "../../src/console/index.ts";

interface Seen {
  readonly events: readonly ConsoleEvent[];
  readonly watcher: ConsoleWatcher;
}

function watch(text: string | Uint8Array, options: ConsoleOptions = {}): Seen {
  const events: ConsoleEvent[] = [];
  const watcher = new ConsoleWatcher(options, (event) => events.push(event));
  watcher.push(typeof text === "string" ? Buffer.from(text) : text, 0);
  watcher.end(0);
  return { events, watcher };
}

function first(text: string): ConsoleEvent {
  const event = watch(text).events.find(({ severity }) => severity !== "info");
  if (event === undefined) throw new Error("nothing was recognised");
  return event;
}

/**
 * Formats of which there is no recording here, after the kernel's format strings and the examples in its documentation
 * (Documentation/dev-tools/{kasan,kcsan,kfence,kmsan,ubsan}.rst, kernel/watchdog_hld.c, arch/{riscv,arm}/kernel/traps.c).
 */
const FORMATS: readonly (readonly [ConsoleKind, string, string])[] = [
  [
    "kasan",
    "BUG: KASAN: slab-out-of-bounds in kmalloc_oob_right+0xa8/0xbc [kasan_test]",
    "\nWrite of size 1 at addr ffff8801f44ec37b by task insmod/2760\n\nCPU: 1 PID: 2760 Comm: insmod Not tainted 4.19.0-rc3+ #698\nCall Trace:\n dump_stack+0x94/0xd8\n",
  ],
  [
    "kcsan",
    "BUG: KCSAN: data-race in test_kernel_read / test_kernel_write",
    "\n\nwrite to 0xffffffffc009a628 of 8 bytes by task 487 on cpu 0:\n test_kernel_write+0x1d/0x30\n",
  ],
  ["kfence", "BUG: KFENCE: out-of-bounds read in test_out_of_bounds_read+0xa6/0x234", "\n"],
  ["kmsan", "BUG: KMSAN: uninit-value in test_uninit_kmsan_check_memory+0x1be/0x380 [kmsan_test]", "\n"],
  [
    "ubsan",
    "UBSAN: shift-out-of-bounds in drivers/x/y.c:12:9",
    "\nshift exponent 66 is too large for 32-bit type 'int'\n",
  ],
  [
    "lockdep",
    "WARNING: possible circular locking dependency detected",
    "\n6.1.0 #1 Not tainted\n------------------------------------------------------\nmount/123 is trying to acquire lock:\n",
  ],
  ["lockdep", "WARNING: suspicious RCU usage", "\n"],
  ["lockdep", "BUG: sleeping function called from invalid context at kernel/locking/mutex.c:283", "\n"],
  ["hard-lockup", "Watchdog detected hard LOCKUP on cpu 3", "\nModules linked in:\n"],
  ["bug", "BUG: scheduling while atomic: swapper/0/1/0x00000002", "\n"],
  ["bug", "BUG: Bad page state in process sh  pfn:12345", "\n"],
  ["leak", "BUG: memory leak", "\nunreferenced object 0xffff888100000000 (size 64):\n"],
  [
    "oops",
    "Unable to handle kernel NULL pointer dereference at virtual address 0000000000000010",
    "\nOops [#1]\nModules linked in:\nCPU: 0 PID: 1 Comm: swapper/0 Not tainted 6.1.0 #1\nepc : do_thing+0x1c/0x40\n ra : init+0x10/0x20\n",
  ],
  ["oops", "Internal error: Oops: 805 [#1] SMP ARM", "\nPC is at do_thing+0x14/0x20\nLR is at init+0x10/0x20\n"],
  ["oops", "Kernel BUG [#1]", "\n"],
  ["oops", "invalid opcode: 0000 [#1] PREEMPT SMP", "\nRIP: 0010:do_thing+0x1c/0x40\n"],
  ["no-init", "Kernel panic - not syncing: No working init found.  Try passing init= option to kernel.", "\n"],
  ["oom-panic", "Kernel panic - not syncing: System is deadlocked on memory", "\n"],
  ["initramfs", "Initramfs unpacking failed: invalid magic at start of compressed archive", "\n"],
  ["hung-task", "INFO: task kworker/u8:1:45 blocked for more than 120 seconds.", "\n"],
];

describe("what a console tells", () => {
  for (const [kind, header, rest] of FORMATS) {
    it(`knows ${kind}: ${header.slice(0, 50)}`, () => {
      for (const stamp of ["", "[   12.345678] ", "[   12.345678][    T1] ", "<4>[   12.345678] "]) {
        const text = `${header}${rest}`
          .split("\n")
          .map((line) => `${stamp}${line}\r\n`)
          .join("");
        const event = first(text);
        expect(event.kind).toBe(kind);
        expect(event.title.startsWith(header.slice(0, 40))).toBe(true);
        expect(event.lines[0]).toContain(header.trim());
      }
    });
  }

  it("names the function in which it happened", () => {
    expect(
      first(
        "[    1.000000] Unable to handle kernel paging request at virtual address 10\n[    1.000001] Oops [#1]\n[    1.000002] epc : do_thing+0x1c/0x40\n",
      ).title,
    ).toMatch(/ in do_thing$/);
  });

  it("says why it panicked, not only that it did", () => {
    const { events } = watch(
      "[    1.000000] Linux version 6.1.0 (a@b) #1 SMP\n[    2.000000] BUG: kernel NULL pointer dereference, address: 8\n[    2.000001] Oops: 0002 [#1] SMP\n[    2.000002] RIP: 0010:do_thing+0x1/0x2\n[    2.000003] ---[ end trace 0000000000000000 ]---\n[    2.100000] Kernel panic - not syncing: Fatal exception\n[    2.100001] ---[ end Kernel panic - not syncing: Fatal exception ]---\n",
    );
    const panic = events.at(-1);
    expect(panic?.kind).toBe("panic");
    expect(panic?.title).toBe(
      "BUG: kernel NULL pointer dereference, address: 8 in do_thing (then: Kernel panic - not syncing: Fatal exception)",
    );
    expect(panic?.lines).toContain("RIP: 0010:do_thing+0x1/0x2");
  });

  it("reads release, version and build id", () => {
    const { watcher } = watch(
      `[    0.000000] Linux version 6.9.1-lab (me@host) (gcc 13) #7 SMP PREEMPT Mon Jan 1\n[    1.000000] WARNING: CPU: 0 PID: 1 at a/b.c:3 f+0x1/0x2\n[    1.000001] CPU: 0 PID: 1 Comm: x Not tainted 6.9.1-lab #7 ${"0123456789".repeat(4)}\n`,
    );
    expect(watcher.status).toMatchObject({
      release: "6.9.1-lab",
      builder: "me@host",
      version: "#7 SMP PREEMPT Mon Jan 1",
      buildId: "0123456789".repeat(4),
      boots: 1,
      stage: "kernel",
    });
  });

  it("does not take a program's text for the kernel's, once the kernel stamps its lines", () => {
    const { events } = watch(
      "[    0.000000] Linux version 6.1.0 (a@b) #1\nKernel panic - not syncing: said a test\nBUG: KASAN: said another\nLinux version 6.1.0 from /proc/version\n",
    );
    expect(events.map(({ kind }) => kind)).toEqual(["kernel"]);
  });

  it("finds the kernel's text behind what init printed without a line feed", () => {
    expect(first("Starting the thing...[    4.123456] Kernel panic - not syncing: at last\n").title).toContain(
      "at last",
    );
  });

  it("keeps two processors' reports apart by the caller's id", () => {
    const event = first(
      "[    1.000000][    T7] WARNING: CPU: 0 PID: 7 at a.c:1 f+0x1/0x2\n[    1.000001][    T9] usb 1-1: new device\n[    1.000002][    T7] RIP: 0010:f+0x1/0x2\n[    1.000003][    T7] ---[ end trace 0 ]---\n",
    );
    expect(event.lines.join("\n")).not.toContain("usb");
    expect(event.lines).toContain("RIP: 0010:f+0x1/0x2");
  });

  it("sees prompts that no line feed ends, through colours", () => {
    const kinds = (text: string): string[] => watch(text).events.map(({ kind }) => kind);
    expect(kinds("\r\nDebian GNU/Linux 12 host ttyS0\r\n\r\nhost login: ")).toEqual(["login"]);
    expect(kinds("\x1b[1;32mhost login:\x1b[0m ")).toEqual(["login"]);
    expect(kinds("U-Boot 2023.01 (Jan 01 2023)\r\n=> ")).toEqual(["bootloader", "prompt"]);
    expect(kinds("Last login: Mon Jan 1 on ttyS0\r\n")).toEqual([]);
    expect(kinds("root@board:~# ")).toEqual(["prompt"]);
  });

  it("reports a marker once a line, whether it is a text or an expression", () => {
    const markers = ["READY", /^up in \d+s$/];
    const { events, watcher } = watch("x READY READY\nup in 4s\nnot up in 4s\n", { markers });
    expect(events.map(({ kind, title }) => [kind, title])).toEqual([
      ["marker", "x READY"],
      ["marker", "up in 4s"],
    ]);
    expect(watcher.status.stage).toBe("up");
  });

  it("calls it a loop when the third start gets nowhere, and not when each got somewhere", () => {
    const start = "[    0.000000] Linux version 6.1.0 (a@b) #1\n";
    const kinds = (text: string): string[] => watch(text).events.map(({ kind }) => kind);
    expect(kinds(start.repeat(2))).not.toContain("reboot-loop");
    expect(kinds(start.repeat(5)).filter((kind) => kind === "reboot-loop")).toHaveLength(1);
    expect(kinds(`${start}host login: \n`.repeat(5))).not.toContain("reboot-loop");
    expect(kinds("U-Boot SPL 2023.01 (x)\nU-Boot 2023.01 (x)\n".repeat(3))).toContain("reboot-loop");
  });

  it("notices silence, once, and again after a word", () => {
    const events: ConsoleEvent[] = [];
    const watcher = new ConsoleWatcher({ silence: 1000 }, (event) => events.push(event));
    watcher.tick(0);
    watcher.tick(999);
    expect(events).toEqual([]);
    watcher.tick(1000);
    watcher.tick(5000);
    expect(events.map(({ kind, title }) => [kind, title])).toEqual([
      ["silence", "nothing was ever printed on the console, for 1 s"],
    ]);
    watcher.push(Buffer.from("alive"), 6000);
    watcher.tick(7500);
    expect(events).toHaveLength(2);
    expect(events[1]?.lines).toEqual(["alive"]);
  });

  it("completes a report that nothing follows after a moment", () => {
    const events: ConsoleEvent[] = [];
    const watcher = new ConsoleWatcher({}, (event) => events.push(event));
    watcher.push(Buffer.from("[    1.000000] BUG: KASAN: use-after-free in f+0x1/0x2\n"), 0);
    expect(events).toEqual([]);
    watcher.tick(700);
    expect(events.map(({ kind }) => kind)).toEqual(["kasan"]);
  });

  it("says how init died", () => {
    const text = (code: string): string =>
      first(`Kernel panic - not syncing: Attempted to kill init! exitcode=0x${code}\n`).title;
    expect(text("00000300")).toBe("init died: it exited with 3 (Attempted to kill init!)");
    expect(text("0000000b")).toBe("init died: it was killed by signal 11 (Attempted to kill init!)");
  });

  it("finds a panic behind any amount of text without a line feed", () => {
    for (let size = 3900; size < 4300; size += 7) {
      expect(first(`${"x".repeat(size)} Kernel panic - not syncing: far out\n`).kind).toBe("panic");
    }
  });
});
