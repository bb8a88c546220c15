import { sh, ShellText, shJoin } from "../../src/index.ts";
import { sha256 } from "./entries.ts";

/** One line of fstab(5). */
export interface FstabEntry {
  readonly source: string;
  readonly path: string;
  readonly type: string;
  readonly options: string;
  readonly dump: number;
  readonly pass: number;
}

export interface MountFacts {
  readonly mounted: boolean;
  readonly source: string;
  readonly type: string;
  readonly options: readonly string[];
  /** The wanted source is the same place: only asked for bind mounts, whose source the kernel does not tell. */
  readonly bound: boolean;
  readonly fstab: string;
}

/** Prints mountinfo's last line of each mount point, whether bind sources match, and fstab in base64. */
export function mountsScript(
  mounts: readonly { readonly path: string; readonly source: string; readonly bind: boolean }[],
): ShellText {
  return shJoin([
    new ShellText(String.raw`labctl_mount() {
  while IFS= read -r labctl_l; do
    set -- "$1" "$2" "$3" "$4" $labctl_l
    if [ "$9" = "$2" ]; then labctl_found=$labctl_l; fi
  done </proc/self/mountinfo
  printf 'M %s\n' "$labctl_found"
  # Looking at what is mounted waits for a server that is away, perhaps for ever.
  if [ "$4" = bind ] && [ "$1" -ef "$3" ]; then echo same; else echo other; fi
}
set -f`),
    ...mounts.map(
      ({ path, source, bind }) =>
        sh`labctl_found=; labctl_mount ${path} ${kernelEscape(path)} ${realSource(source)} ${bind ? "bind" : "no"}`,
    ),
    sh`echo F; if [ -f /etc/fstab ]; then base64 </etc/fstab; fi`,
  ]);
}

/** A source as a path to compare with: tags stand for links under /dev/disk. */
function realSource(source: string): string {
  const tag = /^(UUID|LABEL|PARTUUID|PARTLABEL)="?([^"]*)"?$/.exec(source);
  return tag === null ? source : `/dev/disk/by-${(tag[1] ?? "").toLowerCase()}/${tag[2] ?? ""}`;
}

/** proc(5): blanks, tabs, newlines and backslashes stand as octal. fstab(5) has the same. */
export function kernelEscape(text: string): string {
  return text.replaceAll(/[ \t\n\\]/g, (char) => `\\${char.charCodeAt(0).toString(8).padStart(3, "0")}`);
}

function kernelPlain(text: string): string {
  return text.replaceAll(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}

export function parseMounts(lines: readonly string[], count: number): MountFacts[] {
  const cut = lines.lastIndexOf("F");
  const fstab = Buffer.from(lines.slice(cut + 1).join(""), "base64").toString("utf8");
  const rows = lines.slice(0, cut < 0 ? 0 : cut);
  return Array.from({ length: count }, (_, i) => {
    const line = (rows[i * 2] ?? "").slice(2);
    const bound = rows[i * 2 + 1] === "same";
    const absent = { mounted: false, source: "", type: "", options: [], bound, fstab };
    if (line === "") return absent;
    // 36 35 98:0 /root /mount rw,noatime shared:1 - type source superoptions
    const [left = "", right = ""] = line.split(" - ");
    const words = left.split(" ");
    const [type = "", source = "", superOptions = ""] = right.split(" ");
    return {
      mounted: true,
      source: kernelPlain(source),
      type,
      options: [...new Set([...(words[5] ?? "").split(","), ...superOptions.split(",")].filter((word) => word !== ""))],
      bound,
      fstab,
    };
  });
}

export function parseFstabLine(line: string): FstabEntry | undefined {
  if (/^\s*(#|$)/.test(line)) return undefined;
  const [source = "", path = "", type = "", options = "defaults", dump = "0", pass = "0"] = line.trim().split(/\s+/);
  if (path === "") return undefined;
  return {
    source: kernelPlain(source),
    path: kernelPlain(path),
    type,
    options,
    dump: Number(dump),
    pass: Number(pass),
  };
}

export function fstabLine(entry: FstabEntry): string {
  const words = [
    kernelEscape(entry.source),
    kernelEscape(entry.path),
    entry.type,
    kernelEscape(entry.options),
    entry.dump,
    entry.pass,
  ];
  return words.join(" ");
}

/** The line of a path as it stands, and the table with that line replaced, added, or (undefined) removed; others keep every byte. */
export function editFstab(
  text: string,
  path: string,
  line: string | undefined,
): { readonly old: string | undefined; readonly text: string } {
  const lines = text === "" ? [] : text.replace(/\n$/, "").split("\n");
  const at = lines.findIndex((one) => parseFstabLine(one)?.path === path);
  const old = at < 0 ? undefined : lines[at];
  const next = [...lines];
  if (at >= 0) next.splice(at, 1, ...(line === undefined ? [] : [line]));
  else if (line !== undefined) next.push(line);
  return { old, text: next.map((one) => `${one}\n`).join("") };
}

/** Replaces fstab where it still is what was read: keeps its mode and owner, is whole at every moment. */
export function fstabScript(before: string, after: string): ShellText {
  const body = Buffer.from(after).toString("base64");
  return sh`labctl_fstab() {
  [ -f /etc/fstab ] || ( umask 022; : >/etc/fstab ) || return 1
  labctl_d=$(sha256sum </etc/fstab) || return 1
  if [ "\${labctl_d%% *}" != ${sha256(before)} ]; then echo "it changed a moment ago"; return 1; fi
  rm -f -- /etc/fstab.labctl-new && cp -p -- /etc/fstab /etc/fstab.labctl-new &&
    printf %s ${body} | base64 -d >/etc/fstab.labctl-new &&
    { sync -- /etc/fstab.labctl-new 2>/dev/null || sync; } && mv -f -- /etc/fstab.labctl-new /etc/fstab &&
    { sync -- /etc 2>/dev/null || sync; }
}
labctl_try fstab labctl_fstab
# Its units are made from the table: until it reads it again it mounts, and waits for, what stood there before.
if [ -d /run/systemd/system ]; then labctl_try reload systemctl daemon-reload; fi`;
}

const FLAGS = [
  "ro",
  "rw",
  "nosuid",
  "nodev",
  "noexec",
  "noatime",
  "nodiratime",
  "relatime",
  "strictatime",
  "lazytime",
  "sync",
  "dirsync",
];

/** Of these the kernel shows one for each NFS mount. */
const NFS_FLAGS = ["soft", "softerr", "hard"];

/** Whether the option is of every file system: those of NFS's own cannot be changed by remounting. */
export function isGeneral(option: string): boolean {
  return FLAGS.includes(option);
}

/** Options that the kernel shows and that are not as wanted. What only mount(8) or systemd reads is not compared. */
export function optionMismatches(wanted: readonly string[], found: readonly string[]): string[] {
  const nfs = NFS_FLAGS.some((flag) => found.includes(flag));
  const values = new Map(found.map((option) => [option.split("=")[0] ?? "", option.split("=").slice(1).join("=")]));
  return wanted.filter((option) => {
    const cut = option.indexOf("=");
    if (cut < 0) return (isGeneral(option) || (nfs && NFS_FLAGS.includes(option))) && !found.includes(option);
    const seen = values.get(option.slice(0, cut));
    return seen !== undefined && !sameValue(option.slice(cut + 1), seen);
  });
}

function sameValue(wanted: string, found: string): boolean {
  const plain = (text: string): string => {
    const size = /^([0-9]+)([kKmMgG])$/.exec(text);
    if (size !== null) return String(Number(size[1]) * 1024 ** ("kmg".indexOf((size[2] ?? "k").toLowerCase()) + 1));
    return /^0+[0-7]/.test(text) ? text.replace(/^0+/, "") : text;
  };
  return plain(wanted) === plain(found) || found.startsWith(`${wanted}.`);
}
