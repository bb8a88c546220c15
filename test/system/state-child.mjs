// A process of its own that works on a state: node state-child.mjs MODULES DIR WHAT [COUNT]. Says on stdout what was done.
import { pathToFileURL } from "node:url";

const [modules, dir, what, count = "1"] = process.argv.slice(2);
const { createFileStore } = await import(pathToFileURL(`${modules}/src/state/index.js`).href);
const { createLeaseTable } = await import(pathToFileURL(`${modules}/src/scheduling/index.js`).href);

const say = (line) =>
  new Promise((resolve) => {
    process.stdout.write(`${line}\n`, resolve);
  });
const row = (address, n) => ({
  address,
  kind: "host",
  version: 0,
  instance_id: "i",
  desired: { filler: "x".repeat(300) },
  observed: { n },
  original: null,
  depends: [],
  options: {},
  secrets: {},
  status: "ok",
  updated_at: "2026-01-01T00:00:00.000Z",
  updated_by: "child",
});
const store = createFileStore({ dir, foldBytes: 20_000 });
const lock = { holder: `child ${process.pid}`, purpose: "test", timeout: 60_000 };

if (what === "count") {
  // Read, add one, write, many times over: a holder that is not alone loses counts.
  for (let i = 0; i < Number(count); i++) {
    const session = await store.open("lab", lock);
    await session.put(row("host.counter", (session.rows.get("host.counter")?.observed.n ?? 0) + 1));
    await session.close();
  }
} else if (what === "lease") {
  const table = createLeaseTable({ dir, timeout: 60_000 });
  for (let i = 0; i < Number(count); i++) {
    const resource = `board.b${i}`;
    try {
      const lease = await table.acquire({ resource, holder: `child ${process.pid}`, reason: "test", ttl: 600_000 });
      await say(`got ${resource} ${lease.epoch}`);
    } catch (error) {
      await say(`refused ${resource} ${error.code}`);
    }
  }
} else if (what === "write") {
  // Writes until it is killed or fenced, and says what was acknowledged.
  const session = await store.open("lab", lock);
  await say(`token ${session.lock.token}`);
  try {
    for (let n = 1; ; n++) {
      const addresses = [`host.${session.lock.token}-${n % 20}`, `host.${session.lock.token}-last`];
      await Promise.all(addresses.map((address) => session.put(row(address, n))));
      await say(`acked ${n}`);
    }
  } catch (error) {
    await say(`stopped ${error.code}`);
    await say(
      `closed ${await session.close().then(
        () => "ok",
        (failure) => failure.code,
      )}`,
    );
  }
}
