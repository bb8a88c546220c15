import type { ArtifactStore, StoreNotice } from "../artifacts/index.ts";
import type { BootReport, BootRequest, BootStreams } from "../../providers/qemu/index.ts";
import type { LocateState, OpenLab, SpecSelection } from "../engine/port.ts";
import type { StateSettings } from "../model/index.ts";
import type { SshRun } from "./openssh.ts";
import type { Kind } from "../provider/index.ts";
import type { LeaseTable } from "../scheduling/index.ts";
import type { StateStore } from "../state/port.ts";

/** All that commands use of the rest of labctl; each is loaded when it is first called. Tests hand in others. */
export interface Services {
  openLab: OpenLab;
  locateState: LocateState;
  openStore(settings: StateSettings): Promise<StateStore>;
  openLeases(settings: StateSettings): Promise<LeaseTable>;
  /**
   * The store of artifacts beside this state; what any scope of the state refers to is pinned. `forRemoval`: rejects
   * where the spec that says what is kept cannot be read.
   */
  openArtifacts(
    selection: SpecSelection,
    settings: StateSettings,
    options: { readonly forRemoval: boolean; readonly onNotice?: (notice: StoreNotice) => void },
  ): Promise<ArtifactStore>;
  /** The file in its normal form, comments kept. */
  formatSpec(text: string, file: string): Promise<string>;
  /** Files of a small working lab, by path below the folder. */
  initFiles(name: string, folder: string): Promise<readonly { readonly path: string; readonly content: string }[]>;
  /** Built-in kinds. */
  kinds(): Promise<ReadonlyMap<string, Kind>>;
  /** The JSON Schema of lab.yaml or pipeline.yaml. */
  specSchema(which: "lab" | "pipeline", kinds: ReadonlyMap<string, Kind>): Promise<object>;
  /** A kind's reference page, Markdown. */
  kindReference(kind: Kind, kinds: ReadonlyMap<string, Kind>): Promise<string>;
  /** Boots a kernel in QEMU and runs a command in it. */
  boot(request: BootRequest, streams: BootStreams): Promise<BootReport>;
  /** OpenSSH's client on this process's terminal; gives its exit code. */
  ssh(run: SshRun): Promise<number>;
}
