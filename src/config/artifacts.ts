import { join, resolve } from "node:path";
import { type ArtifactSettings, isMap, type Value } from "../model/index.ts";
import type { Schema } from "../provider/index.ts";

export const ARTIFACTS: Schema = {
  type: ["object", "null"],
  description: "What builds made, by digest.",
  properties: {
    store: {
      type: "string",
      minLength: 1,
      description: "Folder of the store. Default: `artifacts` beside the state.",
      examples: ["./.labctl/artifacts"],
      "x-labctl": { path: true },
    },
    retention: {
      type: "object",
      description:
        "What `labctl artifact gc` keeps, besides all that a state or an unfinished build refers to. A full store is cleaned by it too.",
      properties: {
        days: {
          type: "integer",
          minimum: 0,
          maximum: 36500,
          description: "Builds that finished no longer ago. Default: 30.",
          examples: [30],
        },
        keep_latest: {
          type: "integer",
          minimum: 0,
          maximum: 100000,
          description: "So many of each name and architecture, however old. Default: 5.",
          examples: [5],
        },
      },
      additionalProperties: false,
    },
  },
  additionalProperties: false,
};

const DEFAULTS = { days: 30, keep_latest: 5 };

/** `state` is the absolute folder of the state. */
export function readArtifacts(section: Value | undefined, root: string, state: string): ArtifactSettings {
  const said = isMap(section) ? section : {};
  const retention = isMap(said["retention"]) ? said["retention"] : {};
  const number = (key: keyof typeof DEFAULTS): number => {
    const value = retention[key];
    return typeof value === "number" ? value : DEFAULTS[key];
  };
  const { store } = said;
  return {
    store: typeof store === "string" ? resolve(root, store) : join(state, "artifacts"),
    retention: { days: number("days"), keep_latest: number("keep_latest") },
  };
}
