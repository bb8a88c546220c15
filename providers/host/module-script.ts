import { sh, ShellText, shJoin } from "../../src/index.ts";

/** What is found of a kernel module. `live`: parameters that sysfs shows of the loaded one. */
export interface ModuleFacts {
  readonly loaded: boolean;
  readonly builtin: boolean;
  readonly persisted: boolean;
  readonly configured: Readonly<Record<string, string>>;
  readonly live: Readonly<Record<string, string>>;
}

/** The kernel's own name: modprobe takes dashes for underscores. */
export function kernelName(name: string): string {
  return name.replaceAll("-", "_");
}

export function loadPath(name: string): string {
  return `/etc/modules-load.d/labctl-${name}.conf`;
}

export function optionsPath(name: string): string {
  return `/etc/modprobe.d/labctl-${name}.conf`;
}

/**
 * Prints a block a module: `L` loaded, `B` built in, `P` loaded at every start, `O options` of labctl's file, `V name=value`
 * of live parameters. Built-in modules without parameters show only in modules.builtin.
 */
export function modulesScript(
  modules: readonly { readonly name: string; readonly options: readonly string[] }[],
): ShellText {
  return shJoin([
    new ShellText(String.raw`labctl_module() {
  labctl_k=$1
  if [ -e "/sys/module/$labctl_k/initstate" ]; then
    IFS= read -r labctl_v <"/sys/module/$labctl_k/initstate"
    [ "$labctl_v" != live ] || echo L
  elif grep -q "/$2[.]ko" "/lib/modules/$(uname -r)/modules.builtin" 2>/dev/null || [ -d "/sys/module/$labctl_k" ]; then echo B
  fi
  [ ! -f "$3" ] || echo P
  if [ -f "$4" ]; then while IFS= read -r labctl_v; do case $labctl_v in 'options '*) printf 'O %s\n' "$labctl_v" ;; esac; done <"$4"; fi
  shift 4
  for labctl_o do
    if [ -r "/sys/module/$labctl_k/parameters/$labctl_o" ]; then
      labctl_v=; IFS= read -r labctl_v <"/sys/module/$labctl_k/parameters/$labctl_o"
      printf 'V %s=%s\n' "$labctl_o" "$labctl_v"
    fi
  done
  echo .
}`),
    ...modules.map(
      ({ name, options }) =>
        sh`labctl_module ${kernelName(name)} ${name.replaceAll(/[-_]/g, "[-_]")} ${loadPath(name)} ${optionsPath(name)} ${options}`,
    ),
  ]);
}

export function parseModules(lines: readonly string[], count: number): ModuleFacts[] {
  let at = 0;
  return Array.from({ length: count }, () => {
    const block: string[] = [];
    for (let line = lines[at++]; line !== undefined && line !== "."; line = lines[at++]) block.push(line);
    const builtin = block.includes("B");
    return {
      loaded: builtin || block.includes("L"),
      builtin,
      persisted: block.includes("P"),
      configured: Object.assign(
        {},
        ...block.filter((line) => line.startsWith("O ")).map((line) => parseOptions(line.slice(2))),
      ),
      live: Object.fromEntries(
        block
          .filter((line) => line.startsWith("V "))
          .map((line) => {
            const cut = line.indexOf("=");
            return [line.slice(2, cut), line.slice(cut + 1)];
          }),
      ),
    };
  });
}

/** `options NAME a=b c=d` as modprobe.d(5) has it. */
export function parseOptions(line: string): Record<string, string> {
  const words = line.trim().split(/\s+/).slice(2);
  return Object.fromEntries(
    words.map((word) => {
      const cut = word.indexOf("=");
      return cut < 0 ? [word, ""] : [word.slice(0, cut), word.slice(cut + 1)];
    }),
  );
}

export function optionsLine(name: string, options: Readonly<Record<string, string | number | boolean>>): string {
  const words = Object.entries(options)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([key, value]) => `${key}=${optionText(value)}`);
  return `# Managed by labctl.\noptions ${name} ${words.join(" ")}\n`;
}

export function optionText(value: string | number | boolean): string {
  return typeof value === "boolean" ? (value ? "1" : "0") : String(value);
}

/** The kernel shows switches as Y and N, and takes 1 and 0 too; numbers may be hexadecimal. */
export function sameOption(wanted: string, live: string): boolean {
  const plain = (text: string): string => {
    if (/^[yY]$/.test(text)) return "1";
    if (/^[nN]$/.test(text)) return "0";
    return /^0x[0-9a-fA-F]+$/.test(text) ? String(Number.parseInt(text, 16)) : text.trim();
  };
  return plain(wanted) === plain(live);
}
