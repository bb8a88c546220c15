import picocolors from "picocolors";

/** How a renderer draws: it is told, and never looks at the process. */
export interface Style {
  readonly color: boolean;
  /** Columns that text is fitted to; undefined: it is never cut. */
  readonly width?: number;
  /** 0; 1 for -v; 2 for -vv. */
  readonly verbose: number;
}

export type Paint = ReturnType<typeof picocolors.createColors>;

export function paintFor(style: Pick<Style, "color">): Paint {
  return picocolors.createColors(style.color);
}
