import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { deferred } from "../../src/transport/deferred.ts";
import { LabError } from "../../src/diagnostics/index.ts";
import { Graph, walk } from "../../src/graph/index.ts";
import {
  decodeValue,
  encodeValue,
  formatAddress,
  parseAddress,
  type Plain,
  type Resource,
  Sealed,
  Sensitive,
} from "../../src/model/index.ts";
import { memoryKind, MemoryWorld } from "../fakes/memory-kind.ts";
import { MemoryLab, resource, shown } from "../fakes/memory-lab.ts";
import { MemoryState } from "../fakes/memory-state.ts";

const dag = fc.integer({ min: 1, max: 24 }).chain((size) =>
  fc.record({
    size: fc.constant(size),
    edges: fc.array(fc.tuple(fc.nat(size - 1), fc.nat(size - 1)), { maxLength: size * 3 }),
  }),
);

function graphOf(shape: { size: number; edges: [number, number][] }): Graph {
  const graph = new Graph();
  for (let i = 0; i < shape.size; i++) graph.add(`n${i}`);
  for (const [a, b] of shape.edges) if (a !== b) graph.after(`n${Math.max(a, b)}`, `n${Math.min(a, b)}`);
  return graph;
}

describe("Property: graph order", () => {
  it("every node stands behind all that it comes after, and a circle is always found and named", () => {
    fc.assert(
      fc.property(dag, fc.boolean(), (shape, close) => {
        const graph = graphOf(shape as { size: number; edges: [number, number][] });
        const order = graph.order();
        for (const node of order)
          for (const before of graph.predecessors(node))
            expect(order.indexOf(before)).toBeLessThan(order.indexOf(node));
        expect(graph.cycle()).toBeUndefined();
        if (!close || shape.size < 2) return;
        graph.after("n0", "n1");
        graph.after("n1", "n0");
        const cycle = graph.cycle() ?? [];
        expect(cycle.length).toBeGreaterThan(2);
        expect(cycle[0]).toBe(cycle.at(-1));
        for (const [i, node] of cycle.slice(0, -1).entries())
          expect(graph.predecessors(node).has(cycle[i + 1] ?? "")).toBe(true);
      }),
      { numRuns: 300 },
    );
  });
});

describe("Property: concurrent walk", () => {
  it("runs each node once, after all that it needs, never more at once than allowed; failures skip exactly what is downstream", async () => {
    await fc.assert(
      fc.asyncProperty(
        dag,
        fc.integer({ min: 1, max: 5 }),
        fc.integer({ min: 1, max: 3 }),
        fc.infiniteStream(fc.nat(3)),
        fc.nat(3),
        async (shape, parallelism, permits, delays, modulo) => {
          const graph = graphOf(shape as { size: number; edges: [number, number][] });
          const ended: string[] = [];
          const skipped = new Set<string>();
          const failing = new Set(graph.nodes.filter((_, i) => modulo > 0 && i % (modulo + 3) === modulo));
          let running = 0;
          let most = 0;
          const heldMost = new Map<string, number>();
          const held = new Map<string, number>();
          const left = await walk(graph, {
            parallelism,
            keyOf: (node) => node.slice(-1),
            sizeOf: () => 2,
            permitsOf: (node) => [{ name: node.slice(-1), permits }],
            mayStart: () => true,
            skip: (node) => skipped.add(node),
            run: async (unit) => {
              for (const node of unit.nodes)
                for (const before of graph.predecessors(node)) expect(ended).toContain(before);
              running += 1;
              most = Math.max(most, running);
              for (const { name } of unit.permits) {
                held.set(name, (held.get(name) ?? 0) + 1);
                heldMost.set(name, Math.max(heldMost.get(name) ?? 0, held.get(name) ?? 0));
              }
              for (let i = delays.next().value ?? 0; i > 0; i--) await Promise.resolve();
              for (const { name } of unit.permits) held.set(name, (held.get(name) ?? 1) - 1);
              running -= 1;
              const bad = unit.nodes.filter((node) => failing.has(node));
              ended.push(...unit.nodes.filter((node) => !failing.has(node)));
              return new Set(bad);
            },
          });
          expect(left.size).toBe(0);
          expect(most).toBeLessThanOrEqual(parallelism);
          for (const one of heldMost.values()) expect(one).toBeLessThanOrEqual(permits);
          expect(new Set(ended).size).toBe(ended.length);
          for (const node of graph.nodes) {
            const upstreamFailed = [...graph.upstream([node])].some((one) => one !== node && failing.has(one));
            if (upstreamFailed) expect(skipped.has(node)).toBe(true);
            else expect(ended.includes(node) || failing.has(node)).toBe(true);
          }
        },
      ),
      { numRuns: 300 },
    );
  });

  it("whoever waits for others gives its place away: nothing waits for ever, and no more than allowed are at work", async () => {
    await fc.assert(
      fc.asyncProperty(
        dag,
        fc.integer({ min: 1, max: 3 }),
        fc.infiniteStream(fc.nat(5)),
        async (shape, parallelism, choices) => {
          const graph = graphOf(shape as { size: number; edges: [number, number][] });
          const done = new Map(graph.nodes.map((node) => [node, deferred<undefined>()]));
          let working = 0;
          let most = 0;
          const work = (): void => {
            working += 1;
            most = Math.max(most, working);
          };
          const walked = walk(graph, {
            parallelism,
            keyOf: (node) => node,
            sizeOf: () => 1,
            permitsOf: () => [],
            mayStart: () => true,
            skip: () => undefined,
            run: async ({ nodes: [node = ""] }, place) => {
              work();
              // An earlier node, which needs nothing of this one, and may well come after it.
              const other = graph.nodes[(choices.next().value ?? 0) * 2];
              if (other !== undefined && graph.nodes.indexOf(other) < graph.nodes.indexOf(node)) {
                const back = place.leave();
                working -= 1;
                await done.get(other)?.promise;
                await back();
                work();
              }
              await Promise.resolve();
              working -= 1;
              done.get(node)?.resolve(undefined);
              return new Set();
            },
          });
          expect((await walked).size).toBe(0);
          expect(most).toBeLessThanOrEqual(parallelism);
        },
      ),
      { numRuns: 300 },
    );
  });

  it("rolling batches: at most N hosts are begun and not finished, and nothing waits for ever", async () => {
    await fc.assert(
      fc.asyncProperty(dag, fc.integer({ min: 1, max: 3 }), async (shape, batch) => {
        const graph = graphOf(shape as { size: number; edges: [number, number][] });
        const hostOf = (node: string): string => String(Number(node.slice(1)) % 5);
        const done = new Set<string>();
        const left = await walk(graph, {
          parallelism: 8,
          keyOf: (node) => node,
          sizeOf: () => 1,
          permitsOf: () => [],
          mayStart: () => true,
          skip: () => undefined,
          batch,
          batchOf: hostOf,
          run: async (unit) => {
            await Promise.resolve();
            for (const node of unit.nodes) done.add(node);
            return new Set();
          },
        });
        expect(left.size).toBe(0);
        expect(done.size).toBe(shape.size);
      }),
      { numRuns: 200 },
    );
  });
});

const specs = fc
  .array(
    fc.record({
      color: fc.constantFrom("red", "blue", "green"),
      needs: fc.array(fc.nat(11), { maxLength: 3 }),
      present: fc.boolean(),
      shape: fc.constantFrom("round", "square"),
    }),
    { minLength: 1, maxLength: 12 },
  )
  .map((things): Resource[] =>
    things.flatMap((one, i) =>
      one.present
        ? [
            resource(`thing.t${i}`, {
              desired: { color: one.color, shape: one.shape },
              depends: one.needs.filter((n) => n < i && things[n]?.present === true).map((n) => `thing.t${n}`),
            }),
          ]
        : [],
    ),
  );

describe("Property: convergence", () => {
  it("from any state to any spec, through failures and tampering, repeated applies converge and the plan is then empty", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(specs, { minLength: 1, maxLength: 4 }),
        fc.array(fc.nat(11), { maxLength: 6 }),
        fc.array(fc.nat(11), { maxLength: 4 }),
        async (versions, fails, tampered) => {
          const world = new MemoryWorld();
          const state = new MemoryState();
          const lab = new MemoryLab([memoryKind(world)], state);
          for (const spec of versions) {
            for (const n of fails) world.failures.set(`thing.t${n}`, [new LabError("E_COMMAND_FAILED", "boom")]);
            for (const n of tampered)
              if (world.things.has(`thing.t${n}`)) world.things.set(`thing.t${n}`, { color: "tampered", size: 1 });
            for (let round = 0; ; round++) {
              const plan = await lab.plan(spec);
              if (Object.keys(shown(plan)).length === 0) break;
              expect(round).toBeLessThan(20);
              await lab.apply(plan);
            }
            expect([...world.things.keys()].sort()).toEqual(spec.map((one) => one.address).sort());
            for (const one of spec)
              expect(world.things.get(one.address)).toMatchObject({ color: one.desired["color"] });
          }
        },
      ),
      { numRuns: 150 },
    );
  });
});

const plain: fc.Arbitrary<Plain> = fc.letrec<{ value: Plain }>((tie) => ({
  value: fc.oneof(
    { depthSize: "small" },
    fc.string(),
    fc.integer(),
    fc.boolean(),
    fc.constant(null),
    fc.array(tie("value"), { maxLength: 3 }),
    fc.dictionary(
      fc.oneof(fc.string(), fc.constantFrom("$template", "$unknown", "$sensitive", "$ref", "$$x")),
      tie("value"),
      { maxKeys: 3 },
    ),
  ),
})).value;

describe("Property: values on disk", () => {
  it("user data of any shape survives encoding, tags cannot be forged", () => {
    fc.assert(
      fc.property(plain, (value) => {
        const encoded = JSON.parse(JSON.stringify(encodeValue(value, () => "x"))) as Plain;
        expect(decodeValue(encoded)).toEqual(JSON.parse(JSON.stringify(value)));
      }),
      { numRuns: 500 },
    );
  });

  it("a key that means something to JavaScript is only a key", () => {
    const value = JSON.parse('{"__proto__": {"constructor": "x"}, "toString": 1}') as Plain;
    const encoded = JSON.parse(JSON.stringify(encodeValue(value, () => "x"))) as Plain;
    expect(JSON.stringify(decodeValue(encoded))).toBe(JSON.stringify(value));
  });

  it("a sensitive value never shows, however it is printed", () => {
    fc.assert(
      fc.property(fc.string({ minLength: 8 }), (secret) => {
        const value = new Sensitive(`canary${secret}`);
        const shownAs = [
          String(value),
          JSON.stringify(value),
          JSON.stringify(encodeValue({ a: [value] }, () => "k:d")),
          `${JSON.stringify([value])}`,
        ];
        for (const text of shownAs) expect(text).not.toContain("canary");
        expect(decodeValue(encodeValue(value, () => "k:d"))).toBeInstanceOf(Sealed);
      }),
      { numRuns: 100 },
    );
  });

  it("addresses of any key are parsed back to the same segments", () => {
    fc.assert(
      fc.property(
        fc.array(fc.record({ kind: fc.constantFrom("host", "file", "a_b"), key: fc.string() }), {
          minLength: 1,
          maxLength: 4,
        }),
        (segments) => {
          const text = formatAddress(segments);
          expect(parseAddress(text)).toEqual(segments);
          expect(formatAddress(parseAddress(text) ?? [])).toBe(text);
        },
      ),
      { numRuns: 500 },
    );
  });
});
