import { defineProvider } from "../../src/index.ts";
import { directory } from "./directory.ts";
import { file } from "./file.ts";
import { host } from "./host.ts";
import { packageKind } from "./package.ts";
import { user } from "./user.ts";

/** What stands on a host that is reached over SSH, or on this machine. */
export const hostProvider = defineProvider({
  name: "host",
  version: "0.1.0",
  kinds: [host, packageKind, directory, file, user],
});
