import { createHash } from "node:crypto";
import { type Address, LabError, type Machine, sh } from "../../../src/index.ts";
import { uuidOf } from "../model/ids.ts";
import { isOwn, type Owner } from "../model/owner.ts";
import type { VmModel } from "../model/vm.ts";
import { notOwned } from "../on-host.ts";

/** What a machine's folder says of it: what libvirt would keep as its definition. Whatever runs is asked of QEMU. */
export interface Definition {
  readonly format: 1;
  readonly owner: Owner;
  readonly model: VmModel;
}

/** The files of one machine, all in a folder of its own. */
export interface PlainFiles {
  readonly folder: string;
  readonly definition: string;
  /** Socket of QEMU's monitor. */
  readonly qmp: string;
  /** Socket of the serial console. */
  readonly console: string;
  /** Written and kept locked by QEMU itself. */
  readonly pid: string;
  /** Held by whoever starts it. */
  readonly lock: string;
}

export function filesOf(root: string, instanceId: string): PlainFiles {
  const folder = `${root}/${instanceId}`;
  return {
    folder,
    definition: `${folder}/machine.json`,
    qmp: `${folder}/qmp`,
    console: `${folder}/console`,
    pid: `${folder}/pid`,
    lock: `${folder}/lock`,
  };
}

export function formatDefinition(owner: Owner, model: VmModel): string {
  const whole: Definition = { format: 1, owner, model };
  return `${JSON.stringify(whole, undefined, 1)}\n`;
}

/** Pure. Undefined: it is none, or damaged, or of a labctl that writes another form. */
export function parseDefinition(text: string): Definition | undefined {
  try {
    const value = JSON.parse(text) as Partial<Definition> | null;
    const { owner, model } = value ?? {};
    const whole =
      value?.format === 1 &&
      typeof owner?.instance_id === "string" &&
      typeof model?.uuid === "string" &&
      typeof model.memory?.max === "number" &&
      Array.isArray(model.disks);
    return whole ? (value as Definition) : undefined;
  } catch {
    return undefined;
  }
}

/** Throws E_NOT_OWNED for a folder whose definition is another's, or nobody's. */
export function requireOwn(
  address: Address,
  host: Address,
  files: PlainFiles,
  text: string,
  instanceId: string,
): Definition {
  const found = parseDefinition(text);
  if (found === undefined || !isOwn(found.owner, instanceId) || found.model.uuid !== uuidOf(instanceId)) {
    throw notOwned(address, `the folder ${files.folder}`, host, found?.owner);
  }
  return found;
}

/** Makes the folder and says in it whose it is and what the machine is to be, before anything else is made. Atomic, on disk. */
export async function writeDefinition(
  machine: Machine,
  files: PlainFiles,
  owner: Owner,
  model: VmModel,
  signal: AbortSignal,
): Promise<void> {
  const made = await machine.exec(sh`umask 077; mkdir -p -- ${files.folder}`, { signal, brief: true });
  if (made.code !== 0) {
    throw new LabError("E_COMMAND_FAILED", `${files.folder} cannot be made: ${made.stderr.toString("utf8").trim()}`, {
      address: machine.address,
      hint: "is there room on the disk, and may the login write there?",
    });
  }
  const content = Buffer.from(formatDefinition(owner, model));
  const sha256 = createHash("sha256").update(content).digest("hex");
  await machine.upload({ content, sha256 }, { path: files.definition, mode: "0600" }, { signal });
}
