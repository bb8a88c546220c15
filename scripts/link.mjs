// Part of `prepare`: npm links the programs of a package's dependencies and not its own; with this one `npx labctl` is the
// checkout's.
import { mkdirSync, rmSync, symlinkSync } from "node:fs";

mkdirSync("node_modules/.bin", { recursive: true });
rmSync("node_modules/.bin/labctl", { force: true });
symlinkSync("../../bin/labctl.js", "node_modules/.bin/labctl");
