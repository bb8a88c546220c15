import { type Address, LabError } from "../../src/index.ts";
import { failure } from "./common.ts";
import { dirname } from "./common.ts";
import type { StepFailure } from "./file-script.ts";

/** What a failed step means to the person who wrote the spec. */
export function fileFailure({ step, text }: StepFailure, path: string, address: Address): LabError {
  const parent = dirname(path);
  switch (step) {
    case "parent":
      return new LabError("E_MISMATCH", `the directory ${parent} is not there`, {
        address,
        hint: "declare it under `directories:` of the same host (with `parents: true` for those above it)",
      });
    case "parent-type":
      return new LabError("E_MISMATCH", `${parent} is not a directory`, { address, hint: "choose another path" });
    case "directory":
      return new LabError("E_MISMATCH", `${path} is a directory; labctl never replaces one by a file`, {
        address,
        hint: "move it away by hand, or choose another path",
      });
    case "special":
      return new LabError("E_MISMATCH", `${path} is a device, socket or pipe; labctl never replaces one by a file`, {
        address,
        hint: "remove it by hand, or choose another path",
      });
    case "not-a-file":
      return new LabError("E_MISMATCH", `there is no regular file at ${path} whose mode or owner could be set`, {
        address,
        hint: "give `content` or `source`, or the path of the file itself where this is a symbolic link",
      });
    case "lost":
      return new LabError("E_MISMATCH", `what ${path} held before labctl is no longer kept under ${text}`, {
        address,
        hint: `restore it by hand and run again, or give the resource up with \`removed: { ${JSON.stringify(address)}: { forget: true } }\``,
      });
    case "lost-previous":
      return new LabError("E_MISMATCH", `what ${path} held before this run is not kept under ${text}`, {
        address,
        hint: "bring back the local file that was sent then, and run again",
      });
    case "validate":
      return new LabError("E_COMMAND_FAILED", `the new content of ${path} was refused by \`validate\`: ${text}`, {
        address,
        hint: "the old file is still in place; correct the content",
      });
    case "owner":
    case "group":
      if (/invalid|unknown|no such|illegal/i.test(text)) {
        return new LabError(
          "E_MISMATCH",
          `the ${step === "owner" ? "user" : "group"} that is to own ${path} does not exist: ${text}`,
          {
            address,
            hint: step === "owner" ? "declare it under `users:` of the same host" : "create the group first",
          },
        );
      }
      return failure(`the ${step} of ${path} cannot be set: ${text}`, text).atAddress(address);
    case "keep":
      return failure(`what ${path} holds cannot be kept aside, so it was not overwritten: ${text}`, text).atAddress(
        address,
      );
    case "remove":
      return failure(`${path} cannot be removed: ${text}`, text).atAddress(address);
    default:
      return failure(
        `${path} cannot be written (${step}): ${text}`,
        text,
        "see whether the file system is writable",
      ).atAddress(address);
  }
}
