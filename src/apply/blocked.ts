import { type Code, CODES, LabError } from "../diagnostics/index.ts";
import type { PlannedAction } from "../model/index.ts";

/** Why a blocked action does nothing, and what to do about it. */
export function blockedError(action: PlannedAction): LabError {
  const { reason, address } = action;
  const text = reason.text.includes(address) ? reason.text : `${address}: ${reason.text}`;
  switch (reason.code) {
    case "prevented":
      return new LabError("E_PREVENT_DESTROY", text, {
        address,
        hint: "take `prevent_destroy` out of its lifecycle first, if it is really to go",
      });
    case "not-owned":
      return new LabError("E_NOT_OWNED", text, {
        address,
        hint: "take it over with `import:` or `adopt: true`, or give yours another name",
      });
    default: {
      const { cause } = reason;
      const code: Code = cause !== undefined && isCode(cause.code) ? cause.code : "E_BLOCKED";
      const forget = `to drop it without touching it, write \`removed: { ${address}: { forget: true } }\``;
      return new LabError(code, text, {
        address,
        hint: cause?.hint ?? `bring the machine back and run again; ${forget}`,
      });
    }
  }
}

function isCode(text: string): text is Code {
  return Object.hasOwn(CODES, text);
}
