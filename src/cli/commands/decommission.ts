import { hostname } from "node:os";
import type { Command } from "commander";
import { LabError } from "../../diagnostics/index.ts";
import { type Address, type Hold, LAB_SCOPE } from "../../model/index.ts";
import type { LeaseTable, Workload } from "../../scheduling/index.ts";
import { type Context, selectionOf, whoAmI } from "../context.ts";
import { findHost, hostsOf } from "../hosts.ts";
import { summaryOf, withLab } from "../lab.ts";
import type { Host } from "../program.ts";
import { visible } from "../renderers/text.ts";
import { lockRequest, readWhole } from "../state-access.ts";

interface Flags {
  readonly reason?: string;
  readonly force?: boolean;
}

export function registerDecommission(program: Command, host: Host): void {
  const command = program
    .command("decommission")
    .argument("<host>", "its name or address")
    .summary("take a machine out of the lab for good")
    .description(
      "Takes a machine out of the lab: nothing is placed on it any more. Refused while anything is active there. An apply never takes it back; `labctl host maintenance HOST off` does.",
    )
    .option("--reason <text>", "why (required)")
    .option("--force", "also while something is active there: that goes on, and is listed")
    .addHelpText(
      "after",
      "\nExamples:\n  labctl decommission builder-1 --reason 'replaced by builder-2'\n  labctl decommission kvm-1 --reason 'broken' --force\n\nExit codes: 8 something is active there.",
    );
  command.action(async (name: string, flags: Flags) => {
    await host.invoke((context) => run(context, name, flags), command);
  });
}

async function run(context: Context, name: string, flags: Flags): Promise<number> {
  const { term, services } = context;
  const why = (flags.reason ?? "").trim();
  if (why === "") {
    throw new LabError("E_USAGE", "say why with --reason: others will ask", {
      hint: "for example --reason 'replaced by builder-2'",
    });
  }
  const started = performance.now();
  const options = { command: "decommission", selection: selectionOf(context), record: true, stream: false };
  return withLab(context, options, async ({ session, view }) => {
    await view.pause();
    const { resource } = findHost(await hostsOf(context, session), name);
    const { address } = resource;
    // Loaded when it is used: most commands need none of it.
    const { workloadsOn } = await import("../../scheduling/index.ts");
    const table = await services.openLeases(session.lab.state);
    const activeNow = async (): Promise<readonly Workload[]> => {
      const own = holderOf(context);
      const leases = (await table.list()).filter((lease) => lease.holder !== own);
      const { rows } = await readWhole(session.store);
      return workloadsOn(address, leases, rows.values(), term.io.now().getTime());
    };
    const active = await guarded(context, table, address, flags.force === true, activeNow, async () => {
      const hold: Hold = {
        kind: "decommissioned",
        who: whoAmI(term.io.env),
        why,
        since: term.io.now().toISOString(),
      };
      const purpose = `labctl decommission ${address}`;
      const state = await session.store.open(LAB_SCOPE, lockRequest(context, purpose));
      try {
        await state.setHold(address, hold);
      } finally {
        await state.close();
      }
    });
    if (term.options.json) term.json({ address, active });
    else {
      term.out(`${visible(address)} is out of the lab: nothing is placed on it any more.`);
      if (active.length > 0) {
        term.out("Still active there, until it ends or is destroyed:");
        for (const one of active) term.out(`  ${visible(one.what)}: ${visible(one.detail)}`);
      }
      term.out(
        `The spec still has it: remove it at ${visible(resource.at.file)}:${resource.at.line}, and apply; what labctl put on it is then taken away.`,
      );
    }
    return summaryOf("decommission", 0, started);
  });
}

function holderOf(context: Context): string {
  return `${whoAmI(context.term.io.env)}@${hostname()} decommission`;
}

/** Long enough for what is done under it. */
const GUARD_MS = 60_000;

/**
 * Looks, and acts under a lease of the whole machine, so that nobody gets any of it in between. With `force` nobody is
 * kept out. Gives what is active.
 */
async function guarded(
  context: Context,
  table: LeaseTable,
  address: Address,
  force: boolean,
  activeNow: () => Promise<readonly Workload[]>,
  act: () => Promise<void>,
): Promise<readonly Workload[]> {
  const { decommission, decommissionError } = await import("../../scheduling/index.ts");
  const decide = async (): Promise<readonly Workload[]> => {
    const { allowed, active } = decommission(await activeNow(), force);
    if (!allowed) throw decommissionError(address, active);
    return active;
  };
  if (force) {
    const active = await decide();
    await act();
    return active;
  }
  await decide();
  const request = { resource: address, holder: holderOf(context), reason: "it is taken out of the lab", ttl: GUARD_MS };
  const lease = await table.acquire(request).catch(async (error: unknown) => {
    // Somebody was faster: say who.
    if (error instanceof LabError && error.code === "E_LEASE_HELD") await decide();
    throw error;
  });
  try {
    const active = await decide();
    await act();
    return active;
  } finally {
    await table.release(lease);
  }
}
