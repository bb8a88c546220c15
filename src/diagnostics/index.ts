export { CODES, type Code } from "./codes.ts";
export {
  codeFrame,
  type Diagnostic,
  DiagnosticsError,
  formatDiagnostic,
  sortDiagnostics,
} from "./diagnostic.ts";
export { exitCodeOf, LabError, type LabErrorInit, toLabError, toProblem } from "./error.ts";
export { Redactor } from "./redact.ts";
