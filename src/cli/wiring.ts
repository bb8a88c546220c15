import type { Provider } from "../provider/index.ts";
import type { Services } from "./services.ts";
import { version } from "./version.ts";

/** The real parts, each loaded when it is first used. */
export function wire(): Services {
  const builtin = async (): Promise<readonly Provider[]> => {
    const { hostProvider } = await import("../../providers/host/index.ts");
    return [hostProvider];
  };
  const kinds: Services["kinds"] = async () => {
    const all = (await builtin()).flatMap((provider) => provider.kinds);
    return new Map(all.map((kind) => [kind.kind, kind]));
  };
  return {
    openLab: async (selection, bus, redactor) => {
      const { createEngine } = await import("../engine/index.ts");
      return createEngine({ version: version(), builtin })(selection, bus, redactor);
    },
    locateState: async (selection) => {
      const { locateState } = await import("../engine/index.ts");
      return locateState(selection);
    },
    openStore: async (settings) => {
      const { createFileStore } = await import("../state/index.ts");
      return createFileStore({ dir: settings.path });
    },
    kinds,
    formatSpec: async (text, file) => {
      const { formatSpec } = await import("../config/index.ts");
      return formatSpec(text, file);
    },
    initFiles: async (name) => {
      const { initFiles } = await import("../config/index.ts");
      return initFiles({ name });
    },
    specSchema: async (which, known) => {
      const { labSchema, pipelineSchema } = await import("../config/index.ts");
      return which === "lab" ? labSchema([...known.values()]) : pipelineSchema();
    },
    kindReference: async (kind, known) => {
      const { kindReference } = await import("../config/index.ts");
      return kindReference(kind, known.values());
    },
  };
}
