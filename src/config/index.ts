export { locateArtifacts } from "./locate-artifacts.ts";
export { buildLab, loadLab, type LoadResult, locateState } from "./build.ts";
export { labSchema, pipelineSchema, type PublishedSchema } from "./compose.ts";
export { type Documents, loadDocuments } from "./documents.ts";
export { resolveSecret, type SecretContext } from "./secrets.ts";
export { formatSpec } from "./format.ts";
export { initFiles, type InitOptions } from "./init.ts";
export { kindReference, labReference } from "./pages.ts";
export { didYouMean } from "./problems.ts";
