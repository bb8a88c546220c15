import type { Graph } from "../graph/index.ts";
import type {
  Address,
  OutputDeclaration,
  Plain,
  PlanMode,
  PlanSettings,
  Removal,
  Resource,
  Row,
  Scope,
  ScopeVersion,
  Seal,
  SecretSource,
  SpecFile,
  Value,
} from "../model/index.ts";
import type { PlanKind, Readings } from "./kind.ts";

/** All that a plan is made of. Making it does no I/O, reads no clock and draws no random number. */
export interface PlanInput {
  readonly header: {
    readonly labctl: string;
    readonly id: string;
    readonly created_at: string;
    readonly lab: string;
    readonly spec: readonly SpecFile[];
    readonly scopes: Readonly<Record<Scope, ScopeVersion>>;
    readonly settings: PlanSettings;
  };
  readonly mode: PlanMode;
  readonly resources: readonly Resource[];
  /** Under their new addresses: see applyMoves(). */
  readonly rows: ReadonlyMap<Address, Row>;
  readonly movedFrom: ReadonlyMap<Address, Address>;
  readonly graph: Graph;
  /** Order among siblings beyond what is needed: see Kind.after. Dropped where it contradicts the graph. */
  readonly soft: ReadonlyMap<Address, readonly Address[]>;
  readonly selected: ReadonlySet<Address>;
  readonly readings: Readings;
  /** What prepare() derived, by address; undefined: known only after apply. */
  readonly derived: ReadonlyMap<Address, Record<string, Plain | undefined>>;
  readonly kinds: ReadonlyMap<string, PlanKind>;
  readonly secret: (name: string) => Value | undefined;
  readonly secrets: Readonly<Record<string, SecretSource>>;
  readonly seal: Seal;
  readonly removed: readonly Removal[];
  /** From address to id. */
  readonly imports: ReadonlyMap<Address, string>;
  readonly replace: readonly string[];
  /** False under `--no-refresh`: the readings are what the state said. */
  readonly refreshed: boolean;
  readonly outputs: Readonly<Record<string, OutputDeclaration>>;
  readonly stateOutputs: Readonly<Record<string, Plain>>;
}
