import { quoteWord } from "../../src/index.ts";

/**
 * The first process of a guest: loads drivers, mounts what is shared, runs one command and says how it ended. It speaks to
 * labctl on a port of its own, a line a fact:
 *
 *     ready port|serial|console     which streams the guest can use
 *     share TAG 9p|virtiofs|packed|none
 *     root 9p|virtiofs|disk|own
 *     release 6.1.0-9-amd64
 *     start                         the command begins now
 *     beat                          every two seconds: the guest is alive
 *     exit 3                        the command ended; 128 and the signal's number where one killed it
 */
export const HOME = ".labctl";

export interface GuestMount {
  readonly tag: string;
  /** Absolute, in the guest. */
  readonly target: string;
  readonly writable: boolean;
  /** A copy of it lies in the initramfs below /.labctl/packed/TAG. */
  readonly packed: boolean;
}

export interface GuestPlan {
  /** Words of the command; none for a shell. */
  readonly command: readonly string[];
  /** On a terminal of the guest; else on three streams. */
  readonly tty: boolean;
  /** Where the command starts. */
  readonly cwd: string;
  readonly environment: Readonly<Record<string, string>>;
  /** What becomes /: a share, a disk, or what the initramfs has. */
  readonly root: "share" | "disk" | "own";
  readonly mounts: readonly GuestMount[];
  /** File names below /.labctl/modules, in the order of loading. */
  readonly modules: readonly string[];
  /** Serial lines besides the console, in the order control, output, errors: where the guest has no virtio. */
  readonly serials: readonly string[];
  /** Where there are no streams at all: the console. */
  readonly console: string;
  /** Rows and columns of the terminal. */
  readonly size?: { readonly rows: number; readonly columns: number };
}

export const ROOT_TAG = "labctl-root";

/** The guest's environment where nothing else is wanted. */
export const ENVIRONMENT: Readonly<Record<string, string>> = {
  HOME: "/root",
  PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
  LANG: "C.UTF-8",
};

/** Text of /.labctl/init. `shell` interprets it: a path in the initramfs with its arguments. */
export function initScript(plan: GuestPlan, shell: string): string {
  const mounts = plan.mounts
    .map((mount) => `share ${quoteWord(mount.tag)} ${quoteWord(mount.target)} ${mount.writable ? "rw" : "ro"}`)
    .join("\n");
  return `#!${shell}
# Made by labctl for this boot alone.
L=/${HOME}
export PATH=$L/bin:/usr/sbin:/usr/bin:/sbin:/bin
mkdir -p /proc /sys /dev /tmp $L/root $L/mnt 2>/dev/null
[ -e /proc/self ] || mount -t proc proc /proc
[ -e /sys/kernel ] || mount -t sysfs sysfs /sys
grep -q ' /dev devtmpfs ' /proc/mounts || mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts 2>/dev/null
mount -t tmpfs tmpfs /dev/shm 2>/dev/null
# What udev makes elsewhere.
for link in fd stdin:0 stdout:1 stderr:2; do
  name=\${link%:*} number=\${link#*:}
  [ "$name" = fd ] && to=/proc/self/fd || to=/proc/self/fd/$number
  [ -e "/dev/$name" ] || [ -L "/dev/$name" ] || ln -s "$to" "/dev/$name"
done
hostname labctl 2>/dev/null
ifconfig lo 127.0.0.1 up 2>/dev/null || ip link set lo up 2>/dev/null
for module in ${plan.modules.map(quoteWord).join(" ")}; do
  insmod "$L/modules/$module" || echo "labctl: $module cannot be loaded" >/dev/console
done

# Which streams there are: named virtio ports first, then serial lines, then the console alone.
port() {
  for one in /sys/class/virtio-ports/*; do
    [ -r "$one/name" ] || continue
    read -r name <"$one/name"
    [ "$name" = "$1" ] || continue
    one=/dev/\${one##*/}
    [ -c "$one" ] && echo "$one" && return 0
  done
  return 1
}
streams=console
CTL=/dev/null
if ls /sys/bus/virtio/drivers 2>/dev/null | grep -q virtio_console && ls /sys/bus/virtio/devices 2>/dev/null | grep -q .; then
  tries=0
  # Ports report one after the other, when they like.
  while [ $tries -lt 40 ]; do
    CTL=$(port labctl.control) && port labctl.${plan.tty ? "tty" : "errors"} >/dev/null && streams=port && break
    tries=$((tries + 1)); sleep 0.05 2>/dev/null || usleep 50000
  done
  [ $streams = port ] || CTL=/dev/null
fi
${serialStreams(plan)}
# Opened once: a port takes one reader and writer at a time.
exec 9>"$CTL"
say() { echo "$*" >&9; }
say "release $(uname -r)"
say "ready $streams"

share() { # TAG TARGET rw|ro
  tag=$1 at=$ROOT$2 mode=$3 how=none
  # Below a root that cannot be written to, the folder has to be there already.
  mkdir -p "$at" 2>/dev/null
  if mount -t 9p -o "$mode,trans=virtio,version=9p2000.L,msize=262144,access=any" "$tag" "$at" 2>/dev/null; then how=9p
  elif mount -t virtiofs -o "$mode" "$tag" "$at" 2>/dev/null; then how=virtiofs
  elif [ -d "$L/packed/$tag" ] && mount -o bind "$L/packed/$tag" "$at"; then mount -o remount,bind,ro "$at" && how=packed
  fi
  say "share $tag $how"
}
ROOT=
${rootScript(plan)}
${mounts}

mkdir -p "$ROOT$R"
cp "$L/command" "$ROOT$R/command"
chmod 755 "$ROOT$R/command"
[ -e $L/bin/busybox ] && cp $L/bin/busybox "$ROOT$R/busybox"
# The kernel's own messages must not run through a terminal that somebody types at.
${plan.tty ? "[ $streams = console ] && dmesg -n 1 2>/dev/null" : ""}
SH=/bin/sh
[ -x "$ROOT$SH" ] || [ -L "$ROOT$SH" ] || SH="$R/busybox sh"
run() { if [ -n "$ROOT" ]; then exec chroot "$ROOT" $SH "$R/command"; else exec $SH "$R/command"; fi; }
( while :; do sleep 2; echo beat; done >&9 2>/dev/null ) </dev/null &
BEAT=$!
say start
${plan.tty ? ttyScript(plan) : streamScript()}
kill $BEAT 2>/dev/null
sync
say "exit $STATUS"
# labctl ends the machine when it has read this; where it cannot, the machine ends itself.
sleep 2
poweroff -f
reboot -f
sleep 1000
`;
}

function serialStreams(plan: GuestPlan): string {
  const [control, output, errors] = plan.serials;
  if (control === undefined || output === undefined || errors === undefined) return "";
  return `if [ $streams = console ] && (stty -F /dev/${control} raw -echo && : >/dev/${errors}) 2>/dev/null; then
  for line in ${control} ${output} ${errors}; do stty -F /dev/$line 115200 raw -echo -hupcl 2>/dev/null; done
  # One that is held open keeps its settings.
  exec 8<>/dev/${control} 7<>/dev/${output} 6<>/dev/${errors}
  CTL=/dev/${control} streams=serial
fi`;
}

function rootScript(plan: GuestPlan): string {
  const dirs = `for dir in proc sys dev; do [ -d "$ROOT/$dir" ] && mount -o bind /$dir "$ROOT/$dir"; done
[ -d "$ROOT/dev/pts" ] && mount -o bind /dev/pts "$ROOT/dev/pts" 2>/dev/null
[ -d "$ROOT/dev/shm" ] && mount -o bind /dev/shm "$ROOT/dev/shm" 2>/dev/null
for dir in tmp run var/tmp; do [ -d "$ROOT/$dir" ] && mount -t tmpfs -o mode=1777 tmpfs "$ROOT/$dir"; done
R=/tmp/.labctl; [ -d "$ROOT/run" ] && R=/run/labctl`;
  switch (plan.root) {
    case "own":
      return `R=/${HOME}/run
say "root own"
[ -e $L/bin/busybox ] && [ ! -e /bin/sh ] && mkdir -p /bin /sbin /usr/bin /usr/sbin /etc /root /run && $L/bin/busybox --install -s`;
    case "share":
      return `if mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=262144,access=any ${ROOT_TAG} $L/root 2>/dev/null; then HOW=9p
elif mount -t virtiofs -o ro ${ROOT_TAG} $L/root 2>/dev/null; then HOW=virtiofs
else HOW=own; fi
say "root $HOW"
if [ $HOW = own ]; then R=/${HOME}/run
  [ -e $L/bin/busybox ] && [ ! -e /bin/sh ] && mkdir -p /bin /sbin /usr/bin /usr/sbin /etc /root /run && $L/bin/busybox --install -s
else ROOT=$L/root
${dirs}
fi`;
    case "disk":
      return `HOW=none
for part in /dev/vda /dev/vda1 /dev/vda2 /dev/vda3; do
  [ -b $part ] || continue
  for type in ext4 btrfs xfs squashfs erofs ext2; do
    mount -t $type $part $L/root 2>/dev/null || mount -t $type -o ro $part $L/root 2>/dev/null || continue
    if [ -d $L/root/bin ] || [ -d $L/root/usr ]; then HOW=disk; break 2; fi
    umount $L/root
  done
done
say "root $HOW"
if [ $HOW = none ]; then R=/${HOME}/run; say "exit 126"; sleep 2; poweroff -f; fi
ROOT=$L/root
${dirs}`;
  }
}

/** Three streams. Pipes lie between: a port can be opened once, and programs open /dev/stdout again. */
function streamScript(): string {
  return `OUT=$(port labctl.output) || OUT=/dev/console
ERR=$(port labctl.errors) || ERR=/dev/console
IN=$(port labctl.input) || IN=/dev/null
case $streams in
serial) OUT=/dev/fd/7 ERR=/dev/fd/6 IN=/dev/null ;;
console) OUT=/dev/console ERR=/dev/console IN=/dev/null ;;
esac
mkfifo $L/out $L/err $L/in 2>/dev/null
cat <$L/out >"$OUT" & OUTCAT=$!
cat <$L/err >"$ERR" & ERRCAT=$!
cat <"$IN" >$L/in 2>/dev/null & INCAT=$!
( exec 9>&- 8>&- 7>&- 6>&-; run ) <$L/in >$L/out 2>$L/err
STATUS=$?
kill $INCAT 2>/dev/null
# What the command left running may hold its streams open; it is not waited for.
( sleep 2; kill $OUTCAT $ERRCAT ) 2>/dev/null & LATE=$!
wait $OUTCAT $ERRCAT 2>/dev/null
kill $LATE 2>/dev/null`;
}

/** A terminal of the guest, with the command as the leader of its session. */
function ttyScript(plan: GuestPlan): string {
  const size =
    plan.size === undefined ? "" : `stty -F $TTY rows ${plan.size.rows} cols ${plan.size.columns} 2>/dev/null`;
  return `TTY=/dev/${plan.console}
# The only virtconsole there is.
if [ $streams = port ]; then for one in /dev/hvc[0-9]*; do [ -c "$one" ] && grep -q labctl /sys/class/virtio-ports/*/name && TTY=$one && break; done
elif [ $streams = serial ]; then TTY=/dev/${plan.serials[1] ?? plan.console}; stty -F $TTY sane 2>/dev/null; fi
# A terminal that nobody holds open forgets its size.
exec 5<>$TTY
${size}
( exec 9>&- 5>&- 8>&- 7>&- 6>&-; if [ -n "$ROOT" ]; then exec setsid -c chroot "$ROOT" $SH "$R/command"; else exec setsid -c $SH "$R/command"; fi ) <$TTY >$TTY 2>&1
STATUS=$?`;
}

/**
 * Text of /.labctl/command, for any POSIX shell. The command is found by PATH here and started by its path: a busybox shell
 * would take its own applet of that name instead.
 */
export function commandScript(plan: GuestPlan): string {
  const env = Object.entries({ ...ENVIRONMENT, ...plan.environment })
    .filter(([name]) => /^[A-Za-z_][A-Za-z0-9_]*$/.test(name))
    .map(([name, value]) => `export ${name}=${quoteWord(value)}`);
  const words = plan.command.map(quoteWord).join(" ");
  return `${env.join("\n")}
cd ${quoteWord(plan.cwd)} 2>/dev/null || cd /
${words === "" ? 'for shell in bash sh; do set -- "$shell"; command -v "$1" >/dev/null 2>&1 && break; done' : `set -- ${words}`}
case $1 in
*/*) ;;
*)
  name=$1; shift; found=; old=$IFS; IFS=:
  for dir in $PATH; do
    if [ -f "$dir/$name" ] && [ -x "$dir/$name" ]; then found=$dir/$name; break; fi
  done
  IFS=$old
  if [ -z "$found" ]; then echo "labctl: $name: no such command in the guest" >&2; exit 127; fi
  set -- "$found" "$@" ;;
esac
exec "$@"
`;
}

/** What the guest says on its control port. */
export type GuestMessage =
  | { readonly type: "ready"; readonly streams: "port" | "serial" | "console" }
  | { readonly type: "share"; readonly tag: string; readonly how: "9p" | "virtiofs" | "packed" | "none" }
  | { readonly type: "root"; readonly how: "9p" | "virtiofs" | "disk" | "own" | "none" }
  | { readonly type: "release"; readonly release: string }
  | { readonly type: "start" }
  | { readonly type: "beat" }
  | { readonly type: "exit"; readonly code: number };

/** One line from the control port; undefined where it is none of ours. */
export function parseMessage(line: string): GuestMessage | undefined {
  const [word = "", first = "", second = ""] = line.trim().split(" ");
  switch (word) {
    case "start":
    case "beat":
      return { type: word };
    case "ready":
      return first === "port" || first === "serial" || first === "console"
        ? { type: "ready", streams: first }
        : undefined;
    case "share":
      return second === "9p" || second === "virtiofs" || second === "packed" || second === "none"
        ? { type: "share", tag: first, how: second }
        : undefined;
    case "root":
      return first === "9p" || first === "virtiofs" || first === "disk" || first === "own" || first === "none"
        ? { type: "root", how: first }
        : undefined;
    case "release":
      return first === "" ? undefined : { type: "release", release: first };
    case "exit":
      return /^\d{1,3}$/.test(first) && Number(first) < 256 ? { type: "exit", code: Number(first) } : undefined;
    default:
      return undefined;
  }
}
