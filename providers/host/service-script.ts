import { sh, ShellText, shJoin } from "../../src/index.ts";

export type Manager = "systemd" | "openrc" | "sysv";

/** How services are looked at and driven on a host. `known`: a unit or script of that name is there. */
export interface ServiceFacts {
  readonly manager: Manager;
  readonly known: boolean;
  readonly enabled: boolean;
  readonly running: boolean;
  /** systemd's word for how it is enabled, e.g. static; OpenRC's runlevels that start it, joined by commas; else empty. */
  readonly unit: string;
  /** Digest of what it was last restarted for. */
  readonly restarted_for: string;
}

/** Longest that a script's `status` may take, in seconds: it runs at every plan. */
const STATUS_SECONDS = 10;

export function markerPath(name: string): string {
  return `/var/lib/labctl/services/${name}`;
}

/**
 * Prints the manager, then a line a service: `known enabled running unit marker`. systemd is asked once for all; OpenRC is read
 * from its folders; plain scripts are asked for their status, which LSB says exits 0 where it runs.
 */
export function servicesScript(names: readonly string[]): ShellText {
  return shJoin([
    new ShellText(String.raw`labctl_marker() { labctl_r=-; [ ! -r "$1" ] || IFS= read -r labctl_r <"$1"; }
labctl_rc() {
  labctl_e=no
  for labctl_l in /etc/rc[2345].d/S[0-9][0-9]"$1"; do [ ! -e "$labctl_l" ] || labctl_e=yes; done
}
labctl_limit() {
  if command -v timeout >/dev/null 2>&1; then timeout ${STATUS_SECONDS} "$@"; else "$@"; fi
}
labctl_systemd() {
  labctl_n=${"$"}{1%.service}
  # Names are completed by systemctl itself, here as where it acts.
  set -- $(systemctl show -p LoadState -p ActiveState -p SubState -p UnitFileState -- "$1" 2>/dev/null)
  labctl_k=no labctl_e=no labctl_a=no labctl_s=
  for labctl_p do
    case $labctl_p in
      LoadState=not-found) labctl_k=no ;;
      LoadState=*) labctl_k=yes ;;
      ActiveState=active|ActiveState=reloading|ActiveState=activating) labctl_a=yes ;;
      UnitFileState=*) labctl_s=${"$"}{labctl_p#*=} ;;
    esac
  done
  # What ends again and again is "activating" between two tries.
  for labctl_p do case $labctl_p in SubState=auto-restart*) labctl_a=no ;; esac; done
  # enabled-runtime ends with this start of the host, and linked means only that the file is found.
  case $labctl_s in
    enabled|alias) labctl_e=yes ;;
    generated) labctl_rc "$labctl_n" ;;
  esac
}
labctl_openrc() {
  labctl_k=no labctl_e=no labctl_a=no labctl_s=
  [ ! -e "/etc/init.d/$1" ] || labctl_k=yes
  for labctl_l in /etc/runlevels/*/"$1"; do
    [ -e "$labctl_l" ] || continue
    labctl_e=yes labctl_l=${"$"}{labctl_l%/*}
    labctl_s=$labctl_s${"$"}{labctl_s:+,}${"$"}{labctl_l##*/}
  done
  # OpenRC keeps as started what died by itself; only the script, or OpenRC's record of processes, can tell.
  if [ -e "/run/openrc/started/$1" ]; then
    labctl_limit rc-service -- "$1" status </dev/null >/dev/null 2>&1 && labctl_a=yes
  fi
}
labctl_sysv() {
  labctl_k=no labctl_a=no labctl_s=
  labctl_rc "$1"
  if [ -x "/etc/init.d/$1" ]; then
    labctl_k=yes
    labctl_limit "/etc/init.d/$1" status </dev/null >/dev/null 2>&1 && labctl_a=yes
  fi
}
if [ -d /run/systemd/system ]; then labctl_m=systemd
elif command -v rc-service >/dev/null 2>&1 && [ -d /run/openrc ]; then labctl_m=openrc
else labctl_m=sysv; fi
echo $labctl_m
labctl_service() {
  labctl_$labctl_m "$1"
  labctl_marker "$2"
  printf 'S %s %s %s %s %s\n' $labctl_k $labctl_e $labctl_a "${"$"}{labctl_s:--}" "$labctl_r"
}`),
    ...names.map((name) => sh`labctl_service ${name} ${markerPath(name)}`),
  ]);
}

export function parseServices(lines: readonly string[], count: number): (ServiceFacts | undefined)[] {
  const manager = lines.find((line) => line === "systemd" || line === "openrc" || line === "sysv");
  const rows = lines.filter((line) => line.startsWith("S "));
  return Array.from({ length: count }, (_, i) => {
    const match = /^S (yes|no) (yes|no) (yes|no) (\S+) (\S+)$/.exec(rows[i] ?? "");
    if (match === null || manager === undefined) return undefined;
    return {
      manager: manager as Manager,
      known: match[1] === "yes",
      enabled: match[2] === "yes",
      running: match[3] === "yes",
      unit: match[4] === "-" ? "" : (match[4] ?? ""),
      restarted_for: match[5] === "-" ? "" : (match[5] ?? ""),
    };
  });
}

/** OpenRC's own `--all del` fails for each runlevel that does not have it. */
const OPENRC_DISABLE = `for l in /etc/runlevels/*/"$1"; do
  [ -L "$l" ] || [ -e "$l" ] || continue
  l=\${l%/*}
  rc-update del "$1" "\${l##*/}" || exit 1
done`;

/**
 * In a session of its own and deaf to the loss of its reader: a script that is cut off half way leaves a process that OpenRC
 * does not know of, and that no later start or stop gets rid of. OpenRC does not start what it takes for started, though
 * it died by itself: that is forgotten first.
 */
const OPENRC_RUN = `trap '' HUP PIPE
if [ "$2" = start ] && [ -e "/run/openrc/started/$1" ]; then rc-service "$1" zap || exit 1; fi
exec rc-service "$1" "$2"`;

/** The commands that enable or disable, as words. `levels`: OpenRC's runlevels, where it was enabled in others than the usual one. */
export function enableCommands(manager: Manager, name: string, enabled: boolean, levels = ""): string[][] {
  switch (manager) {
    case "systemd":
      return [["systemctl", enabled ? "enable" : "disable", "--", name]];
    case "openrc":
      if (!enabled) return [["sh", "-c", OPENRC_DISABLE, "sh", name]];
      return [["rc-update", "add", name, ...(levels === "" ? ["default"] : levels.split(","))]];
    case "sysv":
      // A script that never had links is refused by `enable`; `defaults` makes them, and leaves those that are there.
      return enabled
        ? [
            ["update-rc.d", name, "defaults"],
            ["update-rc.d", name, "enable"],
          ]
        : [["update-rc.d", name, "disable"]];
  }
}

export function runWords(manager: Manager, name: string, verb: "start" | "stop" | "restart"): string[] {
  switch (manager) {
    case "systemd":
      return ["systemctl", verb, "--", name];
    case "openrc":
      return ["setsid", "sh", "-c", OPENRC_RUN, "sh", name, verb];
    case "sysv":
      return [`/etc/init.d/${name}`, verb];
  }
}

/** All units are read anew only where this one's file changed: that takes seconds on a small machine. */
const RELOAD = `case $(systemctl show -p NeedDaemonReload -- "$1") in *=yes) exec systemctl daemon-reload ;; esac`;

/** Makes systemd read the unit again where its file changed since it did; nothing elsewhere. */
export function reloadWords(manager: Manager, name: string): string[] | undefined {
  return manager === "systemd" ? ["sh", "-c", RELOAD, "sh", name] : undefined;
}
