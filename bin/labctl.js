#!/usr/bin/env node
import { existsSync } from "node:fs";

// The bundle starts several times faster; scripts/bundle.mjs makes it from what the compiler made.
const bundle = new URL("../dist/bundle/cli/main.js", import.meta.url);
await import(existsSync(bundle) ? bundle.href : "../dist/src/cli/main.js");
