import { readFile } from "node:fs/promises";
import { resolve } from "node:path";
import type { Command } from "commander";
import { LabError } from "../../diagnostics/index.ts";
import { type Address, isWithin, LAB_SCOPE, type Row, type Scope } from "../../model/index.ts";
import { approve } from "../approve.ts";
import { type Context, selectionOf } from "../context.ts";
import { readAll } from "../input.ts";
import type { Host } from "../program.ts";
import { paintFor } from "../renderers/paint.ts";
import { renderRow, renderRows } from "../renderers/rows.ts";
import { plural, visible } from "../renderers/text.ts";
import { changeState, holderText, lockRequest, openWhole, readWhole, rowsWithin, stateOfLab } from "../state-access.ts";
import { styleOf } from "./plan.ts";
import { addressArgument } from "./planning.ts";

export function registerState(program: Command, host: Host): void {
  const state = program
    .command("state")
    .summary("look at the state and mend it")
    .description("Looks at what labctl remembers of the lab, and mends it. Works also where the spec is broken.");

  const list = state.command("list").argument("[address]", "only this and what it contains").summary("list the rows");
  list.addHelpText("after", "\nExamples:\n  labctl state list\n  labctl state list host.builder-1 --json");
  list.action(async (address: string | undefined) => {
    await host.invoke((context) => listRows(context, address), list);
  });

  const show = state
    .command("show")
    .argument("<address>", "a resource")
    .summary("show one row, with all that it holds");
  show.addHelpText("after", `\nExamples:\n  labctl state show 'host.builder-1/file["/etc/motd"]'`);
  show.action(async (address: string) => {
    await host.invoke((context) => showRow(context, addressArgument(address)), show);
  });

  const mv = state.command("mv").argument("<from>").argument("<to>").summary("rename a resource in the state");
  mv.description(
    "Renames a resource, and what it contains, in the state alone. In a spec, `moved:` does the same for everybody.",
  );
  mv.addHelpText("after", "\nExamples:\n  labctl state mv host.old-name host.builder-1");
  mv.action(async (from: string, to: string) => {
    await host.invoke((context) => moveRows(context, addressArgument(from), addressArgument(to)), mv);
  });

  const rm = state.command("rm").argument("<address...>").summary("forget resources, and leave them as they are");
  rm.description("Drops resources, and what they contain, from the state. The machines are not touched.");
  rm.addHelpText("after", "\nExamples:\n  labctl state rm host.dead-1");
  rm.action(async (addresses: string[]) => {
    await host.invoke(
      (context) =>
        removeRows(
          context,
          addresses.map((one) => addressArgument(one)),
        ),
      rm,
    );
  });

  const rename = state
    .command("rename")
    .argument("<lab>", "the name that the spec has now")
    .summary("say that this state is that of a lab which was renamed");
  rename.description(
    "A state belongs to the lab that was applied with it, by name, so that a spec of another lab does not tear this one down. After `name:` has changed in the spec, this tells the state.",
  );
  rename.addHelpText("after", "\nExamples:\n  labctl state rename kernel-lab-berlin");
  rename.action(async (lab: string) => {
    await host.invoke((context) => renameLab(context, lab), rename);
  });

  const pull = withScope(state.command("pull").summary("print the state as JSON"));
  pull.addHelpText("after", "\nExamples:\n  labctl state pull > backup.json");
  pull.action(async (flags: ScopeFlags) => {
    await host.invoke(async (context) => {
      const { store } = await stateOfLab(context, selectionOf(context));
      context.term.out(await store.pull(flags.scope));
      return 0;
    }, pull);
  });

  const push = state.command("push").argument("<file>", "a state as `pull` prints it; - for stdin");
  withScope(push.summary("replace the state")).option("--force", "also where it is older, or another lab's");
  push.addHelpText("after", "\nExamples:\n  labctl state push backup.json");
  push.action(async (file: string, flags: ScopeFlags & { force?: boolean }) => {
    await host.invoke((context) => pushState(context, flags.scope, file, flags.force === true), push);
  });

  const unlock = withScope(state.command("unlock").summary("take the lock away from whoever holds it"));
  unlock.description(
    "Takes the lock away from a run that hangs. What that run writes afterwards is ignored. Dead holders need no unlock.",
  );
  unlock.option("--auto-approve", "do it without asking");
  unlock.addHelpText("after", "\nExamples:\n  labctl state unlock");
  unlock.action(async (flags: ScopeFlags & { autoApprove?: boolean }) => {
    await host.invoke((context) => unlockState(context, flags.scope, flags.autoApprove === true), unlock);
  });

  const repair = withScope(state.command("repair").summary("say what is wrong with a damaged state, and mend it"));
  repair.option("--write", "mend it; the damaged files are kept beside");
  repair.addHelpText("after", "\nExamples:\n  labctl state repair\n  labctl state repair --write");
  repair.action(async (flags: ScopeFlags & { write?: boolean }) => {
    await host.invoke((context) => repairState(context, flags.scope, flags.write === true), repair);
  });
}

interface ScopeFlags {
  readonly scope: Scope;
}

function withScope(command: Command): Command {
  return command.option("--scope <scope>", "lab, or pipeline/NAME", LAB_SCOPE);
}

async function renameLab(context: Context, lab: string): Promise<number> {
  const { term } = context;
  return changeState(context, selectionOf(context), "state rename", async ({ store }) => {
    const session = await openWhole(store, lockRequest(context, `labctl state rename ${lab}`));
    try {
      await session.claim(lab);
    } finally {
      await session.close();
    }
    if (term.options.json) term.json({ lab });
    else term.out(`This is the state of ${visible(lab)} now.`);
    return 0;
  });
}

async function listRows(context: Context, text: string | undefined): Promise<number> {
  const { term } = context;
  const { store } = await stateOfLab(context, selectionOf(context));
  const view = await readWhole(store);
  const rows = text === undefined ? [...view.rows.values()] : rowsWithin(view.rows, addressArgument(text));
  if (term.options.json) term.json({ scopes: view.versions, rows });
  else if (rows.length === 0) term.out("The state is empty: nothing was applied yet.");
  else term.out(renderRows(rows, styleOf(term)));
  return 0;
}

async function showRow(context: Context, address: Address): Promise<number> {
  const { term } = context;
  const { store } = await stateOfLab(context, selectionOf(context));
  const view = await readWhole(store);
  const rows = rowsWithin(view.rows, address);
  const row = view.rows.get(address);
  const hold = view.holds.get(address);
  if (term.options.json) term.json({ ...row, ...(hold && { hold }), contains: contained(rows, address) });
  else if (row !== undefined) term.out(renderRow(row, contained(rows, address), hold, styleOf(term)));
  else term.out(renderRows(rows, styleOf(term)));
  return 0;
}

function contained(rows: readonly Row[], address: Address): Address[] {
  return rows.map((row) => row.address).filter((one) => one !== address);
}

async function moveRows(context: Context, from: Address, to: Address): Promise<number> {
  const { term } = context;
  return changeState(context, selectionOf(context), "state mv", async ({ store }) => {
    const session = await openWhole(store, lockRequest(context, `labctl state mv ${from} ${to}`));
    try {
      const rows = rowsWithin(session.rows, from);
      if (isWithin(to, from) && to !== from) {
        throw new LabError("E_MOVED", `${visible(to)} lies inside ${visible(from)}`, { hint: "choose another name" });
      }
      const renamed = (address: Address): Address =>
        isWithin(address, from) ? `${to}${address.slice(from.length)}` : address;
      const taken = rows.map((row) => renamed(row.address)).find((one) => session.rows.has(one));
      if (taken !== undefined) {
        throw new LabError("E_MOVED", `the state already has ${visible(taken)}`, {
          address: taken,
          hint: "`labctl state rm` drops it first, if it is not wanted any more",
        });
      }
      // Each row on its own: where this is cut off, the same command moves the rest.
      for (const row of rows) await session.move(row.address, renamed(row.address));
      const all = Array.from(session.rows.values());
      for (const row of all) {
        const parent = row.parent === undefined ? undefined : renamed(row.parent);
        const depends = row.depends.map(renamed);
        const same = parent === row.parent && depends.every((one, i) => one === row.depends[i]);
        if (!same) await session.put({ ...row, ...(parent !== undefined && { parent }), depends });
      }
      if (term.options.json) term.json({ moved: rows.length, from, to });
      else term.out(`Moved ${plural(rows.length, "row")} from ${visible(from)} to ${visible(to)}.`);
    } finally {
      await session.close();
    }
    return 0;
  });
}

async function removeRows(context: Context, addresses: readonly Address[]): Promise<number> {
  const { term } = context;
  return changeState(context, selectionOf(context), "state rm", async ({ store }) => {
    const session = await openWhole(store, lockRequest(context, "labctl state rm"));
    const removed: Address[] = [];
    try {
      const wanted = new Set(addresses.flatMap((one) => rowsWithin(session.rows, one).map((row) => row.address)));
      // What is contained goes first, so that a stop in between leaves no row without the one that it stands in.
      for (const address of [...wanted].sort((a, b) => b.length - a.length)) {
        await session.drop(address);
        removed.push(address);
      }
    } finally {
      await session.close();
    }
    if (term.options.json) term.json({ removed });
    else {
      term.out(`Forgot ${plural(removed.length, "row")}; the machines were not touched:`);
      for (const address of removed.reverse()) term.out(`  ${visible(address)}`);
    }
    return 0;
  });
}

async function pushState(context: Context, scope: Scope, file: string, force: boolean): Promise<number> {
  const { term } = context;
  const text = file === "-" ? await readAll(term.io.stdin) : await readInput(resolve(term.io.cwd, file));
  return changeState(context, selectionOf(context), "state push", async ({ store }) => {
    await store.push(scope, text, { force, lock: lockRequest(context, "labctl state push") });
    const view = await store.read(scope);
    if (term.options.json) term.json({ lineage: view.lineage, serial: view.serial, rows: view.rows.size });
    else term.out(`The state now has ${plural(view.rows.size, "row")} (serial ${view.serial}).`);
    return 0;
  });
}

async function readInput(path: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch (cause) {
    throw new LabError("E_USAGE", `${path} cannot be read: ${cause instanceof Error ? cause.message : String(cause)}`, {
      cause,
      hint: "name a file that `labctl state pull` wrote",
    });
  }
}

async function unlockState(context: Context, scope: Scope, sure: boolean): Promise<number> {
  const { term } = context;
  const { store } = await stateOfLab(context, selectionOf(context));
  const holder = await store.holder(scope);
  if (holder === undefined) {
    if (term.options.json) term.json({ unlocked: false });
    else term.out("The state is not locked.");
    return 0;
  }
  if (!sure) {
    if (!term.interactive) {
      throw new LabError(
        "E_NOT_INTERACTIVE",
        `the lock is ${holderText(holder)}: nobody is there to say whether to take it`,
        {
          hint: "pass --auto-approve when you are sure that this run hangs",
        },
      );
    }
    term.out(`The lock is ${holderText(holder)}.`);
    if (!(await approve(term, 'Take it away? Only "yes" does: ', context.signals.cancellation.soft))) {
      term.out("Nothing was changed.");
      return 130;
    }
  }
  return changeState(context, selectionOf(context), "state unlock", async () => {
    const taken = await store.unlock(scope);
    if (term.options.json) term.json({ unlocked: taken !== undefined, ...(taken && { holder: taken }) });
    else term.out(taken === undefined ? "The state is not locked." : `Unlocked: it was ${holderText(taken)}.`);
    return 0;
  });
}

async function repairState(context: Context, scope: Scope, write: boolean): Promise<number> {
  const { term } = context;
  const look = async (): Promise<number> => {
    const { store } = await stateOfLab(context, selectionOf(context));
    const report = await store.repair(scope, { write });
    const paint = paintFor({ color: term.color });
    if (term.options.json) term.json(report);
    else if (!report.damaged) term.out(`${paint.green("The state is sound")}: ${plural(report.kept.rows, "row")}.`);
    else {
      term.out(paint.bold(write ? "The state was damaged and is mended:" : "The state is damaged:"));
      for (const finding of report.findings) term.out(`  ${visible(finding)}`);
      term.out(`${write ? "Kept" : "Can be kept"}: ${plural(report.kept.rows, "row")}.`);
      for (const lost of report.lost) term.out(`  ${paint.red("lost:")} ${visible(lost)}`);
      for (const backup of report.backups)
        term.out(`  ${write ? "kept beside" : "would be kept beside"}: ${visible(backup)}`);
      if (!write)
        term.out("`labctl state repair --write` mends it; a plan afterwards shows what differs from the machines.");
    }
    return report.damaged && !write ? 4 : 0;
  };
  return write ? changeState(context, selectionOf(context), "state repair", look) : look();
}
