import type { Address, Sibling } from "../../src/index.ts";

/**
 * The natural order of what stands on one host. Where things are configured for the package manager or the module loader
 * comes before these; packages bring users, groups and folders; services and commands come when all else is there.
 */
interface Index {
  readonly repositories: readonly Address[];
  readonly moduleFiles: readonly Address[];
  readonly packages: readonly Address[];
  readonly modules: readonly Address[];
  readonly users: ReadonlyMap<string, Address>;
  /** Directories and mounts by path, the mount after the directory that it covers. */
  readonly containers: ReadonlyMap<string, readonly { readonly kind: string; readonly address: Address }[]>;
  readonly beforeServices: readonly Address[];
}

const indexes = new WeakMap<readonly Sibling[], Index>();

/** Files that package managers read: they must be there before packages are installed. */
const REPOSITORY = /^\/etc\/(apt|apk|dnf|yum|yum\.repos\.d|pki\/rpm-gpg)(\/|$)|^\/usr\/share\/keyrings(\/|$)/;
/** Files that modprobe and the kernel's firmware loader read. */
const MODULE_FILE = /^\/etc\/(modprobe|modules-load)\.d(\/|$)|^\/(usr\/)?lib\/firmware(\/|$)/;

function text(sibling: Sibling, property: string): string {
  const value = sibling.desired[property];
  return typeof value === "string" ? value : "";
}

function indexOf(siblings: readonly Sibling[]): Index {
  const known = indexes.get(siblings);
  if (known !== undefined) return known;
  const repositories: Address[] = [];
  const moduleFiles: Address[] = [];
  const packages: Address[] = [];
  const modules: Address[] = [];
  const users = new Map<string, Address>();
  const containers = new Map<string, { kind: string; address: Address }[]>();
  const beforeServices: Address[] = [];
  for (const sibling of siblings) {
    const { address, kind } = sibling;
    if (kind !== "service" && kind !== "command") beforeServices.push(address);
    if (kind === "package") packages.push(address);
    if (kind === "module") modules.push(address);
    if (kind === "user") users.set(text(sibling, "name"), address);
    if (kind === "file" || kind === "directory") {
      if (REPOSITORY.test(text(sibling, "path"))) repositories.push(address);
      else if (MODULE_FILE.test(text(sibling, "path"))) moduleFiles.push(address);
    }
    if (kind === "directory" || kind === "mount") {
      const path = text(sibling, "path");
      const there = containers.get(path) ?? [];
      there.push({ kind, address });
      containers.set(path, there);
    }
  }
  const index = { repositories, moduleFiles, packages, modules, users, containers, beforeServices };
  indexes.set(siblings, index);
  return index;
}

/**
 * The nearest declared directory above, and the nearest mount point above or at the path. With `only`, no mount and no
 * directory elsewhere: those wait for packages and modules, which wait for the files that `only` names.
 */
function around(
  index: Index,
  path: string,
  self: Address,
  own: "file" | "directory" | "mount",
  only?: RegExp,
): Address[] {
  const found: Address[] = [];
  const wanted = new Set(only === undefined ? ["directory", "mount"] : ["directory"]);
  for (let at = path; wanted.size > 0; ) {
    for (const { kind, address } of index.containers.get(at) ?? []) {
      if (address === self || !wanted.has(kind) || only?.test(at) === false) continue;
      // A directory that is a mount point is made first; what is mounted there comes after.
      if (at === path && own === "directory") continue;
      found.push(address);
      wanted.delete(kind);
    }
    if (at === "/" || at === "") break;
    const cut = at.lastIndexOf("/");
    at = cut <= 0 ? "/" : at.slice(0, cut);
  }
  return found;
}

export function afterForPath(
  own: "file" | "directory" | "mount",
  desired: { readonly path: string; readonly owner?: string | undefined },
  siblings: readonly Sibling[],
  self: Address,
): readonly Address[] {
  const index = indexOf(siblings);
  if (own !== "mount" && REPOSITORY.test(desired.path)) return around(index, desired.path, self, own, REPOSITORY);
  if (own !== "mount" && MODULE_FILE.test(desired.path)) {
    return [...around(index, desired.path, self, own, MODULE_FILE), ...index.packages];
  }
  const containers = around(index, desired.path, self, own);
  const owner = desired.owner === undefined ? undefined : index.users.get(desired.owner);
  return [
    ...containers,
    ...index.packages,
    ...(own === "mount" ? index.modules : []),
    ...(owner === undefined ? [] : [owner]),
  ];
}

export function afterForPackage(siblings: readonly Sibling[]): readonly Address[] {
  return indexOf(siblings).repositories;
}

export function afterForModule(siblings: readonly Sibling[]): readonly Address[] {
  const index = indexOf(siblings);
  return [...index.packages, ...index.moduleFiles];
}

/** Users and kernel settings: packages bring groups and shells, modules bring settings. */
export function afterForUser(siblings: readonly Sibling[]): readonly Address[] {
  return indexOf(siblings).packages;
}

export function afterForSysctl(siblings: readonly Sibling[]): readonly Address[] {
  const index = indexOf(siblings);
  return [...index.packages, ...index.modules];
}

/** Services and commands: after all that they may use. */
export function afterAll(siblings: readonly Sibling[]): readonly Address[] {
  return indexOf(siblings).beforeServices;
}
