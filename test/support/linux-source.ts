import { execFileSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { join } from "node:path";

/** The tarball of Debian's linux-source package, fetched into a folder without installing it; or LABCTL_LINUX_SOURCE. */
export function linuxSource(folder: string): string {
  const given = process.env["LABCTL_LINUX_SOURCE"];
  if (given !== undefined) return given;
  execFileSync("apt-get", ["download", "linux-source-6.1"], { cwd: folder, stdio: "ignore" });
  const [file = ""] = readdirSync(folder).filter((name) => name.endsWith(".deb"));
  execFileSync("dpkg-deb", ["-x", file, "package"], { cwd: folder });
  return join(folder, "package/usr/src/linux-source-6.1.tar.xz");
}
