import { createHmac } from "node:crypto";
import { type Infer, LabError } from "../../../src/index.ts";
import { writeIso } from "./iso9660.ts";
import type { cloudInitSchema } from "./vm-parts.ts";

export type CloudInit = Infer<typeof cloudInitSchema>;

export interface Seed {
  /** An ISO 9660 image with the label that cloud-init's NoCloud looks for. */
  readonly image: Buffer;
  /**
   * Another one for another content. Keyed with the instance id, since user data can hold passwords: equal seeds of two machines do not
   * show as equal.
   */
  readonly digest: string;
}

export interface SeedContext {
  readonly address: string;
  readonly instance_id: string;
  /** What the machine is called where meta_data says nothing else. */
  readonly hostname: string;
}

/** What user data can begin with (cloud-init, "User-data formats"). */
const FORMATS =
  /^(#cloud-config|#!|#include|#cloud-boothook|#part-handler|#cloud-config-archive|#upstart-job|## template: ?jinja|Content-Type:|MIME-Version:|From )/i;

/** The seed of a machine. Throws E_SPEC_VALUE for user data that cloud-init would pass over without a word. */
export function makeSeed(given: CloudInit, context: SeedContext): Seed {
  if (given.user_data !== "" && !FORMATS.test(given.user_data)) {
    throw new LabError("E_SPEC_VALUE", "cloud-init takes no user data that begins like this, and says nothing of it", {
      address: context.address,
      hint: "begin `user_data` with a line `#cloud-config`, or `#!/bin/sh` for a script",
    });
  }
  const text = JSON.stringify([given.user_data, given.meta_data ?? null, given.network_config ?? null]);
  const digest = createHmac("sha256", context.instance_id).update(text).digest("hex");
  const files = [
    { name: "meta-data", content: Buffer.from(metaData(given.meta_data, digest, context.hostname)) },
    ...(given.network_config === undefined
      ? []
      : [{ name: "network-config", content: Buffer.from(given.network_config) }]),
    { name: "user-data", content: Buffer.from(given.user_data) },
  ];
  return { image: writeIso("cidata", files), digest };
}

/** cloud-init does its work again when the instance-id is another one: so it is made of the content, unless the spec has one. */
function metaData(given: string | undefined, digest: string, hostname: string): string {
  const id = `instance-id: ${instanceIdOf(digest)}\n`;
  if (given === undefined) return `${id}local-hostname: ${hostname}\n`;
  const has = /^\s*["']?instance-id["']?\s*:/m.test(given) || given.trimStart().startsWith("{");
  return has ? given : `${id}${given}`;
}

function instanceIdOf(digest: string): string {
  return `iid-${digest.slice(0, 16)}`;
}
