/** Where something stands in a user's file. Lines and columns count from 1, as editors show them. */
export interface SourceRange {
  readonly file: string;
  readonly line: number;
  readonly column: number;
  readonly endLine?: number;
  readonly endColumn?: number;
}

export function formatSource(at: SourceRange): string {
  return `${at.file}:${at.line}:${at.column}`;
}
