import { builtinKinds, builtinProviders } from "./builtin.ts";
import type { Services } from "./services.ts";
import { version } from "./version.ts";

/** The real parts, each loaded when it is first used. */
export function wire(): Services {
  const kinds: Services["kinds"] = async () => new Map((await builtinKinds()).map((kind) => [kind.kind, kind]));
  return {
    openLab: async (selection, bus, redactor) => {
      const { createEngine } = await import("../engine/index.ts");
      return createEngine({ version: version(), builtin: builtinProviders })(selection, bus, redactor);
    },
    locateState: async (selection) => {
      const { locateState } = await import("../engine/index.ts");
      return locateState(selection);
    },
    openStore: async (settings) => {
      const { createFileStore } = await import("../state/index.ts");
      return createFileStore({ dir: settings.path, version: version() });
    },
    openLeases: async (settings) => {
      const { createLeaseTable } = await import("../scheduling/index.ts");
      return createLeaseTable({ dir: settings.path });
    },
    openArtifacts: async (selection, settings, { forRemoval, onNotice }) => {
      const [{ createArtifactStore, pinsOf }, { locateArtifacts }, { createFileStore }] = await Promise.all([
        import("../artifacts/index.ts"),
        import("../config/index.ts"),
        import("../state/index.ts"),
      ]);
      const { store, retention, problem } = await locateArtifacts(selection, settings.path);
      if (forRemoval && problem !== undefined) throw problem;
      const states = createFileStore({ dir: settings.path });
      return createArtifactStore({
        root: store,
        retention,
        ...(onNotice && { onNotice }),
        pins: () => pinsOf(states),
      });
    },
    kinds,
    formatSpec: async (text, file) => {
      const { formatSpec } = await import("../config/index.ts");
      return formatSpec(text, file);
    },
    initFiles: async (name, folder) => {
      const { initFiles } = await import("../config/index.ts");
      return initFiles({ name, folder });
    },
    specSchema: async (which, known) => {
      const { labSchema, pipelineSchema } = await import("../config/index.ts");
      return which === "lab" ? labSchema([...known.values()]) : pipelineSchema([...known.values()]);
    },
    kindReference: async (kind, known) => {
      const { kindReference } = await import("../config/index.ts");
      return kindReference(kind, known.values());
    },
    boot: async (request, streams) => {
      const { bootKernel } = await import("../../providers/qemu/index.ts");
      return bootKernel(request, streams);
    },
    ssh: async (request) => {
      const { runOpenSsh } = await import("./openssh.ts");
      return runOpenSsh(request);
    },
  };
}
