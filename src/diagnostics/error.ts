import type { Address, Problem, SourceRange } from "../model/index.ts";
import { CODES, type Code } from "./codes.ts";

export interface LabErrorInit {
  readonly hint?: string;
  readonly address?: Address;
  readonly at?: SourceRange;
  readonly cause?: unknown;
  /** True where the same call may succeed later: a dropped link, a busy lock. */
  readonly retryable?: boolean;
}

/** The only error that labctl shows to people: what failed, where, and what to do next. */
export class LabError extends Error {
  readonly code: Code;
  readonly hint: string | undefined;
  readonly address: Address | undefined;
  readonly at: SourceRange | undefined;
  readonly retryable: boolean;

  constructor(code: Code, message: string, init: LabErrorInit = {}) {
    super(message, init.cause === undefined ? undefined : { cause: init.cause });
    this.name = "LabError";
    this.code = code;
    this.hint = init.hint;
    this.address = init.address;
    this.at = init.at;
    this.retryable = init.retryable ?? false;
  }

  get exitCode(): number {
    return CODES[this.code].exit;
  }

  /** The same error, with the address at which it happened where none is set. */
  atAddress(address: Address): LabError {
    if (this.address !== undefined) return this;
    return new LabError(this.code, this.message, {
      ...(this.hint !== undefined && { hint: this.hint }),
      ...(this.at !== undefined && { at: this.at }),
      cause: this.cause,
      retryable: this.retryable,
      address,
    });
  }
}

/** Failures of which none follows from another, thrown as one; its code is that of the first whose exit code counts most. */
export class SeveralErrors extends LabError {
  readonly errors: readonly LabError[];
  /** At least one. */
  constructor(errors: readonly LabError[]) {
    const exit = exitCodeOf(errors.map((error) => error.code));
    const first = errors.find((error) => error.exitCode === exit) ?? new LabError("E_INTERNAL", "no errors");
    const { code, message, hint, address, at } = first;
    super(code, errors.length > 1 ? `${message} (and ${errors.length - 1} more)` : message, {
      ...(hint !== undefined && { hint }),
      ...(address !== undefined && { address }),
      ...(at !== undefined && { at }),
    });
    this.errors = errors;
  }
}

/** What was thrown, one by one. */
export function errorsIn(error: unknown): readonly LabError[] {
  return error instanceof SeveralErrors ? error.errors : [toLabError(error)];
}

/** Any thrown thing as a LabError; what is not one is a defect, except cancellation and a full disk. */
export function toLabError(error: unknown): LabError {
  if (error instanceof LabError) return error;
  if (error instanceof Error) {
    if (error.name === "AbortError") return new LabError("E_CANCELLED", "cancelled", { cause: error });
    if ("code" in error && error.code === "ENOSPC") {
      return new LabError("E_DISK_FULL", `no space left: ${error.message}`, {
        cause: error,
        hint: "free some space on this machine and run again; nothing that was recorded is lost",
      });
    }
    return new LabError("E_INTERNAL", error.message, {
      cause: error,
      hint: "this is a defect in labctl; please report it with the output of the same command under -vv",
    });
  }
  return new LabError("E_INTERNAL", String(error), { cause: error });
}

export function toProblem(error: unknown): Problem {
  const lab = toLabError(error);
  const causes: string[] = [];
  for (let cause = lab.cause; cause instanceof Error && causes.length < 5; cause = cause.cause)
    causes.push(cause.message);
  return {
    code: lab.code,
    message: lab.message,
    ...(lab.hint !== undefined && { hint: lab.hint }),
    ...(lab.address !== undefined && { address: lab.address }),
    ...(lab.at !== undefined && { at: { file: lab.at.file, line: lab.at.line, column: lab.at.column } }),
    ...(lab.retryable && { retryable: true }),
    ...(causes.length > 0 && { causes }),
  };
}

/** The exit code for several problems: the smallest, but 0 to 2 only where there is nothing else. */
export function exitCodeOf(codes: Iterable<Code>): number {
  const exits = [...codes].map((code) => CODES[code].exit);
  const high = exits.filter((exit) => exit > 2);
  if (high.length > 0) return Math.min(...high);
  return exits.length > 0 ? Math.max(...exits) : 0;
}
