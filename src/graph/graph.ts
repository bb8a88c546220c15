/**
 * A directed graph over string keys. An edge `from -> to` says that `from` comes after `to`.
 * Orders are deterministic: they follow the order in which nodes were added.
 */
export class Graph {
  readonly #after = new Map<string, Set<string>>();

  add(node: string): void {
    if (!this.#after.has(node)) this.#after.set(node, new Set());
  }

  has(node: string): boolean {
    return this.#after.has(node);
  }

  /** Edges to nodes that are not in the graph are ignored: a plan holds only a part of the lab. */
  after(from: string, to: string): void {
    if (from === to || !this.#after.has(from) || !this.#after.has(to)) return;
    this.#after.get(from)?.add(to);
  }

  remove(from: string, to: string): void {
    this.#after.get(from)?.delete(to);
  }

  get nodes(): string[] {
    return [...this.#after.keys()];
  }

  /** What `node` comes after. */
  predecessors(node: string): ReadonlySet<string> {
    return this.#after.get(node) ?? new Set();
  }

  /** For each node, what comes after it. */
  successors(): Map<string, string[]> {
    const out = new Map<string, string[]>(this.nodes.map((node) => [node, []]));
    for (const [from, tos] of this.#after) for (const to of tos) out.get(to)?.push(from);
    return out;
  }

  /**
   * Every node behind all that it comes after, earlier added first where free. Throws TypeError where there is a cycle:
   * callers ask {@link cycle} first, which says which.
   */
  order(): string[] {
    const waiting = new Map([...this.#after].map(([node, tos]) => [node, tos.size]));
    const successors = this.successors();
    const out = this.nodes.filter((node) => waiting.get(node) === 0);
    for (let i = 0; i < out.length; i++) {
      for (const next of successors.get(out[i] ?? "") ?? []) {
        const left = (waiting.get(next) ?? 0) - 1;
        waiting.set(next, left);
        if (left === 0) out.push(next);
      }
    }
    if (out.length !== this.#after.size) throw new TypeError("the graph has a cycle");
    return out;
  }

  /** A shortest way round one cycle, first node repeated at the end; undefined where there is none. */
  cycle(): string[] | undefined {
    const [component] = this.components();
    if (component === undefined) return undefined;
    const members = new Set(component);
    const start = component[0] ?? "";
    // Breadth first from `start` back to itself, inside its component.
    const cameFrom = new Map<string, string>();
    const queue = [start];
    for (let i = 0; i < queue.length; i++) {
      const node = queue[i] ?? "";
      for (const next of this.predecessors(node)) {
        if (!members.has(next)) continue;
        if (next === start) {
          const way = [node];
          while (way[0] !== start) way.unshift(cameFrom.get(way[0] ?? "") ?? start);
          return [...way, start];
        }
        if (!cameFrom.has(next)) {
          cameFrom.set(next, node);
          queue.push(next);
        }
      }
    }
    return undefined;
  }

  /** The strongly connected components of more than one node (Tarjan's algorithm, without recursion). */
  components(): string[][] {
    const index = new Map<string, number>();
    const low = new Map<string, number>();
    const onStack = new Set<string>();
    const stack: string[] = [];
    const found: string[][] = [];
    for (const root of this.nodes) {
      if (index.has(root)) continue;
      const work: { node: string; rest: Iterator<string> }[] = [];
      const enter = (node: string): void => {
        index.set(node, index.size);
        low.set(node, index.get(node) ?? 0);
        stack.push(node);
        onStack.add(node);
        work.push({ node, rest: this.predecessors(node).values() });
      };
      enter(root);
      for (let top = work.at(-1); top !== undefined; top = work.at(-1)) {
        const { node, rest } = top;
        const next = rest.next();
        if (next.done !== true) {
          if (!index.has(next.value)) enter(next.value);
          else if (onStack.has(next.value)) low.set(node, Math.min(low.get(node) ?? 0, index.get(next.value) ?? 0));
          continue;
        }
        work.pop();
        const parent = work.at(-1)?.node;
        if (parent !== undefined) low.set(parent, Math.min(low.get(parent) ?? 0, low.get(node) ?? 0));
        if (low.get(node) !== index.get(node)) continue;
        const component = stack.splice(stack.indexOf(node));
        for (const member of component) onStack.delete(member);
        if (component.length > 1) found.push(component);
      }
    }
    return found;
  }

  /** `start` and all that comes after it, however far. */
  downstream(start: Iterable<string>): Set<string> {
    return reach(start, this.successors());
  }

  /** `start` and all that it comes after, however far. */
  upstream(start: Iterable<string>): Set<string> {
    return reach(start, this.#after);
  }
}

function reach(start: Iterable<string>, next: ReadonlyMap<string, Iterable<string>>): Set<string> {
  const seen = new Set(start);
  for (const node of seen) for (const further of next.get(node) ?? []) seen.add(further);
  return seen;
}
