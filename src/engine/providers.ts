import { createHash } from "node:crypto";
import { constants } from "node:fs";
import { lstat, open, readdir, readFile, rename } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join, relative, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import semver from "semver";
import { LabError } from "../diagnostics/index.ts";
import type { ProviderRequirement, SourceRange } from "../model/index.ts";
import { API_VERSION, type Kind, type Provider } from "../provider/index.ts";
import { answerToOwnName } from "./self.ts";

export interface LockedProvider {
  readonly name: string;
  readonly source: string;
  readonly version: string;
  /** `sha256-HEX` over the names and contents of all of its files, dependencies left out. */
  readonly integrity: string;
}

/** What `labctl.lock` says and will say. It is written by apply; planning writes nothing. */
export interface ProviderLock {
  readonly used: readonly LockedProvider[];
  write(): Promise<void>;
}

/** Loads the providers that a spec names, checks them against its version ranges and the lock file beside it. */
export async function loadProviders(
  root: string,
  requirements: readonly ProviderRequirement[],
): Promise<{ readonly providers: Provider[]; readonly lock: ProviderLock }> {
  const path = join(root, "labctl.lock");
  const locked = await readLock(path);
  const providers: Provider[] = [];
  const used: LockedProvider[] = [];
  for (const requirement of requirements) {
    const found = await locate(root, requirement);
    const { name, source } = requirement;
    const integrity = await digestTree(found.folder);
    // A file alone says its version only once it runs; nothing runs that the lock does not know.
    if (found.version !== undefined) checkVersion(requirement, found.version);
    checkLock(requirement, { version: found.version, integrity }, locked.get(name));
    const provider = await load(requirement, found.entry);
    const version = found.version ?? provider.version;
    checkVersion(requirement, version);
    providers.push(provider);
    used.push({ name, source, version, integrity });
  }
  const changed = used.some((one) => locked.get(one.name)?.integrity !== one.integrity) || locked.size !== used.length;
  return { providers, lock: { used, write: () => (changed ? writeLock(path, used) : Promise.resolve()) } };
}

/** The table of all kinds; two that claim one name or one section are an error, at the place that names the provider. */
export function kindTable(
  providers: readonly Provider[],
  places: ReadonlyMap<Provider, SourceRange | undefined> = new Map(),
): Map<string, Kind> {
  const kinds = new Map<string, Kind>();
  const sections = new Map<string, string>();
  for (const provider of providers) {
    for (const kind of provider.kinds) {
      const section = `${kind.section.within ?? ""}/${kind.section.name}`;
      const taken = kinds.has(kind.kind)
        ? `the kind "${kind.kind}"`
        : sections.has(section)
          ? `the section "${kind.section.name}"`
          : undefined;
      if (taken !== undefined) {
        const at = places.get(provider);
        throw new LabError(
          "E_PROVIDER_INVALID",
          `the provider "${provider.name}" brings ${taken}, which another one brings already`,
          {
            ...(at !== undefined && { at }),
            hint: "only one of the two can be used in a lab",
          },
        );
      }
      kinds.set(kind.kind, kind);
      sections.set(section, provider.name);
    }
  }
  return kinds;
}

interface Located {
  readonly entry: string;
  readonly folder: string;
  /** Of its package; undefined for a file alone. */
  readonly version: string | undefined;
}

async function locate(root: string, requirement: ProviderRequirement): Promise<Located> {
  const { source } = requirement;
  try {
    if (source.startsWith("npm:")) {
      const name = source.slice(4);
      const entry = createRequire(join(root, "package.json")).resolve(name);
      const folder = await packageFolder(dirname(entry));
      return { entry, folder, version: (await readManifest(folder)).version };
    }
    const path = resolve(root, source);
    const info = await lstat(path);
    if (info.isDirectory()) {
      const manifest = await readManifest(path);
      return { entry: resolve(path, manifest.main), folder: path, version: manifest.version };
    }
    return { entry: path, folder: path, version: undefined };
  } catch (cause) {
    if (cause instanceof LabError) throw cause;
    throw new LabError(
      "E_PROVIDER_NOT_FOUND",
      `the provider "${requirement.name}" (${source}) is not there: ${messageOf(cause)}`,
      {
        at: requirement.at,
        cause,
        hint: source.startsWith("npm:")
          ? `npm install ${source.slice(4)} beside the spec`
          : "the path is relative to the file that names it",
      },
    );
  }
}

async function packageFolder(from: string): Promise<string> {
  for (let folder = from; ; folder = dirname(folder)) {
    const names = await readdir(folder);
    if (names.includes("package.json")) return folder;
    if (folder === dirname(folder)) throw new Error("it has no package.json");
  }
}

async function readManifest(folder: string): Promise<{ version: string; main: string }> {
  const manifest: unknown = JSON.parse(await readFile(join(folder, "package.json"), "utf8"));
  const fields = manifest as { version?: unknown; main?: unknown; exports?: unknown };
  const main = [fields.main, exportOf(fields.exports), "index.js"].find(
    (one): one is string => typeof one === "string",
  );
  return { version: typeof fields.version === "string" ? fields.version : "0.0.0", main: main ?? "index.js" };
}

function exportOf(exports: unknown): unknown {
  if (typeof exports === "string") return exports;
  const root = exports !== null && typeof exports === "object" && "." in exports ? exports["."] : undefined;
  if (typeof root === "string") return root;
  return root !== null && typeof root === "object" && root !== undefined && "default" in root
    ? root.default
    : undefined;
}

function checkVersion(requirement: ProviderRequirement, version: string): void {
  if (requirement.version === undefined || semver.satisfies(version, requirement.version, { includePrerelease: true }))
    return;
  throw new LabError(
    "E_PROVIDER_VERSION",
    `the provider "${requirement.name}" is version ${version}, and the spec wants ${requirement.version}`,
    {
      at: requirement.at,
      hint: "install a version that fits, or change the range",
    },
  );
}

function checkLock(
  requirement: ProviderRequirement,
  now: { readonly version: string | undefined; readonly integrity: string },
  locked: LockedProvider | undefined,
): void {
  if (locked === undefined || locked.source !== requirement.source || locked.integrity === now.integrity) return;
  if (now.version !== undefined && locked.version !== now.version) return;
  throw new LabError(
    "E_PROVIDER_INTEGRITY",
    `the provider "${requirement.name}" ${locked.version} is not the one that labctl.lock was written for`,
    {
      at: requirement.at,
      hint: "its files changed under the same version. If that is right, remove its entry from labctl.lock; the next apply writes it anew",
    },
  );
}

async function load(requirement: ProviderRequirement, entry: string): Promise<Provider> {
  const invalid = (why: string, cause?: unknown): LabError =>
    new LabError("E_PROVIDER_INVALID", `the provider "${requirement.name}" cannot be used: ${why}`, {
      at: requirement.at,
      cause,
      hint: "its default export must be what defineProvider() gives; see docs/providers.md",
    });
  answerToOwnName();
  let module: unknown;
  try {
    module = await import(pathToFileURL(entry).href);
  } catch (cause) {
    throw invalid(messageOf(cause), cause);
  }
  const candidate: unknown =
    module !== null && typeof module === "object" && "default" in module ? module.default : undefined;
  if (!isProvider(candidate)) throw invalid("it exports no provider");
  if (candidate.api !== API_VERSION) {
    throw new LabError(
      "E_PROVIDER_VERSION",
      `the provider "${requirement.name}" was built for version ${candidate.api} of the provider API, and this is ${API_VERSION}`,
      {
        at: requirement.at,
        hint: "install a version of it that fits this labctl",
      },
    );
  }
  return candidate;
}

function isProvider(value: unknown): value is Provider {
  return (
    value !== null &&
    typeof value === "object" &&
    "kinds" in value &&
    Array.isArray(value.kinds) &&
    "api" in value &&
    typeof value.api === "number"
  );
}

/** One digest for a file or a folder, whatever order the file system lists it in. */
async function digestTree(path: string): Promise<string> {
  const hash = createHash("sha256");
  const visit = async (at: string): Promise<void> => {
    const info = await lstat(at);
    if (info.isDirectory()) {
      for (const name of (await readdir(at)).sort())
        if (name !== "node_modules" && name !== ".git") await visit(join(at, name));
    } else if (info.isFile()) {
      const content = await readFile(at);
      hash.update(`${JSON.stringify(relative(path, at))} ${content.length}\n`).update(content);
    }
  };
  await visit(path);
  return `sha256-${hash.digest("hex")}`;
}

async function readLock(path: string): Promise<Map<string, LockedProvider>> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return new Map();
    throw error;
  }
  try {
    const data = JSON.parse(text) as {
      lock_version?: unknown;
      providers?: Record<string, Omit<LockedProvider, "name">>;
    };
    if (data.lock_version !== 1) throw new Error(`lock_version ${String(data.lock_version)} is not known`);
    return new Map(Object.entries(data.providers ?? {}).map(([name, entry]) => [name, { name, ...entry }]));
  } catch (cause) {
    throw new LabError("E_PROVIDER_INTEGRITY", `labctl.lock cannot be read: ${messageOf(cause)}`, {
      cause,
      at: { file: path, line: 1, column: 1 },
      hint: "restore it from version control, or remove it; the next apply writes it anew",
    });
  }
}

async function writeLock(path: string, used: readonly LockedProvider[]): Promise<void> {
  const providers = Object.fromEntries(
    [...used].sort((a, b) => (a.name < b.name ? -1 : 1)).map(({ name, ...entry }) => [name, entry]),
  );
  const temporary = `${path}.${process.pid}.tmp`;
  const file = await open(temporary, constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC, 0o644);
  try {
    await file.writeFile(`${JSON.stringify({ lock_version: 1, providers }, undefined, 2)}\n`);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(temporary, path);
}

function messageOf(error: unknown): string {
  return error instanceof Error ? (error.message.split("\n")[0] ?? "") : String(error);
}
