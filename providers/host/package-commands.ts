import { sh, shCommand, type ShellText, shJoin } from "../../src/index.ts";

export type Manager = "apt" | "dnf" | "apk";

/** One package as it is wanted, and what is there of it. */
export interface PackageWish {
  readonly name: string;
  readonly version?: string | undefined;
  readonly recommends?: boolean | undefined;
}

export type PackageState = {
  readonly installed: boolean;
  readonly version: string;
  readonly hold: boolean;
};

/** Looks at the named packages with whatever manages packages here. See {@link parsePackages}. */
export function packagesScript(names: readonly string[]): ShellText {
  const apt = "labctl ${db:Status-Abbrev}|${Package}|${Architecture}|${Version}\\n";
  const rpm = "labctl ii |%{NAME}|%{ARCH}|%{EPOCHNUM}:%{VERSION}-%{RELEASE}\\n";
  return sh`if command -v apt-get >/dev/null 2>&1; then echo apt; dpkg-query -W -f ${apt} -- ${names} 2>/dev/null
elif command -v dnf >/dev/null 2>&1; then
  case $(readlink -f "$(command -v dnf)") in *dnf5*) echo dnf5 ;; *) echo dnf ;; esac
  rpm -q --qf ${rpm} -- ${names} 2>/dev/null
elif command -v apk >/dev/null 2>&1; then echo apk; awk ${'/^P:/ { p = substr($0, 3) } /^V:/ { print "labctl ii |" p "||" substr($0, 3) }'} /lib/apk/db/installed
else echo none; fi`;
}

/** What no test has seen at work: there is no such manager in Debian to try it with. */
const UNPROVEN: Readonly<Record<string, string>> = { dnf5: "dnf 5", apk: "apk" };

/** The manager, and what is known of each package that is there. `unproven`: its name, where no test has seen it at work. */
export function parsePackages(lines: readonly string[]): {
  readonly manager: Manager | undefined;
  readonly unproven: string | undefined;
  find(name: string): PackageState | undefined;
} {
  const [first] = lines;
  const name = first === "dnf5" ? "dnf" : first;
  const manager = name === "apt" || name === "dnf" || name === "apk" ? name : undefined;
  const states = new Map<string, PackageState>();
  for (const line of lines) {
    const match = /^labctl (.)(.).?\|([^|]*)\|([^|]*)\|(.*)$/.exec(line);
    if (match === null) continue;
    const [, want = "", status = "", label = "", arch = "", version = ""] = match;
    // n: not installed; c: only configuration files are left.
    if (status === "n" || status === "c") continue;
    const state = { installed: status === "i", hold: want === "h", version: plainVersion(version) };
    const double = manager === "dnf" && states.has(`${label}:${arch}`) && !SEVERAL.test(label);
    for (const key of [label, `${label}:${arch}`]) {
      const known = states.get(key);
      if (double) states.set(key, { ...state, installed: false });
      else if (known === undefined || (!known.installed && state.installed)) states.set(key, state);
    }
  }
  return { manager, unproven: UNPROVEN[first ?? ""], find: (wanted) => states.get(wanted) };
}

/** Packages of which rpm keeps several versions on purpose. Of others, a second one is what a killed upgrade left. */
const SEVERAL = /^(kernel|gpg-pubkey)(-|$)/;

/** rpm's epoch 0 is never written by people. */
function plainVersion(version: string): string {
  return version.replace(/^0:/, "");
}

/** `1.2.*` stands for every version that begins so. */
export function versionMatches(wanted: string, found: string): boolean {
  return wanted.endsWith("*") ? found.startsWith(wanted.slice(0, -1)) : wanted === found;
}

export const APT_ENVIRONMENT = {
  DEBIAN_FRONTEND: "noninteractive",
  APT_LISTCHANGES_FRONTEND: "none",
  NEEDRESTART_MODE: "l",
  UCF_FORCE_CONFFOLD: "1",
  LC_ALL: "C",
} as const;

/** How long apt waits for another package manager, in seconds. */
const LOCK_SECONDS = 300;

const APT_OPTIONS = [
  "-y",
  "-q",
  "-o",
  "Dpkg::Use-Pty=0",
  "-o",
  `DPkg::Lock::Timeout=${LOCK_SECONDS}`,
  "-o",
  "Dpkg::Options::=--force-confdef",
  "-o",
  "Dpkg::Options::=--force-confold",
];

/**
 * Installs or changes packages, all in one transaction, without removing any other. `again`: also those that apt takes for
 * installed, since dpkg was killed while it unpacked them.
 */
export function installCommand(manager: Manager, wishes: readonly PackageWish[], again = false): ShellText {
  switch (manager) {
    case "apt": {
      const recommends = wishes[0]?.recommends;
      return shCommand([
        "apt-get",
        ...APT_OPTIONS,
        "--no-remove",
        "--allow-downgrades",
        "--allow-change-held-packages",
        ...(recommends === undefined ? [] : [recommends ? "--install-recommends" : "--no-install-recommends"]),
        ...(again ? ["--reinstall"] : []),
        "install",
        "--",
        ...wishes.map(({ name, version }) => (version === undefined ? name : `${name}=${version}`)),
      ]);
    }
    case "dnf":
      // dnf changes the version of what is installed only where it is named with it; setopt keeps it from removing others.
      return shCommand([
        "dnf",
        "-y",
        "-q",
        "--setopt=clean_requirements_on_remove=False",
        ...(wishes[0]?.recommends === undefined
          ? []
          : [`--setopt=install_weak_deps=${wishes[0].recommends ? "True" : "False"}`]),
        "install",
        "--",
        ...wishes.map(({ name, version }) => (version === undefined ? name : `${name}-${version}`)),
      ]);
    case "apk":
      return shCommand([
        "apk",
        "add",
        "--no-progress",
        "--wait",
        String(LOCK_SECONDS),
        "--",
        ...wishes.map(({ name, version }) => (version === undefined ? name : `${name}=${version}`)),
      ]);
  }
}

/** Reads the lists of what can be installed anew. */
export function refreshCommand(manager: Manager): ShellText {
  switch (manager) {
    case "apt":
      return shCommand(["apt-get", ...APT_OPTIONS, "update"]);
    case "dnf":
      // Without --refresh it would keep what it has for days.
      return shCommand(["dnf", "-y", "-q", "--refresh", "makecache"]);
    case "apk":
      return shCommand(["apk", "update", "--no-progress", "--wait", String(LOCK_SECONDS)]);
  }
}

/** Prints `stale` where apt's lists are missing or older than a day, and `broken` where a dpkg run was cut off. */
export function aptHealthScript(): ShellText {
  return sh`if [ -z "$(find /var/lib/apt/lists -maxdepth 1 -name '*_Packages*' 2>/dev/null | head -n 1)" ] ||
  [ -n "$(find /var/lib/apt/lists -maxdepth 0 -mmin +1440 2>/dev/null)" ]; then echo stale; fi
if [ -n "$(dpkg --audit 2>/dev/null)" ] || [ -n "$(find /var/lib/dpkg/updates -type f -name '[0-9]*' 2>/dev/null | head -n 1)" ]; then echo broken; fi`;
}

/** Finishes what a killed dpkg left, waiting a bounded time for one that still runs. */
export function aptRepairScript(): ShellText {
  return shJoin([
    sh`labctl_n=0
while :; do
  labctl_m=$(dpkg --force-confdef --force-confold --configure -a 2>&1) && break
  case $labctl_m in *lock*) ;; *) break ;; esac
  labctl_n=$((labctl_n + 1)); [ $labctl_n -lt ${LOCK_SECONDS / 2} ] || break
  sleep 2
done
printf '%s\n' "$labctl_m"`,
    shCommand(["apt-get", ...APT_OPTIONS, "--no-remove", "--fix-broken", "install"]),
  ]);
}

/**
 * Ends upgrades that were cut off: the new version is there with all its files, and the old one was not taken away. dnf takes both
 * for installed then, and does nothing more about either.
 */
export function rpmRepairScript(names: readonly string[]): ShellText {
  const row = "%{DBINSTANCE} %{NAME}.%{ARCH} %{NAME}-%|EPOCH?{%{EPOCH}:}|%{VERSION}-%{RELEASE}.%{ARCH}\\n";
  return sh`rpm -q --qf ${row} -- ${names} 2>/dev/null | sort -rn | awk 'NF == 3 && seen[$2]++ { print $3 }' |
  while read -r labctl_p; do rpm -e --nodeps -- "$labctl_p" 2>&1; done`;
}

/** Packages of which rpm keeps several versions on purpose are not for {@link rpmRepairScript}. */
export function canBeDouble(name: string): boolean {
  return !SEVERAL.test(name);
}

/** Removes one package and nothing that needs it. */
export function removeCommand(manager: Manager, name: string): ShellText {
  switch (manager) {
    case "apt":
      return shCommand([
        "apt-get",
        ...APT_OPTIONS,
        "--no-auto-remove",
        "--allow-change-held-packages",
        "remove",
        "--",
        name,
      ]);
    case "dnf":
      return shCommand(["dnf", "-y", "-q", "remove", "--noautoremove", "--", name]);
    case "apk":
      return shCommand(["apk", "del", "--no-progress", "--wait", String(LOCK_SECONDS), "--", name]);
  }
}

/** What else would go, one name a line: empty where it stands alone. */
export function removalCheck(manager: Manager, name: string): ShellText {
  switch (manager) {
    case "apt":
      return sh`apt-get -s -q --no-auto-remove --allow-change-held-packages remove -- ${name} 2>/dev/null | sed -n 's/^Remv \\([^ ]*\\).*/\\1/p'`;
    case "dnf":
      // What is needed may be a file, a library or a name that the package provides: only a trial knows them all.
      return sh`rpm -e --test -- ${name} 2>&1 | sed -n 's/.* is needed by (installed) \\(.*\\)-[^-]*-[^-]*$/\\1/p'`;
    case "apk":
      return sh`apk info -q -r -- ${name} 2>/dev/null | sed 's/-[0-9][^-]*-r[0-9]*$//' || :`;
  }
}

export function holdCommand(name: string, hold: boolean): ShellText {
  return shCommand(["apt-mark", hold ? "hold" : "unhold", "--", name]);
}

/** Names near to one that does not exist; the caller picks the nearest. */
export function namesCommand(manager: Manager, name: string): ShellText {
  switch (manager) {
    case "apt":
      return sh`apt-cache pkgnames -- ${name.slice(0, 2)} 2>/dev/null | head -n 20000`;
    case "dnf":
      return sh`dnf -q -C repoquery --qf '%{name}\n' -- ${`${name.slice(0, 2)}*`} 2>/dev/null | head -n 20000`;
    case "apk":
      return sh`apk search -q -- ${name.slice(0, 2)} 2>/dev/null | head -n 20000`;
  }
}

/** The packages that the output says cannot be found, by name. */
export function unknownPackages(output: string): string[] {
  const patterns = [
    /E: Unable to locate package (\S+)/g,
    /E: Package '([^']+)' has no installation candidate/g,
    /E: Version '[^']+' for '([^']+)' was not found/g,
    /E: Couldn't find any package by (?:glob|regex) '([^']+)'/g,
    /No match for argument: (\S+)/g,
    /^\s+(\S+) \(no such package\)/gm,
  ];
  const names = patterns.flatMap((pattern) => [...output.matchAll(pattern)].map((match) => match[1] ?? ""));
  // dnf -q has all of them on one line.
  const all = [...output.matchAll(/Unable to find a match: (.+)/g)].flatMap((match) =>
    (match[1] ?? "").trim().split(/\s+/),
  );
  return [...new Set([...names, ...all])];
}

/** Whether the package is one of those that cannot be found: dnf names it with the version that was asked for. */
export function isUnknown({ name, version }: PackageWish, unknown: readonly string[]): boolean {
  return unknown.includes(name) || (version !== undefined && unknown.includes(`${name}-${version}`));
}

/** The lines of a package manager's output that say what went wrong. */
export function relevantLines(output: string): string {
  const lines = output.split(/\r?\n/).map((line) => line.trim());
  const telling = lines.filter((line) =>
    /^(E:|W: Failed|Err:|dpkg: error|ERROR:|Error:|error:)|unmet dependencies|Problem:|nothing provides|Cannot download|Failed to download|Depends:|Conflicts:|Breaks:|no such package|No match for argument|unsatisfiable|No space left|need to be removed/i.test(
      line,
    ),
  );
  return (telling.length > 0 ? telling : lines.filter((line) => line !== "").slice(-3)).slice(0, 8).join("\n");
}
