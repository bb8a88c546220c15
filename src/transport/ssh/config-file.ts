import { readdir, readFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";

/** What labctl takes from ~/.ssh/config, first value wins, keys in lower case. StrictHostKeyChecking is ignored on purpose. */
export type ConfigValues = Readonly<Record<string, string | readonly string[]>>;

const DEEPEST_INCLUDE = 16;

/**
 * The values for one host. `Match exec` blocks do not match: reading a configuration runs nothing. Resolves with
 * nothing where there is no file.
 */
export async function sshConfigFor(file: string, host: string, home: string): Promise<ConfigValues> {
  const text = await expandIncludes(file, home, 0);
  if (text === "") return {};
  const { default: SSHConfig } = await import("ssh-config");
  return SSHConfig.parse(text).compute(host, { ignoreCase: true, matchExec: false }) as ConfigValues;
}

/** ssh-config does not follow Include. What follows an included file belongs to the block the Include stands in. */
async function expandIncludes(file: string, home: string, depth: number): Promise<string> {
  const text = await readFile(file, "utf8").catch(() => "");
  if (depth > DEEPEST_INCLUDE || !/^\s*include\s/im.test(text)) return text;
  const out: string[] = [];
  let block = "Host *";
  for (const line of text.split(/\r?\n/)) {
    if (/^\s*(host|match)[\s=]/i.test(line)) block = line;
    const names = /^\s*include[\s=]+(.*)$/i.exec(line)?.[1];
    if (names === undefined) {
      out.push(line);
      continue;
    }
    for (const name of names.match(/"[^"]*"|\S+/g) ?? []) {
      for (const path of await matching(absolute(name.replaceAll('"', ""), home))) {
        out.push(await expandIncludes(path, home, depth + 1));
      }
    }
    out.push(block);
  }
  return out.join("\n");
}

function absolute(name: string, home: string): string {
  if (name.startsWith("~/")) return join(home, name.slice(2));
  return name.startsWith("/") ? name : join(home, ".ssh", name);
}

/** Wildcards in the last part of a path, in lexical order as ssh reads them. */
async function matching(path: string): Promise<string[]> {
  const name = basename(path);
  if (!/[*?]/.test(name)) return [path];
  const pattern = new RegExp(`^${wildcardSource(name)}$`);
  const names = await readdir(dirname(path)).catch(() => []);
  return names
    .filter((entry) => pattern.test(entry) && (name.startsWith(".") || !entry.startsWith(".")))
    .sort()
    .map((entry) => join(dirname(path), entry));
}

/** The source of a regular expression for a pattern with `*` and `?`. */
export function wildcardSource(pattern: string): string {
  return pattern
    .replaceAll(/[.+^${}()|[\]\\/]/g, String.raw`\$&`)
    .replaceAll("*", ".*")
    .replaceAll("?", ".");
}
