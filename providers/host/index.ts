import { defineProvider } from "../../src/index.ts";
import { command } from "./command.ts";
import { directory } from "./directory.ts";
import { file } from "./file.ts";
import { host } from "./host.ts";
import { module } from "./module.ts";
import { mount } from "./mount.ts";
import { packageKind } from "./package.ts";
import { service } from "./service.ts";
import { sysctl } from "./sysctl.ts";
import { user } from "./user.ts";

/** What stands on a host that is reached over SSH, or on this machine. */
export const hostProvider = defineProvider({
  name: "host",
  version: "0.1.0",
  kinds: [host, packageKind, file, directory, user, service, sysctl, module, mount, command],
});
