export { CODES, type Code } from "./codes.ts";
export {
  codeFrame,
  type Diagnostic,
  DiagnosticsError,
  formatDiagnostic,
  sortDiagnostics,
} from "./diagnostic.ts";
export { errorsIn, exitCodeOf, LabError, type LabErrorInit, SeveralErrors, toLabError, toProblem } from "./error.ts";
export { Redactor } from "./redact.ts";
