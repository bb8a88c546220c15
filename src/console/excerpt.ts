/** Which lines of a kernel's report are worth a person's eyes: where it happened and how it came there, without registers and raw stack. */

const END =
  /^---\[ end (?:trace|Kernel panic)|^-{3,}\[ end|^={20,}$|^Kernel Offset: |^Rebooting in \d+ seconds|^(?:Out of memory|Memory cgroup out of memory): Kill/;
/** Ends that say something themselves. */
const TELLING = /out of memory: Kill/i;
/** From here on the OOM report is tables. */
const TABLES = /^Mem-Info:|^Tasks state/;
const NOISE =
  /^Modules linked in:|^Code: |^(?:RAX|RBX|RDX|RSI|RDI|RBP|RSP|R\d\d|RSP|FS|CS|CR2|DR\d|PKRU|EFLAGS|EAX|ESI|DS):|^RSP: |^x\d{1,2} ?: |^sp : |^pstate: |^(?:gp|t\d|s\d|a\d|s1\d) ?: |^Stack:|^status: |^Mem abort info:|^Data abort info:|^(?:ESR|EC|SET|EA|FSC|ISV|CM) = |^user pgtable|^\[[0-9a-f]{8,16}\] (?:pgd|address|\*pgd)|^Hardware name:|^PGD |^#PF: |^={10,}$|^-{10,}$|^-+\[ cut here \]-+$|^<\/?(?:TASK|IRQ|NMI|SOFTIRQ)>$|^irq event stamp|^(?:hard|soft)irqs last|^Exception stack|^\S+: \[<[0-9a-f]+>\] \?/;
/** A frame that the unwinder is not sure of. */
const UNSURE = /^(?:\[<[0-9a-f]+>\] )?\? |\(unreliable\)$/;
const FRAME = /^(?:\[<\(?[0-9a-fx]+\)?>\] )?[\w.$]+(?:\([^)]*\))?\+0x[0-9a-f]+\/0x[0-9a-f]+/;

const MOST_LINES = 40;
const MOST_FRAMES = 20;
const MOST_TEXT = 240;
/** Lines after the header that are looked at. */
const MOST_SEEN = 160;

/** Collects one report; bounded. */
export class Excerpt {
  readonly #lines: string[] = [];
  #frames = 0;
  #seen = 0;
  #muted = false;

  /** True where the report ends with this line. */
  add(text: string): boolean {
    this.#seen += 1;
    const trimmed = text.trim();
    if (TABLES.test(trimmed)) this.#muted = true;
    const ends = this.#seen > 1 && END.test(trimmed);
    if (trimmed !== "" && this.#keeps(trimmed)) this.#lines.push(trimmed.slice(0, MOST_TEXT));
    return ends || this.#seen > MOST_SEEN;
  }

  #keeps(text: string): boolean {
    if (TELLING.test(text)) return true;
    if (this.#muted || this.#lines.length >= MOST_LINES || END.test(text) || NOISE.test(text) || UNSURE.test(text))
      return false;
    if (!FRAME.test(text)) return true;
    this.#frames += 1;
    return this.#frames <= MOST_FRAMES;
  }

  lines(): readonly string[] {
    return this.#lines;
  }
}
