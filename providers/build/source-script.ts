import { sh, ShellText, shJoin } from "../../src/index.ts";

/** A source that is on the server, ready to be brought into a build's tree. */
export type PreparedSource =
  /** `commit` in full; `mirror`: directory of the bare repository that holds it. */
  | { readonly type: "git"; readonly mirror: string; readonly commit: string }
  /** `digest` of the tree; what is not in the tree yet stands in the stage. */
  | { readonly type: "directory"; readonly digest: string }
  | { readonly type: "tarball"; readonly sha256: string };

/** Seconds since 1970: the date of builds from a directory, which has none that is the same for two people. */
const DIRECTORY_EPOCH = 946_684_800;

/**
 * Options that every git of ours gets: no hooks, no collection of garbage beside a build, and no second look at files
 * whose inode changed its time only (a tree is made read-only and writable again).
 */
export const GIT_FUNCTION = new ShellText(String.raw`labctl_git() {
  git -c safe.directory='*' -c core.trustctime=false -c core.checkStat=minimal -c gc.auto=0 -c maintenance.auto=false \
    -c advice.detachedHead=false -c core.hooksPath=/dev/null -c core.autocrlf=false -c core.quotePath=false "$@"
}`);

/**
 * What brings a tree to a wanted state by changing only what differs, so that make compiles only that. Beside TREE stand
 * TREE.manifest (a line `f|l|d <TAB> MODE <TAB> SHA256|TARGET|- <TAB> PATH` for each entry that labctl put there), TREE.stat (how
 * these files looked when they were put there), TREE.digest (what the whole is) and TREE.epoch.
 */
export const TREE_FUNCTIONS = new ShellText(String.raw`labctl_paths() { awk -F '\t' '$1 != "d" { print $4 }' "$1"; }
labctl_stats() { (cd -- "$1" 2>/dev/null && labctl_paths "$2" | xargs -r -d '\n' stat --printf '%F\t%s\t%y\t%n\n' -- 2>/dev/null); }
# Paths that are not as labctl left them.
labctl_dirty() {
  [ -f "$1.manifest" ] && [ -f "$1.stat" ] || return 0
  labctl_stats "$1" "$1.manifest" | awk -F '\t' 'BEGIN { while ((getline x < "-") > 0) { split(x, f, "\t"); is[f[4]] = x } } is[$4] != $0 { print $4 }' "$1.stat"
}
# Paths of the manifest $2 that the tree $1 does not hold as they should be.
labctl_needed() {
  [ -f "$1.manifest" ] || { labctl_paths "$2"; return; }
  labctl_dirty "$1" | awk -F '\t' 'BEGIN { while ((getline x < "-") > 0) bad[x] = 1; while ((getline x < ARGV[1]) > 0) have[x] = 1; ARGV[1] = "" }
    $1 != "d" && (!($0 in have) || ($4 in bad)) { print $4 }' "$1.manifest" "$2"
}
# tree, manifest, directory with the new files, digest, epoch
labctl_apply() {
  mkdir -p -- "$1" || return 1
  # From here on the tree is neither the old nor the new one, until the digest says so again.
  rm -f -- "$1.digest"
  if [ -f "$1.manifest" ]; then
    awk -F '\t' 'BEGIN { while ((getline x < ARGV[1]) > 0) { split(x, f, "\t"); is[f[4]] = f[1] } ARGV[1] = "" } !($4 in is) || (is[$4] == "d") != ($1 == "d") { print (($4 in is) ? "x" : $1) "\t" $4 }' "$2" "$1.manifest" |
      LC_ALL=C sort -t '	' -k 2,2 -r >"$1.gone" || return 1
    (cd -- "$1" && while IFS='	' read -r t p; do
      case $t in
        x) rm -rf -- "./$p" ;;
        d) rmdir -- "./$p" 2>/dev/null ;;
        *) rm -f -- "./$p" ;;
      esac
    done) <"$1.gone"
    rm -f -- "$1.gone"
  fi
  (cd -- "$1" && awk -F '\t' '$1 == "d" { print $4 }' "$2" | xargs -r -d '\n' mkdir -p --) || return 1
  if [ -d "$3" ]; then
    # What changed is newer than all that was compiled, whatever its date was elsewhere.
    find "$3" ! -type d -exec touch -h -- {} + || return 1
    cp -al --remove-destination -- "$3/." "$1/" || return 1
    find "$3" -type d -exec chmod u+rwx {} +
    rm -rf -- "$3"
  fi
  cp -- "$2" "$1.manifest" && labctl_stats "$1" "$2" >"$1.stat" && echo "$5" >"$1.epoch" && echo "$4" >"$1.digest"
}
# What is in directory $1, in the form of a manifest.
labctl_manifest() {
  (cd -- "$1" || exit 1
  {
    find . -mindepth 1 -type d -printf 'd\t755\t-\t%P\n'
    find . -type l -printf 'l\t777\t%l\t%P\n'
    find . -type f -printf '%P\n' | xargs -r -d '\n' sha256sum -z -- | tr '\0' '\n' | awk '{ print "s\t" substr($0, 1, 64) "\t" substr($0, 67) }'
    find . -type f -printf '%m\t%P\n' | awk -F '\t' '{ print "m\t" ($1 ~ /[1357]/ ? 755 : 644) "\t" $2 }'
  } | awk -F '\t' '$1 == "s" { sum[$3] = $2; next } $1 == "m" { print "f\t" $2 "\t" sum[$3] "\t" $3; next } { print }' | LC_ALL=C sort -t '	' -k 4)
}
`);

/** `labctl_read_only` takes the right to write from a tree; `labctl_guarded` runs a command that cannot write there. */
const GUARD_FUNCTIONS = new ShellText(String.raw`labctl_guard=
labctl_read_only() {
  if [ "$(id -u)" = 0 ]; then
    # Modes do not hold root back.
    unshare -m sh -c 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1"' labctl "$tree" 2>/dev/null && labctl_guard=mount
  else
    find "$tree" ! -type l -perm /222 -exec chmod a-w {} + 2>/dev/null
  fi
}
labctl_writable() {
  [ ! -d "$tree" ] || [ "$(id -u)" = 0 ] || find "$tree" -type d ! -perm -200 -exec chmod u+w {} +
}
labctl_guarded() {
  if [ "$labctl_guard" = mount ]; then
    set -- unshare -m sh -c 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"' "$tree" "$@"
  fi
  (eval "$labctl_env"; exec "$@")
}`);

const SOURCE_FUNCTIONS = new ShellText(String.raw`# mirror, commit, pristine
labctl_from_git() {
  command -v git >/dev/null 2>&1 || labctl_die source "git is not installed"
  labctl_git -C "$1" cat-file -e "$2^{commit}" 2>/dev/null || labctl_die stale
  if [ ! -e "$tree/.git" ] || ! labctl_git -C "$tree" rev-parse -q --git-dir >/dev/null 2>&1; then
    rm -rf -- "$tree" "$tree".*
    ( exec 6>>"$1.lock"; flock 6; labctl_git -C "$1" worktree prune; labctl_git -C "$1" worktree add -q -f --detach --no-checkout -- "$tree" "$2" 6>&- ) || return 1
  fi
  d=$(labctl_git -C "$tree" rev-parse --absolute-git-dir) || return 1
  # The lock of the tree is ours: whoever made this one was killed.
  rm -f -- "$d/index.lock"
  labctl_git -C "$tree" checkout -q -f --detach "$2" -- || return 1
  if [ "$3" = 1 ]; then labctl_git -C "$tree" clean -ffdxq || return 1; fi
  labctl_epoch=$(labctl_git -C "$tree" log -1 --format=%ct "$2") || return 1
}
# digest, manifest, files, epoch
labctl_from_manifest() {
  if [ -e "$tree/.git" ] && [ ! -f "$tree.manifest" ]; then rm -rf -- "$tree" "$tree".*; fi
  labctl_apply "$tree" "$2" "$3" "$1" "$4" || return 1
}
labctl_tree_is() { IFS= read -r labctl_x <"$tree.digest" && [ "$labctl_x" = "$1" ] && [ -z "$(labctl_dirty "$tree")" ]; } 2>/dev/null
labctl_from_directory() {
  if [ -f "$stage/$1/manifest" ]; then
    b=; IFS= read -r b 2>/dev/null <"$tree.digest"
    IFS= read -r x <"$stage/$1/base" || labctl_die stale
    [ "$x" = "${"$"}{b:-none}" ] || labctl_die stale
    labctl_from_manifest "$1" "$stage/$1/manifest" "$stage/$1/files" ${DIRECTORY_EPOCH} || return 1
  else
    labctl_tree_is "$1" || labctl_die stale
  fi
  IFS= read -r labctl_epoch <"$tree.epoch"
}
labctl_from_tarball() {
  if ! labctl_tree_is "$1"; then
    [ -f "$workdir/tarballs/$1" ] || labctl_die stale
    touch -- "$workdir/tarballs/$1"
    rm -rf -- "$stage"; mkdir -p -- "$stage/files" || return 1
    if ! tar -xf "$workdir/tarballs/$1" -C "$stage/files" --no-same-owner 2>"$stage/said"; then
      cat -- "$stage/said" >&2
      case $(cat -- "$stage/said") in *'No space left'*|*'Wrote only'*) return 1 ;; esac
      labctl_die tarball "the tarball cannot be unpacked: $(head -n 1 "$stage/said" | tr '\t' ' ')"
    fi
    f=$stage/files
    # A single directory at the top is the usual form.
    set -- "$1" "$f"/* "$f"/.[!.]*
    n=0 top=
    for x do [ "$x" != "$1" ] && { [ -e "$x" ] || [ -L "$x" ]; } && { n=$((n+1)); top=$x; }; done
    if [ $n = 1 ] && [ -d "$top" ] && [ ! -L "$top" ]; then f=$top; fi
    e=$(find "$f" -type f -printf '%T@\n' | LC_ALL=C sort -n | tail -n 1)
    labctl_manifest "$f" >"$stage/manifest" || return 1
    labctl_needed "$tree" "$stage/manifest" >"$stage/needed" || return 1
    # What is there already keeps its time.
    labctl_paths "$stage/manifest" | awk 'BEGIN { while ((getline x < ARGV[1]) > 0) need[x] = 1; ARGV[1] = "" } !($0 in need)' "$stage/needed" - | (cd -- "$f" && xargs -r -d '\n' rm -f --)
    labctl_from_manifest "$1" "$stage/manifest" "$f" "${"$"}{e%%.*}" || return 1
    rm -rf -- "$stage"
  fi
  IFS= read -r labctl_epoch <"$tree.epoch"
}`);

/** All functions that {@link applySource} needs. Variables: tree, stage, workdir; labctl_die; sets labctl_epoch. */
export const APPLY_FUNCTIONS = shJoin([GIT_FUNCTION, TREE_FUNCTIONS, GUARD_FUNCTIONS, SOURCE_FUNCTIONS]);

/** The step of a build that makes its tree what the source says. `pristine`: what is not of the source goes. */
export function applySource(source: PreparedSource, options: { readonly pristine: boolean }): ShellText {
  const step = (): ShellText => {
    switch (source.type) {
      case "git":
        return sh`labctl_from_git ${source.mirror} ${source.commit} ${options.pristine ? 1 : 0}`;
      case "directory":
        return sh`labctl_from_directory ${source.digest}`;
      case "tarball":
        return sh`labctl_from_tarball ${source.sha256}`;
    }
  };
  return sh`labctl_writable
${step()} || labctl_die source "the source cannot be brought into place"`;
}
