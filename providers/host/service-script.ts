import { sh, ShellText, shJoin } from "../../src/index.ts";

export type Manager = "systemd" | "openrc" | "sysv";

/** How services are looked at and driven on a host. `known`: a unit or script of that name is there. */
export interface ServiceFacts {
  readonly manager: Manager;
  readonly known: boolean;
  readonly enabled: boolean;
  readonly running: boolean;
  /** systemd's word for how it is enabled, e.g. static; empty elsewhere. */
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
  labctl_n=$1
  case $1 in *.*) labctl_u=$1 ;; *) labctl_u=$1.service ;; esac
  set -- $(systemctl show -p LoadState -p ActiveState -p UnitFileState -- "$labctl_u" 2>/dev/null)
  labctl_k=no labctl_e=no labctl_a=no labctl_s=
  for labctl_p do
    case $labctl_p in
      LoadState=not-found) labctl_k=no ;;
      LoadState=*) labctl_k=yes ;;
      ActiveState=active|ActiveState=reloading|ActiveState=activating) labctl_a=yes ;;
      UnitFileState=*) labctl_s=${"$"}{labctl_p#*=} ;;
    esac
  done
  case $labctl_s in
    enabled|enabled-runtime|alias|linked|linked-runtime) labctl_e=yes ;;
    generated) labctl_rc "$labctl_n" ;;
  esac
}
labctl_openrc() {
  labctl_k=no labctl_e=no labctl_a=no labctl_s=
  [ ! -e "/etc/init.d/$1" ] || labctl_k=yes
  for labctl_l in /etc/runlevels/*/"$1"; do [ ! -e "$labctl_l" ] || labctl_e=yes; done
  [ ! -e "/run/openrc/started/$1" ] || labctl_a=yes
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

/** The commands that enable or disable, as words. */
export function enableCommands(manager: Manager, name: string, enabled: boolean): string[][] {
  switch (manager) {
    case "systemd":
      return [["systemctl", enabled ? "enable" : "disable", "--", name]];
    case "openrc":
      return [enabled ? ["rc-update", "add", name, "default"] : ["rc-update", "--all", "del", name]];
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
      return ["rc-service", name, verb];
    case "sysv":
      return [`/etc/init.d/${name}`, verb];
  }
}

/** Makes systemd read units that were added since it looked; nothing elsewhere. */
export function reloadWords(manager: Manager): string[] | undefined {
  return manager === "systemd" ? ["systemctl", "daemon-reload"] : undefined;
}
