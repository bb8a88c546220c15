import { readFileSync } from "node:fs";

/** The version of the package that this file belongs to, from source and from dist alike. */
export function version(): string {
  for (const place of ["../../package.json", "../../../package.json"]) {
    const found = versionIn(new URL(place, import.meta.url));
    if (found !== undefined) return found;
  }
  return "unknown";
}

function versionIn(url: URL): string | undefined {
  try {
    const data: unknown = JSON.parse(readFileSync(url, "utf8"));
    const named = typeof data === "object" && data !== null && "name" in data && data.name === "labctl";
    return named && "version" in data && typeof data.version === "string" ? data.version : undefined;
  } catch {
    return undefined;
  }
}
