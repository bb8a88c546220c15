import { StringDecoder } from "node:string_decoder";

/** Characters of a line that are held at most; of a longer one, the end stays behind. */
const LONGEST = 64 * 1024;
const OVERLAP = 8 * 1024;

type Stream = "stdout" | "stderr";

/**
 * Passes on what commands print in whole lines. Secrets are looked for in each piece by itself: one that arrived in two
 * pieces would be found in neither.
 */
export class LineOutput {
  readonly #emit: (stream: Stream, text: string) => void;
  readonly #open = new Map<Stream, { readonly decoder: StringDecoder; rest: string }>();

  constructor(emit: (stream: Stream, text: string) => void) {
    this.#emit = emit;
  }

  push(stream: Stream, chunk: Buffer): void {
    const state = this.#open.get(stream) ?? { decoder: new StringDecoder("utf8"), rest: "" };
    this.#open.set(stream, state);
    const text = state.rest + state.decoder.write(chunk);
    const end = text.lastIndexOf("\n") + 1;
    const cut = text.length - end > LONGEST ? text.length - OVERLAP : end;
    state.rest = text.slice(cut);
    if (cut > 0) this.#emit(stream, text.slice(0, cut));
  }

  /** What no line feed ended. */
  flush(): void {
    for (const [stream, { decoder, rest }] of this.#open) {
      const text = rest + decoder.end();
      if (text !== "") this.#emit(stream, text);
    }
    this.#open.clear();
  }
}
