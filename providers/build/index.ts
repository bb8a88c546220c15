import { defineProvider } from "../../src/index.ts";
import { build } from "./build.ts";
import { buildServer } from "./server.ts";

/** Build servers, and what is built on them. */
export const buildProvider = defineProvider({
  name: "build",
  version: "0.1.0",
  kinds: [buildServer, build],
});
