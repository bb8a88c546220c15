import { createArtifactStore, pinsOf } from "../artifacts/index.ts";
import { buildLab, loadDocuments, locateState as locate, resolveSecret } from "../config/index.ts";
import { LabError, type Redactor } from "../diagnostics/index.ts";
import type { EventBus } from "../events/port.ts";
import { formatSegment, formatSize, type SecretSource, type Sensitive } from "../model/index.ts";
import type { Provider } from "../provider/index.ts";
import { createFileStore } from "../state/index.ts";
import { createMachinePool } from "../transport/index.ts";
import type { LabSession, OpenLab, SpecSelection } from "./port.ts";
import { kindTable, loadProviders } from "./providers.ts";
import { Session } from "./session.ts";

export interface EngineParts {
  readonly version: string;
  /** The providers that come with labctl. */
  readonly builtin: () => Promise<readonly Provider[]>;
}

/** What opens labs, wired to the real loader, store and transports. */
export function createEngine(parts: EngineParts): OpenLab {
  return async (selection: SpecSelection, bus: EventBus, redactor: Redactor): Promise<LabSession> => {
    const started = performance.now();
    bus.emit({ type: "phase.started", phase: "load" });
    const documents = await loadDocuments(selection);
    const external = await loadProviders(documents.root, documents.providers);
    const places = new Map(external.providers.map((one, i) => [one, documents.providers[i]?.at] as const));
    const kinds = kindTable([...(await parts.builtin()), ...external.providers], places);
    const loaded = await buildLab(documents, [...kinds.values()]);
    for (const warning of loaded.warnings) {
      bus.emit({
        type: "warning.raised",
        problem: {
          code: warning.code,
          message: warning.message,
          ...(warning.at && { at: warning.at }),
          ...(warning.hint && { hint: warning.hint }),
        },
      });
    }
    bus.emit({ type: "phase.finished", phase: "load", duration_ms: Math.round(performance.now() - started) });
    const { lab, root } = loaded;
    const pool = createMachinePool({
      readOnly: true,
      timeouts: lab.defaults.timeouts,
      env: selection.env,
      observer: {
        connecting: (host, attempt) => bus.emit({ type: "host.connecting", host, attempt }),
        connected: (host, duration_ms) => bus.emit({ type: "host.connected", host, duration_ms }),
        retrying: (host, attempt, delay_ms, why) => bus.emit({ type: "host.retrying", host, attempt, delay_ms, why }),
        offline: (host, error) =>
          bus.emit({
            type: "host.offline",
            host,
            problem: {
              code: error instanceof LabError ? error.code : "E_CONNECT",
              message: error.message,
              ...(error instanceof LabError && error.hint !== undefined && { hint: error.hint }),
            },
          }),
      },
    });
    const cache = new Map<string, Promise<Sensitive>>();
    const store = createFileStore({ dir: lab.state.path, version: parts.version });
    return new Session({
      loaded,
      kinds,
      store,
      artifacts: createArtifactStore({
        root: lab.artifacts.store,
        retention: lab.artifacts.retention,
        pins: () => pinsOf(store),
        onNotice: (notice) =>
          bus.emit({
            type: "log.line",
            level: "warn",
            component: "artifacts",
            message:
              notice.is === "full"
                ? `the artifact store is full: making room for ${notice.what}`
                : `removed ${notice.builds} builds and ${notice.blobs} blobs of the artifact store: ${formatSize(notice.frees)} freed`,
          }),
      }),
      pool,
      bus,
      redactor,
      env: selection.env,
      version: parts.version,
      providerLock: external.lock,
      secret: (name: string, sources: Readonly<Record<string, SecretSource>>) => {
        const known = cache.get(name) ?? readSecret(name, sources[name] ?? lab.secrets[name]);
        cache.set(name, known);
        return known;
      },
    });

    async function readSecret(name: string, source: SecretSource | undefined): Promise<Sensitive> {
      if (source === undefined) {
        throw new LabError(
          "E_SECRET_UNAVAILABLE",
          `the secret ${formatSegment({ kind: "secret", key: name })} is not declared`,
          {
            hint: "declare where it comes from under `secrets:`",
          },
        );
      }
      const value = await resolveSecret(name, source, { root, env: selection.env, variables: loaded.variables });
      redactor.add(value.reveal());
      return value;
    }
  };
}

export { locate as locateState };
