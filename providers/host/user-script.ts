import { sh, ShellText, shJoin } from "../../src/index.ts";

/** What is read of one user. Keys are the lines of authorized_keys that hold one. */
export type UserState = {
  readonly uid: number;
  readonly gid: number;
  readonly groups: readonly string[];
  readonly shell: string;
  readonly home: string;
  readonly comment: string;
  readonly authorized_keys: readonly string[];
};

/**
 * Prints a block for each name: `U` with the passwd entry, or `-`; then the groups, one a line; then authorized_keys in
 * base64. Blocks end with a dot. At the end `T` and whose tools make accounts there. Only files and getent are asked, so that users of LDAP and the like are seen too.
 */
export function usersScript(names: readonly string[]): ShellText {
  return shJoin([
    new ShellText(String.raw`labctl_passwd() {
  if command -v getent >/dev/null 2>&1; then getent passwd -- "$1" 2>/dev/null || getent passwd "$1"
  else while IFS= read -r labctl_l; do case $labctl_l in "$1:"*) printf '%s\n' "$labctl_l"; return 0 ;; esac; done </etc/passwd; return 1; fi
}
labctl_user() {
  labctl_e=$(labctl_passwd "$1") || { echo -; return 0; }
  printf 'U %s\n' "$labctl_e"
  id -Gn -- "$1" 2>/dev/null | tr ' ' '\n'
  echo .
  labctl_h=${"$"}{labctl_e%:*}
  labctl_h=${"$"}{labctl_h##*:}
  if [ -f "$labctl_h/.ssh/authorized_keys" ]; then base64 <"$labctl_h/.ssh/authorized_keys"; fi
  echo .
}`),
    ...names.map((name) => sh`labctl_user ${name}`),
    sh`if command -v useradd >/dev/null 2>&1; then echo 'T shadow'; elif command -v adduser >/dev/null 2>&1; then echo 'T busybox'; fi`,
  ]);
}

/** Whether accounts are made with busybox's tools there. */
export function usesBusybox(lines: readonly string[]): boolean {
  return lines.includes("T busybox");
}

export function parseUsers(
  lines: readonly string[],
  count: number,
): ((UserState & { readonly raw: string }) | undefined)[] {
  let at = 0;
  const block = (): string[] => {
    const out: string[] = [];
    for (let line = lines[at++]; line !== undefined && line !== "."; line = lines[at++]) out.push(line);
    return out;
  };
  return Array.from({ length: count }, () => {
    const line = lines[at++] ?? "-";
    if (!line.startsWith("U ")) return undefined;
    const [, , uid = "", gid = "", comment = "", home = "", shell = ""] = line.slice(2).split(":");
    const groups = block().filter((group) => group !== "");
    const keys = Buffer.from(block().join(""), "base64").toString("utf8");
    return {
      uid: Number(uid),
      gid: Number(gid),
      groups: [...new Set(groups)].sort(),
      shell,
      home,
      comment,
      authorized_keys: keyLines(keys),
      raw: keys,
    };
  });
}

/** The lines that hold a key, without comments and empty ones. */
export function keyLines(text: string): string[] {
  return text
    .split(/\r?\n/)
    .map((line) => line.trim())
    .filter((line) => line !== "" && !line.startsWith("#"));
}

/**
 * What makes two lines the same key: type and key, whatever options and comment stand around. (sshd(8): options may hold
 * quoted spaces; the key is the base64 word after a known type.)
 */
export function keyIdentity(line: string): string {
  const match = /(?:^|\s)((?:ssh|ecdsa|sk-ssh|sk-ecdsa)-[A-Za-z0-9@.-]+)\s+(AAAA[A-Za-z0-9+/=]+)/.exec(line);
  return match === null ? line : `${match[1]} ${match[2]}`;
}

export interface UserWork {
  readonly name: string;
  readonly create: boolean;
  readonly uid?: number | undefined;
  readonly shell?: string | undefined;
  readonly home?: string | undefined;
  readonly comment?: string | undefined;
  readonly system?: boolean | undefined;
  readonly addGroups: readonly string[];
  readonly removeGroups: readonly string[];
}

/**
 * Makes or changes an account with the shadow tools, or busybox's where those are missing. Every step is an ensure, so that a
 * run that was cut off is finished by the next. Prints `E STEP TEXT` for the first failure.
 */
export function userScript(work: UserWork): ShellText {
  const { name } = work;
  const useradd = [
    ...(work.uid === undefined ? [] : ["-u", String(work.uid)]),
    ...(work.shell === undefined ? [] : ["-s", work.shell]),
    ...(work.home === undefined ? [] : ["-d", work.home]),
    ...(work.comment === undefined ? [] : ["-c", work.comment]),
    ...(work.system === true ? ["-r"] : []),
    // System users have no home unless it is named. The star is no password, and no lock: sshd without PAM refuses locked ones.
    ...(work.system === true && work.home === undefined ? [] : ["-m"]),
    "-p",
    "*",
  ];
  const adduser = [
    "-D",
    ...(work.uid === undefined ? [] : ["-u", String(work.uid)]),
    ...(work.shell === undefined ? [] : ["-s", work.shell]),
    ...(work.home === undefined ? [] : ["-h", work.home]),
    ...(work.comment === undefined ? [] : ["-g", work.comment]),
    ...(work.system === true ? ["-S"] : []),
  ];
  const usermod = [
    ...(work.uid === undefined ? [] : ["-u", String(work.uid)]),
    ...(work.shell === undefined ? [] : ["-s", work.shell]),
    ...(work.home === undefined ? [] : ["-d", work.home]),
    ...(work.comment === undefined ? [] : ["-c", work.comment]),
  ];
  const step = (label: string, command: ShellText): ShellText =>
    sh`labctl_m=$(${command} 2>&1) || { printf 'E %s ' ${label}; printf %s "$labctl_m" | tr '\n' ' '; echo; exit 0; }`;
  const have = (tool: string): ShellText => sh`command -v ${tool} >/dev/null 2>&1`;
  const missing = sh`{ echo "neither the shadow tools nor busybox's are there"; false; }`;
  const steps: ShellText[] = [];
  if (work.create) {
    steps.push(
      step(
        "create",
        sh`if ${have("useradd")}; then useradd ${useradd} -- ${name}; elif ${have("adduser")}; then adduser ${adduser} -- ${name} && { printf '%s:*\n' ${name} | chpasswd -e 2>/dev/null || :; }; else ${missing}; fi`,
      ),
    );
  } else if (usermod.length > 0) {
    steps.push(step("change", sh`if ${have("usermod")}; then usermod ${usermod} -- ${name}; else ${missing}; fi`));
  }
  for (const group of work.addGroups) {
    steps.push(
      step(
        `group ${group}`,
        sh`if ${have("usermod")}; then usermod -a -G ${group} -- ${name}; elif ${have("addgroup")}; then addgroup -- ${name} ${group}; else ${missing}; fi`,
      ),
    );
  }
  for (const group of work.removeGroups) {
    steps.push(
      step(
        `group ${group}`,
        sh`if ${have("gpasswd")}; then gpasswd -d ${name} ${group}; elif ${have("delgroup")}; then delgroup -- ${name} ${group}; else ${missing}; fi`,
      ),
    );
  }
  // A group that was taken away, and is back after a power failure, would look like somebody else's.
  if (steps.length > 0) steps.push(sh`sync -- /etc 2>/dev/null || sync`);
  return shJoin(steps);
}

/** Removes an account; its home only where that is asked for. */
export function userRemoval(name: string, home: boolean): ShellText {
  return sh`if command -v userdel >/dev/null 2>&1; then userdel ${home ? ["-r"] : []} -- ${name}; else deluser ${home ? ["--remove-home"] : []} -- ${name}; fi`;
}

/**
 * Replaces authorized_keys as the user itself would: folder 0700, file 0600, both the user's, written beside and renamed. The
 * text comes over stdin of printf, links are refused: a user could point one at root's files.
 */
export function keysScript(
  user: { readonly uid: number; readonly gid: number; readonly home: string },
  lines: readonly string[],
  temporary: string,
): ShellText {
  const folder = `${user.home}/.ssh`;
  const file = `${folder}/authorized_keys`;
  const temp = `${folder}/${temporary}`;
  const owner = `${user.uid}:${user.gid}`;
  const body = Buffer.from(lines.map((line) => `${line}\n`).join("")).toString("base64");
  return sh`umask 077
labctl_keys() {
  [ -d ${user.home} ] || { printf 'its home %s is not there' ${user.home}; return 1; }
  if [ -L ${folder} ] || [ -L ${file} ]; then echo "it is a symbolic link"; return 1; fi
  [ -d ${folder} ] || { mkdir -m 0700 -- ${folder} && chown -- ${owner} ${folder}; } || return 1
  rm -f -- ${temp}
  ( set -C; printf %s ${body} | base64 -d >${temp} ) && chown -- ${owner} ${temp} && chmod 0600 -- ${temp} &&
    { sync -- ${temp} 2>/dev/null || sync; } && mv -f -- ${temp} ${file} &&
    { sync -- ${folder} 2>/dev/null || sync; }
}
labctl_m=$(labctl_keys 2>&1) || { printf 'E keys '; printf %s "$labctl_m" | tr '\n' ' '; echo; exit 0; }`;
}
