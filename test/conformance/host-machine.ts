import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Machine } from "../../src/index.ts";
import type { World } from "../../src/testing/index.ts";
import { createMachinePool } from "../../src/transport/index.ts";
import { type MachineOptions, startMachine, type TestMachine } from "../support/sshd.ts";

export interface HostWorld extends World {
  readonly test: TestMachine;
  readonly ssh: Machine;
  /** Output of sh as root inside, past SSH: the world as something other than labctl sees it. Throws where it fails. */
  sh(command: string): Promise<string>;
  close(): Promise<void>;
}

/** A machine with a real sshd, as kinds reach it: login `lab`, root through sudo. */
export async function hostWorld(options: MachineOptions = {}): Promise<HostWorld> {
  const test = await startMachine(options);
  const pool = createMachinePool({ env: test.env });
  const ssh = pool.machine(test.connection());
  const root = mkdtempSync(join(tmpdir(), "labctl-conf-"));
  return {
    test,
    ssh,
    root,
    parent: `host.${test.name}`,
    machine: () => ssh,
    async sh(command) {
      const result = await test.exec(command);
      if (result.code !== 0) throw new Error(`${command}: ${result.code}: ${result.stderr}`);
      return result.stdout;
    },
    async close() {
      await pool.close();
      await test.stop();
      rmSync(root, { recursive: true, force: true });
    },
  };
}

/** Shell text that makes a repository of tiny packages in /srv/repo and has apt use nothing else. */
export const REPOSITORY = String.raw`set -e
mkdir -p /srv/repo && cd /srv/repo
make_package() { # name version depends
  d=$(mktemp -d)
  mkdir -p "$d/DEBIAN" "$d/usr/share/$1"
  echo "$2" >"$d/usr/share/$1/version"
  { echo "Package: $1"; echo "Version: $2"; echo "Architecture: all"; echo "Maintainer: test <test@example.org>"
    [ -z "$3" ] || echo "Depends: $3"; echo "Description: a package for tests"; } >"$d/DEBIAN/control"
  chmod -R u=rwX,go=rX "$d"
  dpkg-deb -b "$d" "$1_$2_all.deb" >/dev/null
  rm -rf "$d"
}
make_package labtest-one 1.0 ""
make_package labtest-one 2.0 ""
make_package labtest-two 1.0 "labtest-one"
make_package labtest-broken 1.0 "labtest-nowhere"
for f in *.deb; do
  dpkg-deb -f "$f"
  echo "Filename: ./$f"; echo "Size: $(stat -c %s "$f")"; echo "SHA256: $(sha256sum <"$f" | cut -d' ' -f1)"; echo
done >Packages
rm -rf /etc/apt/sources.list.d /var/lib/apt/lists
mkdir -p /etc/apt/sources.list.d /var/lib/apt/lists/partial
echo 'deb [trusted=yes] file:/srv/repo ./' >/etc/apt/sources.list`;
