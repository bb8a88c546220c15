import { createHash } from "node:crypto";

/** What travels, is found to be zero, and becomes a hole. A file's last block may be shorter. */
export const BLOCK = 64 * 1024;
/** What is verified and, after a cut, not sent again. */
export const PIECE = 256 * BLOCK;
/** A piece with more gaps than this is sent with the smallest of them filled. */
const MOST_RUNS = 8;

/** Blocks `[first, count]` within a piece. */
export type Run = readonly [first: number, count: number];

export interface Piece {
  /** Blocks that hold data; all others are zero. */
  readonly runs: readonly Run[];
  /** Of those blocks one after another, the file's last one filled up with zeros; empty text where there are none. */
  readonly sha256: string;
}

/**
 * What is known of a blob besides its digest: made in the same pass, so that a piece can be verified where it arrives,
 * without the rest, and without reading the whole here again.
 */
export interface BlockMap {
  readonly sha256: string;
  readonly size: number;
  readonly pieces: readonly Piece[];
}

const ZERO = Buffer.alloc(BLOCK);

/** The blocks of a piece that hold data; `piece` is a multiple of BLOCK long. */
export function dataRuns(piece: Buffer): Run[] {
  const runs: [number, number][] = [];
  for (let block = 0; block * BLOCK < piece.length; block++) {
    if (ZERO.equals(piece.subarray(block * BLOCK, (block + 1) * BLOCK))) continue;
    const last = runs.at(-1);
    if (last !== undefined && last[0] + last[1] === block) last[1] += 1;
    else runs.push([block, 1]);
  }
  while (runs.length > MOST_RUNS) {
    let narrowest = 0;
    const gap = (at: number): number => (runs[at + 1]?.[0] ?? 0) - (runs[at]?.[0] ?? 0) - (runs[at]?.[1] ?? 0);
    for (let at = 1; at < runs.length - 1; at++) if (gap(at) < gap(narrowest)) narrowest = at;
    const [first, next] = [runs[narrowest], runs[narrowest + 1]];
    if (first === undefined || next === undefined) break;
    runs.splice(narrowest, 2, [first[0], next[0] + next[1] - first[0]]);
  }
  return runs;
}

export function describePiece(piece: Buffer): Piece {
  const runs = dataRuns(piece);
  if (runs.length === 0) return { runs, sha256: "" };
  const hash = createHash("sha256");
  for (const [first, count] of runs) hash.update(piece.subarray(first * BLOCK, (first + count) * BLOCK));
  return { runs, sha256: hash.digest("hex") };
}

/** A block map as text; the last member is a digest of all before it. */
export function formatBlockMap(map: BlockMap): string {
  const body = JSON.stringify({ version: 1, block: BLOCK, piece: PIECE, ...map });
  return `${JSON.stringify({ ...(JSON.parse(body) as object), check: checkOf(body) })}\n`;
}

/** Undefined where the text is not the whole of a map for this blob: it is made again. */
export function parseBlockMap(text: string, sha256: string): BlockMap | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (typeof value !== "object" || value === null) return undefined;
  const { check, ...rest } = value as Record<string, unknown>;
  if (check !== checkOf(JSON.stringify(rest)) || rest["version"] !== 1) return undefined;
  if (rest["block"] !== BLOCK || rest["piece"] !== PIECE || rest["sha256"] !== sha256) return undefined;
  // The digest says that the text is one that formatBlockMap() made.
  return { sha256, size: rest["size"] as number, pieces: rest["pieces"] as readonly Piece[] };
}

function checkOf(body: string): string {
  return createHash("sha256").update(body).digest("hex");
}

/** Bytes of data that a piece holds. */
export function dataBytes(piece: Piece): number {
  return piece.runs.reduce((sum, [, count]) => sum + count * BLOCK, 0);
}
