import { LabError, type Machine, sh, shJoin } from "../../src/index.ts";
import { type Capacity, capacityScript, parseCapacity } from "./capacity.ts";
import { archOfTriplet, parseToolchains, type ToolchainReport, toolchainsScript } from "./toolchains.ts";

/** What a build server is found to be. */
export interface ServerState {
  readonly capacity: Capacity;
  readonly report: ToolchainReport;
  /** The architecture in labctl's words. */
  readonly arch: string;
  /** The login may write to the work directory; false also where there is none. */
  readonly workdir: boolean;
}

const MARK = "labctl-part";

/**
 * Looks at a build server in one round trip, shared with other probes of the machine. Writes nothing there: compilers are
 * asked to compile from a pipe to /dev/null. Rejects where the machine cannot be reached.
 */
export async function probeServer(machine: Machine, workdir: string, signal: AbortSignal): Promise<ServerState> {
  const result = await machine.probe(
    shJoin([
      sh`(`,
      capacityScript(workdir),
      sh`)
echo ${MARK}
if [ -d ${workdir} ] && [ -w ${workdir} ] && [ -x ${workdir} ]; then echo writable; else echo no; fi
echo ${MARK}`,
      sh`(`,
      toolchainsScript({ link: false }),
      sh`)`,
    ]),
    { root: false, signal },
  );
  const [first = "", second = "", third = ""] = result.stdout.toString("utf8").split(`${MARK}\n`);
  const capacity = parseCapacity(first);
  const report = parseToolchains(third);
  if (capacity === undefined || report === undefined) {
    throw new LabError("E_COMMAND_FAILED", "looking at the build server did not come to its end", {
      address: machine.address,
      hint: "look at what the login shell of this account prints or runs, and at the machine's memory",
      retryable: true,
    });
  }
  return { capacity, report, arch: archOfTriplet(capacity.machine), workdir: second.trim() === "writable" };
}
