/** Helpers for tests of kinds, and the conformance suite that every kind passes. Works with any test runner. */
export {
  type ConformanceCase,
  type ConformanceCheck,
  conformance,
  countingMachine,
  deadMachine,
} from "./conformance.ts";
export { kindContext, KindDriver, labFacts, localFiles, type LogEntry, type Properties, type World } from "./driver.ts";
