import type { Command } from "commander";
import { LabError } from "../../diagnostics/index.ts";
import type { LabSession } from "../../engine/port.ts";
import {
  type Address,
  canonicalAddress,
  LAB_SCOPE,
  lastSegment,
  type Plain,
  type PlannedAction,
} from "../../model/index.ts";
import { type Context, selectionOf } from "../context.ts";
import { summaryOf, withLab } from "../lab.ts";
import type { Host } from "../program.ts";
import { type GuestLine, renderGuest, renderGuests } from "../renderers/guests.ts";
import { visible } from "../renderers/text.ts";
import { isMap } from "../renderers/value.ts";
import { readWhole } from "../state-access.ts";
import { styleOf } from "./plan.ts";
import { planOptions } from "./planning.ts";

export function registerVm(program: Command, host: Host): void {
  const group = program
    .command("vm")
    .summary("the virtual machines: list, show")
    .description("Looks at the lab's virtual machines and environments as they are now. Changes nothing.")
    .addHelpText("after", "\nExamples:\n  labctl vm list\n  labctl vm show scratch-1");

  const list = group.command("list").summary("all virtual machines and environments, read now");
  list.addHelpText("after", "\nExamples:\n  labctl vm list\n  labctl vm list --json | jq '.[] | select(.drift != [])'");
  list.action(async () => {
    await host.invoke((context) => listGuests(context), list);
  });

  const show = group
    .command("show")
    .argument("<machine>", "a virtual machine or an environment: its name or address")
    .summary("one of them: where it is, what it has, whose it is, what drifted");
  show.addHelpText("after", "\nExamples:\n  labctl vm show scratch-1\n  labctl vm show environment.smoke --json");
  show.action(async (name: string) => {
    await host.invoke((context) => showGuest(context, name), show);
  });
}

async function listGuests(context: Context): Promise<number> {
  const { term } = context;
  return looking(context, "vm list", async (session) => {
    const lines = await look(context, session, await guestsOf(session));
    if (term.options.json) term.json(lines);
    else if (lines.length === 0) term.out("The lab has no virtual machines.");
    else term.out(renderGuests(lines, styleOf(term)));
    return lines.some((one) => one.status === "unknown") ? 5 : 0;
  });
}

async function showGuest(context: Context, name: string): Promise<number> {
  const { term } = context;
  return looking(context, "vm show", async (session) => {
    const [line] = await look(context, session, [await findGuest(await guestsOf(session), name)]);
    if (line === undefined) throw new Error("nothing was looked at");
    if (term.options.json) term.json(line);
    else term.out(renderGuest(line, styleOf(term)));
    return line.status === "unknown" ? 5 : 0;
  });
}

async function looking(
  context: Context,
  command: string,
  body: (session: LabSession) => Promise<number>,
): Promise<number> {
  const started = performance.now();
  const options = { command, selection: selectionOf(context), record: false, stream: false };
  return withLab(context, options, async ({ session, view }) => {
    await view.pause();
    return summaryOf(command, await body(session), started);
  });
}

/** What people log in to and nothing is declared on: the spec's, then what only the state knows. */
async function guestsOf(session: LabSession): Promise<Address[]> {
  const isGuest = (kind: string): boolean => {
    const known = session.kinds.get(kind);
    return known?.reach !== undefined && known.machine === undefined;
  };
  const { rows } = await readWhole(session.store);
  const declared = session.lab.resources.filter((one) => isGuest(one.kind)).map((one) => one.address);
  const left = [...rows.values()].filter((row) => isGuest(row.kind)).map((row) => row.address);
  return [...new Set([...declared, ...left])];
}

async function findGuest(all: readonly Address[], text: string): Promise<Address> {
  const found = all.filter((one) => one === canonicalAddress(text) || lastSegment(one).key === text);
  const [only] = found;
  if (only !== undefined && found.length === 1) return only;
  if (found.length > 1) {
    throw new LabError("E_USAGE", `${JSON.stringify(text)} is several machines: ${found.map(visible).join(", ")}`, {
      hint: "say which, by its address",
    });
  }
  const { didYouMean } = await import("../../config/index.ts");
  const names = text.includes(".") ? all : all.map((one) => String(lastSegment(one).key ?? ""));
  throw new LabError("E_ADDRESS_UNKNOWN", `the lab has no virtual machine ${JSON.stringify(text)}`, {
    hint: didYouMean(text, names) ?? "`labctl vm list` shows those there are",
  });
}

/** Reads them where they are, hosts beside each other; what was never applied is nowhere to be looked for. */
async function look(context: Context, session: LabSession, guests: readonly Address[]): Promise<GuestLine[]> {
  const whole = await readWhole(session.store);
  const { rows } = whole;
  const applied = guests.filter((one) => rows.has(one));
  const options = { ...planOptions(context, {}, "refresh-only"), targets: applied, experimental: true };
  const plan = applied.length === 0 ? undefined : await session.plan(options);
  return Promise.all(
    guests.map(async (address): Promise<GuestLine> => {
      const row = rows.get(address);
      const kind = row?.kind ?? session.lab.resources.find((one) => one.address === address)?.kind ?? "";
      const action = plan?.actions.find((one) => one.address === address);
      const line = guestLine(address, kind, action);
      const way = line.status === "running" ? await wayTo(context, session, address) : {};
      return {
        ...line,
        ...way,
        ...(row !== undefined && {
          owner: {
            lab: session.lab.name,
            scope: whole.scopeOf(address) ?? LAB_SCOPE,
            instance_id: row.instance_id,
            run: row.updated_by,
            since: row.updated_at,
          },
        }),
      };
    }),
  );
}

async function wayTo(
  context: Context,
  session: LabSession,
  address: Address,
): Promise<Pick<GuestLine, "reached_at" | "reached_through">> {
  try {
    const { connection } = await session.machine(address, context.signals.cancellation.soft);
    if (connection.type !== "ssh") return {};
    return {
      reached_at: connection.host,
      ...(connection.jump !== undefined && { reached_through: connection.jump.address }),
    };
  } catch (error) {
    // One that has no network, or is not up yet, has no address: that is no error here.
    if (error instanceof LabError && error.code !== "E_CANCELLED") return {};
    throw error;
  }
}

/** Pure. What was read of a guest; undefined: it was never applied. */
export function guestLine(address: Address, kind: string, action: PlannedAction | undefined): GuestLine {
  if (action === undefined) return { address, kind, status: "not applied", drift: [] };
  if (action.action === "blocked") {
    return { address, kind, status: "unknown", why: action.reason.text, drift: [] };
  }
  const { before } = action;
  if (!isMap(before)) return { address, kind, status: "gone", drift: [] };
  const text = (key: string): string | undefined => {
    const value = before[key];
    return typeof value === "string" ? value : undefined;
  };
  const made = before["made_with"];
  const host = text("host") ?? hostIn(action.desired);
  const domain = text("domain") ?? text("libvirt_name");
  const arch = text("arch");
  const cpus = amount(before["cpus"], "count");
  const memory = amount(before["memory"], "size");
  const why = text("problem");
  return {
    address,
    kind,
    status: before["running"] === true ? "running" : "off",
    ...(why !== undefined && { why }),
    ...(host !== undefined && { host }),
    ...(domain !== undefined && { domain }),
    ...(arch !== undefined && { arch }),
    ...(cpus !== undefined && { cpus }),
    ...(memory !== undefined && { memory }),
    // What it was made with is labctl's own business.
    drift: made === undefined ? action.drift : action.drift.filter((one) => !one.path.startsWith("made_with")),
  };
}

function hostIn(desired: Plain | undefined): Address | undefined {
  const host = isMap(desired) ? desired["host"] : undefined;
  return typeof host === "string" ? `host.${host}` : undefined;
}

/** `2`, or `{ count: 2 }`. */
function amount(value: Plain | undefined, key: string): number | undefined {
  const inner = isMap(value) ? value[key] : value;
  return typeof inner === "number" ? inner : undefined;
}
