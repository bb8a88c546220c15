import type { Graph } from "./graph.ts";

/** A named semaphore and how many may hold it at once. */
export interface Permit {
  readonly name: string;
  readonly permits: number;
}

/** One thing to run: the nodes that it settles together, and what it holds meanwhile. */
export interface Unit {
  readonly nodes: readonly string[];
  readonly permits: readonly Permit[];
}

/** The share of the parallelism that a unit has. Its permits are its own until it ends. */
export interface Place {
  /**
   * Gives it away for as long as the unit only waits for others, some of whom may not have begun. What comes back is called when
   * the wait is over, and resolves when there is a place again; those that were there before go first.
   */
  leave(): () => Promise<void>;
}

export interface WalkOptions {
  /** Most units at once. */
  readonly parallelism: number;
  /** Nodes with one key may share a unit. */
  readonly keyOf: (node: string) => string;
  /** Most nodes in a unit of this key. */
  readonly sizeOf: (key: string) => number;
  readonly permitsOf: (node: string) => readonly Permit[];
  /** Runs one unit; must not reject. Returns the nodes whose successors must not run. */
  readonly run: (unit: Unit, place: Place) => Promise<ReadonlySet<string>>;
  /** True where `node` merely comes after `before`: it runs also where `before` failed or was skipped. */
  readonly isSoft?: (node: string, before: string) => boolean;
  /** Told of each node that will not run, and of the failed node that is the reason. */
  readonly skip: (node: string, because: string) => void;
  /** Asked before each start; false: nothing new is started, and the walk ends when what runs has ended. */
  readonly mayStart: () => boolean;
  /** At most so many groups (hosts) begun and not finished; see `batchOf`. */
  readonly batch?: number;
  readonly batchOf?: (node: string) => string | undefined;
}

/** How many nodes of one key are looked at for one whose permits are free. */
const LOOK_AHEAD = 64;

/**
 * Walks a graph concurrently: a node runs when all that it comes after has ended well. The cost of a start does not
 * depend on how many nodes are ready. Returns the nodes that were never started (cancelled).
 */
export async function walk(graph: Graph, options: WalkOptions): Promise<Set<string>> {
  return new Walk(graph, options).run();
}

class Walk {
  readonly #options: WalkOptions;
  readonly #successors: Map<string, string[]>;
  readonly #waiting: Map<string, number>;
  readonly #pending: Set<string>;
  readonly #ready = new Map<string, Set<string>>();
  readonly #held = new Map<string, number>();
  /** Nodes left for each group of a rolling batch, and the groups that were begun. */
  readonly #left = new Map<string, number>();
  readonly #open = new Set<string>();
  /** Units that have a place. */
  #running = 0;
  /** Units that gave theirs away, and those of them that want one again, in the order in which they do. */
  #away = 0;
  readonly #returning: (() => void)[] = [];
  #wake: () => void = () => undefined;

  constructor(graph: Graph, options: WalkOptions) {
    this.#options = options;
    this.#successors = graph.successors();
    this.#waiting = new Map(graph.nodes.map((node) => [node, graph.predecessors(node).size]));
    this.#pending = new Set(graph.nodes);
    for (const node of graph.nodes) {
      const group = options.batchOf?.(node);
      if (group !== undefined) this.#left.set(group, (this.#left.get(group) ?? 0) + 1);
    }
    for (const [node, count] of this.#waiting) if (count === 0) this.#makeReady(node);
  }

  async run(): Promise<Set<string>> {
    for (;;) {
      this.#startWhatCan(false);
      // Hosts of a rolling batch may wait for a host outside it: then one more is let in, lest they wait for ever.
      if (this.#running === 0) this.#startWhatCan(true);
      if (this.#running + this.#away === 0) return this.#pending;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  #startWhatCan(letOneIn: boolean): void {
    while (this.#running < this.#options.parallelism) {
      const back = this.#returning.shift();
      if (back === undefined) break;
      this.#away -= 1;
      this.#running += 1;
      back();
    }
    if (!this.#options.mayStart()) return;
    for (const key of this.#ready.keys()) {
      while (this.#running < this.#options.parallelism) {
        const unit = this.#take(key, letOneIn && this.#running === 0);
        if (unit === undefined) break;
        this.#start(unit);
      }
      if (this.#running >= this.#options.parallelism) return;
    }
  }

  #take(key: string, letIn: boolean): Unit | undefined {
    const nodes: string[] = [];
    const permits = new Map<string, Permit>();
    const size = this.#options.sizeOf(key);
    let looked = 0;
    for (const node of this.#ready.get(key) ?? []) {
      if (nodes.length >= size || (nodes.length === 0 && looked++ >= LOOK_AHEAD)) break;
      if (!this.#admit(node, letIn)) continue;
      const wanted = this.#options.permitsOf(node);
      if (!wanted.every(({ name, permits: most }) => permits.has(name) || (this.#held.get(name) ?? 0) < most)) continue;
      for (const permit of wanted) permits.set(permit.name, permit);
      nodes.push(node);
    }
    return nodes.length === 0 ? undefined : { nodes, permits: [...permits.values()] };
  }

  #admit(node: string, letIn: boolean): boolean {
    const { batch, batchOf } = this.#options;
    const group = batchOf?.(node);
    if (batch === undefined || group === undefined || this.#open.has(group)) return true;
    if (this.#open.size >= batch && !letIn) return false;
    this.#open.add(group);
    return true;
  }

  #start(unit: Unit): void {
    this.#running += 1;
    for (const node of unit.nodes) this.#unready(node);
    for (const { name } of unit.permits) this.#held.set(name, (this.#held.get(name) ?? 0) + 1);
    void this.#options.run(unit, { leave: () => this.#giveAway() }).then((failed) => {
      this.#running -= 1;
      for (const { name } of unit.permits) this.#held.set(name, (this.#held.get(name) ?? 1) - 1);
      for (const node of unit.nodes) this.#leave(node);
      for (const node of unit.nodes) this.#end(node, !failed.has(node));
      this.#wake();
    });
  }

  #giveAway(): () => Promise<void> {
    this.#running -= 1;
    this.#away += 1;
    // Not at once: the walk may be just about to fall asleep.
    queueMicrotask(() => this.#wake());
    return () =>
      new Promise((resolve) => {
        this.#returning.push(resolve);
        queueMicrotask(() => this.#wake());
      });
  }

  /** Frees what waited for a node, or skips it where the node did not end well. */
  #end(ended: string, well: boolean): void {
    const queue: { node: string; well: boolean; because: string }[] = [{ node: ended, well, because: ended }];
    for (const { node, well: good, because } of queue) {
      for (const next of this.#successors.get(node) ?? []) {
        if (!this.#pending.has(next)) continue;
        if (good || this.#options.isSoft?.(next, node) === true) {
          const left = (this.#waiting.get(next) ?? 0) - 1;
          this.#waiting.set(next, left);
          if (left === 0) this.#makeReady(next);
        } else {
          this.#unready(next);
          this.#leave(next);
          this.#options.skip(next, because);
          queue.push({ node: next, well: false, because });
        }
      }
    }
  }

  #makeReady(node: string): void {
    const key = this.#options.keyOf(node);
    const nodes = this.#ready.get(key) ?? new Set();
    nodes.add(node);
    this.#ready.set(key, nodes);
  }

  #unready(node: string): void {
    const key = this.#options.keyOf(node);
    const nodes = this.#ready.get(key);
    nodes?.delete(node);
    if (nodes?.size === 0) this.#ready.delete(key);
  }

  #leave(node: string): void {
    if (!this.#pending.delete(node)) return;
    const group = this.#options.batchOf?.(node);
    if (group === undefined) return;
    const left = (this.#left.get(group) ?? 1) - 1;
    this.#left.set(group, left);
    if (left === 0) this.#open.delete(group);
  }
}
