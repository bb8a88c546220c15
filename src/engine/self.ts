import * as nodeModule from "node:module";

/**
 * Lets providers `import "labctl"` wherever they stand: it is the labctl that loads them, installed globally or beside
 * the spec, so that there is one LabError and one ShellText in the process.
 */
export function answerToOwnName(): void {
  if (done) return;
  done = true;
  const own: Readonly<Record<string, string>> = {
    labctl: new URL("../index.js", import.meta.url).href,
    "labctl/testing": new URL("../testing/index.js", import.meta.url).href,
  };
  if (typeof registerHooks === "function") {
    registerHooks({
      resolve: (specifier, context, next) => {
        const url = own[specifier];
        return url === undefined ? next(specifier, context) : { url, shortCircuit: true };
      },
    });
    return;
  }
  // Before Node.js 22.15 hooks run in a thread of their own and come as a module.
  const source = `const own = ${JSON.stringify(own)};
export async function resolve(specifier, context, next) {
  return Object.hasOwn(own, specifier) ? { url: own[specifier], shortCircuit: true } : next(specifier, context);
}`;
  nodeModule.register(`data:text/javascript,${encodeURIComponent(source)}`);
}

let done = false;

interface Resolved {
  readonly url: string;
  readonly shortCircuit?: boolean;
}

type RegisterHooks = (hooks: {
  resolve: (specifier: string, context: unknown, next: (specifier: string, context: unknown) => Resolved) => Resolved;
}) => void;

/** Node.js 22.15 and later; not in the types of the oldest version that labctl runs on. */
const registerHooks = (nodeModule as unknown as { registerHooks?: RegisterHooks }).registerHooks;
