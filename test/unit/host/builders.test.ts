import { describe, expect, test } from "vitest";
import { command } from "../../../providers/host/command.ts";
import { keepId, temporaryName } from "../../../providers/host/file-script.ts";
import { hostProvider } from "../../../providers/host/index.ts";
import { diffModule, moduleSteps } from "../../../providers/host/module.ts";
import { optionsLine, parseModules, parseOptions, sameOption } from "../../../providers/host/module-script.ts";
import { diffMount, mountSteps, wantedLine } from "../../../providers/host/mount.ts";
import { editFstab, optionMismatches, parseMounts } from "../../../providers/host/mount-script.ts";
import {
  installCommand,
  parsePackages,
  relevantLines,
  removalCheck,
  removeCommand,
  unknownPackages,
  versionMatches,
} from "../../../providers/host/package-commands.ts";
import { diffService, serviceSteps } from "../../../providers/host/service.ts";
import { parseServices } from "../../../providers/host/service-script.ts";
import { normalValue, persistPath, procPath } from "../../../providers/host/sysctl.ts";
import { diffUser, groupChanges, mergeKeys } from "../../../providers/host/user-model.ts";
import { keyIdentity, parseUsers } from "../../../providers/host/user-script.ts";
import type { ShellText } from "../../../src/index.ts";

/** Words that begin with a dash are quoted; that is shell.test.ts's business, and here only in the way. */
const plain = (step: ShellText): string => step.text.replaceAll("'", "").replace(/^labctl_try /, "");
const texts = (steps: readonly ShellText[]): string[] => steps.map(plain);

describe("packages", () => {
  test.each([
    ["apt", /^apt-get -y -q .*--no-remove .*install -- bc gcc=4:12\.2$/],
    ["dnf", /^dnf -y -q .*install -- bc gcc-4:12\.2$/],
    ["apk", /^apk add .* -- bc gcc=4:12\.2$/],
  ] as const)("%s installs all in one command", (manager, pattern) => {
    expect(plain(installCommand(manager, [{ name: "bc" }, { name: "gcc", version: "4:12.2" }]))).toMatch(pattern);
  });
  test("recommends and reinstalling are asked for only where wanted", () => {
    expect(installCommand("apt", [{ name: "bc", recommends: false }]).text).toContain("--no-install-recommends");
    expect(installCommand("apt", [{ name: "bc" }]).text).not.toContain("recommends");
    expect(installCommand("apt", [{ name: "bc" }], true).text).toContain("--reinstall");
    expect(installCommand("dnf", [{ name: "bc", recommends: false }]).text).toContain("install_weak_deps=False");
  });
  test("removing never removes more than the one", () => {
    expect(removeCommand("apt", "bc").text).toContain("--no-auto-remove");
    expect(removeCommand("dnf", "bc").text).toContain("--noautoremove");
    expect(removalCheck("apt", "bc").text).toContain(String.raw`sed -n 's/^Remv \([^ ]*\).*/\1/p'`);
  });
  test("dpkg's states", () => {
    const found = parsePackages([
      "apt",
      "labctl ii |bc|amd64|1.07.1-3+b1",
      "labctl hi |gcc|amd64|4:12.2.0-3",
      "labctl iU |half|amd64|1.0",
      "labctl rc |gone|amd64|1.0",
      "labctl un |never||",
    ]);
    expect(found.manager).toBe("apt");
    expect(found.find("bc")).toEqual({ installed: true, hold: false, version: "1.07.1-3+b1" });
    expect(found.find("bc:amd64")).toBeDefined();
    expect(found.find("gcc")?.hold).toBe(true);
    expect(found.find("half")?.installed).toBe(false);
    expect([found.find("gone"), found.find("never")]).toEqual([undefined, undefined]);
  });
  test("rpm's epoch 0 is not written, and globs of versions match", () => {
    expect(parsePackages(["dnf", "labctl ii |bash|x86_64|0:5.2-1"]).find("bash")?.version).toBe("5.2-1");
    expect([versionMatches("1.2.*", "1.2.9"), versionMatches("1.2", "1.2.9")]).toEqual([true, false]);
  });
  test("what cannot be found is named, for each manager", () => {
    const output = [
      "E: Unable to locate package nosuch",
      "E: Version '9' for 'bc' was not found",
      "E: Package 'virt' has no installation candidate",
      "No match for argument: nodnf",
      "  noapk (no such package):",
    ].join("\n");
    expect(unknownPackages(output).sort()).toEqual(["bc", "noapk", "nodnf", "nosuch", "virt"].sort());
    expect(relevantLines(`Reading lists...\n${output}`)).not.toContain("Reading");
  });
});

describe("services", () => {
  const observed = (manager: "systemd" | "openrc" | "sysv") => ({
    manager,
    enabled: false,
    running: false,
    unit: "",
    restarted_for: "",
  });
  test.each([
    [
      "systemd",
      [
        expect.stringMatching(/^reload sh -c .*NeedDaemonReload.* sh chrony$/),
        "enable systemctl enable -- chrony",
        "run systemctl start -- chrony",
      ],
    ],
    [
      "openrc",
      [
        "enable rc-update add chrony default",
        expect.stringMatching(/^run setsid sh -c .*rc-service.* sh chrony start$/s),
      ],
    ],
    [
      "sysv",
      ["enable update-rc.d chrony defaults", "enable update-rc.d chrony enable", "run /etc/init.d/chrony start"],
    ],
  ] as const)("%s enables and starts", (manager, expected) => {
    const text = texts(serviceSteps({ name: "chrony", enabled: true, running: true }, observed(manager)));
    expect(text).toEqual(expected);
  });
  test("nothing to do is nothing done, and unset properties are left", () => {
    const now = { ...observed("systemd"), running: true, enabled: true };
    expect(serviceSteps({ name: "chrony", enabled: true, running: true }, now)).toEqual([]);
    expect(diffService({ name: "chrony" }, now)).toEqual([]);
  });
  test("a restart is one step, and is marked only after it", () => {
    const now = { ...observed("systemd"), running: true };
    const steps = texts(serviceSteps({ name: "chrony", running: true, restart_on: ["v2"] }, now));
    expect(steps[1]).toMatch(/^restart systemctl restart/);
    expect(steps.at(-1)).toMatch(/^mark labctl_write/);
  });
  test("what the host says", () => {
    expect(parseServices(["systemd", "S yes yes no static abc", "S no no no - -"], 2)).toEqual([
      { manager: "systemd", known: true, enabled: true, running: false, unit: "static", restarted_for: "abc" },
      { manager: "systemd", known: false, enabled: false, running: false, unit: "", restarted_for: "" },
    ]);
    expect(parseServices(["noise"], 1)).toEqual([undefined]);
  });
});

describe("kernel modules", () => {
  const loop = {
    loaded: true,
    builtin: false,
    persist: true,
    options: { max_loop: "8" },
    configured: { max_loop: "8" },
  };
  test("is loaded with its options written first", () => {
    const steps = texts(moduleSteps({ name: "loop", options: { max_loop: 64 }, persist: true }, undefined));
    expect(steps.map((text) => text.split(" ")[0])).toEqual([
      "parameter",
      "options",
      "options",
      "persist",
      "persist",
      "load",
    ]);
    expect(steps.at(-1)).toBe("load modprobe loop");
    expect(optionsLine("loop", { max_loop: 64, on: true })).toContain("options loop max_loop=64 on=1\n");
  });
  test("other options of a loaded one mean loading it anew", () => {
    const wish = { name: "loop", options: { max_loop: 64 }, persist: true };
    expect(diffModule(wish, loop)).toMatchObject([{ path: "options", effect: "restart" }]);
    expect(texts(moduleSteps(wish, loop)).slice(-2)).toEqual(["unload modprobe -r loop", "load modprobe loop"]);
    expect(diffModule({ name: "loop", options: { max_loop: 8 }, persist: true }, loop)).toEqual([]);
  });
  test("what the host says: loaded, built in, configured", () => {
    const lines = ["L", "P", "O options loop max_loop=8", "V max_loop=8", ".", "B", ".", "."];
    expect(parseModules(lines, 3)).toMatchObject([
      { loaded: true, builtin: false, persisted: true, configured: { max_loop: "8" }, live: { max_loop: "8" } },
      { loaded: true, builtin: true, persisted: false },
      { loaded: false },
    ]);
    expect(parseOptions("options a b=c d")).toEqual({ b: "c", d: "" });
    expect([sameOption("1", "Y"), sameOption("0", "N"), sameOption("16", "0x10"), sameOption("1", "2")]).toEqual([
      true,
      true,
      true,
      false,
    ]);
  });
});

describe("mounts", () => {
  const table = "# /etc/fstab\nUUID=1  /   ext4 defaults 0 1\nnas:/src\t/srv/src nfs ro 0 0\n";
  test("only the own line of fstab changes, every other byte stays", () => {
    const desired = {
      path: "/srv/src",
      source: "nas:/other",
      type: "nfs",
      options: ["ro"],
      persist: true,
      mounted: true,
      dump: 0,
      pass: 0,
    };
    const edited = editFstab(table, "/srv/src", wantedLine(desired));
    expect(edited.text).toBe("# /etc/fstab\nUUID=1  /   ext4 defaults 0 1\nnas:/other /srv/src nfs ro 0 0\n");
    expect(editFstab(edited.text, "/srv/src", edited.old).text).toBe(table);
    expect(editFstab(table, "/new dir", "x /new\\040dir tmpfs defaults 0 0").text).toBe(
      `${table}x /new\\040dir tmpfs defaults 0 0\n`,
    );
    expect(editFstab(table, "/srv/src", undefined).text).not.toContain("nas:");
  });
  test("mountinfo with octal names and a line mounted over", () => {
    const line = String.raw`M 36 35 0:30 / /srv/a\040b rw,nosuid shared:1 - tmpfs some\040where rw,size=8192k`;
    expect(parseMounts([line, "other", "M ", "same", "F"], 2)).toMatchObject([
      { mounted: true, source: "some where", type: "tmpfs", options: ["rw", "nosuid", "size=8192k"] },
      { mounted: false, bound: true },
    ]);
  });
  test("options are compared as the kernel shows them", () => {
    const found = ["rw", "nosuid", "size=8192k", "mode=755", "vers=4.2"];
    expect(optionMismatches(["size=8m", "mode=0755", "vers=4", "nofail", "x-systemd.automount"], found)).toEqual([]);
    expect(optionMismatches(["ro", "size=16m", "nodev"], found)).toEqual(["ro", "size=16m", "nodev"]);
  });
  test("another source means unmounting first; other options remount", () => {
    const desired = {
      path: "/m",
      source: "b",
      type: "tmpfs",
      options: ["ro"],
      persist: false,
      mounted: true,
      dump: 0,
      pass: 0,
    };
    const now = { mounted: true, source: "a", type: "tmpfs", options: ["rw"], bound: false };
    expect(diffMount(desired, now).map((one) => one.path)).toEqual(["source", "options"]);
    expect(texts(mountSteps(desired, now, "")).map((text) => text.split(" ")[0])).toEqual([
      "umount",
      "directory",
      "mount",
    ]);
    expect(texts(mountSteps(desired, { ...now, source: "b" }, ""))).toEqual(["remount mount -o remount,ro /m"]);
  });
});

describe("sysctl names", () => {
  test("dots and slashes as sysctl(8) takes them", () => {
    expect(procPath("net.ipv4.conf.eth0/1.forwarding")).toBe("/proc/sys/net/ipv4/conf/eth0.1/forwarding");
    expect(procPath("net/ipv4/conf/eth0.1/forwarding")).toBe("/proc/sys/net/ipv4/conf/eth0.1/forwarding");
    expect(persistPath("kernel.perf_event_paranoid")).toBe("/etc/sysctl.d/60-labctl-kernel.perf_event_paranoid.conf");
    expect(normalValue("4096\t87380  6291456\n")).toBe("4096 87380 6291456");
  });
});

describe("users", () => {
  const A = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA a@lab";
  const B = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB b@lab";
  const memory = (keys: string[], original: string[]) => ({
    desired: { authorized_keys: keys, keys },
    original: { uid: 1, gid: 1, groups: [], shell: "", home: "", comment: "", authorized_keys: original },
  });
  const base = { name: "u", system: false, authorized_keys_exclusive: false, remove_home: false };

  test("keys are added, others and comments stay, in their places", () => {
    expect(mergeKeys(`# mine\n${B}\n`, { ...base, authorized_keys: [A] }, undefined)).toEqual(["# mine", B, A]);
  });
  test("what labctl added and is no longer listed goes; what was there before comes back as it was", () => {
    expect(mergeKeys(`${A}\n${B}\n`, { ...base, authorized_keys: [] }, memory([A, B], [B]))).toEqual([B]);
    const limited = `command="x" ${B}`;
    expect(mergeKeys(`${limited}\n`, { ...base, authorized_keys: [] }, memory([limited], [B]))).toEqual([B]);
  });
  test("exclusive removes all others; a line with other options is replaced, never doubled", () => {
    expect(
      mergeKeys(`${A}\n${B}\n`, { ...base, authorized_keys: [A], authorized_keys_exclusive: true }, undefined),
    ).toEqual([A]);
    const limited = `command="x y" ${A}`;
    expect(mergeKeys(`${A}\n${A}\n`, { ...base, authorized_keys: [limited] }, undefined)).toEqual([limited]);
    expect(keyIdentity(limited)).toBe(keyIdentity(A));
  });
  test("groups are added to those that are there; only labctl's own are taken away", () => {
    const prior = {
      desired: { groups: ["kvm", "audio"] },
      original: { ...memory([], []).original, groups: ["audio"] },
    };
    expect(groupChanges({ ...base, groups: ["games"] }, { groups: ["u", "kvm", "audio"] }, prior)).toEqual({
      add: ["games"],
      remove: ["kvm"],
    });
  });
  test("unset properties are left alone", () => {
    const observed = {
      uid: 7,
      gid: 7,
      groups: ["u"],
      shell: "/bin/zsh",
      home: "/h",
      comment: "c",
      authorized_keys: [A],
    };
    expect(diffUser({ desired: base, observed, prior: undefined })).toEqual([]);
  });
  test("what the host says", () => {
    const lines = [
      "U u:x:7:8:Some One,,:/home/u:/bin/sh",
      "u",
      "kvm",
      ".",
      Buffer.from(`# c\n${A}\n`).toString("base64"),
      ".",
      "-",
    ];
    expect(parseUsers(lines, 2)).toEqual([
      {
        uid: 7,
        gid: 8,
        groups: ["kvm", "u"],
        shell: "/bin/sh",
        home: "/home/u",
        comment: "Some One,,",
        authorized_keys: [A],
        raw: `# c\n${A}\n`,
      },
      undefined,
    ]);
  });
});

describe("all kinds", () => {
  test("every property and attribute has a description", () => {
    for (const kind of hostProvider.kinds) {
      for (const schema of [kind.schema, kind.attributes]) {
        for (const [name, property] of Object.entries(schema.properties)) {
          expect(property.description, `${kind.kind}.${name}`).toBeTruthy();
        }
      }
    }
  });
  test("every optional property has a default, an example, or is derived", () => {
    for (const kind of hostProvider.kinds) {
      for (const [name, property] of Object.entries(kind.schema.properties)) {
        const required = kind.schema.required?.includes(name) === true;
        const notes = property["x-labctl"];
        const shown =
          property.default !== undefined || property.examples !== undefined || property.properties !== undefined;
        expect(required || notes?.derived === true || shown, `${kind.kind}.${name}`).toBe(true);
      }
    }
  });
  test("identities are the sections' keys", () => {
    for (const kind of hostProvider.kinds) {
      expect(kind.schema.properties[kind.section.key ?? ""]?.["x-labctl"]?.identity, kind.kind).toBe(true);
    }
  });
  test("what is left beside a file is found again, and short enough for any file system", () => {
    const path = `/srv/${"x".repeat(255)}`;
    expect(temporaryName(path, "i")).toBe(temporaryName(path, "i"));
    expect(temporaryName(path, "i")).not.toBe(temporaryName(path, "j"));
    expect(temporaryName(path, "i").length).toBeLessThan(60);
    expect(keepId("/a", "i")).not.toBe(keepId("/b", "i"));
  });
  test("a command needs a way to see that it needn't", () => {
    expect(command.schema.anyOf).toEqual([{ required: ["unless"] }, { required: ["creates"] }]);
  });
});
