import { createReadStream } from "node:fs";
import { readFile } from "node:fs/promises";
import { Readable } from "node:stream";
import { LabError } from "../diagnostics/index.ts";
import { Sensitive } from "../model/index.ts";
import type { Link } from "./link.ts";
import {
  commitScript,
  abandonScript,
  placement,
  type Placement,
  placeScript,
  prepareScript,
  receiveScript,
} from "./place.ts";
import type { Become, ExecResult, TransferOptions, UploadResult, UploadSource, UploadTarget } from "./ports.ts";
import { elevationFor, run, throwIfCancelled } from "./run.ts";
import type { ShellText } from "./shell.ts";
import { fullScript } from "./wire.ts";

/** Up to here the content travels with the question whether it is needed: one round trip in all. */
export const SMALL = 64 * 1024;
const CHUNK = 256 * 1024;
/** For the steps without content; those with content have no bound but the caller's, and the link's own liveness. */
const DAY_MS = 24 * 3600 * 1000;

export interface UploadContext {
  readonly link: Link;
  readonly become: Become;
  /** Milliseconds for a step without content. */
  readonly timeout: number;
}

interface Content {
  readonly size: number;
  readonly sha256: string;
  /** A file is read anew for each try. */
  stream(): AsyncIterable<Buffer>;
  whole(): Promise<Uint8Array>;
}

/**
 * Puts a file in place: see the contract of FileTransfer.upload. Rejects with E_MISMATCH (a directory stands there, or
 * what arrived is not what was announced), E_DISK_FULL, E_TRANSFER, and what the link rejects with.
 */
export async function upload(
  context: UploadContext,
  source: UploadSource,
  target: UploadTarget,
  options: TransferOptions,
): Promise<UploadResult> {
  const { link } = context;
  throwIfCancelled(link, options.signal);
  checkTarget(link, target);
  const content = contentOf(link, source);
  const place = placement(target.path);
  const step = new Steps(context, place, target, options);
  if (content.size <= SMALL) {
    const answer = await step.run(placeScript(place, target, content.sha256, content.size), await content.whole());
    const sent = step.outcome(answer, content.sha256) === "sent";
    options.onProgress?.(content.size, content.size);
    return { sent, bytes: sent ? content.size : 0 };
  }
  const prepared = step.outcome(
    await step.run(prepareScript(place, target, content.sha256, content.size)),
    content.sha256,
  );
  if (prepared === "same") return { sent: false, bytes: 0 };
  await step.send(content);
  return { sent: true, bytes: content.size };
}

function checkTarget(link: Link, target: UploadTarget): void {
  const wrong =
    target.mode !== undefined && !/^[0-7]{4}$/.test(target.mode)
      ? `the mode ${JSON.stringify(target.mode)} is not four octal digits`
      : [target.owner, target.group].some((name) => name !== undefined && !/^[^\s:\0-][^\s:\0]*$/.test(name))
        ? "an owner or group that no machine can have"
        : undefined;
  if (wrong !== undefined) {
    throw new LabError("E_SPEC_VALUE", wrong, {
      address: link.address,
      hint: 'write modes as "0644", owners as names or numbers',
    });
  }
}

function contentOf(link: Link, source: UploadSource): Content {
  if ("file" in source) {
    return {
      size: source.size,
      sha256: source.sha256,
      stream: () => createReadStream(source.file, { highWaterMark: CHUNK }),
      whole: async () => {
        try {
          return await readFile(source.file);
        } catch (cause) {
          throw localFile(link, source.file, cause);
        }
      },
    };
  }
  const text = source.content instanceof Sensitive ? source.content.reveal() : source.content;
  const bytes = typeof text === "string" ? Buffer.from(text) : text;
  return {
    size: bytes.length,
    sha256: source.sha256,
    stream: () => chunksOf(bytes),
    whole: () => Promise.resolve(bytes),
  };
}

function localFile(link: Link, file: string, cause: unknown): LabError {
  return new LabError(
    "E_SOURCE_FILE",
    `${file} cannot be read: ${cause instanceof Error ? cause.message : String(cause)}`,
    {
      address: link.address,
      cause,
      hint: "it was there when the plan was made; put it back and run again",
    },
  );
}

async function* chunksOf(bytes: Uint8Array): AsyncGenerator<Buffer> {
  for (let at = 0; at < bytes.length; at += CHUNK) yield Buffer.from(bytes.subarray(at, at + CHUNK));
}

class Steps {
  readonly #context: UploadContext;
  readonly #place: Placement;
  readonly #target: UploadTarget;
  readonly #options: TransferOptions;

  constructor(context: UploadContext, place: Placement, target: UploadTarget, options: TransferOptions) {
    this.#context = context;
    this.#place = place;
    this.#target = target;
    this.#options = options;
  }

  run(script: ShellText, stdin?: Uint8Array | Readable): Promise<ExecResult> {
    const { link, become, timeout } = this.#context;
    const { signal } = this.#options;
    return run(link, {
      script: fullScript({ script: script.text }),
      become,
      root: this.#target.root ?? true,
      timeout: this.#options.timeout ?? (stdin instanceof Readable ? DAY_MS : timeout),
      keep: 64 * 1024,
      ...(stdin !== undefined && { stdin }),
      ...(signal && { signal }),
    });
  }

  /** Large content: by the link's own way where the login may write there itself, else through a shell's stdin. */
  async send(content: Content): Promise<void> {
    const { link, become } = this.#context;
    const { signal, onProgress } = this.#options;
    const direct = (await elevationFor(link, this.#target.root ?? true, become)) === "none";
    if (direct && link.writeNew) {
      const written = await this.#orAbandon(content, () =>
        this.#reading(
          content,
          (stream) =>
            link.writeNew?.(this.#place.temporary, stream, {
              ...(signal && { signal }),
              onProgress: (sent) => onProgress?.(sent, content.size),
            }) ?? Promise.resolve(false),
        ),
      );
      if (written) {
        this.outcome(await this.run(commitScript(this.#place, this.#target, content.sha256)), content.sha256);
        return;
      }
    }
    const answer = await this.#reading(content, (stream) =>
      this.run(
        receiveScript(this.#place, this.#target, content.sha256),
        Readable.from(
          counted(stream(), (sent) => onProgress?.(sent, content.size)),
          { objectMode: false },
        ),
      ),
    );
    this.outcome(answer, content.sha256);
  }

  /** Reports a local file that cannot be read as such, and not as what it did to the transfer. */
  async #reading<T>(_content: Content, use: (stream: () => AsyncIterable<Buffer>) => Promise<T>): Promise<T> {
    let failure: LabError | undefined;
    const guarded = async function* (this: Steps): AsyncGenerator<Buffer> {
      try {
        yield* _content.stream();
      } catch (cause) {
        failure = localFile(this.#context.link, "the source file", cause);
        throw failure;
      }
    };
    try {
      const result = await use(() => guarded.call(this));
      if (failure !== undefined) throw failure;
      return result;
    } catch (error) {
      throw failure ?? error;
    }
  }

  /** What was written so far is removed; where the disk is full, that is the reason given. */
  async #orAbandon<T>(content: Content, transfer: () => Promise<T>): Promise<T> {
    try {
      return await transfer();
    } catch (error) {
      const { link, become, timeout } = this.#context;
      if (error instanceof LabError && error.code === "E_DISCONNECTED") throw error;
      const left = await run(link, {
        script: fullScript({ script: abandonScript(this.#place).text }),
        become,
        root: this.#target.root ?? true,
        timeout: Math.min(timeout, 15_000),
        keep: 16 * 1024,
      }).catch(() => undefined);
      const df = left?.stdout.toString("utf8") ?? "";
      const available = Number(df.trim().split("\n").at(-1)?.trim().split(/\s+/)[3]);
      if (error instanceof LabError && error.code === "E_TRANSFER" && available * 1024 < content.size)
        throw this.#full(df);
      throw error;
    }
  }

  /** Reads the answer of an upload's script. */
  outcome(answer: ExecResult, sha256: string): "same" | "sent" | "ready" {
    const { link } = this.#context;
    const text = answer.stdout.toString("utf8");
    const at = text.indexOf("labctl-upload ");
    const [first = "", ...rest] = at < 0 ? [] : text.slice(at + 14).split("\n");
    const path = JSON.stringify(this.#target.path);
    if (first === "same" || first === "sent" || first === "ready") return first;
    if (first === "directory") {
      throw new LabError("E_MISMATCH", `${path} on ${link.name} is a directory, and a file was to be put there`, {
        address: link.address,
        hint: "move the directory away, or choose another path; labctl does not delete directories that it did not make",
      });
    }
    if (first === "nowhere") {
      throw new LabError("E_TRANSFER", `the directory of ${path} is not there on ${link.name}`, {
        address: link.address,
        hint: "declare it under `directories:`",
      });
    }
    if (first.startsWith("digest ")) {
      throw new LabError(
        "E_MISMATCH",
        `what arrived as ${path} on ${link.name} is not what was sent (sha256 ${first.slice(7)}, not ${sha256})`,
        {
          address: link.address,
          hint: "the local file changed while it was read, or the transfer was cut short; run again",
          retryable: true,
        },
      );
    }
    if (first === "full") throw this.#full(rest.join("\n"));
    const why = (first === "failed" ? rest.join("\n") : answer.stderr.toString("utf8")).trim().slice(0, 500);
    throw new LabError("E_TRANSFER", `${path} cannot be written on ${link.name}${why === "" ? "" : `: ${why}`}`, {
      address: link.address,
      hint: /not permitted|denied/i.test(why)
        ? "the login may not write there: set `become: sudo`, or choose another path"
        : "look at the machine, then run again",
    });
  }

  #full(df: string): LabError {
    const { link } = this.#context;
    return new LabError(
      "E_DISK_FULL",
      `no space left for ${JSON.stringify(this.#target.path)} on ${link.name}\n${df.trim()}`,
      {
        address: link.address,
        hint: "free some space there and run again; the partial file was removed",
      },
    );
  }
}

async function* counted(content: AsyncIterable<Buffer>, report: (sent: number) => void): AsyncGenerator<Buffer> {
  let sent = 0;
  for await (const chunk of content) {
    yield chunk;
    sent += chunk.length;
    report(sent);
  }
}
